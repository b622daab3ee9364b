"""greenworker testsite: real requests to real ports, and what the site says of them."""

from __future__ import annotations

import gzip
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, build_opener

import pytest

from greenworker.errors import ConfigError
from greenworker.testsite import RunningSite, running_site
from tests.support.eventually import eventually
from tests.support.process import Command, run


class Stay(HTTPRedirectHandler):
    """A redirect is an answer like another."""

    def redirect_request(self, *_: Any) -> None:
        return None


# A proxy set in the environment has no business with 127.0.0.1.
urlopen = build_opener(ProxyHandler({}), Stay()).open


def get(url: str) -> tuple[int, bytes, dict[str, str]]:
    """Fetch an address once: status, body, headers."""
    try:
        answer = urlopen(url, timeout=30)
    except HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.read(), dict(answer.headers)


@contextmanager
def asked(url: str) -> Iterator[socket.socket]:
    """A connection on which a page was asked for, and nothing read yet."""
    parts = urlsplit(url)
    with closing(socket.create_connection((parts.hostname, parts.port), timeout=30)) as connection:
        connection.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        yield connection


def crawl(root: str) -> set[str]:
    """All addresses that can be reached from one, those of traps among them; one at a time."""
    seen, frontier = {root}, [root]
    while frontier:
        url = frontier.pop()
        status, body, headers = get(url)
        assert status in (200, 302), (url, status)
        if "Content-Encoding" in headers:
            continue
        for link in re.findall(r'<a href="([^"]+)"', body.decode(errors="replace")):
            if (found := urljoin(url, link)) not in seen:
                seen.add(found)
                frontier.append(found)
    return seen


# --- the command


def test_it_says_where_it_is_and_ends_with_ctrl_c() -> None:
    with Command("testsite", "--hosts", "50", "--pages", "20", "--latency", "0") as command:
        stats = command.wait_for("__stats").split()[0]
        root = command.stdout[0]
        assert stats == f"{root}__stats"
        first = int(urlsplit(root).port or 0)
        assert command.stdout[1:3] == [
            f"50 hosts: {root} to http://127.0.0.1:{first + 49}/",
            "1,000 pages, 20 on each; seed 7",
        ]
        assert get(f"http://127.0.0.1:{first + 49}/page/19")[0] == 200
        seen = json.loads(get(stats)[1])
        assert len(seen["hosts"]) == 50
        assert seen["hosts"][f"127.0.0.1:{first + 49}"]["pages"] == 1
        truth = json.loads(get(f"{root}__truth")[1])
        assert (truth["pages"], truth["roots"][0], len(truth["roots"])) == (1000, root, 50)
        command.signal(signal.SIGINT)
        assert command.wait() == 0
    assert command.stderr == []


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("testsite", "--hosts", "1", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"greenworker: port {port} is taken; give another --port, or 0 for free ones\n"
    )


def test_two_thousand_hosts() -> None:
    with running_site(hosts=2000, pages=1, latency=0) as site:
        assert crawl(site.root) == set(site.roots)
        seen = site.stats()

    assert seen.total.pages == site.pages == 2000
    assert {one.requests for one in seen.hosts.values()} == {1}


def test_too_few_open_files_are_told_of() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
        "from greenworker import cli; raise SystemExit(cli.main(['testsite', '--hosts', '100']))"
    )
    with Command(program=("-c", program)) as command:
        assert command.wait() == 2
    assert command.stderr[0].startswith("greenworker: 100 hosts need as many open files")
    assert len(command.lines) == 1


# --- pages and traps


def test_a_whole_crawl_is_proven_whole() -> None:
    with running_site(hosts=7, pages=30, latency=0, broken=0.3) as site:
        found = crawl(site.root)
        seen = site.stats()

    assert len(found) == seen.total.pages == seen.total.served == site.pages == 210
    assert {one.pages for one in seen.hosts.values()} == {30}
    assert {one.most_at_once for one in seen.hosts.values()} == {1}


def test_the_same_seed_serves_the_same_pages() -> None:
    def pages(seed: int) -> list[bytes]:
        with running_site(hosts=1, pages=5, seed=seed, latency=0, broken=0.5) as site:
            port = urlsplit(site.root).port
            bodies = [get(urljoin(site.root, f"/page/{n}"))[1] for n in range(1, 5)]
            return [body.replace(f":{port}/".encode(), b"/") for body in bodies]

    assert pages(1) == pages(1)
    assert pages(1) != pages(2)


def test_what_is_no_page() -> None:
    with running_site(hosts=1, pages=5, latency=0) as site:
        for path in (
            "/page/5",
            "/page/01",
            "/page/0",
            "/page/x",
            "/page/1/1",
            "/favicon.ico",
            "//",
        ):
            assert get(site.root[:-1] + path)[0] == 404, path
        assert site.stats().total.served == 0


def test_a_connection_is_kept_and_a_head_has_no_body() -> None:
    with running_site(hosts=1, latency=0) as site:
        connection = HTTPConnection(urlsplit(site.root).netloc, timeout=30)
        for method, path in (("GET", "/"), ("HEAD", "/page/1"), ("POST", "/page/2"), ("GET", "/")):
            connection.request(method, path, body=b"x" * 100 if method == "POST" else None)
            answer = connection.getresponse()
            body = answer.read()
            assert (answer.status, bool(body)) == (200, method != "HEAD")
        here = connection.sock.getsockname()
        connection.request("GET", "/__stats")
        seen = json.load(connection.getresponse())
        assert connection.sock.getsockname() == here
        connection.close()
    assert (seen["total"]["requests"], seen["total"]["served"]) == (4, 3)


def test_what_is_no_http_is_hung_up_on() -> None:
    with running_site(hosts=1) as site:
        for junk in (b"hello\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"x" * 70_000, b"\x00\xff\r\n\r\n"):
            parts = urlsplit(site.root)
            with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
                connection.sendall(junk)
                try:
                    assert connection.recv(100) == b""
                except ConnectionResetError:
                    pass
        assert site.stats().total.requests == 0


def test_traps() -> None:
    with running_site(hosts=1, pages=3, latency=0, bombs=1, loops=1, private=1) as site:
        found = crawl(site.root)
        traps = {
            urljoin(site.root, f"/{trap}/{n}")
            for trap in ("bomb", "loop", "private")
            for n in range(3)
        }
        assert {url for url in found if "/page/" not in url} == {site.root, *traps}

        _, bomb, headers = get(urljoin(site.root, "/bomb/0"))
        assert headers["Content-Encoding"] == "gzip"
        assert len(gzip.decompress(bomb)) > 900 * len(bomb)

        url = urljoin(site.root, "/loop/0")
        for _ in range(10):
            status, _, headers = get(url)
            assert status == 302
            url = urljoin(url, headers["Location"])

        _, robots, _ = get(urljoin(site.root, "/robots.txt"))
        assert b"Disallow: /private/" in robots
        seen = site.stats().total
    assert seen.pages == 3
    assert seen.traps == 3 + 3 + 1 + 10
    assert seen.violations["robots"] == 3
    assert seen.robots == 1


def test_a_burst_of_failures() -> None:
    with running_site(hosts=1, bursts=1.0) as site:
        status, _, headers = get(site.root)
        seen = site.stats().total
    assert status == 503
    assert "Retry-After" not in headers
    assert (seen.unavailable, seen.refused, seen.served) == (1, 0, 0)


def test_a_page_that_trickles_is_served_when_all_of_it_is() -> None:
    with running_site(hosts=1, drip=1.0, latency=0) as site, asked(site.root) as connection:
        head = connection.recv(65536)
        assert b"Content-Length" in head
        assert b"</html>" not in head + connection.recv(65536)
        assert site.stats().hosts[urlsplit(site.root).netloc].served == 0


# --- what it counts


def test_a_rude_visitor_is_refused_and_told_when_to_come_back() -> None:
    with running_site(hosts=1, latency=0, rate=0.01, delay=100, tolerance=0) as site:
        assert get(site.root)[0] == 200
        told = []
        for _ in range(40):
            status, _, headers = get(site.root)
            if status == 429:
                told.append(headers["Retry-After"])
        seen = site.stats().total

    seconds = [one for one in told if one.isdigit()]
    dates = [one for one in told if not one.isdigit()]
    assert seconds
    assert dates
    assert {int(one) for one in seconds} <= set(range(1, 101))
    assert all(parsedate_to_datetime(date) for date in dates)
    assert seen.refused == seen.violations["rate"] == seen.violations["gap"] == len(told) == 40
    assert seen.early == 39  # the first one had not been told
    assert seen.smallest_gap is not None
    assert 0 < seen.smallest_gap < 100


def test_a_polite_visitor_breaks_nothing() -> None:
    """Who begins to wait when it has its answer keeps any delay, however slow the machine is."""
    with running_site(hosts=2, latency=0, rate=20, delay=0.05, concurrency=1, tolerance=0) as site:
        for n in range(10):
            for root in site.roots:
                assert get(f"{root}page/{n + 1}")[0] == 200
            time.sleep(0.051)
        seen = site.stats()

    assert (seen.total.requests, seen.total.violated, seen.total.refused) == (20, 0, 0)
    assert seen.total.most_at_once == 1
    assert all((one.smallest_gap or 0) >= 0.05 for one in seen.hosts.values())


def test_what_is_only_counted_is_answered() -> None:
    with running_site(hosts=1, latency=0, rate=0.1, police=()) as site:
        assert [get(site.root)[0] for _ in range(3)] == [200] * 3
        seen = site.stats().total
    assert (seen.violations["rate"], seen.refused) == (2, 0)


def test_too_many_at_once() -> None:
    with running_site(hosts=8, latency=60, concurrency=2) as site:
        for root in site.roots:
            with asked(root), asked(root):
                eventually(lambda root=root: site.stats(root).total.requests == 2)
                status, _, headers = get(root)
                assert status in (429, 503)
                assert headers["Retry-After"]
        seen = site.stats()
    assert seen.total.most_at_once == 3
    assert {one.violations["concurrency"] for one in seen.hosts.values()} == {1}
    assert seen.total.refused == 8


def test_who_hangs_up_is_open_no_longer() -> None:
    """A worker that was killed has hung up; who takes its place is not one too many."""
    with running_site(hosts=1, latency=60, concurrency=1) as site:
        for n in range(1, 4):
            with asked(site.root):
                eventually(lambda n=n: site.stats().total.requests == n)
        seen = site.stats().total
    assert (seen.most_at_once, seen.violated, seen.refused, seen.served) == (1, 0, 0, 0)


def test_what_is_sent_to_nobody_is_not_served() -> None:
    """A page that a killed worker had asked for is not proven crawled."""
    with running_site(hosts=1, latency=0.1) as site:
        with asked(site.root):
            pass
        assert get(site.root)[0] == 200  # takes as long, and began later
        seen = site.stats().total
    assert (seen.requests, seen.served) == (2, 1)


def test_limits_can_be_set_and_counts_reset() -> None:
    with running_site(hosts=2, latency=0) as site:
        one, two = site.roots
        assert [get(one)[0] for _ in range(3)] == [200] * 3
        site.set(rate=0.1)
        site.set(one, burst=2, concurrency=4)
        assert [get(one)[0] for _ in range(3)] == [200, 200, 429]
        assert [get(two)[0] for _ in range(2)] == [200, 429]
        limits = site.stats().limits
        assert (limits[urlsplit(one).netloc].burst, limits[urlsplit(two).netloc].burst) == (2, 1)

        site.reset()
        seen = site.stats(total=True)
        assert (seen.total.requests, seen.total.refused, seen.hosts) == (0, 0, {})
        with pytest.raises(ConfigError, match="no limit is called 'speed'"):
            site.set(speed=3)
        with pytest.raises(ConfigError, match="rate -1: give requests a second"):
            site.set(rate=-1)
        with pytest.raises(ConfigError, match=r"no host '127\.0\.0\.1:1'; the first is"):
            site.stats("127.0.0.1:1")


def test_the_rate_shifts_by_itself() -> None:
    with running_site(hosts=1, rate=20, shift=((0.01, 5.0),)) as site:
        (name,) = site.stats().hosts
        eventually(lambda: site.stats().limits[name].rate == 5.0)


def test_it_ends_with_whoever_started_it() -> None:
    program = (
        "import sys, time\n"
        "from greenworker.testsite import running_site\n"
        "with running_site(hosts=3) as site:\n"
        "    print(site.root, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with Command(program=("-c", program)) as command:
        root = command.wait_for("http://")
        assert get(root)[0] == 200
        command.signal(signal.SIGKILL)
        command.wait()

    def gone() -> bool:
        try:
            socket.create_connection(("127.0.0.1", urlsplit(root).port), timeout=5).close()
        except OSError:
            return True
        return False

    eventually(gone)


def test_what_cannot_be_is_refused_before_it_starts() -> None:
    with pytest.raises(ConfigError, match="hosts 0"), running_site(hosts=0):
        pass


def test_stats_are_read_from_any_host(site: RunningSite) -> None:
    for root in site.roots:
        assert get(f"{root}__stats?host={urlsplit(site.roots[0]).netloc}")[0] == 200
    assert get(f"{site.root}__stats?host=nowhere")[0] == 400
    assert site.stats().total.requests == 0


@pytest.fixture
def site() -> Iterator[RunningSite]:
    with running_site(hosts=3, latency=0) as running:
        yield running
