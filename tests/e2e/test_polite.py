"""Limits by key, as the visited sites see them: nobody goes too fast, whoever is killed."""

from __future__ import annotations

import time
from pathlib import Path

from greenworker.testsite import running_site
from tests.support.eventually import eventually
from tests.support.polite import Kind, PoliteVisits
from tests.support.server import Server

SECONDS = 12.0
KINDS = (
    Kind("two at once", {"concurrency": 2}, {"concurrency": 2}, at_once=2),
    Kind("a delay", {"delay": 0.8}, {"delay": 0.8}, interval=0.8),
    Kind("a rate", {"rate": "75/min"}, {"rate": 1.25}, interval=0.8),
    Kind("both", {"concurrency": 2, "delay": 0.8}, {"concurrency": 2, "delay": 0.8}, interval=0.8),
)


def test_four_workers_two_of_which_are_killed(
    tmp_path: Path, server: Server, namespace: str
) -> None:
    """The intervals are long, and the sites' tolerance with them: a slow machine is late, and neither idle nor impolite."""
    with (
        running_site(hosts=12, pages=200, latency=0.6, tolerance=0.4) as site,
        PoliteVisits(tmp_path, server.url, namespace, site, KINDS) as visits,
    ):
        for worker in [visits.start_worker() for _ in range(4)]:
            worker.wait_for("ready")
        visits.begin(visits=100)
        eventually(lambda: visits.requests >= 12)
        for _ in range(2):
            time.sleep(SECONDS / 3)
            visits.replace_worker()
        time.sleep(SECONDS / 3)
        uses = visits.uses()
        assert set(visits.violations().values()) == {0}
    assert {use.hosts for use in uses} == {3}
    # (How much of it a machine with nothing else to do uses: benchmarks/polite.py.)
    assert min(use.share for use in uses) > 0.5, "; ".join(map(str, uses))
