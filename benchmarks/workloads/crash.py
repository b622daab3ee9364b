"""A worker is killed by signal 9 when 40 % have run, and another one started: what is lost, what runs twice, and when all have run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from peers.peer import Peer

from workloads.trial import Options, Trial, Workload

PART = 0.4
TAKES = 0.02  # seconds a task
GIVE_UP = 120.0  # seconds without one more that has run
POLL = 0.005


def run(peer: Peer, options: Options) -> Iterator[dict[str, Any]]:
    count = options.count(peer, many=10_000, few=3_000)
    with Trial(peer, options, workload="crash", slots=count) as trial:
        trial.send("number", "mark", count, TAKES)
        trial.work()
        _wait(trial, int(count * PART))
        trial.kill()
        before, killed = _ran(trial), time.monotonic()
        trial.work()
        last = _wait(trial, count)
        time.sleep(1.0)
        runs = list(trial.slots[:count])
    yield {
        "tasks": count,
        "ran_before": before,
        "missing": runs.count(0),
        "twice": sum(n > 1 for n in runs),
        "seconds": round(last - killed, 2),
    }


def _ran(trial: Trial) -> int:
    return len(trial.slots) - trial.slots.tolist().count(0)


def _wait(trial: Trial, count: int) -> float:
    """Until so many have run, or nothing moves any more; returns when the last one did."""
    ran, moved = 0, time.monotonic()
    while ran < count and time.monotonic() - moved < GIVE_UP:
        if (now := _ran(trial)) > ran:
            ran, moved = now, time.monotonic()
        time.sleep(POLL)
    return moved


CRASH = Workload(
    "crash",
    run,
    {
        "seconds": "until the last has run, s",
        "missing": "not run 120 s later",
        "twice": "run twice",
    },
    yardstick="greenworker",
)
