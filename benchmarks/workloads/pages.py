"""HTTP pages that take 50 ms, a thousand at once: what of a client's rate is left through a queue."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import harness
from harness import HERE, OTHER_CPU
from peers.peer import Peer

from workloads.trial import GIVE_UP, Options, Trial, Workload

CONCURRENCY = 1000
FIRST, LAST = 0.2, 0.9  # once all connections are there


def run(peer: Peer, options: Options) -> Iterator[dict[str, Any]]:
    count = options.count(peer, many=20_000, few=6_000)
    for client in peer.clients:
        yield {"case": client, "tasks": count, **_pages(peer, options, count, client)}


def _pages(peer: Peer, options: Options, count: int, client: str) -> dict[str, Any]:
    many = {"concurrency": CONCURRENCY, "client": client}
    with Trial(peer, options, workload="pages", **many) as trial, _site(trial, options) as url:
        trial.send("fill", "page", count, f'"{url}"')
        trial.work()
        first = _served(trial, count * FIRST)
        last = _served(trial, count * LAST)
        _served(trial, count)
        if peer.name != "bare":  # which has no queue here
            trial.check(count)
    seconds = last.seconds - first.seconds
    return {
        "per_second": round((last.done - first.done) / seconds, 1),
        "worker_core": round((last.worker_cpu - first.worker_cpu) / seconds, 3),
    }


def _served(trial: Trial, count: float) -> Any:
    """Waits until the site has served so many pages. It counts itself, for the bare client as for all."""
    done, moved = -1, time.monotonic()
    while done < count:
        if (now := trial.slots[0]) > done:
            done, moved = now, time.monotonic()
        if time.monotonic() - moved > GIVE_UP:
            raise RuntimeError(f"{trial.peer.name}: no progress at {done} pages of {count}")
        time.sleep(0.005)
    return trial.now(done)


@contextmanager
def _site(trial: Trial, options: Options) -> Iterator[str]:
    """A site of its own, beside the server."""
    python = options.venvs["greenworker"].python
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    site = harness.start([python, HERE / "page_server.py", port], OTHER_CPU, trial.env)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        harness.kill(site)


PAGES = Workload(
    "pages",
    run,
    {"per_second": "pages/s", "worker_core": "of a core"},
    yardstick="bare",
)
