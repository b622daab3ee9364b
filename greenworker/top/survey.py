"""Survey: asks workers how they are, again and again, and remembers what they say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from greenworker.errors import UnsuitableServer
from greenworker.running import Running, Vitals, read_answer, read_vitals
from greenworker.status import WorkerStatus
from greenworker.top.sample import Heard

_SILENT = 2.0  # seconds without an answer: workers look twice a second
_LOOK = 0.05  # seconds between the looks for answers that are waited for


class Asks(Protocol):
    """Of control.Control, what is used."""

    def ask(self, limit: int, timeout: float = ...) -> tuple[int, list[WorkerStatus]]: ...

    def answers(self, asked: int, workers: list[str]) -> Iterable[tuple[str, bytes]]: ...


class Survey:
    """One question is under way at a time, and nobody waits for its answers unless told to: what is known is
    the latest that each worker has said. Nothing of what runs is asked for, so answers are small."""

    def __init__(self, asks: Asks, clock: Callable[[], float] = time.monotonic) -> None:
        self.refused = ""  # why workers may not be asked
        self._asks = asks
        self._clock = clock
        self._moment = 0
        self._asked_at = float("-inf")
        self._pending: dict[str, WorkerStatus] = {}
        self._heard: dict[str, Heard] = {}

    def look(self, wait: float = 0.0) -> dict[str, Heard]:
        """What workers have said, by their ids; asks anew when all have answered, or will not. Waits so many
        seconds for those that have not."""
        if wait:
            self._ask()
            until = self._clock() + wait
            while self._pending and self._clock() < until:
                time.sleep(_LOOK)
                self._hear()
            self._give_up()
            return dict(self._heard)
        self._hear()
        overdue = self._clock() - self._asked_at > _SILENT
        if overdue:
            self._give_up()
        if overdue or not self._pending:
            self._ask()
        return dict(self._heard)

    def _ask(self) -> None:
        try:
            self._moment, workers = self._asks.ask(0)
        except UnsuitableServer as error:
            # Who may only look on may not ask.
            self.refused, self._pending, self._heard = str(error), {}, {}
            self._asked_at = self._clock()
            return
        self.refused = ""
        # Who did not answer the question before is no less silent for being asked another one.
        self._asked_at = self._clock()
        self._pending = {worker.id: worker for worker in workers}
        self._heard = {
            worker.id: self._heard[worker.id] for worker in workers if worker.id in self._heard
        }

    def _hear(self) -> None:
        if not self._pending:
            return
        for id, said in self._asks.answers(self._moment, list(self._pending)):
            worker = self._pending.pop(id)
            self._heard[id] = _heard(
                self._heard.get(id), read_vitals(said), read_answer(worker, said)
            )

    def _give_up(self) -> None:
        for id in self._pending:
            self._heard[id] = replace(self._heard.get(id, Heard()), silent=True, cpu=None)


def _heard(before: Heard | None, vitals: Vitals | None, running: Running) -> Heard:
    """What an answer says beside the one before."""
    blocking = next((task for task in running.tasks if task.blocks), None)
    cpu = per_second = None
    former = before.vitals if before is not None else None
    if vitals is not None and former is not None and vitals.up > former.up:
        seconds = vitals.up - former.up
        cpu = max(0.0, vitals.cpu - former.cpu) / seconds
        per_second = max(0, _ended(vitals) - _ended(former)) / seconds
    return Heard(vitals, cpu, per_second, blocks="" if blocking is None else blocking.task)


def _ended(vitals: Vitals) -> int:
    return vitals.succeeded + vitals.failed + vitals.retried
