"""Workers that visit a site's hosts as fast as limits allow, some of them killed meanwhile; and what the site saw of it."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from greenworker import App
from greenworker.testsite import RunningSite, Seen
from greenworker.testsite.plan import plan
from tests.support.process import Command

MODULE = """\
from http.client import HTTPConnection
from urllib.parse import urlsplit
from greenworker import App, Throttled, host

app = App({url!r}, namespace={namespace!r})

@app.task(name="visit", key=lambda url: "host:" + host(url), retries=9, timeout=60, ignore_result=True)
def visit(url):
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname, parts.port, timeout=30)
    connection.request("GET", parts.path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status in (429, 503):
        raise Throttled(answer.headers.get("Retry-After"))
"""


class Kind(NamedTuple):
    """Hosts that are limited alike: as greenworker is told, and as the site holds its visitors to it.

    They allow so many visits at once, or, where that is 0, one each `interval` seconds."""

    name: str
    limit: dict[str, Any]
    site: dict[str, float]
    at_once: int = 0
    interval: float = 0.0


@dataclass(frozen=True)
class Use:
    """How much of what limits allow was used while work waited: visits, or seconds of open ones where so many are
    allowed at once."""

    kind: str
    hosts: int
    visits: int
    used: float
    allowed: float

    @property
    def share(self) -> float:
        return self.used / self.allowed

    def __str__(self) -> str:
        return f"{self.kind}: {self.share:.1%} of what is allowed, {self.visits:,} visits to {self.hosts:,} hosts"


class PoliteVisits:
    """A site whose hosts are of some kinds, by turns, and worker processes whose tasks visit it."""

    def __init__(
        self, folder: Path, url: str, namespace: str, site: RunningSite, kinds: Sequence[Kind]
    ) -> None:
        file = folder / "polite_tasks.py"
        file.write_text(MODULE.format(url=url, namespace=namespace))
        tasks = runpy.run_path(str(file))
        self.app: App = tasks["app"]
        self._visit = tasks["visit"]
        self._folder, self._site, self._kinds = folder, site, kinds
        self._hosts = [(root, kinds[n % len(kinds)]) for n, root in enumerate(site.roots)]
        self._stack = ExitStack()
        self._workers: list[Command] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.app.close()

    def begin(self, visits: int) -> None:
        """Limit the hosts, here and there, and send so many visits to each: more than there will be time for."""
        for root, kind in self._hosts:
            self.app.limits.set(f"host:{_address(root)}", **kind.limit)
            self._site.set(root, **kind.site)
        urls = (f"{root}page/{n}" for n in range(visits) for root, _ in self._hosts)
        self._visit.delay_many(((url,) for url in urls), results=False)

    def start_worker(self) -> Command:
        worker = Command("-c", "100", "--lease", "5", "polite_tasks", cwd=self._folder)
        self._workers.append(self._stack.enter_context(worker))
        return worker

    def replace_worker(self) -> None:
        """kill -9 one, and do what its supervisor would."""
        self._workers.pop(0).kill()
        self.start_worker()

    @property
    def requests(self) -> int:
        return self._site.stats(total=True).total.requests

    def violations(self) -> dict[str, int]:
        return self._site.stats(total=True).total.violations

    def uses(self) -> list[Use]:
        """By kind, until now."""
        report = self._site.stats()
        found = []
        for kind in self._kinds:
            of_kind = [root for root, its in self._hosts if its is kind]
            seen = [report.hosts[_address(root)] for root in of_kind]
            parts = [
                self._use(root, kind, one, report.seconds)
                for root, one in zip(of_kind, seen, strict=True)
            ]
            used, allowed = (sum(values) for values in zip(*parts, strict=True))
            visits = sum(one.requests for one in seen)
            found.append(Use(kind.name, len(of_kind), visits, used, allowed))
        return found

    def _use(self, root: str, kind: Kind, seen: Seen, now: float) -> tuple[float, float]:
        assert seen.first is not None
        assert seen.last is not None
        if not kind.at_once:
            return seen.requests - 1, (seen.last - seen.first) / kind.interval
        # (Pages come in order, nearly; those that are open now are halfway, on average.)
        number = self._site.roots.index(root)
        some = [plan(self._site.settings, number, n).latency for n in range(seen.served)]
        open_now = kind.at_once / 2 * sum(some) / len(some)
        return sum(some) + open_now, kind.at_once * (now - seen.first)


def _address(root: str) -> str:
    return root.removeprefix("http://").rstrip("/")
