"""The task that runs here, as its own code sees it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import NoReturn, Protocol

from greenworker.verdicts import Retry


@dataclass(frozen=True, slots=True)
class CurrentTask:
    """One run of a task.

    `attempt` is 0 for the first run and counts retries; `delivery` is 1 plus the crashes this
    message was present at. `deadline` is when the first of its timeouts falls, on
    time.monotonic()'s clock, or None. `last_error` is what the attempt before this one failed of, in a line.
    `sensitive`: no log line may tell its arguments, or the text of its errors. `keys` are what it is limited by.
    """

    id: str
    name: str
    queue: str
    attempt: int
    delivery: int
    deadline: float | None
    last_error: str = ""
    sensitive: bool = False
    keys: tuple[str, ...] = ()

    def retry(self, countdown: float | None = None, error: BaseException | None = None) -> NoReturn:
        """End this run for another attempt, in `countdown` s or after the task's backoff.

        `error` is what is told of it, by default the exception that is being handled. It counts as
        one of the task's `retries`: when none is left, the task has failed, with that error. Raises Retry,
        always; BadArguments for a countdown that is none.
        """
        raise Retry(countdown) from error


class Running(Protocol):
    """A run: what its task's code sees of it is made when somebody asks."""

    @property
    def current(self) -> CurrentTask: ...


CURRENT: ContextVar[Running | None] = ContextVar("greenworker.current_task", default=None)
# Whether this is a native thread, of a task that declares `thread=True`.
IN_THREAD: ContextVar[bool] = ContextVar("greenworker.in_thread", default=False)


def current_task() -> CurrentTask:
    """The run that this code is part of; raises RuntimeError outside of tasks."""
    running = CURRENT.get()
    if running is None:
        raise RuntimeError("current_task() is for code that a worker runs as a task")
    return running.current
