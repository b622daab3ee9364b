"""What a task takes of the server, from its send to its result: CPU time, commands, bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import Server
from peers.peer import Peer

from workloads.trial import Options, Trial, Workload

POLL = 0.02


def run(peer: Peer, options: Options) -> Iterator[dict[str, Any]]:
    count = options.count(peer, many=20_000, few=3_000)
    with Trial(peer, options, workload="server") as trial:
        first, empty = _spent(trial.server), _used(trial.server)
        trial.send("fill", "noop", count)
        waiting = _used(trial.server)
        trial.work()
        trial.watch([count], poll=POLL)
        # Before check(): that asks for much, and in a script.
        last, done = _spent(trial.server), _used(trial.server)
        trial.check(count)
    cpu, commands, traffic = (b - a for a, b in zip(first, last, strict=True))
    yield {
        "tasks": count,
        "cpu_us": round(cpu / count * 1e6, 1),
        "commands": round(commands / count, 2),
        "traffic_bytes": round(traffic / count),
        "waiting_bytes": round((waiting - empty) / count),
        "result_bytes": round((done - empty) / count),
    }


def _spent(server: Server) -> tuple[float, int, int]:
    return server.cpu_seconds(), server.commands(), server.traffic()


def _used(server: Server) -> int:
    return int(server.info("memory")["used_memory"])


SERVER = Workload(
    "server",
    run,
    {
        "cpu_us": "server, CPU µs a task",
        "commands": "commands a task",
        "traffic_bytes": "bytes sent and received",
        "waiting_bytes": "bytes, waiting",
        "result_bytes": "bytes, as a result",
    },
    yardstick="greenworker",
)
