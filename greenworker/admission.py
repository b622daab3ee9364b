"""Admission: the scripts of limits by key, a method each. Seconds become milliseconds here as in broker.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from greenworker import keys
from greenworker.broker import MAX_COUNT, Link
from greenworker.limit import Limit, escape_pattern, read_limit, read_spec
from greenworker.message import shown
from greenworker.scripts import load
from greenworker.status import groups

_UNTIL_RESUMED = -1  # ms, as limit_hold.lua has it
_FOR_EVER = 9_000_000_000_000_000  # ms, as limits.lua has it
_LOOKED_AT = 500  # keys that one call looks through
_FIELDS = 12  # of a key, as limit_keys.lua tells them


@dataclass(frozen=True, slots=True)
class KeyState:
    """A key as it stands, and the limit in force for it, None if there is none; seconds everywhere.

    `state`: open; busy (all its permits are out); later (it waits for its delay or rate); throttled (until its site may be asked again); circuit (it was throttled so
    often that one probe at a time is let through); held (by hand); stopped (by concurrency=0). `due_in`: how long it is held, or until its next
    start; None where there is no such time. `per_minute`: its starts. `p50` and `p95`: what its runs take; `interval` is what `adaptive`
    has found for now; None where nothing is known. `refused`: how often its site has
    (Throttled), as long as the key is known.
    """

    key: str
    pattern: str
    limit: Limit | None
    running: int
    waiting: int
    state: str
    due_in: float | None
    per_minute: float
    p50: float | None
    p95: float | None
    refused: int
    interval: float | None


class Admission:
    """Limits by key in one namespace, through one link."""

    def __init__(self, link: Link, namespace: str = "default") -> None:
        self._link = link
        root = keys.root(namespace)
        self._nil, self._by = keys.nil(root), keys.limits_by(root)

    def declare(self, worker: str, limits: Iterable[Limit]) -> list[str]:
        """Tell, as a worker, all that its code declares; what people have set stands. Returns the patterns that have changed."""
        return self._set("d", worker, {limit.pattern: limit.spec for limit in limits})

    def set(self, limits: Iterable[Limit]) -> list[str]:
        """Have these limits from the next claim on; returns the patterns that have changed."""
        return self._set("s", "", {limit.pattern: limit.spec for limit in limits})

    def drop(self, pattern: str) -> bool:
        """Drop what people have set by this pattern: what code declares counts again. False when they have set none."""
        return bool(self._set("s", "", {pattern: ""}))

    def drop_damaged(self, pattern: str) -> bool:
        """Drop what cannot be read, if that is what this pattern has; it may be none, as `known` names it."""
        for field, limit in self._noted():
            if limit.damaged and limit.pattern == pattern:
                self._run("limit_set", "x", "", field, "")
                self._look_again()
                return True
        return False

    def known(self) -> dict[str, Limit]:
        """The limits that there are, by pattern; also what is damaged."""
        return {limit.pattern: limit for _, limit in self._noted()}

    def _noted(self) -> Iterator[tuple[bytes, Limit]]:
        """Each, and how it is called in Redis."""
        for field, line, beneath in groups(self._run("limit_list"), 3):
            name = _raw(field)
            limit = read_limit(name, _raw(line), _raw(beneath))
            if limit is None or escape_pattern(limit.pattern) != name:
                pattern = unquote(name)
                named = pattern if escape_pattern(pattern) == name else name
                limit = Limit(named, damaged=True)
            yield field, limit

    def declarers(self) -> dict[str, Sequence[str]]:
        """By pattern, which workers' code declares it."""
        by: dict[str, list[str]] = {}
        for worker, patterns in groups(self._link.execute("HGETALL", self._by), 2):
            for pattern in _raw(patterns).split():
                by.setdefault(unquote(pattern), []).append(shown(_raw(worker)))
        return {pattern: sorted(workers) for pattern, workers in by.items()}

    def keys(self, named: Sequence[str] = (), *, unknown: bool = False) -> Iterator[KeyState]:
        """What is known of these keys, or of all of which anything is; one may come twice, as it stands later. `unknown`: of
        those that are named also how they would stand of which nothing is."""
        escaped = [keys.escape(key) for key in named]
        for start in range(0, max(1, len(escaped)), _LOOKED_AT):
            some, cursor = escaped[start : start + _LOOKED_AT], "0"
            while True:
                cursor, found = self._look(cursor, 0 if some and unknown else _LOOKED_AT, some)
                yield from found
                if some or cursor == "0":
                    break

    def some_keys(self, cursor: str, count: int) -> tuple[str, list[KeyState]]:
        """About so many of all keys of which anything is known, from a cursor on, and the next cursor: "0" is the first
        one and the last."""
        return self._look(cursor, min(count, MAX_COUNT), ())

    def hold(self, seconds: float | None, named: Sequence[str]) -> list[bool]:
        """Have nothing of these keys handed out for so long, None: until `resume`; of each whether anything
        was known of it."""
        return self._hold(_UNTIL_RESUMED if seconds is None else max(1, _ms(seconds)), named)

    def resume(self, named: Sequence[str]) -> list[bool]:
        """Have these keys go on, whoever held them; as `hold` otherwise."""
        return self._hold(0, named)

    def _set(self, origin: str, worker: str, specs: Mapping[str, str]) -> list[str]:
        fields = [
            value for pattern, spec in specs.items() for value in (escape_pattern(pattern), spec)
        ]
        changed = [_raw(one) for one in self._run("limit_set", origin, worker, *fields)]
        # What waits under a key that is named itself the script has looked at.
        if any("*" in pattern for pattern in changed):
            self._look_again()
        return [unquote(pattern) for pattern in changed]

    def _look_again(self) -> None:
        while self._run("limit_look", MAX_COUNT):
            pass

    def _look(self, cursor: str, count: int, named: Sequence[str]) -> tuple[str, list[KeyState]]:
        after, now, *told = self._run("limit_keys", cursor, count, *named)
        return _raw(after), [_state(now, *one) for one in groups(told, _FIELDS)]

    def _hold(self, ms: int, named: Sequence[str]) -> list[bool]:
        known: list[bool] = []
        escaped = [keys.escape(key) for key in named]
        while some := escaped[len(known) : len(known) + MAX_COUNT]:
            known += map(bool, self._run("limit_hold", ms, *some))
        return known

    def _run(self, name: str, *args: bytes | str | int) -> Any:
        return self._link.run(load(name), self._nil, *args)


def _state(
    now: int,
    key: bytes,
    pattern: bytes,
    spec: bytes,
    running: int,
    waiting: int,
    state: bytes,
    until: int,
    per_minute: bytes,
    p50: int,
    p95: int,
    refused: int,
    interval: int,
) -> KeyState:
    return KeyState(
        key=shown(unquote(_raw(key))),
        pattern=shown(unquote(_raw(pattern))),
        limit=read_spec(_raw(pattern), _raw(spec)),
        running=int(running),
        waiting=int(waiting),
        state=shown(_raw(state)),
        due_in=None if not 0 < int(until) < _FOR_EVER else max(0, int(until) - int(now)) / 1000,
        per_minute=float(per_minute),
        p50=_seconds(p50),
        p95=_seconds(p95),
        refused=int(refused),
        interval=None if float(interval) <= 0 else float(interval) / 1000,
    )


def _seconds(ms: int) -> float | None:
    return None if float(ms) < 0 else float(ms) / 1000


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _raw(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
