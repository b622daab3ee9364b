"""How much of what limits allow four workers use, two of which are killed meanwhile; and what the sites say of it.

    python benchmarks/polite.py [--hosts 30] [--seconds 45] [--kills 2] [--delay 0.5] [--latency 0.5]

Runs with the greenworker of this checkout, in an environment with its test dependencies (`pip install -e .[dev]`). A third
of the hosts allows two visits at once, a third one each DELAY seconds, by a delay and by a rate. The counts are the
site's own (greenworker testsite), which runs beside it: violations, and how much of what is allowed came while
work waited.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from greenworker.testsite import running_site
from tests.support.polite import Kind, PoliteVisits
from tests.support.server import Server


def main() -> None:
    options = _options()
    delay = options.delay
    kinds = (
        Kind("two at once", {"concurrency": 2}, {"concurrency": 2}, at_once=2),
        Kind(f"delay {delay:g} s", {"delay": delay}, {"delay": delay}, interval=delay),
        Kind(f"rate {1 / delay:g}/s", {"rate": f"{1 / delay:g}/s"}, {"rate": 1 / delay}, interval=delay),
    )  # fmt: skip
    fastest = max(1 / delay, 2 / options.latency)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server() as server,
        running_site(
            hosts=options.hosts,
            pages=round(options.seconds * 3 * fastest),
            latency=options.latency,
            tolerance=options.tolerance,
        ) as site,
        PoliteVisits(Path(folder), server.url, "polite", site, kinds) as visits,
    ):
        for worker in [visits.start_worker() for _ in range(options.workers)]:
            worker.wait_for("ready")
        visits.begin(round(options.seconds * 2 * fastest))
        for _ in range(options.kills):
            time.sleep(options.seconds / (options.kills + 1))
            visits.replace_worker()
        time.sleep(options.seconds / (options.kills + 1))
        for use in visits.uses():
            print(use)
        report = site.stats(total=True)
        print(f"violations, with a tolerance of {report.tolerance:g} s: {report.total.violations}")
        print(f"the site was late by {report.lag * 1000:.0f} ms at most")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=30, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=45.0, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--kills", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--delay", type=float, default=0.5, help="seconds (%(default)s)")
    parser.add_argument("--latency", type=float, default=0.5, help="the sites' (%(default)s)")
    parser.add_argument("--tolerance", type=float, default=0.15, help="the sites' (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
