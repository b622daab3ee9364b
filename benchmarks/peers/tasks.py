"""What tasks do: the same functions for every peer, each wrapped as the peer wants it."""

from __future__ import annotations

import functools
import mmap
import os
import time
from typing import Any


def noop() -> None:
    """Nothing."""


def nap(seconds: float) -> None:
    """Wait, as for a network; on gevent that is a greenlet that sleeps."""
    time.sleep(seconds)


def stamp(n: int) -> None:
    """Note when it started: this machine's monotonic clock, which all processes share."""
    slots()[n] = time.monotonic_ns()


def mark(n: int, seconds: float) -> None:
    """Wait, and then count one more run of `n`."""
    time.sleep(seconds)
    slots()[n] += 1


def page(url: str) -> int:
    """Fetch a page; how many bytes it has."""
    return len(_http().request("GET", url).data)


TASKS = {task.__name__: task for task in (noop, nap, stamp, mark, page)}


@functools.cache
def slots() -> Any:
    """The numbers that tasks leave behind, in a file that the harness reads. It is shared memory: writing there takes
    nobody's client, no server and no system call, so it costs every peer the same tenth of a microsecond, and what
    a killed process has written stays."""
    with open(os.environ["BENCH_SLOTS"], "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("q")


@functools.cache
def _http() -> Any:
    """One client for all tasks, with as many connections as there may be tasks."""
    import urllib3

    many = int(os.environ["BENCH_CONCURRENCY"])
    return urllib3.PoolManager(maxsize=many, block=False, timeout=30, retries=False)
