"""What the sites are: hosts, their pages, links, latencies and traps, decided by a seed alone.

Every function here is one of its arguments: the same on every machine, at any time, in any order.

- pages: each host has the pages 0 … n - 1. On a host they are a tree, page n the parent of
  10n + 1 … 10n + 10; the root of host h links to the roots of the hosts 10h + 1 … 10h + 10. So all
  pages of all hosts are reachable from the first host's root, and all of a host's from its own.
- links across: two to pages of the same host, and two to pages of any host.
- latency: log-normal around the median that is asked for; one page in twenty takes five times as long.
- traps: a page that trickles, or whose markup is broken, is a page all the same. A bomb, a redirect
  without end and a page that robots.txt forbids are addresses of their own, which a page links to:
  who leaves them out has still seen every page.
- bursts of failures: of each ten seconds of a host's life, a part in one piece, at another time
  in each and for each host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from statistics import NormalDist
from struct import unpack

from greenworker.errors import ConfigError
from greenworker.testsite.counting import Limits

CHILDREN = 10
SPREAD, SLOW, SLOWER = 0.4, 0.05, 5.0
BURST_EVERY = 10.0
DRIP_PIECES, DRIP_SECONDS = 20, (2.0, 10.0)

TRAPS = ("bursts", "drip", "bombs", "loops", "broken", "private")
POLICED = ("rate", "gap", "concurrency")

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for. Raises ConfigError for what cannot be.

    The shares are of all pages (`bursts`: of the time); 0 is none.
    """

    hosts: int = 10
    pages: int = 20
    """Of each host."""
    seed: int = 7
    port: int = 0
    """The first host's; the others have those that follow. 0: some that are free."""
    latency: float = 0.05
    """Seconds, the median; 0 answers at once."""
    limits: Limits = field(default_factory=Limits)
    """What every host holds its visitors to."""
    police: tuple[str, ...] = ("rate", "concurrency")
    """The kinds of limits of which the breach is refused, not only counted."""
    tolerance: float = 0.05
    """Seconds that a request may need to arrive."""
    shift: tuple[tuple[float, float], ...] = ()
    """(seconds after the start, the rate of every host from then on)"""
    bursts: float = 0.0
    drip: float = 0.0
    bombs: float = 0.0
    loops: float = 0.0
    broken: float = 0.0
    private: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.hosts <= 10_000:
            raise ConfigError(f"hosts {self.hosts}: give how many, 1 to 10,000")
        if not 1 <= self.pages <= 1_000_000:
            raise ConfigError(f"pages {self.pages}: give how many a host has, 1 to 1,000,000")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port}: give the first one, or 0 for free ones")
        if self.port and self.port + self.hosts > 65536:
            raise ConfigError(
                f"port {self.port}: {self.hosts:,} hosts need as many ports, and the last is 65535"
            )
        if not 0 <= self.latency <= 3600:
            raise ConfigError(f"latency {self.latency:g}: give seconds, 0 or more")
        if not 0 <= self.tolerance <= 60:
            raise ConfigError(f"tolerance {self.tolerance:g}: give seconds, 0 to 60")
        given: object = self.police
        if isinstance(given, str):
            raise ConfigError(f'police {given!r}: give a tuple, as in ("rate",), or ()')
        if unknown := [kind for kind in self.police if kind not in POLICED]:
            raise ConfigError(f"police {unknown[0]}: there are {', '.join(POLICED)}, and none")
        for name in TRAPS:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name):g}: give a share, 0 to 1")
        if not all(isinstance(one, (tuple, list)) and len(one) == 2 for one in self.shift):
            raise ConfigError(
                f"shift {self.shift!r:.60}: give pairs of seconds and rate, as in ((30, 5), (60, 20))"
            )
        for after, rate in self.shift:
            if not (0 <= after <= 1e6 and 0 <= rate <= 1e6):
                raise ConfigError(f"shift {after:g}:{rate:g}: give seconds:rate, as in 30:5,60:20")


@dataclass(frozen=True, slots=True)
class Page:
    """What is settled about one page of one host before anybody asks for it."""

    children: range
    """Pages of its host that it is the parent of."""
    roots: range
    """Hosts to whose roots it links: only of a root."""
    across: tuple[int, int]
    """Two more pages of its host."""
    away: tuple[tuple[int, int], ...]
    """(host, page) of two pages anywhere."""
    latency: float
    """Seconds from request to answer."""
    drip: float
    """Over how many seconds its body trickles; 0: it does not."""
    bomb: bool
    """Whether it links to a bomb,"""
    loop: bool
    """to redirects without end,"""
    private: bool
    """to what robots.txt forbids."""
    broken: int
    """Which of the ways in which markup is broken is its own; 0: it is whole."""
    look: int
    """Decides what its text is."""


def plan(settings: Settings, host: int, n: int) -> Page:
    """Page `n` of a host."""
    hosts, pages = settings.hosts, settings.pages
    d = _dice(settings.seed, host, n)
    first, first_host = CHILDREN * n + 1, CHILDREN * host + 1
    median = settings.latency
    return Page(
        children=range(first, max(first, min(first + CHILDREN, pages))),
        roots=range(first_host, max(first_host, min(first_host + CHILDREN, hosts)))
        if n == 0
        else range(0),
        across=(d[0] % pages, d[1] % pages),
        away=((d[2] % hosts, d[3] % pages), (d[4] % hosts, d[5] % pages)),
        latency=_latency(median, _share(d[6]), _share(d[7])) if median else 0.0,
        drip=_between(DRIP_SECONDS, d[9]) if _share(d[8]) < settings.drip else 0.0,
        bomb=_share(d[10]) < settings.bombs,
        loop=_share(d[11]) < settings.loops,
        private=_share(d[12]) < settings.private,
        broken=1 + d[14] % 4 if _share(d[13]) < settings.broken else 0,
        look=d[15],
    )


def in_burst(settings: Settings, host: int, seconds: float) -> bool:
    """Whether a host answers 503 to all, so many seconds after the start."""
    if not settings.bursts:
        return False
    window, into = divmod(seconds, BURST_EVERY)
    length = settings.bursts * BURST_EVERY
    begin = _burst(settings.seed, host, int(window)) * (BURST_EVERY - length)
    return begin <= into < begin + length


def chance(settings: Settings, host: int, what: str, n: int = 0) -> float:
    """A number from 0 to 1 that decides the n-th question of a kind about a host."""
    return _share(_dice(settings.seed, host, f"{what}:{n}")[0])


@lru_cache(maxsize=16_384)
def _burst(seed: int, host: int, window: int) -> float:
    return _share(_dice(seed, host, f"burst:{window}")[0])


def _dice(seed: int, host: int, what: int | str) -> tuple[int, ...]:
    # A tenth of what seeding a random.Random would take: every request throws these.
    return unpack("<16I", blake2b(f"{seed}:{host}:{what}".encode()).digest())


def _share(number: int) -> float:
    return number / 2**32


def _between(ends: tuple[float, float], number: int) -> float:
    return ends[0] + (ends[1] - ends[0]) * _share(number)


def _latency(median: float, where: float, slow: float) -> float:
    usual = median * math.exp(SPREAD * _NORMAL.inv_cdf(max(where, 1e-9)))
    return round(usual * (SLOWER if slow < SLOW else 1.0), 6)
