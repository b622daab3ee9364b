"""`greenworker limit`: what is allowed of keys, listed, set and dropped; keys held and resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from shlex import quote
from typing import Any

from greenworker.admission import KeyState
from greenworker.app import App
from greenworker.commands.find_app import app_or_url
from greenworker.commands.options import Options
from greenworker.commands.text import age, harmless, moment
from greenworker.errors import ConfigError
from greenworker.limit import Limit, check_key, check_pattern, make_limit

VERBS = ("list", "set", "drop", "hold", "resume")

_TEXTS = ("rate", "floor", "ceiling")
_SAYS = ("concurrency", "delay", "rate", "burst-size", "adaptive", "floor", "ceiling", "none")
# What says nothing by itself, and beside what it does.
_NEEDS = {"burst-size": "rate", "floor": "adaptive", "ceiling": "adaptive"}
_USABLE = {"list": ("limit",), "set": _SAYS, "hold": ("for",)}
_MOST = 100  # keys that are listed
_HELP = "see greenworker --help"


def run(options: Options) -> int:
    """Carry out `greenworker limit VERB`; returns the exit code."""
    verb, names = options.verb or "list", list(dict.fromkeys(options.ids))
    if verb not in VERBS:
        raise ConfigError(
            f"limit {verb!r}: there are {', '.join(VERBS[:-1])} and {VERBS[-1]}; {_HELP}"
        )
    for option in (*_SAYS, "for", "limit"):
        if options.said_by_flag(option) and option not in _USABLE.get(verb, ()):
            raise ConfigError(f"--{option} is not for limit {verb}; {_HELP}")
    if verb == "list":
        for name in names:
            check_key("key", name)
        with closing(app_or_url(options)) as app:
            return _list(options, app, names)
    if not names:
        what = "patterns, as 'host:*'" if verb in ("set", "drop") else "keys, as host:example.com"
        raise ConfigError(f"limit {verb}: which ones? Name {what}; {_HELP}")
    # All is checked before anything is done.
    said = _said(options, names) if verb == "set" else {}
    for name in names:
        if verb in ("hold", "resume"):
            check_key("key", name)
    with closing(app_or_url(options)) as app:
        if verb == "set":
            return _set(options, app, names, said)
        if verb == "drop":
            return _drop(options, app, names)
        return _hold(options, app, names, verb)


def _said(options: Options, patterns: Sequence[str]) -> dict[str, Any]:
    """What the flags say of a limit; raises ConfigError."""
    for name, other in _NEEDS.items():
        if options.said_by_flag(name) and not options.said_by_flag(other):
            named = f"limit set {patterns[0]}: --{name.removesuffix('-size')}"
            example = ", as in --rate 100/min" if other == "rate" else ""
            raise ConfigError(f"{named} says nothing without --{other}{example}")
    said: dict[str, Any] = {name: options.by_flag(name) for name in _TEXTS}
    # Not GREENWORKER_CONCURRENCY, which is a worker's.
    by_flag = options.said_by_flag("concurrency")
    said["concurrency"] = options.count("concurrency", 0) if by_flag else None
    said["delay"] = options.seconds("delay")
    said["burst"] = options.count("burst-size")
    said["adaptive"] = options.said_by_flag("adaptive")
    none = options.said_by_flag("none")
    for pattern in patterns:
        limit = make_limit(pattern, said)
        if limit.is_none and not none:
            how = ", ".join(f"--{name}" for name in _SAYS if name != "none" and name not in _NEEDS)
            raise ConfigError(f"limit set {pattern}: give one of {how}, or --none for no limit")
        if none and not limit.is_none:
            raise ConfigError(f"limit set {pattern}: give --none, or what it allows, not both")
    return {**said, "none": none}


def _set(options: Options, app: App, patterns: Sequence[str], said: Mapping[str, Any]) -> int:
    for pattern in patterns:
        limit = app.limits.set(pattern, **said)
        if options.flag("json"):
            print(json.dumps({**_as_json(limit), "done": "set"}))
        else:
            print(f"{pattern}: {limit}")
    return 0


def _drop(options: Options, app: App, patterns: Sequence[str]) -> int:
    known = {one.pattern: one for one in app.limits.list() if one.changed or one.damaged}
    by = app.limits.declarers()
    # (What is damaged may be no pattern, and is dropped all the same.)
    missing = [check_pattern(pattern) for pattern in patterns if pattern not in known]
    if missing:
        if untold := [pattern for pattern in missing if pattern in app.limits.declared]:
            raise ConfigError(
                f"limit {', '.join(untold)}: code declares it, and no worker has told of it yet: there is "
                "nothing to drop"
            )
        there = ", ".join(sorted(known)[:8]) or "none"
        raise ConfigError(f"no limit {', '.join(missing)}; there are: {there}")
    if codes := [pattern for pattern in patterns if known[pattern].declared and pattern in by]:
        raise ConfigError(
            f"limit {', '.join(codes)}: code declares it, and nobody has set another: there is nothing to drop; to lift "
            f"it: greenworker limit set {quote(codes[0])} --none"
        )
    for pattern in patterns:
        app.limits.drop(pattern)
    found = {one.pattern: one for one in app.limits.list()}
    for pattern in patterns:
        now = found.get(pattern)
        if options.flag("json"):
            print(json.dumps({"pattern": pattern, "done": "drop", "now": now and _as_json(now)}))
        else:
            print(f"{pattern}: dropped{_left(now)}")
    return 0


def _left(now: Limit | None) -> str:
    """What there is of a pattern when it was dropped."""
    if now is None:
        return ""
    if not now.declared:
        return f"; somebody has set it again: {now}"
    if not now.changed:
        return f"; with the next worker that starts, what code declares: {now}"
    return f"; what code declares counts again: {now}"


def _hold(options: Options, app: App, keys: Sequence[str], verb: str) -> int:
    seconds = options.age("for")
    if seconds == 0:
        raise ConfigError("limit hold: --for 0s holds nothing; give an age such as 30s or 15m")
    for key in keys:
        if verb == "resume":
            known, done = app.limits.resume(key), "resumed"
        else:
            known = app.limits.hold(key, seconds)
            told_for = options.by_flag("for")
            done = "held until it is resumed" if told_for is None else f"held for {told_for}"
        if options.flag("json"):
            told = {"key": key, "done": verb, "known": known}
            print(json.dumps(told if verb == "resume" else {**told, "seconds": seconds}))
        else:
            print(f"{key}: {done}{'' if known else '; nothing was known of it'}")
    return 0


def _list(options: Options, app: App, names: Sequence[str]) -> int:
    limits, by = app.limits.list(), app.limits.declarers()
    workers = {worker.id: worker.name for worker in app.status().workers}
    names_by = {
        pattern: sorted(workers.get(one, one) for one in declarers)
        for pattern, declarers in by.items()
    }
    states = app.limits.keys(*names, unknown=True)
    if names:
        at = {name: n for n, name in enumerate(names)}
        keys = sorted(states, key=lambda one: at.get(one.key, len(at)))
        counting = {one.pattern for one in keys}
        limits = [one for one in limits if one.pattern in counting]
    else:
        keys = sorted(
            (one for one in states if one.state != "open"),
            key=lambda one: (-one.waiting, -one.running, one.key),
        )
    most = options.count("limit") or _MOST
    if options.flag("json"):
        told = [{**_as_json(one), "by": names_by.get(one.pattern, [])} for one in limits]
        shown = [{**asdict(one), "limit": one.limit and one.limit.spec} for one in keys[:most]]
        print(json.dumps({"limits": told, "keys": shown, "keys_in_all": len(keys)}, indent=2))
        return 0
    print("\n".join([*limit_table(limits, names_by), "", *key_table(keys, most)]))
    return 0


def limit_table(limits: Sequence[Limit], by: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A line for each: what it says, and who says it."""
    if not limits:
        yield "(no limit)"
        return
    rows = [("limit", "allows", "says")]
    rows += [
        (harmless(one.pattern), str(one), _who(one, by.get(one.pattern, ()))) for one in limits
    ]
    yield from _columns(rows)


def key_table(keys: Sequence[KeyState], most: int) -> Iterator[str]:
    """A line for each key."""
    if not keys:
        yield "(no key is held or at its limit)"
        return
    rows = [("key", "state", "running", "waiting", "a minute", "p50", "p95", "refused", "limit")]
    rows += [
        (
            harmless(one.key),
            _state(one),
            f"{one.running:,}",
            f"{one.waiting:,}",
            f"{one.per_minute:.0f}",
            _took(one.p50),
            _took(one.p95),
            f"{one.refused:,}",
            harmless(one.pattern) or "none",
        )
        for one in keys[:most]
    ]
    yield from _columns(rows, right=(2, 3, 4, 5, 6, 7))
    if len(keys) > most:
        yield f"and {len(keys) - most:,} more; --limit N shows more"


def _columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            f"{cell:>{width}}" if at in right else f"{cell:<{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _who(limit: Limit, workers: Sequence[str]) -> str:
    if limit.damaged:
        return "damaged: limit drop takes it away"
    if not limit.changed:
        return "code (no worker has told of it yet)"
    names = ", ".join(map(harmless, workers[:2]))
    if len(workers) > 2:
        names += f" and {len(workers) - 2:,} more"
    if limit.declared:
        return f"code of {names}" if names else "code of no worker that is there"
    says = f"people, {moment(limit.changed)}"
    if limit.over is not None:
        return f"{says}, over code{f' of {names}' if names else ''}: {limit.over}"
    return f"{says}, over code of {names}" if names else says


def _state(one: KeyState) -> str:
    if one.due_in is None:
        return one.state
    left = f"{one.due_in:.1f}s" if one.due_in < 10 else age(one.due_in)
    return f"{one.state} {left}"


def _took(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}s"


def _as_json(limit: Limit) -> dict[str, Any]:
    said = asdict(limit)
    for name in _TEXTS:
        rate = getattr(limit, name)
        said[name] = None if rate is None else rate.text
    over = None if limit.over is None else limit.over.spec
    return {**said, "changed": limit.changed or None, "over": over}
