"""The demo's conductor: a slow web site, one worker with 1,000 greenlets, and the proof.

`run` does this, in order:

1. starts the web site (`greenworker.demo.site`) in a process of its own;
2. starts an embedded server in a temporary folder, whatever $GREENWORKER_URL says;
3. starts a worker for `greenworker.demo.tasks` in this process, and sends the root page;
4. shows how it goes until nothing is waiting, scheduled or running;
5. asks the site what it saw, prints a summary, and says whether every page was crawled.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import gevent
from gevent import get_hub
from gevent.event import Event

from greenworker.demo import tasks
from greenworker.demo.progress import Progress, Snapshot, megabytes, progress
from greenworker.demo.site import STATS, Counts
from greenworker.embedded import EmbeddedServer
from greenworker.embedded_guard import GUARDIAN, open_lock, try_lock
from greenworker.errors import BrokerUnavailable
from greenworker.testsite.process import running
from greenworker.testsite.server import allow_connections
from greenworker.worker import Worker

CONCURRENCY = 1000
ENOUGH_AT_ONCE = 800
PAGES = 5000
SEED = 7
DEADLINE = 120.0
"""Seconds after which a crawl that has not ended is given up."""

SITE = (
    "-m",
    "greenworker.demo.site",
    "--until-eof",
    "--port=0",
    f"--pages={PAGES}",
    f"--seed={SEED}",
)

BANNER = f"""\
greenworker demo: crawl a web site of {PAGES:,} pages with one process, {CONCURRENCY:,} at a time.
The site runs here too: pages take 0.2–5 s (mean 1.3 s), 6 % fail once or twice.
"""


def run() -> int:
    """Crawl the site, and return 0 when every page was done and 800 were open at once.

    Needs a process that gevent has patched. SIGINT and SIGTERM end it early: it then returns 1.
    However it ends, it leaves no process and no file behind.
    """
    print(BANNER, flush=True)
    with _stop_event() as stop, running(SITE) as root, _private_server(), _no_proxy():
        crawl = _crawl(root, stop)
        seen_by_site = _counts(root)
    print(_summary(crawl, seen_by_site))
    if (problem := _problem(crawl, seen_by_site)) is not None:
        print(f"Not done: {problem}.")
        return 1
    return 0


@dataclass(frozen=True, slots=True)
class Crawl:
    """How a crawl ended."""

    end: Snapshot
    stopped_by: str | None
    """What ended it early, or None when nothing was left to do."""
    durations: tuple[float, ...]
    """Seconds that the tasks ran, the last 10,000 of them, sorted."""
    most_in_flight: int
    best_speed: float


def _crawl(root: str, stop: Event) -> Crawl:
    tasks.seen.clear()
    allow_connections(CONCURRENCY + 1024)
    worker = Worker(tasks.app, concurrency=CONCURRENCY)
    worker.start()
    try:
        tasks.page.delay(root)
        with progress() as shown:
            return _watch(worker, shown, stop)
    finally:
        # Either nothing runs any more, or whoever stopped it wants it ended.
        worker.stop(timeout=1.0)


def _watch(worker: Worker, shown: Progress, stop: Event) -> Crawl:
    """Show the crawl until nothing is left to do, `stop` is set, or its time is over."""
    start, pace, most_in_flight = time.monotonic(), Pace(), 0
    stats = worker.stats
    ended, stopped_by = False, None
    while not ended and stopped_by is None:
        if stop.wait(shown.every):
            stopped_by = "it was interrupted"
        # Asked before the numbers are read, so that the last ones shown are the final ones.
        ended = _nothing_left()
        seconds = time.monotonic() - start
        if seconds > DEADLINE:
            stopped_by = f"{DEADLINE:.0f} s were not enough"
        now = Snapshot(
            seconds=seconds,
            done=stats.succeeded,
            known=len(tasks.seen),
            speed=pace.measure(seconds, stats.succeeded),
            in_flight=stats.running,
            errors=stats.failed,
            retries=stats.retried,
            memory=_peak_memory(),
        )
        most_in_flight = max(most_in_flight, now.in_flight)
        shown.show(now)
    return Crawl(
        end=now,
        stopped_by=None if ended else stopped_by,
        durations=tuple(sorted(stats.durations)),
        most_in_flight=most_in_flight,
        best_speed=pace.best,
    )


def _nothing_left() -> bool:
    # One look at the server sees all of them: a page is running until the pages it links to
    # were sent, and a failure is scheduled in the step that ends its run.
    try:
        status = tasks.app.status()
    except BrokerUnavailable:
        return False  # asked again at the next look
    return not (status.waiting or status.scheduled or status.running)


class Pace:
    """Pages a second over the last second; it keeps the best that it measured."""

    def __init__(self) -> None:
        self.best = 0.0
        self._points = deque([(0.0, 0)])

    def measure(self, seconds: float, done: int) -> float:
        """Return the pages a second, when `done` pages were done after `seconds`."""
        points = self._points
        points.append((seconds, done))
        while len(points) > 2 and points[1][0] <= seconds - 0.95:
            points.popleft()
        then, done_then = points[0]
        speed = (done - done_then) / max(seconds - then, 0.001)
        self.best = max(self.best, speed)
        return speed


def _summary(crawl: Crawl, site: Counts) -> str:
    end = crawl.end
    lines = (
        f"{end.done:,} of {site.pages:,} pages in {end.seconds:.1f} s:"
        f" {end.done / end.seconds:,.0f} pages/s, {crawl.best_speed:,.0f} in the best second",
        f"in flight   {crawl.most_in_flight:,} at most;"
        f" the site counted {site.most_at_once:,} requests at once",
        f"latency     p50 {_percentile(crawl.durations, 50):.2f} s,"
        f" p95 {_percentile(crawl.durations, 95):.2f} s of a task",
        f"failures    {site.failures:,} answered by the site, {end.retries:,} retries,"
        f" {end.errors:,} errors",
        f"memory      {megabytes(end.memory)} at most",
    )
    return "\n".join(("", *lines))


def _percentile(ordered: tuple[float, ...], percent: int) -> float:
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def _problem(crawl: Crawl, site: Counts) -> str | None:
    """Return what is wrong with a crawl, or None."""
    end = crawl.end
    if crawl.stopped_by is not None:
        return f"{crawl.stopped_by}; {end.known - end.done:,} known pages were left"
    if end.errors:
        return f"{end.errors:,} pages failed for good"
    if not end.done == end.known == site.served == site.pages:
        return (
            f"{end.done:,} pages done, {end.known:,} known, {site.served:,} served,"
            f" and {site.pages:,} reachable should be the same"
        )
    if site.most_at_once < ENOUGH_AT_ONCE:
        return f"the site had {site.most_at_once:,} requests at once, not {ENOUGH_AT_ONCE:,}"
    return None


def _counts(root: str) -> Counts:
    with urlopen(root.rstrip("/") + STATS, timeout=10) as answer:
        return Counts(**json.load(answer))


@contextmanager
def _private_server() -> Iterator[None]:
    """Lead the app to an embedded server of its own; end it and remove its data after."""
    with tempfile.TemporaryDirectory(prefix="greenworker-demo-") as folder:
        server = EmbeddedServer(Path(folder))
        server.ensure()
        try:
            tasks.app.use(server.url, "demo")
            yield
        finally:
            tasks.app.close()
            server.detach()
            _wait_for_guardian(folder)


def _wait_for_guardian(folder: str) -> None:
    # It sees by itself that nobody is left; its folder should not go before it has.
    lock = open_lock(folder, GUARDIAN)
    deadline = time.monotonic() + 10.0
    while not try_lock(lock, fcntl.LOCK_EX) and time.monotonic() < deadline:
        gevent.sleep(0.02)
    os.close(lock)


@contextmanager
def _no_proxy() -> Iterator[None]:
    """Keep urllib from asking a proxy of the user's for this machine's own pages."""
    before = os.environ.get("no_proxy")
    os.environ["no_proxy"] = "127.0.0.1"
    try:
        yield
    finally:
        del os.environ["no_proxy"]
        if before is not None:
            os.environ["no_proxy"] = before


@contextmanager
def _stop_event() -> Iterator[Event]:
    """Yield an event that SIGINT and SIGTERM set; other handlers get their signals back after."""
    stop, loop = Event(), get_hub().loop

    def ask(number: int, frame: object) -> None:
        # The handler may interrupt any greenlet anywhere: only the loop may set the event.
        loop.run_callback_threadsafe(stop.set)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kilobytes, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024
