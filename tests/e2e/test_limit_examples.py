"""The examples of limits by key, judged by what the sites have seen; and the sites see whoever holds to none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from greenworker import App
from greenworker.testsite import RunningSite, running_site
from tests.support.eventually import eventually
from tests.support.examples import copy_to, environ, script, stop, worker
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
def lifted(url: str, namespace: str, *patterns: str) -> Iterator[None]:
    """What anybody might do by hand: no limit, whatever the code declares."""
    with closing(App(url, namespace=namespace)) as app:
        for pattern in patterns:
            app.limits.set(pattern, none=True)
        yield


def polite_site(pages: int) -> AbstractContextManager[RunningSite]:
    return running_site(hosts=8, pages=pages, rate=12, concurrency=2, tolerance=TOLERANCE)


def test_two_workers_crawl_politely(examples: Path, url: str) -> None:
    # Given hosts that refuse who is too fast
    with polite_site(pages=12) as site:
        # When two workers, which know nothing of each other, crawl all of them
        one, two = (worker("polite_crawl", "-c", "50", cwd=examples, url=url) for _ in range(2))
        crawl = Command(site.root, **script("polite_crawl.py", examples, url))
        with one, two, crawl:
            assert crawl.wait(60) == 0
        seen = site.stats()
    # Then each page was served once, and no host was too much asked of
    assert crawl.stdout[-1] == "96 pages, 0 given up"
    assert (seen.total.pages, seen.total.served, seen.total.requests) == (96, 96, 96)
    assert (seen.total.violated, seen.total.refused) == (0, 0)
    # Then they were crawled beside each other
    first, last = zip(*[(one.first, one.last) for one in seen.hosts.values()], strict=True)
    assert max(first) < min(last)


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
        polite_site(pages=12) as site,
        lifted(url, "polite-crawl", "host:*"),
        worker("polite_crawl", "-c", "50", cwd=examples, url=url),
        Command(site.root, **script("polite_crawl.py", examples, url)),
    ):
        eventually(lambda: site.stats(total=True).total.violated, within=30)


def api(burst: int) -> AbstractContextManager[RunningSite]:
    return running_site(hosts=1, pages=100, rate=22, burst=burst, tolerance=TOLERANCE)


def test_two_workers_share_a_quota(examples: Path, url: str) -> None:
    # Given an API that grants 22 requests a second, and as many at once as a worker sends that was held up for a second
    with api(burst=30) as site:
        # When two workers harvest it, with 100 slots each
        one, two = (worker("harvest", cwd=examples, url=url) for _ in range(2))
        harvest = Command(site.root, "40", **script("harvest.py", examples, url))
        with one as first, two as second, harvest:
            assert harvest.wait(60) == 0
        seen = site.stats().total
    # Then both had some, each was asked for once, and none was refused
    assert all(" received" in worker.output for worker in (first, second))
    assert (seen.requests, seen.served, seen.pages) == (48, 48, 48)
    assert (seen.violated, seen.refused) == (0, 0)
    # Then a tenant with a heap was the last one, though its heap was sent first
    assert [line.split(":")[0] for line in harvest.stdout][-1] == "acme"


def test_the_api_sees_who_ignores_its_quota(examples: Path, url: str) -> None:
    with (
        api(burst=12) as site,
        lifted(url, "harvest", "api:*", "tenant:*"),
        worker("harvest", cwd=examples, url=url),
        Command(site.root, "40", **script("harvest.py", examples, url)),
    ):
        eventually(lambda: site.stats(total=True).total.violated, within=30)


def listed(file: Path, roots: list[str], pages: int) -> Path:
    """A file of the first pages of each host, sorted by host."""
    urls = [f"{root}page/{n}" if n else root for root in roots for n in range(pages)]
    file.write_text("\n".join(urls) + "\n")
    return file


def test_a_broad_crawl_of_two_thousand_hosts(examples: Path, url: str) -> None:
    # Given two thousand hosts that bear one request at a time
    with running_site(hosts=2000, pages=1, concurrency=1) as site:
        urls = listed(examples / "urls", site.roots, 1)
        # When they are crawled with 200 slots
        with (
            Command("broad_crawl", "-c", "200", "-q", cwd=examples, env=environ(url)) as quiet,
            Command(str(urls), **script("broad_crawl.py", examples, url)) as crawl,
        ):
            assert crawl.wait(60) == 0
            stop(quiet)
        seen = site.stats()
    # Then each was asked once, and many of them at the same time
    assert crawl.stdout[-1] == "2,000 pages, 0 given up"
    assert (seen.total.requests, seen.total.served, seen.total.pages) == (2000, 2000, 2000)
    assert seen.total.violated == 0
    assert seen.most_open > 20


def test_hosts_take_turns_however_the_list_is_sorted(examples: Path, url: str) -> None:
    with running_site(hosts=50, pages=3, concurrency=1, delay=0.5, tolerance=TOLERANCE) as site:
        # Given a list that has all pages of a host in a row, and few slots
        urls = listed(examples / "urls", site.roots, 3)
        with (
            worker("broad_crawl", "-c", "10", cwd=examples, url=url),
            Command(str(urls), **script("broad_crawl.py", examples, url)) as crawl,
        ):
            assert crawl.wait(60) == 0
        seen = site.stats()
    # Then no host was asked for its last page before each was asked for its first one
    first, last = zip(*[(one.first, one.last) for one in seen.hosts.values()], strict=True)
    assert max(first) < min(last)
    assert (seen.total.served, seen.total.pages) == (150, 150)
    assert seen.total.violated == 0


def test_hosts_see_a_crawl_that_asks_them_all_at_once(examples: Path, url: str) -> None:
    with running_site(hosts=5, pages=20, concurrency=1, delay=0.5, tolerance=TOLERANCE) as site:
        urls = listed(examples / "urls", site.roots, 20)
        with (
            lifted(url, "broad-crawl", "host:*"),
            worker("broad_crawl", "-c", "200", cwd=examples, url=url),
            Command(str(urls), **script("broad_crawl.py", examples, url)),
        ):
            eventually(lambda: site.stats(total=True).total.violated, within=30)
