"""Retirement: a worker that has done its part, or is no longer fit, drains and leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable

from greenworker.worker.config import WorkerConfig
from greenworker.worker.service import Service
from greenworker.worker.vitals import memory_used

_log = logging.getLogger("greenworker.worker")

_LOOK_EVERY = 1.0  # seconds, at memory


class Retirement(Service):
    """Says when: after `max_tasks` runs were begun, with more than `max_memory` bytes of memory, or
    with more than `max_stuck` tasks that ignore their timeout. Its supervisor starts another one.

    `reason` tells why, once it has come to that.
    """

    name = "retirement"

    def __init__(
        self,
        config: WorkerConfig,
        begun: Callable[[], int],
        stuck: Callable[[], int],
        retire: Callable[[], None],
    ) -> None:
        super().__init__(every=_LOOK_EVERY if config.max_memory else None)
        self.reason = ""
        self._config = config
        self._begun = begun
        self._stuck = stuck
        self._retire = retire

    def step(self) -> float | None:
        if not self.reason:
            self.reason = self._why()
            if self.reason:
                _log.warning("retiring: %s; claiming nothing more", self.reason)
                self._retire()
        return None

    def _why(self) -> str:
        config = self._config
        stuck = self._stuck()
        if stuck > config.stuck_limit:
            return f"{stuck} tasks ignore their timeout and cannot be ended, more than {config.stuck_limit}"
        if config.max_tasks and self._begun() >= config.max_tasks:
            return f"{self._begun()} tasks were begun, and that is all it was told to run"
        if config.max_memory:
            used = memory_used()
            if used > config.max_memory:
                return (
                    f"{used >> 20:,} MiB of memory used, more than {config.max_memory >> 20:,} MiB"
                )
        return ""
