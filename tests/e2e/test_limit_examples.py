"""The examples of limits by key, judged by what the sites have seen; and the sites see whoever holds to none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from greenworker import App
from greenworker.testsite import RunningSite, running_site
from tests.support.eventually import eventually
from tests.support.examples import copy_to, script, worker
from tests.support.process import Command
from tests.support.server import Server

# Seconds: on a busy machine a request may come so late, or the next one so early. It is granted once, so that who
# goes on and on too fast is seen all the same.
TOLERANCE = 0.5


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    return copy_to(tmp_path)


@pytest.fixture
def url(own_server: Server) -> str:
    """A server of the test's own: examples have namespaces that are always the same."""
    return own_server.url


@contextmanager
def lifted(url: str, namespace: str, pattern: str) -> Iterator[None]:
    """What anybody might do by hand: no limit, whatever the code declares."""
    with closing(App(url, namespace=namespace)) as app:
        app.limits.set(pattern, none=True)
        yield


def polite_site(pages: int) -> AbstractContextManager[RunningSite]:
    return running_site(hosts=8, pages=pages, rate=12, concurrency=2, tolerance=TOLERANCE)


def test_two_workers_crawl_politely(examples: Path, url: str) -> None:
    # Given hosts that refuse who is too fast
    with polite_site(pages=15) as site:
        # When two workers, which know nothing of each other, crawl all of them
        one, two = (worker("polite_crawl", "-c", "50", cwd=examples, url=url) for _ in range(2))
        crawl = Command(site.root, **script("polite_crawl.py", examples, url))
        with one, two, crawl:
            assert crawl.wait(60) == 0
        seen = site.stats()
    # Then each page was served once, and no host was too much asked of
    assert crawl.stdout[-1] == "120 pages, 0 given up"
    assert (seen.total.pages, seen.total.served, seen.total.requests) == (120, 120, 120)
    assert (seen.total.violated, seen.total.refused) == (0, 0)
    # Then they were crawled beside each other
    assert seen.most_open > 2


def test_a_host_is_left_alone_for_as_long_as_it_says(examples: Path, url: str) -> None:
    with running_site(hosts=3, pages=2, tolerance=TOLERANCE) as site:
        # Given one among them that bears far less than the crawl thinks
        site.set(host=site.roots[1], rate=0.5)
        with (
            worker("polite_crawl", cwd=examples, url=url),
            Command(site.root, **script("polite_crawl.py", examples, url)) as crawl,
        ):
            assert crawl.wait(60) == 0
        seen = site.stats()
    # Then it was asked no more before the time that its 429 told, and all its pages are there, at no attempt
    assert crawl.stdout[-1] == "6 pages, 0 given up"
    assert seen.total.refused > 0
    assert seen.total.early == 0
    assert (seen.total.pages, seen.total.served) == (6, 6)


def test_hosts_see_a_crawl_that_is_not_polite(examples: Path, url: str) -> None:
    with (
        polite_site(pages=15) as site,
        lifted(url, "polite-crawl", "host:*"),
        worker("polite_crawl", "-c", "50", cwd=examples, url=url),
        Command(site.root, **script("polite_crawl.py", examples, url)),
    ):
        eventually(lambda: site.stats(total=True).total.violated, within=30)
