"""Scheduler: makes ready what is due."""

from __future__ import annotations

from greenworker.broker import MAX_COUNT, Broker
from greenworker.worker.service import Service


class Scheduler(Service):
    """Promotes delayed messages and retries; every worker does, for all."""

    name = "scheduler"

    def __init__(self, broker: Broker, every: float = 0.5) -> None:
        super().__init__(every)
        self._broker = broker

    def step(self) -> float | None:
        moved, next_due = self._broker.promote()
        if moved == MAX_COUNT:
            return 0.0
        # What is sent meanwhile may be due sooner: look again after `every` at the latest.
        return (
            self.every
            if next_due is None or self.every is None
            else min(self.every, next_due + 0.001)
        )
