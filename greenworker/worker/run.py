"""Run: one run of a task, and what ends it from outside."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent
from gevent import GreenletExit

from greenworker.context import CurrentTask
from greenworker.errors import Cancelled, SoftTimeout, TaskTimeout
from greenworker.frozen import quickly
from greenworker.message import Delivery, Message, keys_of
from greenworker.task import Task

# A task may swallow its timeout: it is thrown again after these seconds, then written off.
_THROW_AGAIN = (0.01, 0.05, 0.25, 1.0)

_current_task = quickly(CurrentTask)


@dataclass(
    slots=True, eq=False
)  # frozen ones take three times as long to make, and each run makes one
class Run:
    """One run of a task under way; a timeout of None is no limit. `started` is time.monotonic()."""

    delivery: Delivery
    message: Message
    task: Task[..., Any]
    timeout: float | None
    started: float
    soft_timeout: float | None = None
    thread: bool = False  # its function runs in a native thread
    _current: CurrentTask | None = None

    def __str__(self) -> str:
        return f"{self.task.name}[{self.message.id}]"

    @property
    def current(self) -> CurrentTask:
        """As the task's own code sees it."""
        if self._current is None:
            self._current = self._as_seen_by_the_task()
        return self._current

    def _as_seen_by_the_task(self) -> CurrentTask:
        message, limit = self.message, self.timeout
        if self.soft_timeout is not None:
            limit = min(self.soft_timeout, limit or math.inf)
        return _current_task(
            message.id,
            message.task,
            message.queue,
            message.attempt,
            message.deliveries + 1,
            None if limit is None else self.started + limit,
            message.options.get("last", ""),
            self.task.options.sensitive,
            keys_of(message.options) if message.options else (),
        )


class HardTimeout(BaseException):
    """Thrown into a task that runs longer than its timeout, or on after the grace of its cancellation."""


class Release(GreenletExit):  # type: ignore[misc]  # gevent is untyped
    """Thrown into a task whose delivery goes back: a stop, or an incarnation that was reaped.

    A task that ends with an error after it, whichever, was released (Runner.released);
    one that swallows it and returns is done.
    """


class Deadline:
    """Throws into the current greenlet: SoftTimeout once, HardTimeout until it ends or is given up; and when
    somebody cancels the run, Cancelled once, and HardTimeout after a grace.

    One raw timer of the loop (0.6 µs) instead of a gevent.Timeout (2.5 µs, measured).
    """

    __slots__ = ("_greenlet", "_is_soft", "_run", "_timer", "_write_off", "called_off", "thrown")

    def __init__(self, run: Run, write_off: Callable[[Run, bool], None]) -> None:
        """`write_off` is told of a run that cannot be ended, and whether it was cancelled."""
        self._run = run
        self._write_off = write_off
        self.thrown = 0  # how often a HardTimeout was: the run has passed its time
        self._timer: Any = None
        self._greenlet = me = gevent.getcurrent()
        # Before it had begun: then there is nothing to tidy up.
        self.called_off: bool = getattr(me, "called_off", False)
        me.deadline = self  # call_off() finds it here
        soft, hard = run.soft_timeout, run.timeout
        self._is_soft = bool(soft and not (hard and hard <= soft))
        if limit := soft if self._is_soft else hard:
            self._start(limit)

    def is_called_off(self) -> bool:
        """`called_off`, which may change at any moment."""
        return self.called_off

    @property
    def given_up(self) -> bool:
        return self.thrown > len(_THROW_AGAIN) + 1

    def over(self) -> None:
        """The task's time is over: nothing is thrown any more."""
        self._stop()
        if self._greenlet is not None:
            self._greenlet.deadline = None
            self._greenlet = None

    def call_off(self, grace: float | None) -> None:
        """In the hub: the run is cancelled, once. Nothing can be thrown into a thread: it has the grace to end by
        itself. None: it may take as long as it likes."""
        if self.called_off or self.thrown:
            return
        self.called_off = True
        self._is_soft = False
        self._stop()
        if not self._run.thread:
            self._greenlet.throw(Cancelled("somebody has cancelled it"))
        if grace is not None:
            run = self._run
            left = math.inf if run.timeout is None else run.started + run.timeout - time.monotonic()
            self._again(min(grace, left))

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _start(self, seconds: float) -> None:
        self._timer = gevent.get_hub().loop.timer(seconds)
        # The loop's own clock stands still while it is held, by others that tidy up at the same time, say.
        self._timer.start(self._expire, update=True)

    def _expire(self) -> None:
        # In the hub; throw() comes back here when the task next waits, or ends.
        if self._is_soft:
            self._is_soft = False
            run = self._run
            self._greenlet.throw(SoftTimeout(f"has run for {run.soft_timeout:g} s"))
            if run.timeout is not None:
                self._again(run.started + run.timeout - time.monotonic())
            return
        self.thrown += 1
        if self.given_up:
            self._write_off(self._run, self.called_off)
            return
        self._greenlet.throw(HardTimeout())
        self._again(_THROW_AGAIN[min(self.thrown, len(_THROW_AGAIN)) - 1])

    def _again(self, seconds: float) -> None:
        if self._greenlet is not None:  # else it has ended
            self._stop()
            self._start(max(0.0, seconds))


def call_off(greenlet: Any, grace: float | None) -> None:
    """In the hub: the run in this greenlet is cancelled, wherever it stands."""
    # For one that has not got to its task's function.
    greenlet.called_off = True
    deadline: Deadline | None = getattr(greenlet, "deadline", None)
    if deadline is not None:
        deadline.call_off(grace)
    elif getattr(greenlet, "waits_for_thread", False):
        greenlet.throw(Cancelled("somebody has cancelled it"))


def timed_out(run: Run, cause: BaseException | None = None, goes_on: bool = False) -> TaskTimeout:
    """A run's failure; `goes_on`: what it called does, in its thread."""
    more = "; its thread goes on, and cannot be ended" if goes_on else ""
    error = TaskTimeout(f"ran longer than {run.timeout:g} s{more}")
    # Where it was: what came of it, if it is more than the timeout itself.
    error.__cause__ = None if isinstance(cause, HardTimeout) else cause
    return error.with_traceback(cause.__traceback__ if cause is not None else None)
