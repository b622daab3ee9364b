"""`greenworker cancel`: ends what has not ended, by ids, by task or by tag."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime

from greenworker.app import App
from greenworker.commands.find_app import app_or_url
from greenworker.commands.options import Options
from greenworker.control import Marked
from greenworker.errors import ConfigError

_SAID = {
    "cancelled": "cancelled",
    "running": "runs; its worker is told to end it",
    "ended": "had ended before",
    "unknown": "nothing is known of it",
}
_WOULD = {**_SAID, "cancelled": "would be cancelled", "running": "runs; its worker would be told"}


def run(options: Options) -> int:
    """Cancel, and say what became of it; returns the exit code, 1 when an id is unknown."""
    task, tag = options.text("task"), options.text("tag")
    if bool(options.ids) + (task is not None) + (tag is not None) != 1:
        raise ConfigError(
            "cancel what? Name ids, or --task NAME, or --tag TAG; see greenworker --help"
        )
    with closing(app_or_url(options)) as app:
        if options.ids:
            return _ids(options, app)
        dry_run = options.flag("dry-run")
        if task is not None:
            return _marked(options, "task", task, app.cancel(task=task, dry_run=dry_run), app)
        return _marked(options, "tag", str(tag), app.cancel(tag=str(tag), dry_run=dry_run), app)


def _ids(options: Options, app: App) -> int:
    dry_run = options.flag("dry-run")
    fates = app.cancel(*options.ids, dry_run=dry_run)
    if options.flag("json"):
        print(json.dumps({"dry_run": dry_run, "ids": fates}))
    else:
        said = _WOULD if dry_run else _SAID
        for id, fate in fates.items():
            print(f"{id}: {said[fate]}")
    return 1 if "unknown" in fates.values() else 0


def _marked(options: Options, kind: str, name: str, done: Marked, app: App) -> int:
    dry_run = options.flag("dry-run")
    if options.flag("json"):
        told = {"dry_run": dry_run, kind: name, "before": done.before}
        if dry_run:
            told |= {"waiting": done.waiting, "running": done.running}
        print(json.dumps(told))
        return 0
    unknown = kind == "task" and app.tasks and name not in app.tasks
    note = "; no task of this app is called so" if unknown else ""
    if dry_run:
        print(f"{name}: {done.waiting:,} would be cancelled, and {done.running:,} run{note}")
        return 0
    moment = datetime.fromtimestamp(done.before, UTC).isoformat(timespec="milliseconds")
    print(f"{name}: all that was sent until {moment[:-6]}Z is cancelled{note}")
    return 0
