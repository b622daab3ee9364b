"""Tasks that wait 0.1 s: what is left of the time that they would need if a worker took none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peers.peer import Peer

from workloads.trial import Options, Trial, Workload

NAP = 0.1
MANY = 1000  # tasks at once; with more only greenworker is tried
POLL = 0.002
FIRST = 50  # the result with which it begins: fewer keys may be what a worker notes of itself when it starts


def run(peer: Peer, options: Options) -> Iterator[dict[str, Any]]:
    for concurrency in options.naps:
        ours = peer.name.startswith("greenworker")
        if concurrency <= MANY or ours:
            count = options.tasks or (max(20 * MANY, 10 * concurrency) if ours else 5 * MANY)
            yield {"case": f"c={concurrency}", **_naps(peer, options, concurrency, count)}


def _naps(peer: Peer, options: Options, concurrency: int, count: int) -> dict[str, Any]:
    with Trial(peer, options, workload="naps", concurrency=concurrency) as trial:
        trial.send("fill", "nap", count, NAP)
        trial.work()
        first, last = trial.watch([FIRST, count], poll=POLL)
        trial.check(count)
    # Those had begun a nap earlier: starting the worker is not in it.
    makespan = last.seconds - first.seconds + NAP
    return {
        "tasks": count,
        "share": round(count / concurrency * NAP / makespan, 4),
        "per_second": round(count / makespan, 1),
        "makespan": round(makespan, 3),
        "core": round((last.worker_cpu - first.worker_cpu) / makespan, 3),
        "server_core": round((last.server_cpu - first.server_cpu) / makespan, 3),
    }


NAPS = Workload(
    "naps",
    run,
    {
        "share": "share of the ideal",
        "per_second": "tasks/s",
        "core": "of a core",
        "server_core": "server, likewise",
    },
    yardstick="greenworker",
)
