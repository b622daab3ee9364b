"""A worker that has nothing to do, and one task: how long until it runs, and until its result is back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from peers.peer import Peer

from workloads.trial import Options, Trial, Workload

COUNT, GAP = 300, 0.03  # sends, and seconds between them
SETTLED = 3.0  # seconds after which a worker has nothing left to do of its start


def run(peer: Peer, options: Options) -> Iterator[dict[str, Any]]:
    count = options.tasks or COUNT
    with Trial(peer, options, workload="latency", slots=count + 1) as trial:
        trial.work()
        time.sleep(SETTLED)
        seen = trial.send("latency", count, GAP)
        started, ended = zip(*seen, strict=True)
        row = {
            "tasks": count,
            "start_p50_ms": _ms(started, 0.5),
            "start_p99_ms": _ms(started, 0.99),
            "result_p50_ms": _ms(ended, 0.5),
            "result_p99_ms": _ms(ended, 0.99),
        }
        if options.idle:
            ((begun, back),) = trial.send("latency", 1, 0.0, options.idle)
            row["idle"] = options.idle
            row["idle_start_ms"], row["idle_result_ms"] = _ms([begun], 0), _ms([back], 0)
    yield row


def _ms(nanoseconds: Sequence[int], part: float) -> float:
    ordered = sorted(nanoseconds)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))] / 1e6, 3)


LATENCY = Workload(
    "latency",
    run,
    {
        "start_p50_ms": "start p50, ms",
        "start_p99_ms": "start p99, ms",
        "result_p50_ms": "result p50, ms",
        "idle_start_ms": "start after idling, ms",
    },
    yardstick="bare",
)
