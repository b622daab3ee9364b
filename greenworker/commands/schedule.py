"""`greenworker schedule`: what is sent again and again, listed, paused, resumed, sent now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict

from greenworker.app import App
from greenworker.commands.find_app import app_or_url
from greenworker.commands.options import Options
from greenworker.commands.text import age, harmless, moment
from greenworker.errors import ConfigError
from greenworker.schedule import ScheduleInfo

VERBS = ("list", "pause", "resume", "run")

_GONE_AFTER = 15.0  # seconds: as in schedule_plan.lua
_HELP = "see greenworker --help"


def run(options: Options) -> int:
    """Carry out `greenworker schedule VERB`; returns the exit code."""
    verb, names = options.verb, options.ids
    if verb not in VERBS:
        if names:
            raise ConfigError(f"schedule {verb!r}: there are list, pause, resume and run; {_HELP}")
        verb, names = "list", [verb] if verb else []
    if verb == "list":
        with closing(app_or_url(options, names)) as app:
            return _list(options, app)
    if not names:
        raise ConfigError(f"schedule {verb}: which ones? Name them, as schedule list does; {_HELP}")
    if verb == "run" and not options.modules:
        raise ConfigError("schedule run needs -A MODULE: the server knows nothing of arguments")
    with closing(app_or_url(options)) as app:
        return _change(options, app, verb, names)


def _list(options: Options, app: App) -> int:
    infos = app.schedule.list()
    if options.flag("json"):
        for info in infos:
            print(json.dumps(asdict(info)))
    else:
        print("\n".join(table(infos, app.client.broker.time())))
    return 0


def _change(options: Options, app: App, verb: str, names: Sequence[str]) -> int:
    for name in dict.fromkeys(names):
        told = {"schedule": name, "done": verb}
        if verb == "run":
            told["id"] = app.schedule.run(name).id
        elif verb == "pause":
            app.schedule.pause(name)
        else:
            app.schedule.resume(name)
        if options.flag("json"):
            print(json.dumps(told))
        else:
            done = {"pause": "paused", "resume": "resumed"}.get(verb, f"sent as {told.get('id')}")
            print(f"{harmless(name)}: {done}")
    return 0


def table(infos: Sequence[ScheduleInfo], now: float) -> Iterator[str]:
    """A line for each, in columns as wide as they need to be."""
    if not infos:
        yield "(no schedule)"
        return
    rows = [("schedule", "when", "next", "last", "task")]
    rows += [
        (
            harmless(one.name),
            harmless(one.when),
            _next(one, now),
            _last(one, now),
            harmless(one.task),
        )
        for one in infos
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, note in zip(rows, ["", *(_note(one, now) for one in infos)], strict=True):
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        yield "  ".join([*cells, note]).rstrip()


def _next(one: ScheduleInfo, now: float) -> str:
    if one.paused is not None:
        return f"paused {age(now - one.paused)} ago"
    if one.next is None:
        return "not planned yet"
    if one.next > now:
        return f"{moment(one.next)}, in {age(one.next - now)}"
    return f"{moment(one.next)}, due since {age(now - one.next)}"


def _last(one: ScheduleInfo, now: float) -> str:
    return "never" if one.last is None else f"{age(max(0.0, now - one.last))} ago"


def _note(one: ScheduleInfo, now: float) -> str:
    if one.seen is None:
        return "(no worker has declared it yet)"
    if one.seen < now - _GONE_AFTER:
        return f"(no worker declares it, since {age(now - one.seen)})"
    return ""
