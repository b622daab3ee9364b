"""Whether greenworker still drains a queue as fast, beside the least loop that is as safe, as it did: `tox -e bench`.

    python benchmarks/share.py [--seconds 150] [--record]

By turns, both drain a queue of tasks that do nothing. What counts is the median of the rounds' ratios, since each round had the same
machine. More than 15 % below what share.json says, it ends with 1. With --record it writes that file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles

import harness
from harness import Venv
from peers.registry import PEERS
from workloads.drain import run
from workloads.trial import Options

RECORDED = Path(__file__).with_name("share.json")
FALL = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=150, help="to measure for (%(default)s)")
    parser.add_argument(
        "--record", action="store_true", help="what is measured becomes the measure"
    )
    options = parser.parse_args()
    print(harness.pin_myself())
    venv = Venv(PEERS["greenworker"].venv, PEERS["greenworker"].packages)
    shares, cheaper = _measure(venv, options.seconds)
    share, low, high = median(shares), *_half(shares)
    print(
        f"share of the least loop's rate: {share:.3f} (half of {len(shares)} rounds: {low:.3f}–{high:.3f})"
    )
    print(f"the least loop's CPU time of greenworker's: {median(cheaper):.3f}")
    if options.record:
        record = {
            "share": round(share, 3),
            "cpu_share": round(median(cheaper), 3),
            "rounds": len(shares),
            "half_of_them": [round(low, 3), round(high, 3)],
            "when": datetime.now(UTC).date().isoformat(),
            "how": " ".join(["python benchmarks/share.py", *sys.argv[1:]]),
            "load_average": round(os.getloadavg()[1], 1),  # a quiet machine has 1 to 2 then
            "versions": venv.versions(),
            "machine": f"{platform.system()} {platform.machine()}",
        }
        RECORDED.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return
    recorded = json.loads(RECORDED.read_text("utf-8"))
    floor = recorded["share"] * (1 - FALL)
    print(f"recorded on {recorded['when']}: {recorded['share']}; at least {floor:.3f} is asked for")
    if share < floor:
        sys.exit("greenworker has become slower: look with benchmarks/profile_worker.py")


def _measure(venv: Venv, seconds: float) -> tuple[list[float], list[float]]:
    """greenworker's rate, of the least loop's, and the other way round its CPU time, in each round."""
    own, least = PEERS["greenworker"], PEERS["least"]
    options = Options(venv.server_binary(), {own.venv: venv})
    shares, cheaper, until = [], [], time.monotonic() + seconds
    while time.monotonic() < until:
        rows = {}
        # Every other round backwards: what comes first has no advantage.
        for peer in (own, least) if len(shares) % 2 else (least, own):
            (rows[peer.name],) = run(peer, options)
        shares.append(rows["greenworker"]["per_second"] / rows["least"]["per_second"])
        cheaper.append(rows["least"]["worker_cpu_us"] / rows["greenworker"]["worker_cpu_us"])
        print(f"round {len(shares)}: {shares[-1]:.3f}, by CPU time {cheaper[-1]:.3f}", flush=True)
    return shares, cheaper


def _half(values: list[float]) -> tuple[float, float]:
    """The middle half of them."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4)
    return low, high


if __name__ == "__main__":
    main()
