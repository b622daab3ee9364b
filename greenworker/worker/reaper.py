"""Reaper: returns the deliveries of dead workers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from greenworker.broker import Broker
from greenworker.worker import proof
from greenworker.worker.service import Service

_log = logging.getLogger("greenworker.worker")


class Reaper(Service):
    """Sweeps for incarnations whose lease has run out; every worker does, for all.

    Does not wait for the lease of a worker of this host whose process is provably gone: so the
    first sweep of a worker that is started again returns what its predecessor held.
    """

    name = "reaper"

    def __init__(
        self,
        broker: Broker,
        every: float,
        lease: float,
        quiet: float,
        max_deliveries: int,
        on_dead: Callable[[str], None],
    ) -> None:
        super().__init__(every)
        self._broker = broker
        self._lease = lease
        self._quiet = quiet
        self._max_deliveries = max_deliveries
        self._on_dead = on_dead

    def step(self) -> float | None:
        told = self._broker.processes()
        gone = [worker for worker, mark in told.items() if proof.is_gone(mark)]
        swept = self._broker.reap(self._lease, self._quiet, self._max_deliveries, gone)
        if swept.extended:
            _log.debug(
                "nobody had swept for more than %g s: all leases are lengthened", self._quiet
            )
        if swept.corpses:
            _log.warning("%d dead worker(s) found", swept.corpses)
        if swept.returned or swept.buried:
            _log.warning(
                "%d message(s) of a dead worker return, %d buried", swept.returned, swept.buried
            )
        for id in swept.buried_ids:
            self._on_dead(id)
        if swept.left:
            return 0.0
        every = self.every or self._lease / 2
        return min(every, every * swept.shortest / self._lease)
