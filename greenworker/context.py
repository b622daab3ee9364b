"""The task that runs here, as its own code sees it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CurrentTask:
    """One run of a task.

    `attempt` is 0 for the first run and counts retries; `delivery` is 1 plus the crashes this
    message was present at. `deadline` is when the hard timeout falls, on time.monotonic()'s
    clock, or None.
    """

    id: str
    name: str
    queue: str
    attempt: int
    delivery: int
    deadline: float | None


CURRENT: ContextVar[CurrentTask | None] = ContextVar("greenworker.current_task", default=None)


def current_task() -> CurrentTask:
    """The run that this code is part of; raises RuntimeError outside of tasks."""
    current = CURRENT.get()
    if current is None:
        raise RuntimeError("current_task() is for code that a worker runs as a task")
    return current
