"""Source: takes samples of an App's namespace, with bounded work each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from greenworker.admission import Admission
from greenworker.app import App
from greenworker.errors import UnsuitableServer
from greenworker.status import Status
from greenworker.top.keys import ServerKeys
from greenworker.top.sample import Key, Keys, Sample, Worker, rates
from greenworker.top.survey import Survey

CHUNK = 250  # keys that are looked at anew each time: 6 ms of the server's time (measured)
BUSIEST = 50  # keys that are kept in sight, where there are more than that
_KEYS_EVERY = 0.5  # seconds


class ReadsKeys(Protocol):
    """How keys are read, and at which price: no more of them than are asked for."""

    def some(self, cursor: str, count: int) -> tuple[str, list[Key]]:
        """About so many of them from a cursor on, and the next cursor; "0" is the first and the last."""

    def these(self, names: Sequence[str]) -> list[Key]:
        """Those that are known of these."""


class Busiest:
    """The busiest keys, however many there are: each look goes through the next 250, and looks again at the
    fifty that were the busiest before. So what has just become busy is found within a round."""

    def __init__(self, reads: ReadsKeys) -> None:
        self._reads = reads
        self._cursor = "0"
        self._names: list[str] = []

    def look(self) -> Keys:
        first = self._cursor == "0"
        self._cursor, found = self._reads.some(self._cursor, CHUNK)
        everything = first and self._cursor == "0"
        known = {key.name: key for key in found}
        if not everything:
            others = [name for name in self._names if name not in known]
            known.update((key.name, key) for key in self._reads.these(others))
        rows = sorted(known.values(), key=lambda key: (-key.waiting, -key.running, -key.per_minute))
        if not everything:
            rows = rows[:BUSIEST]
        self._names = [key.name for key in rows]
        return Keys(tuple(rows), everything)


class Source:
    """Takes samples, one after the other. What one costs the server is bounded whatever is there, and keys, which cost
    the most, are looked at twice a second at most."""

    def __init__(self, app: App, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock
        self._survey = Survey(app.client.control, clock)
        client = app.client
        self._busiest = Busiest(ServerKeys(Admission(client.pool, client.broker.namespace)))
        self._before: tuple[float, Status] | None = None
        self._keys, self._keys_at = Keys(), float("-inf")

    def sample(self, wait: float = 0.0) -> Sample:
        """Look once, and wait so many seconds for what workers have to say; raises what the server says no
        with."""
        heard = self._survey.look(wait)
        began = self._clock()
        status = self._app.status()
        now = self._clock()
        before, self._before = self._before, (now, status)
        return Sample(
            status,
            tuple(
                Worker(worker, heard[worker.id]) if worker.id in heard else Worker(worker)
                for worker in status.workers
            ),
            rates(before[1], status, now - before[0]) if before is not None else {},
            self._look_at_keys(),
            now - began,
            self._survey.refused,
        )

    def _look_at_keys(self) -> Keys:
        if self._clock() - self._keys_at >= _KEYS_EVERY:
            try:
                self._keys = self._busiest.look()
            except UnsuitableServer:  # this user may not; all else can be seen
                self._keys = Keys()
            self._keys_at = self._clock()
        return self._keys
