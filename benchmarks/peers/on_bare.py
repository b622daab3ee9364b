"""The bare loop, as a peer: `bare_loop.py` drains, and the rest is the least that the same libraries need."""

from __future__ import annotations

from collections.abc import Sequence

from peers.on_greenworker import Greenworker
from peers.peer import HERE, Peer

LOOP = HERE.parent / "bare_loop.py"


class Bare(Peer):
    """Not a worker: no retries, leases, priorities, schedules; nobody returns what is lost. It is frozen, so that
    ratios of different dates can be compared."""

    name = "bare"
    file = "on_bare.py"
    packages = Greenworker.packages
    workloads = frozenset({"drain"})
    results = "result:*"

    @property
    def venv(self) -> str:
        return "greenworker"

    def worker(self, concurrency: int) -> Sequence[object]:
        if concurrency != 100:
            raise ValueError("the bare loop runs 100 at once, as it did when it was frozen")
        return ["python", LOOP]

    def sender(self, *words: object) -> Sequence[object]:
        match words:
            case ["fill", "noop", count]:
                return ["python", LOOP, count]
        return super().sender(*words)
