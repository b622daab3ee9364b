"""Cancel: ends messages before they have ended by themselves, by ids or by a mark."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from greenworker.broker import Broker
from greenworker.control import Control, Marked
from greenworker.errors import ConfigError
from greenworker.keys import check_name
from greenworker.message import mark_of
from greenworker.result import Result

_FATES = {"c": "cancelled", "r": "running", "e": "ended", "u": "unknown"}


def cancel(broker: Broker, ids: Iterable[str | Result[Any]], dry_run: bool) -> dict[str, str]:
    """What became of each id: see `App.cancel`. After an error it may be made again."""
    names = [one.id if isinstance(one, Result) else check_name("id", one) for one in ids]
    wanted = list(dict.fromkeys(names))
    return {
        id: _FATES[fate] for id, fate in zip(wanted, broker.cancel(wanted, dry_run), strict=True)
    }


def cancel_marked(
    control: Control, dry_run: bool, task: object = None, tag: object = None, **others: object
) -> Marked:
    """Cancel all that was sent until now and is of a task, or has a tag; raises ConfigError."""
    if others:
        raise ConfigError(f"cancel by {next(iter(others))}=? There are ids, task= and tag=")
    if tag is not None:
        mark = mark_of("tag", check_name("tag", tag))
    elif isinstance(task, str) and task.isprintable() and 0 < len(task) <= 1000:
        mark = mark_of("task", task)
    else:
        raise ConfigError(f"task={task!r:.60}: give the name of a task")
    return control.count_marked(mark) if dry_run else control.mark(mark)
