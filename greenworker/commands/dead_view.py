"""Dead letters as people read them: a table's rows, a page, JSON. What others wrote is made harmless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson

from greenworker.commands.text import age, harmless, lines, moment, one_line
from greenworker.dead import DeadLetter

_LEFT = {
    "gone": "already gone",
    "present": "present again",
    "unreadable": "unreadable",
    "locked": "not sent, since one like it is there",
}


class Table:
    """Rows as wide as their columns need, the error cut to the terminal's width."""

    def __init__(self, sample: Sequence[DeadLetter], now: float, width: int | None) -> None:
        self._now = now
        self._columns = [
            max([len(name), *(len(cell) for cell in cells)])
            for name, cells in zip(
                ("id", "age", "task", "reason"),
                zip(*map(self._cells, sample), strict=True) if sample else ((), (), (), ()),
                strict=True,
            )
        ]
        self._room = None
        if width is not None:
            self._room = max(20, width - sum(self._columns) - 2 * len(self._columns))
        self.header = self._line(["id", "age", "task", "reason"], "error")

    def row(self, letter: DeadLetter) -> str:
        error = one_line(error_of(letter), self._room)
        return self._line(self._cells(letter), error)

    def _cells(self, letter: DeadLetter) -> list[str]:
        since = age(self._now - letter.died)
        return [harmless(letter.id), since, harmless(letter.task), harmless(letter.reason)]

    def _line(self, cells: Sequence[str], error: str) -> str:
        padded = [f"{cell:<{width}}" for cell, width in zip(cells, self._columns, strict=True)]
        return "  ".join([*padded, error]).rstrip()


def page(letter: DeadLetter, now: float, values: bool) -> list[str]:
    """All that is known of one; its arguments only if they may be shown."""
    sent = f"{moment(letter.sent)}, {age(letter.died - letter.sent)} before"
    fields = {
        "id": letter.id,
        "task": letter.task,
        "queue": letter.queue,
        "reason": letter.reason,
        "error": error_of(letter),
        "died": f"{moment(letter.died)}, {age(now - letter.died)} ago",
        "sent": sent if letter.sent else "?",
        "attempt": str(letter.attempt),
        "deliveries": str(letter.deliveries),
        "worker": f"{letter.worker} ({letter.incarnation})",
    }
    told = [f"{name:<11} {one_line(text)}" for name, text in fields.items()]
    if not values:
        told.append("arguments   not shown without --values")
    elif letter.raw is not None:
        told.append(f"envelope    {str(letter.raw)[2:-1]}")
    else:
        told.append(f"args        {harmless(orjson.dumps(letter.args).decode())}")
        told.append(f"kwargs      {harmless(orjson.dumps(letter.kwargs).decode())}")
    if letter.traceback.strip():
        told += ["traceback", *(f"  {line}" for line in lines(letter.traceback.rstrip()))]
    return told


def as_json(letter: DeadLetter, values: bool) -> dict[str, Any]:
    """For the json of the standard library: it escapes all that is not ASCII."""
    told = asdict(letter)
    raw = told.pop("raw")
    if not values:
        del told["args"], told["kwargs"]
    elif raw is not None:
        told["envelope"] = raw.decode("utf-8", "backslashreplace")
    return told


def error_of(letter: DeadLetter) -> str:
    return f"{letter.error}: {letter.message}" if letter.message else letter.error


def summary(verb: str, fates: Mapping[str, int], dry_run: bool) -> str:
    """What was done, or would be; and what was left, and why."""
    done = fates.get("retried", 0) + fates.get("deleted", 0)
    if dry_run:
        text = f"would {verb} {done:,}"
    else:
        text = f"{done:,} {'retried' if verb == 'retry' else 'deleted'}"
    left = [f"{fates[fate]:,} {what}" for fate, what in _LEFT.items() if fates.get(fate)]
    if left:
        text += f"; left: {', '.join(left)}"
    if fates.get("unknown"):
        text += f"; perhaps {fates['unknown']:,} more, whose reply did not arrive"
    return f"{text}; nothing was changed" if dry_run else text
