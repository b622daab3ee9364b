"""Vitals: how a worker is, for people who ask (`greenworker top`)."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

from greenworker.running import Vitals
from greenworker.worker.pool import SoloPool, TaskPool
from greenworker.worker.stats import Stats
from greenworker.worker.threads import Threads

_STATM = Path("/proc/self/statm")


class Pulse:
    """Takes a worker's vitals when it is asked for them: until then they cost it nothing.

    All of it may be called from the watchdog's thread, too. What is counted here is counted from the start: who asks
    twice knows what went on in between, however many others ask.
    """

    def __init__(self, stats: Stats, pool: TaskPool | SoloPool, threads: Threads) -> None:
        self._stats = stats
        self._pool = pool
        self._threads = threads
        self._began = time.monotonic()

    def take(self) -> Vitals:
        stats = self._stats
        lags = list(stats.lags)
        now = time.monotonic()
        return Vitals(
            size=self._pool.size,
            used=self._pool.size - self._pool.free_count(),
            stuck=len(self._pool.stuck) + len(self._threads.stuck),
            begun=stats.received,
            succeeded=stats.succeeded,
            failed=stats.failed,
            retried=stats.retried,
            throttled=stats.throttled,
            lag=sum(lags) / len(lags) if lags else 0.0,
            # What blocks the loop now counts as well: the next look at the clock is late by that already.
            worst_lag=max(0.0, *lags, now - stats.next_look if stats.next_look else 0.0),
            memory=memory_used(),
            cpu=time.process_time(),
            up=now - self._began,
        )


def memory_used() -> int:
    """This process' resident memory in bytes; where that is unknown, the most it ever was."""
    try:
        return int(_STATM.read_bytes().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
