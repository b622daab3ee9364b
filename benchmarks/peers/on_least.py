"""The least loop that is as safe, as a peer: it drains what greenworker sends."""

from __future__ import annotations

from collections.abc import Sequence

from peers.on_greenworker import Greenworker
from peers.peer import HERE


class Least(Greenworker):
    """Not a worker: greenworker's own scripts, with leases, fences, counters and results, a time limit for each task, and no more. It
    is frozen, so that ratios of different dates can be compared."""

    workloads = frozenset({"drain"})
    clients = ("urllib3",)

    def __init__(self) -> None:
        super().__init__(name="least")

    def worker(self, concurrency: int) -> Sequence[object]:
        return ["python", HERE.parent / "least_loop.py"]
