"""The gevent Pool that runs tasks: the only place that spawns them."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import gevent.pool

from greenworker.message import RELEASE, Delivery, Outcome

Execute = Callable[[Delivery], Outcome]
Settle = Callable[[Delivery, Outcome], None]


class TaskGreenlet(gevent.Greenlet):  # type: ignore[misc]  # gevent is untyped
    """One run of a task; knows its delivery, whatever becomes of it."""

    def __init__(self, execute: Execute, delivery: Delivery) -> None:
        super().__init__(execute, delivery)
        self.delivery = delivery


class TaskPool(gevent.pool.Pool):  # type: ignore[misc]  # gevent's pools are untyped
    """At most `size` tasks at once, each in a greenlet of its own.

    Whatever ends a task's greenlet, before its first line or after its last, gives its
    slot back and reports an outcome: both are done by the hub, not by the task.
    """

    def __init__(self, size: int, execute: Execute, settle: Settle) -> None:
        super().__init__(size, TaskGreenlet)
        self._execute = execute
        self._settle = settle

    def begin(self, delivery: Delivery) -> None:
        """Run a delivery; call it only with a slot free."""
        greenlet = TaskGreenlet(self._execute, delivery)
        # Raw: link() would start a second greenlet for the report (19 % of a no-op's CPU time).
        greenlet.rawlink(self._report)
        self.start(greenlet)

    def _report(self, ended: TaskGreenlet) -> None:
        outcome = ended.value
        self._settle(ended.delivery, outcome if isinstance(outcome, Outcome) else RELEASE)


class SoloPool:
    """One task at a time, where `begin` is called: pdb can hold the process."""

    size = 1

    def __init__(self, execute: Execute, settle: Settle) -> None:
        self._execute = execute
        self._settle = settle
        self._running = 0

    def begin(self, delivery: Delivery) -> None:
        self._running = 1
        try:
            self._settle(delivery, self._execute(delivery))
        finally:
            self._running = 0

    def free_count(self) -> int:
        return 1 - self._running

    def join(self, timeout: float | None = None) -> bool:
        return self._running == 0

    def kill(
        self, exception: type[BaseException], block: bool = True, timeout: float | None = None
    ) -> None:
        """Nothing else runs while somebody can call this."""
