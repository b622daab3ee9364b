"""Answers for all hosts: which address is what, when it is answered, and what is counted of it.

Pages are ``/`` and ``/page/<n>``; traps ``/bomb/<n>``, ``/loop/<n>`` and ``/private/<n>``. Further:

- ``/robots.txt``: counted by itself, held to no limit;
- ``/__stats``: what the hosts saw (`Report`), as JSON; ``?host=127.0.0.1:20003`` only of that one,
  ``?total`` only the sums;
- ``/__truth``: what there is to be found: how many pages, and the address of each host;
- ``/__set?rate=5&concurrency=2``: holds visitors to other limits from now on, of all hosts or of
  ``host=``; a figure that is left out stays, 0 is no limit;
- ``/__reset``: counts from nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import gevent
import orjson

from greenworker.errors import ConfigError
from greenworker.testsite import text, traps
from greenworker.testsite.counting import KINDS, Ledger, Limits, Seen
from greenworker.testsite.http import Visit
from greenworker.testsite.plan import DRIP_PIECES, Settings, chance, in_burst, plan

HTML, TEXT, JSON = "text/html; charset=utf-8", "text/plain", "application/json"


@dataclass(frozen=True, slots=True)
class Report:
    """What the site saw, as ``/__stats`` answers it."""

    seconds: float
    """Since the start, or the last reset."""
    tolerance: float
    """Seconds that a request may need to arrive; see `greenworker.testsite.counting`."""
    lag: float
    """The longest that the site itself was late, in seconds. Where it is not far below the tolerance,
    the machine is too busy for these gaps to be believed."""
    most_open: int
    """The largest number of requests that were open at the same time, on all hosts together; one whose
    visitor has hung up counts until it would have been answered."""
    total: Seen
    """Of all hosts: sums; the largest concurrency and the smallest gap of any."""
    hosts: dict[str, Seen] = field(default_factory=dict)
    """By address, as 127.0.0.1:20003."""
    limits: dict[str, Limits] = field(default_factory=dict)
    """What they hold visitors to now."""


class Host:
    """One host: its books, and the visits that are open there."""

    __slots__ = ("ledger", "name", "number", "open")

    def __init__(self, number: int, name: str, ledger: Ledger) -> None:
        self.number, self.name, self.ledger = number, name, ledger
        self.open: set[Visit] = set()

    def enter(self, visit: Visit) -> tuple[str, ...]:
        """Count a visit that arrives; return the kinds of limits that it breaks."""
        if self.ledger.at_its_most:
            # Looked for only here, where it matters: who was killed has hung up, and is replaced.
            for other in [other for other in self.open if other.gone()]:
                self.leave(other)
        self.open.add(visit)
        return self.ledger.arrive(visit.arrived)

    def leave(self, visit: Visit) -> None:
        """A visit is over, or has been for a while."""
        if visit in self.open:
            self.open.discard(visit)
            self.ledger.leave()


class Site:
    """All hosts; `roots` are the addresses of their first pages."""

    def __init__(self, settings: Settings, roots: list[str]) -> None:
        self.settings = settings
        self.roots = roots
        self.lag = 0.0
        self._begin = self._start = time.monotonic()  # of the site, of the counts
        self._open = self._most_open = 0
        self._refusals = 0
        names = [root.split("/")[2] for root in roots]
        self._hosts = [
            Host(n, name, Ledger(settings.limits, settings.tolerance, settings.pages))
            for n, name in enumerate(names)
        ]
        self._named = {host.name: host for host in self._hosts}
        self._robots = text.robots(settings.limits.delay)
        self._bomb = traps.bomb() if settings.bombs else b""
        self._own: dict[str, Callable[[dict[str, str]], Any]] = {
            "/__stats": self._stats,
            "/__truth": self._truth,
            "/__set": self._set,
            "/__reset": self._reset,
        }

    def handle(self, visit: Visit) -> None:
        """Answer a request, whatever becomes of it."""
        host = self._hosts[visit.host]
        if visit.path == "/robots.txt":
            host.ledger.robots += 1
            visit.answer("200 OK", self._robots, TEXT)
            return
        if visit.path in self._own:
            self._answer_for_itself(visit)
            return
        self._open += 1
        self._most_open = max(self._most_open, self._open)
        broken = host.enter(visit)
        try:
            self._visit(host, visit, broken)
        finally:
            self._open -= 1
            host.leave(visit)

    def set(self, limits: dict[str, str], host: str = "") -> None:
        """Hold visitors to other limits from now on; raises ConfigError."""
        now = time.monotonic()
        if host and host not in self._named:
            raise ConfigError(f"no host {host!r}; the first is {self._hosts[0].name}")
        chosen = [self._named[host]] if host else self._hosts
        new = [one.ledger.limits.but(**limits) for one in chosen]  # all are good, or none is set
        for one, limit in zip(chosen, new, strict=True):
            one.ledger.hold_to(limit, now)

    def _visit(self, host: Host, visit: Visit, broken: tuple[str, ...]) -> None:
        kind, n = _address(visit.path)
        if kind == "private":
            host.ledger.violations["robots"] += 1
        if broken and not set(broken).isdisjoint(self.settings.police):
            self._refuse(host, visit, broken)
        elif in_burst(self.settings, host.number, visit.arrived - self._begin):
            host.ledger.unavailable += 1
            visit.answer("503 Service Unavailable", b"not now\n", TEXT)
        elif kind == "page" and n < self.settings.pages:
            self._page(host, visit, n)
        elif kind == "bomb" and self._bomb:
            host.ledger.traps += 1
            visit.answer("200 OK", self._bomb, HTML, "Content-Encoding: gzip")
        elif kind == "loop":
            host.ledger.traps += 1
            to = traps.next_of_loop(self.settings, host.number, visit.path)
            visit.answer("302 Found", b"", TEXT, f"Location: {to}")
        elif kind == "private":
            visit.answer("200 OK", b"You have read robots.txt, have you?\n", TEXT)
        else:
            visit.answer("404 Not Found", b"no such page\n", TEXT)

    def _page(self, host: Host, visit: Visit, n: int) -> None:
        page = plan(self.settings, host.number, n)
        if page.latency:
            gevent.sleep(page.latency)
            if visit.gone():  # what is sent to nobody is not served
                raise ConnectionResetError
        body = text.html(self.roots, host.number, n, page)
        if page.drip:
            visit.trickle("200 OK", body, HTML, DRIP_PIECES, page.drip)
        else:
            visit.answer("200 OK", body, HTML)
        if visit.method != "HEAD":
            host.ledger.serve(n)

    def _refuse(self, host: Host, visit: Visit, broken: tuple[str, ...]) -> None:
        wait = host.ledger.refuse(visit.arrived)
        self._refusals += 1
        status = "429 Too Many Requests"
        if broken == ("concurrency",) and chance(self.settings, host.number, "busy") < 0.5:
            status = "503 Service Unavailable"
        told = traps.retry_after(self.settings, host.number, self._refusals, wait)
        visit.answer(status, b"slow down\n", TEXT, f"Retry-After: {told}")

    def _answer_for_itself(self, visit: Visit) -> None:
        try:
            asked = dict(parse_qsl(visit.query, keep_blank_values=True))
            answer = self._own[visit.path](asked)
        except ConfigError as error:
            visit.answer("400 Bad Request", f"{error}\n".encode(), TEXT)
            return
        visit.answer("200 OK", orjson.dumps(answer), JSON)

    def _stats(self, asked: dict[str, str]) -> Report:
        name = asked.get("host", "")
        if name and name not in self._named:
            raise ConfigError(f"no host {name!r}; the first is {self._hosts[0].name}")
        shown = [self._named[name]] if name else self._hosts
        seen = {}
        for host in shown:
            seen[host.name] = host.ledger.seen(self._start)
            if len(seen) % 100 == 0:
                gevent.sleep(0)  # 2,000 hosts take a while, in which nobody is to be made to wait
        short = "total" in asked
        return Report(
            seconds=round(time.monotonic() - self._start, 3),
            tolerance=self.settings.tolerance,
            lag=round(self.lag, 6),
            most_open=self._most_open,
            total=total(list(seen.values())),
            hosts={} if short else seen,
            limits={} if short else {host.name: host.ledger.limits for host in shown},
        )

    def _truth(self, asked: dict[str, str]) -> dict[str, Any]:
        hosts, pages = self.settings.hosts, self.settings.pages
        return {
            "seed": self.settings.seed,
            "hosts": hosts,
            "pages_of_each": pages,
            "pages": hosts * pages,
            "roots": self.roots,
        }

    def _set(self, asked: dict[str, str]) -> dict[str, bool]:
        host = asked.pop("host", "")
        self.set(asked, host)
        return {"set": True}

    def _reset(self, asked: dict[str, str]) -> dict[str, bool]:
        for host in self._hosts:
            host.ledger.reset(self.settings.pages)
        self._most_open, self.lag, self._start = self._open, 0.0, time.monotonic()
        return {"reset": True}


def total(all_seen: list[Seen]) -> Seen:
    """What several hosts saw, together."""
    summed = {
        name: sum(getattr(seen, name) for seen in all_seen)
        for name in (
            *("requests", "served", "pages", "refused", "unavailable", "early", "robots", "traps"),
        )
    }
    return Seen(
        **summed,
        most_at_once=max((seen.most_at_once for seen in all_seen), default=0),
        smallest_gap=_least([seen.smallest_gap for seen in all_seen]),
        smallest_gap_tolerated=_least([seen.smallest_gap_tolerated for seen in all_seen]),
        most_ahead=max((seen.most_ahead for seen in all_seen), default=0.0),
        violations={kind: sum(seen.violations[kind] for seen in all_seen) for kind in KINDS},
        first=_least([seen.first for seen in all_seen]),
        last=max((seen.last for seen in all_seen if seen.last is not None), default=None),
    )


def _least(values: list[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _address(path: str) -> tuple[str, int]:
    """What an address is of, and its number: ("page", 3) for /page/3; ("", 0) for what is none."""
    if path == "/":
        return "page", 0
    match = _ADDRESS.fullmatch(path)
    if match is None or match.lastgroup is None:
        return "", 0
    return match.lastgroup, int(match[match.lastgroup])


_ADDRESS = re.compile(
    "/(?:page/(?P<page>[1-9][0-9]{0,6})|bomb/(?P<bomb>[0-9]{1,7})|private/(?P<private>[0-9]{1,7})"
    "|loop/(?P<loop>[0-9]{1,7})(?:/[0-9]{1,7})?)"
)
