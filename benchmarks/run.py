"""Measure workers side by side: `python benchmarks/run.py drain naps --rounds 3 --json figures.jsonl`.

    drain     a full queue of tasks that do nothing
    naps      tasks of 0.1 s, a thousand and more at once
    latency   an idle worker, one task: until it runs, until its result is back
    enqueue   sending, one by one and many at once
    memory    of an idle worker, and of each task that waits in it
    server    CPU time, commands and bytes of the server for each task
    size      greenworker beside a million tasks that wait, are scheduled, are done
    pages     HTTP pages of 50 ms through the queue
    crash     a worker is killed: what is lost, what runs twice

Makes what it needs (an environment for each peer, a private server), runs the peers in turn, writes a JSON line for each run, and
then prints a table for each workload. README.md says what is counted and why that is fair.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import harness
from harness import NodeModules, Venv
from peers.on_greenworker import Greenworker
from peers.peer import Peer
from peers.registry import PEERS
from workloads.crash import CRASH
from workloads.drain import DRAIN
from workloads.enqueue import ENQUEUE
from workloads.latency import LATENCY
from workloads.memory import MEMORY
from workloads.naps import NAPS
from workloads.pages import PAGES
from workloads.server import SERVER
from workloads.size import SIZE
from workloads.trial import Options, Workload

ALL = (DRAIN, NAPS, LATENCY, ENQUEUE, MEMORY, SERVER, SIZE, PAGES, CRASH)
WORKLOADS = {workload.name: workload for workload in ALL}
Row = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    print(harness.pin_myself(), file=sys.stderr)
    peers = _peers(arguments)
    venvs = _venvs(peers, harness.HIREDIS if arguments.hiredis else ())
    options = Options(
        binary=venvs["greenworker"].server_binary(),
        venvs=venvs,
        **{
            name: value for name in ("tasks", "naps", "idle") if (value := getattr(arguments, name))
        },
    )
    rows: list[Row] = []
    with open(arguments.json, "a", encoding="utf-8") if arguments.json else sys.stdout as out:
        _write(out, _about(peers, venvs))
        for name in arguments.workload:
            workload = WORKLOADS[name]
            some = [peer for peer in peers if name in peer.workloads]
            for number in range(1, arguments.rounds + 1):
                # Every other round backwards: what comes first has no advantage.
                for peer in some if number % 2 else reversed(some):
                    for row in _run(workload, peer, options):
                        rows.append({"workload": name, "round": number, "peer": peer.name, **row})
                        _write(out, rows[-1])
        sys.stdout.flush()
        for name in arguments.workload:
            table(WORKLOADS[name], [row for row in rows if row["workload"] == name])


def _run(workload: Workload, peer: Peer, options: Options) -> list[Row]:
    """What fails is told, and the others go on."""
    try:
        return list(workload.run(peer, options))
    except RuntimeError as error:
        print(f"{workload.name}: {error}", file=sys.stderr)
        return [{"failed": str(error)}]


def _write(out: Any, row: Row) -> None:
    print(json.dumps(row, ensure_ascii=False), file=out, flush=True)


def table(workload: Workload, rows: Sequence[Row]) -> None:
    """Medians and ranges. The last column is the first one's ratio within each round, whose peers had the same machine."""
    whole = [row for row in rows if "failed" not in row]
    for case in dict.fromkeys(row.get("case", "") for row in whole):
        here = [row for row in whole if row.get("case", "") == case]
        names = list(dict.fromkeys(row["peer"] for row in here))
        yardstick = workload.yardstick if workload.yardstick in names else names[-1]
        print(f"\n{workload.name} {case}".rstrip())
        heads = [*workload.figures.values(), f"times {yardstick}"]
        print(f"{'':<20}" + "".join(f"{head:>26}" for head in heads))
        main = next(iter(workload.figures))
        base = {row["round"]: row[main] for row in here if row["peer"] == yardstick}
        for name in names:
            mine = [row for row in here if row["peer"] == name]
            texts = [spread([row[key] for row in mine if key in row]) for key in workload.figures]
            ratios = [row[main] / base[row["round"]] for row in mine if base.get(row["round"])]
            print(f"{name:<20}" + "".join(f"{text:>26}" for text in [*texts, spread(ratios)]))
    for row in rows:
        if "failed" in row:
            print(f"{workload.name}, round {row['round']}: {row['failed']}")


def spread(values: Sequence[float]) -> str:
    """Median and range, to three digits."""
    if not values:
        return "–"
    middle, low, high = (_digits(value) for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _peers(arguments: argparse.Namespace) -> list[Peer]:
    names = arguments.peer or list(PEERS)
    peers = [peer for name, peer in PEERS.items() if name in names]
    if not arguments.peer and not shutil.which("npm"):
        print("without npm: without those on Node.js", file=sys.stderr)
        peers = [peer for peer in peers if not peer.node]
    if arguments.tree:
        peers = [peer for peer in peers if peer.name != "greenworker"]
        first, *others = (tree.resolve() for tree in arguments.tree)
        peers[:0] = [
            Greenworker(first),
            *(Greenworker(tree, f"greenworker:{tree.name}") for tree in others),
        ]
    return peers


def _venvs(peers: Sequence[Peer], extra: Sequence[str]) -> dict[str, Venv]:
    """Each peer's environment; greenworker's always, since it has the server."""
    made: dict[str, Venv] = {}
    for peer in [PEERS["greenworker"], *peers]:
        if peer.node:
            made[peer.venv] = NodeModules(peer.venv, peer.packages)
        else:
            suffix = "-hiredis" if extra else ""
            made[peer.venv] = Venv(f"{peer.venv}{suffix}", [*peer.packages, *extra])
    return made


def _about(peers: Sequence[Peer], venvs: dict[str, Venv]) -> Row:
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "peers": {peer.name: " ".join((type(peer).__doc__ or "").split()) for peer in peers},
        "versions": {name: venv.versions() for name, venv in venvs.items()},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("workload", nargs="+", choices=WORKLOADS, metavar="WORKLOAD", help="see above")
    add("--peer", nargs="+", choices=PEERS, help="only these (all)")
    add("--rounds", type=int, default=3, help="of all peers in turn (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="append the JSON lines to it")
    add(
        "--tree",
        type=Path,
        action="append",
        help="greenworker of this checkout; may be given again",
    )
    add("--hiredis", action="store_true", help="redis-py's parser in C, for every peer")
    add("--tasks", type=int, help="instead of what a workload takes for each peer")
    add("--naps", type=int, nargs="+", metavar="C", help="naps: so many at once (1000 5000 10000)")
    add("--idle", type=float, help="latency: seconds without anything before its second part (60)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
