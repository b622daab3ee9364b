"""Running: what workers say that they run, read with care: whoever may write there may have said it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from heapq import nlargest
from typing import Any

from greenworker.message import shown
from greenworker.status import WorkerStatus, told


@dataclass(frozen=True, slots=True)
class RunningTask:
    """One run under way. `where` is the line of the task's own code at which its greenlet stands: file,
    line and function. `call` are its arguments, if its worker may show them (`log_values`) and it is not
    sensitive. `stuck`: it ignores its timeout, and goes on beside its slot. `blocks`: it blocks its worker's
    loop, and of what else runs there nothing is told but how many it is."""

    worker: str
    task: str
    id: str
    seconds: float
    where: str
    stuck: bool = False
    blocks: bool = False
    call: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Running:
    """The runs that were named, the longest first; how many there are in all; and the names of the
    workers that have not answered."""

    tasks: list[RunningTask]
    total: int
    silent: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a worker is, as it says itself. Counted since it started: runs `begun`, and how they ended; `cpu`, seconds
    that its process has computed; `up`, its age in seconds. `lag`: seconds by which its loop is late, of the
    latest twenty looks on average, and the worst of them. `memory`: resident, in bytes. `stuck`: runs that
    ignore their timeout, and go on beside their slots."""

    size: int
    used: int
    stuck: int
    begun: int
    succeeded: int
    failed: int
    retried: int
    throttled: int
    lag: float
    worst_lag: float
    memory: int
    cpu: float
    up: float


def read_vitals(said: bytes) -> Vitals | None:
    """A worker's vitals in what it has said; None if there are none, or they make no sense."""
    vitals = told(said).get("vitals")
    if not isinstance(vitals, dict):
        return None
    numbers: dict[str, Any] = {field.name: vitals.get(field.name) for field in fields(Vitals)}
    return Vitals(**numbers) if all(map(_is_amount, numbers.values())) else None


def read_answer(worker: WorkerStatus, said: bytes) -> Running:
    """What a worker has said; what makes no sense is left out."""
    known = told(said)
    tasks, total = known.get("tasks"), known.get("total")
    found = list(_tasks(worker.name, tasks if isinstance(tasks, list) else []))
    return Running(found, max(len(found), total if isinstance(total, int) else 0))


def together(answers: Iterable[Running], limit: int) -> Running:
    """The longest runs of all."""
    answers = list(answers)
    tasks = (task for answer in answers for task in answer.tasks)
    longest = nlargest(limit, tasks, key=lambda task: task.seconds)
    return Running(longest, sum(answer.total for answer in answers))


def _is_amount(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < 1e18


def _tasks(worker: str, tasks: list[Any]) -> Iterator[RunningTask]:
    for one in tasks:
        match one:
            case {
                "task": str(task), "id": str(id), "seconds": float(seconds),
                "where": str(where), "stuck": bool(stuck), "blocks": bool(blocks), "call": str(call),
            }:  # fmt: skip
                yield RunningTask(
                    worker,
                    shown(task),
                    shown(id),
                    seconds,
                    shown(where),
                    stuck,
                    blocks,
                    shown(call),
                )
