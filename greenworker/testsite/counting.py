"""What a host holds its visitors to, and what it counts of them. Pure: it is told what time it is.

A request arrives somewhat later than the moment at which its sender was let go. So that the counts
accuse nobody wrongly, each sender is granted `tolerance` seconds for that way: whoever lets requests
go within the limits, and whose requests need between nothing and `tolerance` seconds to arrive, is
never counted as breaking one; whoever goes faster in the long run is, since the tolerance is granted once and
not anew for each request. Both limits by time are a GCRA (ITU-T I.371): it keeps the time at which
the next request is due, and compares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from greenworker.errors import ConfigError

KINDS = ("rate", "gap", "concurrency", "robots")
"""The kinds of violations; a host can refuse the first three of them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one host holds its visitors to; 0 is no limit. Raises ConfigError for what cannot be."""

    rate: float = 0.0
    """Requests a second, in the long run."""
    burst: int = 1
    """How many of them may come at once, after a rest."""
    concurrency: int = 0
    """Requests that may be open at the same time."""
    delay: float = 0.0
    """Seconds from one request's arrival to the next one's."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1e6:
            raise ConfigError(f"rate {self.rate:g}: give requests a second, 0 for no limit")
        if not 1 <= self.burst <= 1_000_000:
            raise ConfigError(f"burst {self.burst}: give how many may come at once, 1 or more")
        if not 0 <= self.concurrency <= 1_000_000:
            raise ConfigError(f"concurrency {self.concurrency}: give how many, 0 for no limit")
        if not 0 <= self.delay <= 1e6:
            raise ConfigError(f"delay {self.delay:g}: give seconds, 0 for no limit")

    def but(self, **changes: str) -> Limits:
        """The same with some figures changed, which are given as text; raises ConfigError."""
        figures: dict[str, Any] = {}
        for name, text in changes.items():
            if name not in _FIGURES:
                raise ConfigError(f"no limit is called {name!r}; there are {', '.join(_FIGURES)}")
            kind, what = _FIGURES[name]
            try:
                figures[name] = kind(text)
            except ValueError:
                raise ConfigError(f"{name} {text}: give {what}") from None
        return replace(self, **figures)


_FIGURES: dict[str, tuple[type[int] | type[float], str]] = {
    "rate": (float, "a number"),
    "burst": (int, "a whole number"),
    "concurrency": (int, "a whole number"),
    "delay": (float, "a number"),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What one host saw, or all of them: then sums, the largest concurrency and the smallest gap."""

    requests: int = 0
    """All that arrived, but for /robots.txt and the site's own addresses (/__stats, …)."""
    served: int = 0
    """Pages that were served to their last byte, to somebody who had not hung up."""
    pages: int = 0
    """Distinct ones among them."""
    refused: int = 0
    """Answered 429, or 503 for too many at once, because they broke a limit."""
    unavailable: int = 0
    """Answered 503 in a burst of failures."""
    most_at_once: int = 0
    """The largest number of requests that were open at the same time."""
    smallest_gap: float | None = None
    """Seconds between two arrivals, the smallest."""
    smallest_gap_tolerated: float | None = None
    """The same and the tolerance: what was between their senders' starts, in their favour."""
    violations: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    """Requests that broke a limit beyond the tolerance, whether they were refused or not, by kind."""
    most_ahead: float = 0.0
    """By how many seconds a request came before the rate or the delay allowed it, at most. Up to the
    tolerance that is no violation."""
    early: int = 0
    """Requests that came before the end of a Retry-After that had been answered; no violation."""
    robots: int = 0
    """How often robots.txt was fetched."""
    traps: int = 0
    """Requests for what leads nowhere: bombs, redirects without end."""
    first: float | None = None
    """When the first request arrived, in seconds from the start of the site or its last reset."""
    last: float | None = None
    """When the last one did."""

    @property
    def violated(self) -> int:
        """All violations, of whatever kind."""
        return sum(self.violations.values())

    @property
    def pace(self) -> float:
        """Requests a second that were not refused, from the first arrival to the last; 0.0 for one."""
        if self.first is None or self.last is None or self.last <= self.first:
            return 0.0
        return max(0, self.requests - self.refused - 1) / (self.last - self.first)


class Ledger:
    """The books of one host. Times are seconds of any clock that never goes back."""

    __slots__ = (
        "_delay",
        "_due",
        "_interval",
        "_limits",
        "_next",
        "_rest",
        "_since",
        "_tolerance",
        "_until",
        "_visited",
        "ahead",
        "early",
        "first",
        "last",
        "most",
        "open",
        "pages",
        "refused",
        "requests",
        "robots",
        "served",
        "smallest",
        "traps",
        "unavailable",
        "violations",
    )

    def __init__(self, limits: Limits, tolerance: float, pages: int) -> None:
        self._tolerance = tolerance
        self._next = self._due = -math.inf  # when the next one is due: by the rate, by the delay
        self._since = self._until = -math.inf  # what a Retry-After told to leave free
        self.open = 0
        self.reset(pages)
        self.hold_to(limits, -math.inf)

    @property
    def limits(self) -> Limits:
        """What visitors are held to now."""
        return self._limits

    def hold_to(self, limits: Limits, now: float) -> None:
        """From now on, hold visitors to these limits."""
        self._limits = limits
        self._interval = 1.0 / limits.rate if limits.rate else 0.0
        self._rest = (limits.burst - 1) * self._interval
        self._delay = limits.delay
        # What was due late by an older limit is not due later than by this one.
        self._next = min(self._next, now + self._rest + self._interval)
        self._due = min(self._due, now + self._delay)

    def reset(self, pages: int) -> None:
        """Count from nothing; what is open stays open, and limits go on from where they are."""
        self._visited = bytearray(pages)
        self.requests = self.served = self.pages = self.refused = self.unavailable = 0
        self.early = self.robots = self.traps = 0
        self.most = self.open
        self.smallest = math.inf
        self.ahead = 0.0
        self.violations = dict.fromkeys(KINDS, 0)
        self.first = self.last = -math.inf

    @property
    def at_its_most(self) -> bool:
        """Whether one more open request would be told of: as the largest number, or a violation."""
        limit = self._limits.concurrency
        return self.open >= self.most or (limit > 0 and self.open >= limit)

    def arrive(self, now: float) -> tuple[str, ...]:
        """Count a request that arrives, and is open from now on; return the kinds of limits it breaks."""
        self.requests += 1
        if self.last > -math.inf:
            self.smallest = min(self.smallest, now - self.last)
        else:
            self.first = now
        self.last = now
        self.open += 1
        self.most = max(self.most, self.open)
        # Who was under way when it was told has not heard of it.
        if self._since + self._tolerance < now < self._until - self._tolerance:
            self.early += 1
        broken: tuple[str, ...] = ()
        interval = self._interval
        if interval:
            # A request that breaks the rate uses nothing of it up, whether it is refused or not.
            ahead = self._next - self._rest - now
            self.ahead = max(self.ahead, ahead)
            if ahead > self._tolerance:
                broken = ("rate",)
            else:
                self._next = max(now, self._next) + interval
        if self._delay:
            ahead = self._due - now
            self.ahead = max(self.ahead, ahead)
            if ahead > self._tolerance:
                broken += ("gap",)
                self._due = now + self._delay  # the next one is measured from this one
            else:
                self._due = max(now, self._due) + self._delay
        if 0 < self._limits.concurrency < self.open:
            broken += ("concurrency",)
        for kind in broken:
            self.violations[kind] += 1
        return broken

    def leave(self) -> None:
        """A request is open no longer."""
        self.open -= 1

    def refuse(self, now: float) -> int:
        """Count a refusal, and return after how many seconds to come back, one or more of them."""
        self.refused += 1
        wait = max(1, math.ceil(self._next - self._rest - now)) if self._interval else 1
        if now >= self._until:
            self._since = now
        self._until = max(self._until, now + wait)
        return wait

    def serve(self, page: int) -> None:
        """Count a page that was served."""
        self.served += 1
        if not self._visited[page]:
            self._visited[page] = 1
            self.pages += 1

    def seen(self, start: float) -> Seen:
        """What this host saw; its times counted from `start`."""
        some, gap = self.requests > 0, self.smallest < math.inf
        return Seen(
            requests=self.requests,
            served=self.served,
            pages=self.pages,
            refused=self.refused,
            unavailable=self.unavailable,
            most_at_once=self.most,
            smallest_gap=round(self.smallest, 6) if gap else None,
            smallest_gap_tolerated=round(self.smallest + self._tolerance, 6) if gap else None,
            violations=self.violations,
            most_ahead=round(self.ahead, 6),
            early=self.early,
            robots=self.robots,
            traps=self.traps,
            first=round(self.first - start, 3) if some else None,
            last=round(self.last - start, 3) if some else None,
        )
