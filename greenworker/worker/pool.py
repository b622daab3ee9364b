"""The gevent Pool that runs tasks: the only place that spawns them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import copy_context
from typing import Any

import gevent
import gevent.pool
import greenlet

from greenworker.message import RELEASE, Delivery, Outcome
from greenworker.worker.run import Release, call_off

Execute = Callable[[Delivery], Outcome]
Settle = Callable[[Delivery, Outcome], None]


class TaskGreenlet(gevent.Greenlet):  # type: ignore[misc]  # gevent is untyped
    """One run of a task; knows its delivery, whatever becomes of it."""

    released = False  # whether a Release was thrown into it: the executor reads it
    called_off = False  # whether somebody has cancelled it

    def __init__(self, execute: Execute, delivery: Delivery) -> None:
        super().__init__(execute, delivery)
        self.delivery = delivery

    def throw(self, *error: Any) -> None:
        """What a kill comes to, when the loop gets to it: a run that ended before that was not released."""
        if error and _is_release(error[0]):
            self.released = True
        super().throw(*error)


class TaskPool(gevent.pool.Pool):  # type: ignore[misc]  # gevent's pools are untyped
    """At most `size` tasks at once, each in a greenlet of its own.

    Whatever ends a task's greenlet, before its first line or after its last, gives its
    slot back and reports an outcome: both are done by the hub, not by the task.
    """

    def __init__(self, size: int, execute: Execute, settle: Settle) -> None:
        super().__init__(size, TaskGreenlet)
        self._execute = execute
        self._settle = settle
        self.stuck: set[TaskGreenlet] = set()  # written off, and not ended yet

    def begin(self, delivery: Delivery) -> None:
        """Run a delivery; call it only with a slot free."""
        run = TaskGreenlet(self._execute, delivery)
        # Raw: link() would start a second greenlet for the report (19 % of a no-op's CPU time).
        run.rawlink(self._report)
        self.start(run)

    def give_back(self, delivery: Delivery) -> None:
        """Release a delivery that could not be begun."""
        self._settle(delivery, RELEASE)

    def write_off(self, delivery: Delivery, outcome: Outcome) -> None:
        """Report what runs as ended, though its greenlet goes on: its slot is free, and no stop
        waits for it."""
        for run in self.greenlets:
            if run.delivery is delivery:
                self.discard(run)
                run.unlink(self._report)
                self.stuck.add(run)
                run.rawlink(self.stuck.discard)
                break
        self._settle(delivery, outcome)

    def call_off(self, deliveries: Mapping[str, Delivery], grace: float) -> None:
        """Have what runs of these (by id) end: Cancelled is thrown into it, and after the grace it is killed."""
        for run in self.greenlets:
            if deliveries.get(run.delivery.id) is run.delivery:
                gevent.get_hub().loop.run_callback(call_off, run, grace)

    def kill(
        self,
        exception: type[BaseException] = gevent.GreenletExit,
        block: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Throw into all that runs; what is stuck gets another chance, and is not waited for."""
        for run in self.stuck:
            run.kill(exception, block=False)
        # Who swallowed an earlier one (an incarnation was given up, say) gets another.
        self.dying.clear()
        super().kill(exception, block, timeout)

    def _report(self, ended: TaskGreenlet) -> None:
        outcome = ended.value
        self._settle(ended.delivery, outcome if isinstance(outcome, Outcome) else RELEASE)


class SoloPool:
    """One task at a time, in the greenlet that calls `begin`: pdb can hold the process."""

    size = 1
    stuck: Collection[greenlet.greenlet] = ()  # nothing has a time limit here

    def __init__(self, execute: Execute, settle: Settle) -> None:
        self._execute = execute
        self._settle = settle
        self._running: Any = None  # a greenlet
        self._delivery: Delivery | None = None

    def __iter__(self) -> Iterator[greenlet.greenlet]:
        return iter(() if self._running is None else (self._running,))

    def begin(self, delivery: Delivery) -> None:
        self._running = greenlet.getcurrent()
        self._running.released = self._running.called_off = False
        self._delivery = delivery
        try:
            # What it sets is its own, as in a greenlet of its own.
            outcome = copy_context().run(self._execute, delivery)
        finally:
            self._running = self._delivery = None
        self._settle(delivery, outcome)

    def give_back(self, delivery: Delivery) -> None:
        self._settle(delivery, RELEASE)

    def write_off(self, delivery: Delivery, outcome: Outcome) -> None:
        raise AssertionError("nothing has a time limit here")

    def free_count(self) -> int:
        return 1 if self._running is None else 0

    def join(self, timeout: float | None = None) -> bool:
        return self._running is None

    def call_off(self, deliveries: Mapping[str, Delivery], grace: float) -> None:
        """Throw Cancelled into what runs, if it is one of these; nobody is killed here."""
        delivery = self._delivery
        if delivery is not None and deliveries.get(delivery.id) is delivery:
            gevent.get_hub().loop.run_callback(self._call_off, delivery)

    def _call_off(self, delivery: Delivery) -> None:
        if self._delivery is delivery:
            call_off(self._running, None)

    def kill(
        self, exception: type[BaseException], block: bool = True, timeout: float | None = None
    ) -> None:
        """Throw into what runs, as soon as the loop is reached; never waits."""
        gevent.get_hub().loop.run_callback(self._throw, exception)

    def _throw(self, exception: type[BaseException]) -> None:
        if self._running is not None:
            if _is_release(exception):
                self._running.released = True
            self._running.throw(exception)


def _is_release(error: object) -> bool:
    return isinstance(error, Release) or (isinstance(error, type) and issubclass(error, Release))
