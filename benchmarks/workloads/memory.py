"""What a worker takes that does nothing, and what each task takes that waits in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import harness
from peers.peer import Peer

from workloads.trial import Options, Trial, Workload

WATCHED = 5.0  # seconds
GIVE_UP = 60.0  # seconds without one more that has begun


def run(peer: Peer, options: Options) -> Iterator[dict[str, Any]]:
    with Trial(peer, options, workload="memory") as trial:
        trial.work()
        time.sleep(WATCHED)
        idle, connections, core = _memory(trial), _connections(trial), _core(trial)
    count = options.count(peer, many=10_000, few=1_000)
    with Trial(peer, options, workload="memory", concurrency=count, slots=count) as trial:
        trial.work()
        trial.send("number", "park", count, 600.0)
        _all_run(trial, count)
        time.sleep(1.0)
        yield {
            "tasks": count,
            "idle_mb": round(idle, 1),
            # All that the larger worker has more: what some have at hand for a task before it comes, too.
            "parked_kb": round((_memory(trial) - idle) * 1000 / count, 2),
            "idle_core": round(core, 4),
            "parked_core": round(_core(trial), 4),
            "idle_connections": connections,
            "parked_connections": _connections(trial),
        }


def _all_run(trial: Trial, count: int) -> None:
    running, moved = 0, time.monotonic()
    while running < count:
        time.sleep(0.1)
        if (now := trial.slot_sum()) > running:
            running, moved = now, time.monotonic()
        if time.monotonic() - moved > GIVE_UP:
            raise RuntimeError(f"{trial.peer.name}: {running} of {count} run at once")


def _memory(trial: Trial) -> float:
    return harness.memory(trial.pids())


def _connections(trial: Trial) -> int:
    return int(trial.server.info("clients")["connected_clients"]) - 1


def _core(trial: Trial) -> float:
    """How much of a core the worker uses."""
    first = trial.now()
    time.sleep(WATCHED)
    last = trial.now()
    return (last.worker_cpu - first.worker_cpu) / (last.seconds - first.seconds)


MEMORY = Workload(
    "memory",
    run,
    {
        "idle_mb": "idle, MB",
        "parked_kb": "each that waits, KB",
        "idle_core": "idle, of a core",
        "parked_core": "waiting, of a core",
        "parked_connections": "connections",
    },
    yardstick="greenworker",
)
