"""A full queue of tasks that do nothing, with a hundred at once: what a task costs, when it costs nothing itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peers.peer import Peer

from workloads.trial import Options, Trial, Workload, rate

# Start-up and the last stragglers are left out: the rate is that of the tasks between.
FIRST, LAST = 0.1, 0.9


def run(peer: Peer, options: Options) -> Iterator[dict[str, Any]]:
    count = options.count(peer, many=20_000, few=3_000)
    with Trial(peer, options, workload="drain") as trial:
        trial.send("fill", "noop", count)
        trial.work()
        first, last, _ = trial.watch([count * FIRST, count * LAST, count])
        trial.check(count)
    yield {"tasks": count, **rate(first, last)}


DRAIN = Workload(
    "drain",
    run,
    {"per_second": "tasks/s", "worker_cpu_us": "worker, CPU µs a task"},
    yardstick="bare",
)
