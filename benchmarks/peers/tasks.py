"""What tasks do: the same functions for every peer, each wrapped as the peer wants it."""

from __future__ import annotations

import functools
import mmap
import os
import time
from collections.abc import Callable
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


def park(n: int, seconds: float) -> None:
    """Tell that it has begun, and wait."""
    slots()[n] = 1
    time.sleep(seconds)


def page(url: str) -> int:
    """Fetch a page; how many bytes it has."""
    return fetch()(url)


TASKS = {task.__name__: task for task in (noop, nap, stamp, mark, park, page)}


def wide(url: str) -> str:
    """The server's URL, with a pool that has a connection for each task (redis-py's has a hundred)."""
    return f"{url}?max_connections={int(os.environ['BENCH_CONCURRENCY']) + 50}"


@functools.cache
def slots() -> Any:
    """The numbers that tasks leave behind, in a file that the harness reads. It is shared memory: writing there takes
    nobody's client, no server and no system call, so it costs every peer the same tenth of a microsecond, and what
    a killed process has written stays."""
    with open(os.environ["BENCH_SLOTS"], "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("q")


@functools.cache
def fetch() -> Callable[[str], int]:
    """One client for all tasks, with as many connections as there may be tasks."""
    many = int(os.environ["BENCH_CONCURRENCY"])
    if os.environ["BENCH_CLIENT"] == "urllib3":
        import urllib3

        http = urllib3.PoolManager(maxsize=many, block=False, timeout=30, retries=False)
        return lambda url: len(http.request("GET", url).data)
    from geventhttpclient import URL, HTTPClient

    @functools.cache
    def client(host: str, port: int) -> Any:
        return HTTPClient(host, port, concurrency=many, network_timeout=30)

    def get(text: str) -> int:
        url = URL(text)
        return len(client(url.host, url.port).get(url.request_uri).read())

    return get
