"""The test site: what a seed decides, and what is counted, at times made by hand."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from email.utils import parsedate_to_datetime
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
from docopt import docopt
from hypothesis import given
from hypothesis import strategies as st

from greenworker import cli
from greenworker.commands import completion, testsite
from greenworker.errors import ConfigError
from greenworker.testsite import Limits, Seen, Settings, server, text, traps
from greenworker.testsite.counting import Ledger
from greenworker.testsite.plan import TRAPS, in_burst, plan
from greenworker.testsite.process import _options
from greenworker.testsite.site import total

SITE = Settings(hosts=30, pages=40, seed=7)
ROOTS = [f"http://127.0.0.1:{20000 + n}/" for n in range(SITE.hosts)]
TOLERANCE = 0.05


def ledger(tolerance: float = TOLERANCE, **limits: Any) -> Ledger:
    return Ledger(Limits(**limits), tolerance, pages=10)


def visits(books: Ledger, *times: float) -> list[tuple[str, ...]]:
    """What each of some requests broke, that arrive at these times and are answered at once."""
    broken = []
    for now in times:
        broken.append(books.arrive(now))
        books.leave()
    return broken


# --- what a seed decides


def test_the_same_seed_gives_the_same_sites_and_another_one_others() -> None:
    def pages(seed: int) -> list[Any]:
        site = Settings(hosts=5, pages=20, seed=seed, **dict.fromkeys(TRAPS, 0.3))
        return [plan(site, host, n) for host in range(5) for n in range(20)]

    assert pages(7) == pages(7)
    assert pages(7) != pages(8)


def test_a_page_is_the_same_on_every_machine() -> None:
    page = plan(SITE, 3, 2)

    assert (page.children, page.across, page.away) == (range(21, 31), (36, 33), ((1, 4), (18, 15)))
    assert page.latency == pytest.approx(0.04289)


def test_all_pages_of_all_hosts_are_reachable_from_the_first_one() -> None:
    seen, frontier = {ROOTS[0]}, [ROOTS[0]]
    while frontier:
        for link in links(frontier.pop(), SITE):
            if link not in seen:
                seen.add(link)
                frontier.append(link)

    assert seen == {root[:-1] + text.path(n) for root in ROOTS for n in range(SITE.pages)}


def test_all_pages_of_a_host_are_reachable_from_its_root_without_leaving_it() -> None:
    seen, frontier = {ROOTS[9]}, [ROOTS[9]]
    while frontier:
        for link in links(frontier.pop(), SITE):
            if link not in seen and link.startswith(ROOTS[9]):
                seen.add(link)
                frontier.append(link)

    assert len(seen) == SITE.pages


def test_traps_add_no_pages_and_hide_none() -> None:
    trapped = replace(SITE, **dict.fromkeys(TRAPS, 1.0))
    url = f"{ROOTS[0]}page/5"
    bad = {f"{ROOTS[0]}{trap}/5" for trap in ("bomb", "loop", "private")}

    assert set(links(url, trapped)) - set(links(url, SITE)) == bad


def test_links_of_broken_pages_are_whole() -> None:
    page = plan(SITE, 0, 3)
    for way in (1, 2, 3, 4):
        whole = text.html(ROOTS, 0, 3, page)
        broken = text.html(ROOTS, 0, 3, replace(page, broken=way))
        assert broken != whole
        assert re.findall(rb'<a href="([^"]+)"', broken) == re.findall(rb'<a href="([^"]+)"', whole)
        assert broken.count(b"</html>") == (0 if way == 1 else 1)


def test_shares_and_latencies_are_as_asked_for() -> None:
    site = Settings(
        pages=4000, latency=0.2, drip=0.02, bombs=0.05, loops=0.1, broken=0.2, private=1
    )
    pages = [plan(site, 0, n) for n in range(site.pages)]

    def share(name: str) -> float:
        return sum(bool(getattr(page, name)) for page in pages) / site.pages

    assert share("drip") == pytest.approx(0.02, abs=0.01)
    assert share("bomb") == pytest.approx(0.05, abs=0.015)
    assert share("loop") == pytest.approx(0.1, abs=0.02)
    assert share("broken") == pytest.approx(0.2, abs=0.03)
    assert share("private") == 1
    assert {page.broken for page in pages} == {0, 1, 2, 3, 4}
    assert all(2 <= page.drip <= 10 for page in pages if page.drip)
    assert median(page.latency for page in pages) == pytest.approx(0.2, abs=0.01)
    assert plan(replace(site, latency=0), 0, 1).latency == 0


def test_a_burst_comes_once_in_ten_seconds_and_lasts_its_share() -> None:
    site = Settings(bursts=0.1)
    for begin in (0, 10, 70):
        moments = [in_burst(site, 4, begin + n / 100) for n in range(1000)]
        changes = sum(a != b for a, b in pairwise(moments))
        assert sum(moments) == pytest.approx(100, abs=1)
        assert changes <= 2
    assert in_burst(Settings(bursts=1.0), 0, 3.3)
    assert not in_burst(Settings(), 0, 3.3)


def test_a_bomb_is_a_thousandth_of_what_it_holds() -> None:
    bomb = traps.bomb()

    assert len(bomb) < 70_000
    assert len(gzip.decompress(bomb)) == traps.BOMB


def test_a_loop_is_a_circle_or_never_comes_back() -> None:
    lengths = set()
    for n in range(40):
        way = [f"/loop/{n}"]
        for _ in range(20):
            way.append(traps.next_of_loop(SITE, 0, way[-1]))
        lengths.add(len(set(way[1:])))

    assert lengths == {2, 3, 4, 20}


def test_retry_after_is_mostly_seconds_and_sometimes_a_date() -> None:
    told = [traps.retry_after(SITE, 0, n, 3) for n in range(200)]
    dates = [one for one in told if one != "3"]

    assert 20 < len(dates) < 80
    assert all(parsedate_to_datetime(date) for date in dates)
    again = [traps.retry_after(SITE, 0, n, 3) for n in range(200)]
    assert [one == "3" for one in again] == [one == "3" for one in told]


def test_robots_txt_tells_the_delay() -> None:
    assert text.robots(0) == b"User-agent: *\nDisallow: /private/\n"
    assert text.robots(0.25).endswith(b"Crawl-delay: 0.25\n")


def links(url: str, site: Settings) -> list[str]:
    """What a page links to, read from its HTML."""
    host = ROOTS.index(url[: url.index("/", 8) + 1])
    last = url.rpartition("/")[2]
    n = int(last) if last else 0
    html = text.html(ROOTS, host, n, plan(site, host, n)).decode(errors="replace")
    found = re.findall(r'<a href="([^"]+)"', html)
    return [link if link.startswith("http") else ROOTS[host][:-1] + link for link in found]


# --- what is counted


def test_what_keeps_to_the_limits_breaks_none() -> None:
    books = ledger(rate=10, delay=0.1, concurrency=1)

    assert visits(books, 0.0, 0.1, 0.2, 0.35, 0.45) == [()] * 5
    seen = books.seen(0.0)
    assert (seen.requests, seen.violated, seen.most_at_once) == (5, 0, 1)
    assert (seen.smallest_gap, seen.smallest_gap_tolerated) == (0.1, 0.15)
    assert (seen.first, seen.last, seen.pace) == (0.0, 0.45, pytest.approx(4 / 0.45))


@given(
    pauses=st.lists(st.floats(0.0, 0.4), min_size=2, max_size=40),
    ways=st.lists(st.floats(0.0, TOLERANCE * 0.999), min_size=40, max_size=40),
    burst=st.integers(1, 4),
)
def test_the_way_accuses_nobody(pauses: list[float], ways: list[float], burst: int) -> None:
    """Starts that keep a delay and a rate, as a limiter lets them go, arrive up to the tolerance later."""
    limits = Limits(rate=4, burst=burst, delay=0.1)
    books = Ledger(limits, TOLERANCE, pages=1)
    starts, due, free = [0.0], 0.25, 0.1
    for pause in pauses:
        now = max(starts[-1] + pause, free, due - (burst - 1) * 0.25)
        due, free = max(now, due) + 0.25, now + 0.1
        starts.append(now)
    arrivals = sorted(now + way for now, way in zip(starts, ways, strict=False))

    assert visits(books, *arrivals) == [()] * len(arrivals)


def test_a_gap_that_is_too_small_by_more_than_the_tolerance() -> None:
    books = ledger(delay=1.0)

    assert visits(books, 0.0, 0.96, 1.9, 2.91) == [(), (), ("gap",), ()]
    assert books.seen(0.0).violations["gap"] == 1
    assert books.seen(0.0).smallest_gap == 0.94
    assert books.seen(0.0).most_ahead == pytest.approx(
        0.1
    )  # due at 2.0, which it knows from the first


def test_how_far_ahead_a_request_was() -> None:
    books = ledger(rate=1.0)
    visits(books, 0.0, 0.97, 2.5, 3.1)

    assert books.seen(0.0).violations["rate"] == 1
    assert books.seen(0.0).most_ahead == pytest.approx(0.4)
    assert ledger().seen(0.0).most_ahead == 0.0


def test_after_a_violation_the_gap_is_measured_from_it() -> None:
    assert visits(ledger(delay=1.0), 0.0, 0.5, 1.0, 2.0) == [(), ("gap",), ("gap",), ()]


def test_the_tolerance_is_granted_once_and_not_anew_for_each() -> None:
    """Who keeps to less than the delay is found out, however near it is."""
    at_98_percent = [n * 0.98 for n in range(10)]

    assert ("gap",) in visits(ledger(delay=1.0), *at_98_percent)
    assert ("rate",) in visits(ledger(rate=1.0), *at_98_percent)
    assert set(visits(ledger(delay=1.0), *at_98_percent[:3])) == {()}


def test_a_rate_allows_its_burst_after_a_rest_and_no_more() -> None:
    books = ledger(rate=10, burst=3)

    assert visits(books, 0.0, 0.0, 0.0, 0.0) == [(), (), (), ("rate",)]
    assert visits(books, 0.1, 0.1) == [(), ("rate",)]
    assert visits(books, 5.0, 5.0, 5.0, 5.0) == [(), (), (), ("rate",)]


def test_what_breaks_the_rate_uses_nothing_of_it_up() -> None:
    # Twice as fast as allowed: every second one is too many
    broken = visits(ledger(tolerance=0.0, rate=10), *(n * 0.05 for n in range(20)))

    assert broken == [(), ("rate",)] * 10


def test_concurrency_is_what_is_open_together() -> None:
    books = ledger(concurrency=2)

    assert [books.arrive(n * 0.1) for n in range(3)] == [(), (), ("concurrency",)]
    books.leave()
    books.leave()
    assert books.arrive(1.0) == ()
    assert books.seen(0.0).most_at_once == 3
    assert books.seen(0.0).violations["concurrency"] == 1


def test_a_request_may_break_several_limits() -> None:
    books = ledger(rate=1, delay=1, concurrency=1)
    books.arrive(0.0)

    assert books.arrive(0.1) == ("rate", "gap", "concurrency")
    assert books.seen(0.0).violated == 3


def test_without_limits_all_is_counted_and_nothing_a_violation() -> None:
    books = ledger()

    assert visits(books, *[0.0] * 5) == [()] * 5
    assert (books.seen(0.0).smallest_gap, books.seen(0.0).violated) == (0.0, 0)


def test_who_is_refused_is_told_a_wait_after_which_it_may_come() -> None:
    books = ledger(rate=0.25)
    visits(books, 0.0, 0.5)

    assert books.refuse(0.5) == 4
    assert visits(books, 4.5) == [()]
    assert books.seen(0.0).refused == 1


def test_coming_back_early_is_counted_but_for_who_was_under_way() -> None:
    books = ledger(rate=0.25)
    visits(books, 0.0, 0.5)
    books.refuse(0.5)

    visits(books, 0.52)  # had not heard of it
    assert books.seen(0.0).early == 0
    visits(books, 1.0, 4.3)
    assert books.seen(0.0).early == 2
    visits(books, 4.48)
    assert books.seen(0.0).early == 2


def test_another_rate_holds_from_now_on() -> None:
    books = ledger(rate=0.01)
    visits(books, 0.0)
    books.hold_to(Limits(rate=10), 1.0)

    assert visits(books, 1.1, 1.2, 1.21) == [(), (), ("rate",)]


def test_a_page_that_is_served_twice_counts_once() -> None:
    books = ledger()
    for page in (3, 3, 4):
        books.serve(page)

    assert (books.seen(0.0).served, books.seen(0.0).pages) == (3, 2)


def test_a_reset_keeps_what_is_open() -> None:
    books = ledger(delay=1.0)
    books.arrive(0.0)
    books.reset(10)

    assert books.seen(0.0) == replace(Seen(), most_at_once=1)
    assert books.arrive(0.5) == ("gap",)
    assert books.seen(0.0).most_at_once == 2
    assert books.seen(0.0).smallest_gap is None


def test_the_sums_of_several_hosts() -> None:
    one, two = ledger(delay=1.0), ledger(delay=1.0)
    visits(one, 0.0, 0.5)
    visits(two, 3.0, 5.0)
    two.serve(1)
    both = total([one.seen(0.0), two.seen(0.0), ledger().seen(0.0)])

    assert (both.requests, both.pages, both.violations["gap"], both.most_at_once) == (4, 1, 1, 1)
    assert (both.smallest_gap, both.first, both.last) == (0.5, 0.0, 5.0)
    assert both.most_ahead == 0.5
    assert total([]) == Seen()


# --- the command


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--hosts 0", "hosts 0: give how many, 1 to 10,000"),
        ("--hosts many", "--hosts many: give a whole number"),
        ("--hosts 2.5", "--hosts 2.5: give a whole number"),
        ("--pages 0", "pages 0: give how many a host has"),
        ("--port 65530", "port 65530: 10 hosts need as many ports, and the last is 65535"),
        ("--port 70000", "port 70000: give the first one, or 0 for free ones"),
        ("--latency -1", "latency -1: give seconds, 0 or more"),
        ("--rate nan", "rate nan: give requests a second, 0 for no limit"),
        ("--rate 5/s", "--rate 5/s: give a number"),
        ("--burst 0", "burst 0: give how many may come at once, 1 or more"),
        ("--concurrency -2", "concurrency -2: give how many, 0 for no limit"),
        ("--delay -1", "delay -1: give seconds, 0 for no limit"),
        ("--tolerance inf", "tolerance inf: give seconds, 0 to 60"),
        ("--police speed", "police speed: there are rate, gap, concurrency, and none"),
        ("--police=", "police : there are rate, gap, concurrency, and none"),
        ("--shift 30", "--shift 30: give seconds:rate, as in 30:5,60:20"),
        ("--shift 30:-5", "shift 30:-5: give seconds:rate"),
        ("--drip 2", "drip 2: give a share, 0 to 1"),
        ("--traps 2", "bursts 2: give a share, 0 to 1"),
        ("--nope", "unknown option --nope; see greenworker testsite --help"),
        ("--hosts", "--hosts needs a value; see greenworker testsite --help"),
        ("app.tasks", "testsite makes no sense of: app.tasks; a module called testsite is run by"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["testsite", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"greenworker: {says}")
    assert err.count("\n") == 1


def test_it_has_a_manual_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["testsite", "--help"])
    assert not caught.value.code
    assert capsys.readouterr().out.strip() == (testsite.__doc__ or "").strip()


def test_the_command_line_says_all_there_is_to_say() -> None:
    limits = Limits(rate=2.5, burst=3, concurrency=4, delay=0.5)
    shares = {name: n / 10 for n, name in enumerate(TRAPS, 1)}
    said = Settings(
        hosts=3, pages=4, seed=5, port=6, latency=0.7, limits=limits, police=("gap",),
        tolerance=0.8, shift=((1.0, 2.0), (3.0, 4.5)), **shares,
    )  # fmt: skip

    def read(argv: list[str]) -> Settings:
        return testsite.settings(docopt(testsite.__doc__, ["testsite", *argv]))

    assert read(_options(said)) == said
    assert read(_options(Settings(police=()))) == Settings(police=())
    assert read([]) == Settings()
    assert read(["--traps", "0.1", "--drip", "0"]) == Settings(
        **{**dict.fromkeys(TRAPS, 0.1), "drip": 0.0}
    )


def test_the_manual_tells_the_defaults() -> None:
    manual = testsite.__doc__ or ""
    option = re.compile(r"^  --(\w+) (?:(?!\n  -).)*?Default: ([\w.,]+)$", re.MULTILINE | re.DOTALL)
    told = dict(option.findall(manual))
    site = Settings()
    assert told.pop("police") == ",".join(site.police)
    assert told.pop("traps") == "0"
    for name in ("rate", "burst", "concurrency", "delay"):
        assert float(told.pop(name)) == getattr(site.limits, name), name
    for name in ("hosts", "pages", "seed", "port", "latency", "tolerance"):
        assert float(told.pop(name)) == getattr(site, name), name
    assert told == {}


def test_its_options_are_completed() -> None:
    own = {"testsite": testsite.__doc__ or ""}
    manual = completion.read_manual(cli.__doc__, cli.COMMANDS, own)
    names = {one.name for one in manual.taken["testsite"]}
    assert {"hosts", "police", "until-eof", "help"} <= names
    assert names == set(re.findall(r"^  (?:-\w, )?--([\w-]+)", own["testsite"], re.MULTILINE))
    assert "hosts" not in {one.name for one in manual.taken["worker"]}
    assert {one.name: bool(one.value) for one in manual.options}["burst"] is False
    assert "hosts" in {one.name for one in manual.options}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"police": "rate"}, r"police 'rate': give a tuple, as in \(\"rate\",\)"),
        ({"shift": (30, 5)}, r"shift \(30, 5\): give pairs of seconds and rate"),
        ({"shift": ((30, 5, 1),)}, r"give pairs of seconds and rate, as in \(\(30, 5\), \(60, 20\)\)"),
    ],
)  # fmt: skip
def test_what_a_program_asks_for_in_another_shape_is_told(
    settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        Settings(**settings)


def test_a_system_that_allows_fewer_files_than_it_says_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As macOS does, whose hard limit is infinite."""

    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(server.resource, "getrlimit", lambda _: (256, 1 << 40))
    monkeypatch.setattr(server.resource, "setrlimit", refuse)
    server.allow_connections(20_000)
