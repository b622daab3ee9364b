"""Scheduler: makes ready what is due."""

from __future__ import annotations

import time
from collections.abc import Callable

from greenworker.broker import MAX_COUNT, Broker
from greenworker.worker.service import Service

_NEAR = 0.005  # seconds: nobody is woken for less


class Scheduler(Service):
    """Promotes delayed messages and retries; every worker does, for all."""

    name = "scheduler"

    def __init__(
        self,
        broker: Broker,
        every: float = 0.5,
        on_asked: Callable[[bytes], object] = lambda _: None,
    ) -> None:
        super().__init__(every)
        self._broker = broker
        self._next_look = 0.0
        self._on_asked = on_asked  # told, at each look, what workers are asked

    def expect(self, due_in: float) -> None:
        """Something is due in so many seconds: be there."""
        if time.monotonic() + due_in < self._next_look - _NEAR:
            self.wake()

    def step(self) -> float | None:
        moved, next_due, asked = self._broker.promote()
        if asked:
            self._on_asked(asked)
        if moved == MAX_COUNT:
            return 0.0
        # What is sent meanwhile may be due sooner: look again after `every` at the latest.
        every = self.every or 0.5
        wait = every if next_due is None else min(every, next_due + 0.001)
        self._next_look = time.monotonic() + wait
        return wait
