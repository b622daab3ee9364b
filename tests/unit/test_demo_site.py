"""The demo's web site: the same for the same seed, whole, and honest about what it counts."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import mean
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import ProxyHandler, build_opener

import pytest

from greenworker.demo.site import STATS, Site, html, path, plan, reachable
from tests.support.eventually import eventually
from tests.support.process import environment

PAGES, SEED = 120, 7

# A proxy set in the environment has no business with 127.0.0.1.
urlopen = build_opener(ProxyHandler({})).open


@contextmanager
def running_site(pages: int = PAGES, pace: float = 0.0) -> Iterator[str]:
    """Run a site in a process of its own, and yield its address."""
    command = [sys.executable, "-m", "greenworker.demo.site", "--port=0", "--until-eof"]
    command += [f"--pages={pages}", f"--seed={SEED}", f"--pace={pace}"]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            assert process.wait(timeout=10) == 0


def counts(root: str) -> dict[str, int]:
    with urlopen(urljoin(root, STATS), timeout=10) as answer:
        found: dict[str, int] = json.load(answer)
    return found


def get(url: str) -> str:
    """Return "reset", or the status and the text of the answer in one string."""
    try:
        with urlopen(url, timeout=10) as answer:
            return f"{answer.status} {answer.read().decode()}"
    except HTTPError as error:
        with error:
            return f"{error.code} {error.read().decode()}"
    except (ConnectionResetError, http.client.RemoteDisconnected):
        return "reset"


def walk(root: str) -> tuple[set[str], Counter[str]]:
    """Follow every link from `root`, asking again after a failure; return pages and failures."""
    seen, frontier, failures = {root}, [root], Counter[str]()
    while frontier:
        url = frontier.pop()
        while not (answer := get(url)).startswith("200 "):
            failures[answer.split()[0]] += 1
        for link in re.findall(r'href="([^"]+)"', answer):
            if (found := urljoin(url, link)) not in seen:
                seen.add(found)
                frontier.append(found)
    return seen, failures


def test_the_same_seed_gives_the_same_site() -> None:
    assert Site(PAGES, SEED).pages == Site(PAGES, SEED).pages
    assert Site(PAGES, SEED).pages != Site(PAGES, SEED + 1).pages


def test_a_page_does_not_depend_on_the_other_pages_having_been_planned() -> None:
    assert plan(SEED, 77, PAGES) == Site(PAGES, SEED).pages[77]


def test_the_plan_of_a_page_is_the_same_on_every_machine() -> None:
    found = plan(SEED, 119, PAGES)

    assert found.links == (37, 96, 67, 71, 66, 118, 119)
    assert found.latency == pytest.approx(1.463388)


def test_every_page_links_across_and_to_itself_and_every_page_is_reachable() -> None:
    pages = Site(PAGES, SEED).pages

    assert all(n in page.links for n, page in enumerate(pages))
    assert all(len(set(page.links) - {n}) > 1 for n, page in enumerate(pages))
    assert reachable(pages) == set(range(PAGES))


def test_reachability_is_walked_rather_than_assumed() -> None:
    pages = [plan(SEED, n, 2) for n in range(2)]

    # Given a first page that links to nothing but itself
    alone = [replace(pages[0], links=(0,)), pages[1]]

    assert reachable(alone) == {0}


def test_latencies_and_failures_are_what_the_docstring_says() -> None:
    pages = Site(5000, SEED).pages
    latencies = sorted(page.latency for page in pages)

    assert latencies[0] >= 0.2
    assert latencies[-1] <= 5.0
    assert mean(latencies) == pytest.approx(1.3, abs=0.05)
    assert sum(latency >= 3.0 for latency in latencies) / 5000 == pytest.approx(0.08, abs=0.015)
    refusing = sum(page.failures > 0 and not page.resets for page in pages)
    resetting = sum(page.failures > 0 and page.resets for page in pages)
    assert refusing / 5000 == pytest.approx(0.04, abs=0.01)
    assert resetting / 5000 == pytest.approx(0.02, abs=0.01)
    assert {page.failures for page in pages} == {0, 1, 2}


def test_a_page_is_html_of_a_few_kilobytes() -> None:
    text = html(3, plan(SEED, 3, 5000)).decode()

    assert 2_000 < len(text) < 8_000
    assert "<title>" in text
    assert text.endswith("</html>\n")
    assert f'<a href="{path(91)}">' in text


def test_a_walk_over_http_finds_all_pages_and_meets_all_planned_failures() -> None:
    planned = Site(PAGES, SEED).pages
    refusals = sum(page.failures for page in planned if not page.resets)
    resets = sum(page.failures for page in planned if page.resets)
    assert min(refusals, resets) > 0, "choose a seed that shows both"

    with running_site() as root:
        before = counts(root)
        pages, failures = walk(root)
        after = counts(root)

    assert pages == {urljoin(root, path(n)) for n in range(PAGES)}
    assert failures == {"503": refusals, "reset": resets}
    assert before == {"pages": PAGES, "served": 0, "requests": 0, "failures": 0, "most_at_once": 0}
    assert after == {
        "pages": PAGES,
        "served": PAGES,
        "requests": PAGES + refusals + resets,
        "failures": refusals + resets,
        "most_at_once": 1,
    }


def test_a_page_served_twice_counts_once_and_other_addresses_do_not_count() -> None:
    with running_site(pages=1) as root:
        assert get(root) == get(root)
        assert get(urljoin(root, path(1))).startswith("404 ")
        found = counts(root)

    assert (found["pages"], found["served"], found["requests"]) == (1, 1, 2)


def test_most_at_once_is_the_number_of_requests_that_were_open_together() -> None:
    at_once = 20
    # Given pages that take ten seconds and more
    with running_site(pace=50.0) as root:
        connections = [http.client.HTTPConnection(root.split("/")[2]) for _ in range(at_once)]

        # When twenty requests are sent before the first answer is awaited
        for n, connection in enumerate(connections):
            connection.request("GET", path(n))
        eventually(lambda: counts(root)["requests"] == at_once, within=9.0)

        # Then they are counted together
        found = counts(root)
        for connection in connections:
            connection.close()

    assert found["most_at_once"] == found["requests"] == at_once
