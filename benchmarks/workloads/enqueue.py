"""Sending: one call after the other, and many at once. No worker runs; the sender has its core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import WORKER_CPU
from peers.peer import Peer

from workloads.trial import Options, Trial, Workload

SECONDS = 3.0


def run(peer: Peer, options: Options) -> Iterator[dict[str, Any]]:
    with Trial(peer, options, workload="enqueue") as trial:
        yield {"case": "one by one", **_figures(trial.send("enqueue", SECONDS, cpu=WORKER_CPU))}
    sizes = [options.tasks or 10_000]
    if peer.name.startswith("greenworker") and not options.tasks:
        sizes.append(1_000_000)
    for count in sizes:
        with Trial(peer, options, workload="enqueue") as trial:
            sent = trial.send("fill", "noop", count, cpu=WORKER_CPU)
        if sent:  # the frozen bare loop tells nothing
            yield {"case": f"{count:,} from a generator", **_figures(sent)}


def _figures(sent: dict[str, float]) -> dict[str, Any]:
    return {
        "tasks": sent["sent"],
        "per_second": round(sent["sent"] / sent["seconds"], 1),
        "sender_cpu_us": round(sent["cpu_us"], 1),
        "peak_mb": round(sent["peak_mb"], 1),
    }


ENQUEUE = Workload(
    "enqueue",
    run,
    {"per_second": "sent/s", "sender_cpu_us": "sender, CPU µs each", "peak_mb": "its peak, MB"},
    yardstick="bare",
)
