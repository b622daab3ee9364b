"""Scheduler: makes ready what is due, and hears what else the server has to say."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from greenworker.broker import MAX_COUNT, Broker
from greenworker.worker.canceller import Canceller
from greenworker.worker.service import Service

_SLACK = 0.001  # seconds: the server's clock is told in whole milliseconds
# Seconds between two looks: of a thousand keys that may run again one after the other, some wait so long for others.
_APART = 0.005
_COMBING = (
    0.005  # seconds between the calls of a pass that a mark needs, each of which takes as long
)


class Scheduler(Service):
    """Promotes delayed messages and retries, and keys that may run again; every worker does, for all."""

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
        self._soonest = 0.0  # not before then
        self._was_told = False
        self._on_asked = on_asked  # told, at each look, what workers are asked
        self._canceller = canceller

    def expect(self, due_in: float) -> None:
        """Something is due in so many seconds: be there."""
        at = max(time.monotonic() + due_in + _SLACK, self._soonest)
        if at < self._next_look:
            self._next_look, self._was_told = at, True
            self.wake()

    def step(self) -> float | None:
        began = time.monotonic()
        was_told, self._was_told = self._was_told, False
        if was_told and began < self._next_look:
            return self._next_look - began
        # What somebody expects from now on, the server may not have known of when it answered.
        self._next_look, self._soonest = math.inf, began + _APART
        try:
            wait = self._look()
        except BaseException:
            self._next_look = 0.0
            raise
        if wait == 0:
            self._next_look = 0.0
            return 0.0
        now = time.monotonic()
        wait = max(min(wait, self._next_look - now), self._soonest - now, 0.0)
        self._next_look = now + wait
        return wait

    def _look(self) -> float:
        canceller = self._canceller
        told = self._broker.promote(*(canceller.says() if canceller is not None else ()))
        if told.asked:
            self._on_asked(told.asked)
        combs = canceller is not None and canceller.heed(told)
        if told.moved == MAX_COUNT:
            return 0.0
        # What is sent meanwhile may be due sooner: look again after `every` at the latest.
        every = _COMBING if combs else self.every or 0.5
        return every if told.next_due is None else min(every, told.next_due + _SLACK)
