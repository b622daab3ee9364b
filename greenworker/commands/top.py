"""`greenworker top`: what is where, how fast it goes and what limits it, live or as one frame."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import time
from contextlib import closing
from dataclasses import asdict
from typing import Any

from greenworker.app import App
from greenworker.commands.find_app import app_or_url
from greenworker.commands.options import Options
from greenworker.errors import ConfigError
from greenworker.top.frame import Look, frame
from greenworker.top.orders import Orders
from greenworker.top.sample import Sample
from greenworker.top.source import Source
from greenworker.top.verdict import Verdict, verdict

EVERY = 1.0  # seconds
_LEAST = 0.1
_ANSWERS = 1.5  # seconds that workers may take for an answer: they look twice a second
_WIDTH = 100  # of a frame that goes to no terminal


def run(options: Options) -> int:
    """Show frames until somebody quits, or one; returns the exit code."""
    every = options.seconds("every")
    every = EVERY if every is None else every
    if every < _LEAST:
        raise ConfigError(f"--every {every:g}: give seconds, {_LEAST:g} or more")
    once = options.flag("once")
    if options.flag("json") and not once:
        raise ConfigError("--json is for top --once")
    if not once:
        _require_terminal()
    with closing(app_or_url(options)) as app:
        if once:
            return _once(options, app, every)
        from greenworker.top.live import Live

        colours = not options.flag("no-color")
        return Live(title_of(app), Source(app), Orders(app), every, colours).run()


def title_of(app: App) -> str:
    return f"greenworker top  {app.endpoint.redacted}  namespace {app.namespace}"


def as_json(sample: Sample, verdict: Verdict) -> dict[str, Any]:
    """A sample for programs; what is unknown is null."""
    status = sample.status
    return {
        "verdict": asdict(verdict),
        "waiting": status.waiting,
        "running": status.running,
        "scheduled": status.scheduled,
        "dead": status.dead,
        "per_second": {name: round(rate, 3) for name, rate in sample.rates.items()},
        "server_seconds": round(sample.took, 6),
        "queues": [asdict(queue) for queue in status.queues],
        "workers": [{**asdict(worker.status), **asdict(worker.heard)} for worker in sample.workers],
        "keys": [asdict(key) for key in sample.keys.rows],
        "all_keys": sample.keys.all,
    }


def _once(options: Options, app: App, every: float) -> int:
    """Two looks, for what goes on in between; prints the second one."""
    source = Source(app)
    source.sample(_ANSWERS)
    time.sleep(every)
    sample = source.sample(_ANSWERS)
    found = verdict(sample)
    if options.flag("json"):
        print(json.dumps(as_json(sample, found), indent=2))
        return 0
    width = shutil.get_terminal_size((_WIDTH, 0)).columns
    lines = frame(sample, found, Look(title_of(app), width))
    if sys.stdout.isatty() and _has_rich():
        from greenworker.top.view import show

        show(lines, colours=not options.flag("no-color"))
    else:
        print("\n".join("".join(text for text, _ in line) for line in lines))
    return 0


def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None


def _require_terminal() -> None:
    """Raise ConfigError where nothing can be shown live."""
    streams = (sys.stdin, sys.stdout)
    if any(stream is None or not stream.isatty() for stream in streams):
        raise ConfigError("top needs a terminal to read keys from and to draw on; see top --once")
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        raise ConfigError("top needs a terminal that moves its cursor (TERM); see top --once")
    if not _has_rich():
        raise ConfigError(
            'top shows itself with rich: pip install "greenworker[top]", or top --once'
        )
