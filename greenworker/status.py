"""Status: what is where, as the scripts tell it, whatever damage there is.

What others have written may be anything: names fit into a line, and what cannot be shown is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from greenworker.message import shown


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """A queue; of what waits there `keyed` wait for the turn of their key."""

    name: str
    waiting: int
    suspects: int
    workers: int
    paused: bool = False
    keyed: int = 0


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A registered worker; `lease` is what is left of it in seconds, negative when overdue."""

    id: str
    name: str
    queues: list[str]
    concurrency: int
    running: int
    lease: float


@dataclass(frozen=True, slots=True)
class Status:
    """What is where: see `greenworker status`. A counter that is no number is left out."""

    queues: list[QueueStatus]
    workers: list[WorkerStatus]
    scheduled: int
    dead: int
    next_due: float | None
    counters: dict[str, int]

    @property
    def waiting(self) -> int:
        return sum(queue.waiting + queue.suspects for queue in self.queues)

    @property
    def running(self) -> int:
        return sum(worker.running for worker in self.workers)


def read_status(reply: list[Any]) -> Status:
    """What status.lua says."""
    now, scheduled, dead, due, counters, queues, workers = reply
    return Status(
        queues=[
            QueueStatus(_name(name), waiting, suspects, consumers, bool(paused), keyed)
            for name, waiting, suspects, consumers, paused, keyed in groups(queues, 6)
        ],
        workers=[worker_status(now, *group) for group in groups(workers, 4)],
        scheduled=scheduled,
        dead=dead,
        next_due=None if due < 0 else max(0.0, (due - now) / 1000),
        counters={
            _name(name): int(value)
            for name, value in groups(counters, 2)
            if is_number(_name(value))
        },
    )


def worker_status(now: int, id: bytes, expires: int, held: int, about: bytes) -> WorkerStatus:
    """A worker as the scripts describe it: `now` and the end of its lease in ms."""
    known = told(about)
    name, queues, concurrency = (known.get(key) for key in ("name", "queues", "concurrency"))
    return WorkerStatus(
        id=_name(id),
        name=shown(name) if isinstance(name, str) else "?",
        queues=[shown(str(queue)) for queue in queues] if isinstance(queues, list) else [],
        concurrency=concurrency if isinstance(concurrency, int) else 0,
        running=held,
        lease=(expires - now) / 1000,
    )


def told(about: bytes) -> dict[str, Any]:
    """What an incarnation has told of itself; nothing of what cannot be read."""
    try:
        known = orjson.loads(about)
    except orjson.JSONDecodeError:
        return {}
    return known if isinstance(known, dict) else {}


def is_number(text: str) -> bool:
    """Whether the server can count with it."""
    return re.fullmatch("-?[0-9]{1,18}", text) is not None


def groups(flat: list[Any], size: int) -> Iterator[list[Any]]:
    """What a script says of many, so many values for each."""
    return (flat[i : i + size] for i in range(0, len(flat), size))


def numbers(flat: list[Any]) -> dict[str, int]:
    """What a script says of many, a number for each name."""
    return {name.decode("utf-8", "backslashreplace"): int(n) for name, n in groups(flat, 2)}


def _name(raw: bytes) -> str:
    return shown(raw.decode("utf-8", "backslashreplace"))
