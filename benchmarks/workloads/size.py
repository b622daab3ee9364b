"""Whether the drain of 20,000 tasks becomes slower beside a million others: waiting, scheduled, or done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peers.peer import Peer

from workloads.trial import Moment, Options, Trial, Workload, rate

FEW, MILLION = 20_000, 1_000_000


def run(peer: Peer, options: Options) -> Iterator[dict[str, Any]]:
    million = options.tasks or MILLION
    few = min(FEW, million // 10)
    rates = {"few": _few(peer, options, few)}
    with Trial(peer, options, workload="size") as trial:
        trial.send("fill", "noop", million)
        trial.work()
        first, last, _ = trial.watch([few * 0.1, few * 0.9, million])
        rates["waiting"] = rate(first, last)
        trial.kill()
        trial.check(million)
        # All of them are results now; greenworker keeps them for an hour.
        trial.send("fill", "noop", few)
        rates["results"] = _drained(trial, few)
    rates["few again"] = _few(peer, options, few)
    with Trial(peer, options, workload="size") as trial:
        trial.send("later", million)
        trial.send("fill", "noop", few)
        rates["scheduled"] = _drained(trial, few)
    for case, row in rates.items():
        shares = {
            # Of what it was before and after.
            f"{name}_share": row[name] / ((rates["few"][name] + rates["few again"][name]) / 2)
            for name in ("per_second", "worker_cpu_us", "server_cpu_us")
        }
        rounded = {name: round(share, 3) for name, share in shares.items()}
        yield {"case": case, "beside": million, "tasks": few, **row, **rounded}


def _few(peer: Peer, options: Options, few: int) -> dict[str, float]:
    with Trial(peer, options, workload="size") as trial:
        trial.send("fill", "noop", few)
        return _drained(trial, few)


def _drained(trial: Trial, few: int) -> dict[str, float]:
    trial.work()
    marks: list[Moment] = trial.watch([few * 0.1, few * 0.9])
    return rate(*marks)


SIZE = Workload(
    "size",
    run,
    {
        "per_second_share": "rate, of that with few",
        "worker_cpu_us_share": "worker's CPU, likewise",
        "server_cpu_us_share": "server's CPU, likewise",
        "per_second": "tasks/s",
    },
    yardstick="greenworker",
)
