"""Limit: what is allowed for all keys that a pattern fits; and what a key may be. Pure.

In Redis a limit is one line, `concurrency=2 delay=250 rate=100/60000 burst=20`, in milliseconds, of what it says
in this order, or `none`. Keys and patterns are escaped there (`keys.escape`), a pattern's `*` excepted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypedDict, TypeGuard
from urllib.parse import unquote

from greenworker.errors import ConfigError
from greenworker.keys import escape

MOST_KEYS = 2  # that one message has
MOST_LIMITS = 1000  # that one app declares

_LONGEST = 200  # characters of a key, or a pattern
_LONGEST_ESCAPED = 600  # as lua/limits.lua has it
_MOST_STARS = 2  # in a pattern: each of them multiplies what it takes to compare
_MOST = 1_000_000  # of concurrency and burst; starts a second
_LONGEST_DELAY = 86400.0  # seconds
_LONGEST_PERIOD = 366 * 86400.0
_UNITS = {
    **dict.fromkeys(("s", "sec", "second"), 1),
    **dict.fromkeys(("min", "minute"), 60),
    **dict.fromkeys(("h", "hour"), 3600),
    **dict.fromkeys(("d", "day"), 86400),
}
_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,6})?)"
_RATE = re.compile(rf"{_NUMBER} ?/ ?{_NUMBER}? ?([a-z]+)").fullmatch
# What is nearly one: whatever stands between, and whatever the unit is called.
_NEARLY = re.compile(rf"\s*{_NUMBER}\s*(?:/|per)\s*{_NUMBER}?\s*([a-z]+)\s*").fullmatch
_ALSO = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "min"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "hour"),
    **dict.fromkeys(("d", "day", "days"), "day"),
}
_SPEC_RATE = re.compile(r"([0-9]{1,15})/([0-9]{1,15})").fullmatch
_NONE = "none"


class LimitOptions(TypedDict, total=False):
    """What a limit may say, see Limit; rates as text, "100/min"."""

    concurrency: int | None
    delay: float | None
    rate: str | None
    burst: int | None
    adaptive: bool
    floor: str | None
    ceiling: str | None


@dataclass(frozen=True, slots=True)
class Rate:
    """So many starts in so many seconds; `text` is how it was written."""

    text: str = field(compare=False)
    starts: int
    seconds: float

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Limit:
    """What is allowed for each key that `pattern` fits, over all workers; None where it says nothing.

    `concurrency`: runs at once, 0 for none at all. `delay`: seconds between two starts. `rate`: starts in a time,
    of which `burst` may come at once after a pause (unless told: one, and from five a second on a start may be 10 ms early). `adaptive`: the
    rate is found by how the other side bears it, between `floor` and `ceiling`. With nothing at all it lifts what a wider pattern says. `declared`: by code,
    not by people; `changed`: when (epoch seconds of the server's clock), 0 before it is there; `over`: what code declares
    beneath what people have set, and counts again when that is dropped; `damaged`: what the server has cannot be read.
    """

    pattern: str
    concurrency: int | None = None
    delay: float | None = None
    rate: Rate | None = None
    burst: int | None = None
    adaptive: bool = False
    floor: Rate | None = None
    ceiling: Rate | None = None
    declared: bool = False
    changed: float = 0.0
    over: Limit | None = None
    damaged: bool = False

    @property
    def is_none(self) -> bool:
        """Whether it is no limit, which lifts others."""
        if self.damaged:
            return False
        said = (self.concurrency, self.delay, self.rate, self.burst, self.floor, self.ceiling)
        return not self.adaptive and all(value is None for value in said)

    @property
    def spec(self) -> str:
        """Its line in Redis."""
        said = {
            "concurrency": self.concurrency,
            "delay": None if self.delay is None else round(self.delay * 1000),
            "rate": self.rate and _in_ms(self.rate),
            "burst": self.burst,
            "adaptive": 1 if self.adaptive else None,
            "floor": self.floor and _in_ms(self.floor),
            "ceiling": self.ceiling and _in_ms(self.ceiling),
        }
        return (
            " ".join(f"{name}={value}" for name, value in said.items() if value is not None)
            or _NONE
        )

    def __str__(self) -> str:
        """What it says, for people: `concurrency 2, delay 0.25 s, rate 100/min, burst 20`."""
        if self.damaged:
            return "cannot be read"
        said = {
            "concurrency": self.concurrency,
            "delay": None if self.delay is None else f"{self.delay:g} s",
            "rate": self.rate,
            "burst": self.burst,
        }
        words = [f"{name} {value}" for name, value in said.items() if value is not None]
        if self.adaptive:
            bounds = [
                f"{name} {value}"
                for name, value in (("from", self.floor), ("to", self.ceiling))
                if value
            ]
            words.append(" ".join(["adaptive", *bounds]))
        return ", ".join(words) or "no limit"


def make_limit(pattern: object, options: Mapping[str, Any]) -> Limit:
    """A limit as people write it; raises ConfigError."""
    name = check_pattern(pattern)
    unknown = sorted(set(options) - set(LimitOptions.__annotations__))
    if unknown:
        known = ", ".join(LimitOptions.__annotations__)
        raise ConfigError(f"limit {name}: no option {unknown[0]!r}; there are {known}")

    def rate(what: str) -> Rate | None:
        value = options.get(what)
        return None if value is None else read_rate(f"limit {name}: {what}", value)

    limit = Limit(
        pattern=name,
        concurrency=_count(name, "concurrency", options.get("concurrency"), 0),
        delay=_delay(name, options.get("delay")),
        rate=rate("rate"),
        burst=_count(name, "burst", options.get("burst"), 1),
        adaptive=options.get("adaptive", False),
        floor=rate("floor"),
        ceiling=rate("ceiling"),
    )
    if not isinstance(limit.adaptive, bool):
        raise ConfigError(f"limit {name}: adaptive={limit.adaptive!r:.60}: give True or False")
    if limit.burst is not None and limit.rate is None:
        raise ConfigError(f"limit {name}: burst= says nothing without rate=, as in rate='100/min'")
    for what in ("floor", "ceiling"):
        if getattr(limit, what) is not None and not limit.adaptive:
            raise ConfigError(f"limit {name}: {what}= says nothing without adaptive=True")
    if limit.floor and limit.ceiling and _interval(limit.floor) < _interval(limit.ceiling):
        raise ConfigError(
            f"limit {name}: floor={limit.floor.text!r} is above ceiling={limit.ceiling.text!r}: give the smaller "
            "rate as floor"
        )
    return limit


def read_limit(pattern: str, line: str, beneath: str = "") -> Limit | None:
    """A limit as the server keeps it, `<d or s> <changed ms> <spec>`, and the spec of what code declares beneath it; None for
    what is damaged."""
    origin, _, rest = line.partition(" ")
    changed, _, spec = rest.partition(" ")
    if origin not in ("d", "s") or not changed.isdecimal() or not spec:
        return None
    try:
        options = {} if spec == _NONE else _read_spec(spec)
        limit = make_limit(unquote(pattern), options)
    except (ConfigError, ValueError):
        return None
    over = read_limit(pattern, f"d {changed} {beneath}") if beneath else None
    return replace(limit, declared=origin == "d", changed=int(changed) / 1000, over=over)


def read_spec(pattern: str, spec: str) -> Limit | None:
    """The limit in force for a key, as the server tells it: what it allows, not who says so or since when. None for none,
    and for what is damaged."""
    return None if spec in ("", _NONE) else read_limit(pattern, f"s 0 {spec}")


def read_rate(what: str, value: object) -> Rate:
    """A rate such as "100/min", "0.5/s" or "10/30s"; raises ConfigError."""
    match = _RATE(value) if isinstance(value, str) else None
    if match is None or match[3] not in _UNITS:
        if mend := _rate_meant(value):
            raise ConfigError(f"{what}={value!r:.60}: {mend}")
        raise ConfigError(
            f"{what}={value!r:.60}: give starts in a time, such as 100/min, 5/s, 1000/hour or 10/30s "
            "(s, sec, second, min, minute, h, hour, d, day)"
        )
    starts, ms = Fraction(match[1]), Fraction(match[2] or 1) * _UNITS[match[3]] * 1000
    if not starts or not ms:
        raise ConfigError(
            f"{what}={value!r:.60}: give a rate above 0; for no starts at all, concurrency=0"
        )
    # Whole starts in whole milliseconds: half a start in a second is one in two.
    interval, parts = ms / starts, starts.denominator
    starts, ms = starts * parts, Fraction(round(ms * parts))
    if parts > 1 and ms > _LONGEST_PERIOD * 1000:
        starts, ms = Fraction(1), Fraction(round(interval))
    if ms > _LONGEST_PERIOD * 1000 or starts * 1000 > _MOST * ms:
        raise ConfigError(
            f"{what}={value!r:.60}: give a rate between one start in a year and {_MOST:,} in a second"
        )
    assert isinstance(value, str)
    return Rate(value, int(starts), int(ms) / 1000)


def check_key(what: str, key: object) -> str:
    """A key as people write it; raises ConfigError."""
    if _is_text(key) and not set(" ,*") & set(key):
        return key
    raise ConfigError(
        f"{what} {_shown(key)}: use 1 to {_LONGEST} printable characters (no blanks, no commas, no *), fewer where they "
        "are not ASCII"
    )


def check_keys(what: str, given: object) -> tuple[str, ...]:
    """A message's keys: one, or several; None and () are none. Raises ConfigError."""
    if given is None:
        return ()
    if isinstance(given, str):
        return (check_key(what, given),)
    if not isinstance(given, (tuple, list)):
        raise ConfigError(f"{what} {_shown(given)}: give a text, or a tuple of up to {MOST_KEYS}")
    keys = tuple(dict.fromkeys(check_key(what, key) for key in given))
    if len(keys) > MOST_KEYS:
        raise ConfigError(f"{what} {_shown(given)}: a message has at most {MOST_KEYS}")
    return keys


def check_pattern(pattern: object) -> str:
    """A pattern as people write it: a key, or one with `*` for whatever is there; raises ConfigError."""
    if (
        _is_text(pattern)
        and not set(" ,") & set(pattern)
        and "**" not in pattern
        and pattern.count("*") <= _MOST_STARS
    ):
        return pattern
    raise ConfigError(
        f"limit {_shown(pattern)}: a pattern is 1 to {_LONGEST} printable characters (no blanks, no commas), with "
        f"* for any others, {_MOST_STARS} of them at most, as in host:*"
    )


def escape_pattern(pattern: str) -> str:
    """A pattern as it stands in Redis."""
    return "*".join(escape(part) for part in pattern.split("*"))


def _is_text(value: object) -> TypeGuard[str]:
    return (
        isinstance(value, str)
        and 0 < len(value) <= _LONGEST
        and value.isprintable()
        and len(escape(value)) <= _LONGEST_ESCAPED
    )


def _rate_meant(value: object) -> str:
    """How to write what is nearly a rate; empty for anything else."""
    match = _NEARLY(value.lower()) if isinstance(value, str) and value.isascii() else None
    if match is None or match[3] not in _ALSO:
        return ""
    sure = ", if m is minutes" if match[3] == "m" else ""
    return f"write {match[1]}/{match[2] or ''}{_ALSO[match[3]]}{sure}"


def _in_ms(rate: Rate) -> str:
    return f"{rate.starts}/{round(rate.seconds * 1000)}"


def _interval(rate: Rate) -> Fraction:
    return Fraction(round(rate.seconds * 1000), rate.starts)


def _read_spec(spec: str) -> dict[str, Any]:
    """What a line in Redis says, as `make_limit` takes it; raises ValueError."""
    said: dict[str, Any] = {}
    for part in spec.split(" "):
        name, _, value = part.partition("=")
        if name in ("concurrency", "burst"):
            said[name] = int(value)
        elif name == "delay":
            said[name] = int(value) / 1000
        elif name == "adaptive":
            said[name] = value == "1"
        else:
            said[name] = _rate_text(value)
    return said


def _rate_text(value: str) -> str:
    """A rate in milliseconds as people write it: 100/60000 is 100/min; raises ValueError."""
    match = _SPEC_RATE(value)
    if match is None:
        raise ValueError(value)
    starts, ms = match[1], int(match[2])
    for unit in ("day", "hour", "min", "s"):
        if ms == _UNITS[unit] * 1000:
            return f"{starts}/{unit}"
    return f"{starts}/{_plain(Fraction(ms, 1000))}s"


def _plain(number: Fraction) -> str:
    whole, ms = divmod(int(number * 1000), 1000)
    return f"{whole}.{ms:03}".rstrip("0") if ms else str(whole)


def _count(name: str, what: str, value: object, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MOST:
        return value
    raise ConfigError(
        f"limit {name}: {what}={value!r:.60}: give a whole number, {least} to {_MOST:,}"
    )


def _delay(name: str, value: object) -> float | None:
    """Whole milliseconds, as the server counts; none for 0."""
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and 0 <= value <= _LONGEST_DELAY:  # type: ignore[operator]  # it is a number
        return max(1, round(value * 1000)) / 1000 if value else None  # type: ignore[operator]
    raise ConfigError(
        f"limit {name}: delay={value!r:.60}: give seconds between two starts, from 0 to {_LONGEST_DELAY:,.0f}"
    )


def _shown(value: object) -> str:
    text = f"{value!r:.60}"
    return text if len(repr(value)) <= 60 else f"{text}…"
