"""A web site to crawl: some thousand linked pages, slow and unreliable like the real ones.

``python -m greenworker.demo.site --port 0 --pages 5000 --seed 7`` prints its URL in one line
when it listens, and serves until it is stopped. A page's links, its latency and its failures
are functions of (seed, page number) alone: two sites with the same seed are the same site.

What it is like (of all pages, by the numbers below):

- latency: 92 % take a log-normal time around a median of 1.0 s (most of them 0.4–2 s, never
  under 0.2 s), 8 % are slow, 3–5 s; the mean is 1.3 s.
- failures: 4 % answer 503 and 2 % reset the connection the first one or two times they are
  asked, after 0.2 s, then work for good. No link is dead; what is no page answers 404 at once.
- links: a tree in which page n is the parent of the pages 30n+1 … 30n+30, so that every page
  is reachable from ``/``; six links across to any page, and one to itself.

``GET /__stats`` answers its own count of what happened (`Counts`).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import gevent

from greenworker.testsite.http import Visit, answer_on, bind
from greenworker.testsite.server import allow_connections, stop_event

CHILDREN = 30
CROSS_LINKS = 6
MEDIAN_LATENCY, SPREAD, LEAST_LATENCY = 1.0, 0.4, 0.2
SLOW, SLOW_LATENCY = 0.08, (3.0, 5.0)
REFUSES, RESETS, FAILURE_LATENCY = 0.04, 0.02, 0.2

STATS = "/__stats"


@dataclass(frozen=True, slots=True)
class Page:
    """What is settled about one page before anybody asks for it."""

    links: tuple[int, ...]
    """Numbers of the pages it links to, in the order of its text; itself among them."""
    latency: float
    """Seconds from request to answer; a failure comes after `FAILURE_LATENCY`."""
    failures: int
    """How many of the first requests fail: 0, 1 or 2."""
    resets: bool
    """Whether a failure is a reset connection, or else a 503."""


@dataclass(slots=True)
class Counts:
    """What the site saw, as ``/__stats`` answers it."""

    pages: int
    """Pages reachable from ``/``, found by walking the links."""
    served: int = 0
    """Distinct pages that were served successfully."""
    requests: int = 0
    """All requests for pages, those that failed included."""
    failures: int = 0
    """Requests answered with a 503 or a reset."""
    most_at_once: int = 0
    """The most requests for pages that were open at the same time."""


class Site:
    """The pages of a site and what has been asked of it.

    `pace` multiplies each latency: 0 answers at once.
    """

    def __init__(self, pages: int, seed: int, pace: float = 1.0) -> None:
        if pages < 1:
            raise ValueError(f"a site has at least one page, not {pages}")
        self.pages = [plan(seed, n, pages) for n in range(pages)]
        self.counts = Counts(pages=len(reachable(self.pages)))
        self._pace = pace
        self._paths = {path(n): n for n in range(pages)}
        self._failures_left = [page.failures for page in self.pages]
        self._served: set[int] = set()
        self._open = 0

    def handle(self, visit: Visit) -> None:
        """Answer one request after its page's latency, or fail as planned."""
        n = self._paths.get(visit.path)
        if n is not None:
            self._visit(n, visit)
        elif visit.path == STATS:
            counts = {name: getattr(self.counts, name) for name in Counts.__slots__}
            visit.answer("200 OK", json.dumps(counts).encode(), "application/json")
        else:
            visit.answer("404 Not Found", b"no such page\n", "text/plain")

    def _visit(self, n: int, visit: Visit) -> None:
        page, counts = self.pages[n], self.counts
        fails = self._failures_left[n] > 0
        if fails:
            # Counted before the wait: of two requests at once, only one uses this failure up.
            self._failures_left[n] -= 1
            counts.failures += 1
        counts.requests += 1
        self._open += 1
        counts.most_at_once = max(counts.most_at_once, self._open)
        try:
            gevent.sleep(self._pace * (FAILURE_LATENCY if fails else page.latency))
        finally:
            self._open -= 1
        if not fails:
            if n not in self._served:
                self._served.add(n)
                counts.served += 1
            visit.answer("200 OK", html(n, page), "text/html; charset=utf-8")
        elif page.resets:
            visit.reset()
        else:
            visit.answer("503 Service Unavailable", b"busy\n", "text/plain")


def plan(seed: int, n: int, pages: int) -> Page:
    """Return page `n` of a site of `pages`: a function of its arguments alone."""
    # A str is hashed with SHA-512 to seed the generator: the same on every machine and version.
    dice = random.Random(f"{seed}:{n}")
    first = CHILDREN * n + 1
    children = range(first, min(first + CHILDREN, pages))
    across = (dice.randrange(pages) for _ in range(CROSS_LINKS))
    links = (*children, *across, n)
    if dice.random() < SLOW:
        latency = dice.uniform(*SLOW_LATENCY)
    else:
        latency = max(LEAST_LATENCY, MEDIAN_LATENCY * dice.lognormvariate(0.0, SPREAD))
    trouble = dice.random()
    failures = dice.choice((1, 2)) if trouble < REFUSES + RESETS else 0
    return Page(links, latency, failures, resets=trouble < RESETS)


def reachable(pages: Sequence[Page]) -> set[int]:
    """Return the numbers of the pages that links lead to from page 0, by walking them."""
    seen, frontier = {0}, [0]
    while frontier:
        for link in pages[frontier.pop()].links:
            if link not in seen:
                seen.add(link)
                frontier.append(link)
    return seen


def path(n: int) -> str:
    """Return the address of page `n` within the site."""
    return f"/page/{n}" if n else "/"


def html(n: int, page: Page) -> bytes:
    """Return page `n` as a browser would show it: a few kB of title, prose and links."""
    title = _title(n)
    links = "\n".join(f'<li><a href="{path(m)}">{_title(m)}</a></li>' for m in page.links)
    prose = "\n".join(PROSE[(n + k) % len(PROSE)] for k in range(4))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n{prose}\n"
        f"<h2>See also</h2>\n<ul>\n{links}\n</ul>\n</body>\n</html>\n"
    ).encode()


def _title(n: int) -> str:
    return f"{SUBJECTS[n % len(SUBJECTS)]}, part {n}" if n else "The garden almanac"


SUBJECTS = tuple(
    escape(subject)
    for subject in (
        "Apples & pears", "Beans", "Cold frames", "Dahlias", "Early potatoes", "Ferns",
        "Grafting", "Hedges", "Irrigation", "June jobs", "Kale", "Lawns", "Mulch", "Nettles",
    )
)  # fmt: skip

SENTENCES = (
    "The soil tells you more in April than any calendar does.",
    "Water in the morning, and water the roots rather than the leaves.",
    "What grows well beside it depends on the wind as much as on the light.",
    "Gardeners have argued about this for two hundred years without settling it.",
    "A frost in May costs less than a week of doubt.",
    "Cut above an outward facing bud, at a slant, with a clean blade.",
    "Leave a third of the crop on the plant and it will thank you in September.",
    "Compost is ready when it no longer smells of what it was.",
)
PROSE = tuple(
    "<p>" + " ".join(SENTENCES[(k * 3 + j) % len(SENTENCES)] for j in range(7 + k % 3)) + "</p>"
    for k in range(8)
)


def main(argv: Sequence[str]) -> int:
    """Serve a site until SIGTERM or SIGINT, or until stdin ends if asked to."""
    parser = argparse.ArgumentParser(prog="python -m greenworker.demo.site")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--pages", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--pace", type=float, default=1.0, help="multiplies each latency")
    parser.add_argument(
        "--until-eof", action="store_true", help="stop when stdin ends: with whoever holds it"
    )
    options = parser.parse_args(argv)
    stop = stop_event(options.until_eof)
    allow_connections(4096)
    listener = bind(options.port)
    server = answer_on(listener, 0, Site(options.pages, options.seed, options.pace).handle)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    stop.wait()
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
