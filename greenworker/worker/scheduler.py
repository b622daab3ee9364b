"""Scheduler: makes ready what is due, and hears what else the server has to say."""

from __future__ import annotations

import time
from collections.abc import Callable

from greenworker.broker import MAX_COUNT, Broker
from greenworker.worker.canceller import Canceller
from greenworker.worker.service import Service

_NEAR = 0.005  # seconds: nobody is woken for less
_COMBING = (
    0.005  # seconds between the calls of a pass that a mark needs, each of which takes as long
)


class Scheduler(Service):
    """Promotes delayed messages and retries; every worker does, for all."""

    name = "scheduler"

    def __init__(
        self,
        broker: Broker,
        every: float = 0.5,
        on_asked: Callable[[bytes], object] = lambda _: None,
        canceller: Canceller | None = None,
    ) -> None:
        super().__init__(every)
        self._broker = broker
        self._next_look = 0.0
        self._on_asked = on_asked  # told, at each look, what workers are asked
        self._canceller = canceller

    def expect(self, due_in: float) -> None:
        """Something is due in so many seconds: be there."""
        if time.monotonic() + due_in < self._next_look - _NEAR:
            self.wake()

    def step(self) -> float | None:
        canceller = self._canceller
        told = self._broker.promote(*(canceller.says() if canceller is not None else ()))
        if told.asked:
            self._on_asked(told.asked)
        combs = canceller is not None and canceller.heed(told)
        if told.moved == MAX_COUNT:
            return 0.0
        # What is sent meanwhile may be due sooner: look again after `every` at the latest.
        every = _COMBING if combs else self.every or 0.5
        wait = every if told.next_due is None else min(every, told.next_due + 0.001)
        self._next_look = time.monotonic() + wait
        return wait
