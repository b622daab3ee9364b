"""Limits that learn how fast a site may be asked: by the scripts, against sites, in a time that stands until the next event."""

from __future__ import annotations

import pytest

from greenworker.message import Outcome
from tests.support.limits import Limited
from tests.support.sites import KEY, Bucket, Free, Run, Slots, Window, even, mixed
from tests.support.state import Space

THROTTLED = Outcome("throttled", delay=-1.0)


@pytest.fixture
def limited(space: Space) -> Limited:
    """The space, its time standing still until the test moves it, a worker `w`, and an adaptive limit."""
    limited = Limited(space)
    limited.space.register("w")
    limited.limit("host:*", adaptive=True)
    return limited


def learnt(limited: Limited) -> float:
    """Starts a second."""
    return 1000 / limited.state_of(KEY).interval


def test_a_site_that_shifts_from_20_to_5_a_second_is_asked_as_fast_as_it_allows(
    limited: Limited,
) -> None:
    site = Bucket(20, 5, retry_after=1.0)
    run = Run(limited, site)
    run.until(30)
    assert run.used(20, 30, 20) > 0.85, run.told(5)
    site.rate = 5
    run.until(30 + 60 + 600)
    assert run.share_refused(90, 690) < 0.02, run.told(10)
    assert run.used(90, 690, 5) > 0.9, run.told(10)
    limited.check()


def test_a_site_that_allows_more_again_is_found_out_within_minutes(limited: Limited) -> None:
    site = Bucket(1, 2)
    run = Run(limited, site)
    run.until(60)
    assert 0.8 < learnt(limited) < 1.2, run.told(5)
    site.rate = 4
    run.until(60 + 240)
    assert run.used(240, 300, 4) > 0.85, run.told(10)


def test_a_quota_by_the_minute_that_is_silent_about_it(limited: Limited) -> None:
    run = Run(limited, Window(60, 60, tells=False))
    run.until(1500)
    assert run.used(600, 1500, 1) > 0.85, run.told(60)
    assert run.share_refused(600, 1500) < 0.03, run.told(60)


def test_one_a_minute(limited: Limited) -> None:
    run = Run(limited, Bucket(1 / 60, 1), looks=600)
    run.until(4 * 3600)
    assert run.share_refused(3600, 4 * 3600) < 0.05, run.told(600)
    assert run.used(3600, 4 * 3600, 1 / 60) > 0.75, run.told(600)


def test_where_requests_queue_it_stays_below_what_the_site_can_do_without_one_refusal(
    limited: Limited,
) -> None:
    site = Slots(1, even(0.2), queues=True)
    run = Run(limited, site)
    run.until(200)
    assert run.used(100, 200, 5) > 0.8, run.told(10)
    # What comes in the end is answered as soon as what came at first: no queue has grown meanwhile.
    assert site.ask(run.now).took < 1.0


def test_pages_that_take_three_times_as_long_as_others_slow_nothing_down(limited: Limited) -> None:
    limited.limit("host:*", adaptive=True, ceiling="8/s")
    run = Run(limited, Free(mixed(0.2, 3)))
    run.until(120)
    assert run.used(20, 120, 8) > 0.95, run.told(10)


def test_a_site_that_has_become_slower_for_good_is_accepted(limited: Limited) -> None:
    limited.limit("host:*", adaptive=True, ceiling="8/s")
    site = Free(even(0.2))
    run = Run(limited, site)
    run.until(30)
    site.latency = even(0.8)
    run.until(50)
    assert min(rate for at, rate in run.rates if at >= 30) < 7, "it was not even tried"
    run.until(100)
    assert run.used(50, 100, 8) > 0.95, run.told(5)


def test_refusals_of_what_was_under_way_are_one_signal(limited: Limited) -> None:
    limited.push(*(f"a{n}" for n in range(60)), key=KEY)
    running = []
    for _ in range(30):
        running += limited.claim(20)
        limited.goes_by(0.5)
    assert len(running) == 30
    for one in running:
        limited.settle(one, THROTTLED, took=0.4)
        limited.goes_by(0.01)
    state = limited.state_of(KEY)
    assert (state.state, state.throttled) == ("throttled", 30)
    assert 1.0 < learnt(limited) < 2.0, "decreased more than once"
    limited.goes_by(1.0)
    # At the decreased rate from its first start on.
    assert len(limited.claim(20)) == 1
    limited.goes_by(0.5)
    assert limited.claim(20) == []
    limited.check()


def test_what_is_refused_while_the_first_after_a_pause_still_runs_opens_no_circuit(
    limited: Limited,
) -> None:
    """Where what gets through takes long, and refusals are told at once."""
    site = Bucket(10, 10, latency=even(2.0))
    run = Run(limited, site)
    run.until(20)
    site.rate, site.burst = 1, 1
    for second in range(21, 80):
        run.until(second)
        assert limited.state_of(KEY).state != "circuit", run.told(5)
    assert run.refused(20, 80) >= 5


def test_pages_that_fail_of_something_else_hold_nothing_up(limited: Limited) -> None:
    limited.limit("host:*", adaptive=True, ceiling="8/s")
    run = Run(limited, Free(fails=0.7))
    run.until(40)
    assert run.used(30, 40, 8) > 0.95, run.told(5)


def test_doing_nothing_earns_nothing(limited: Limited) -> None:
    limited.limit("host:*", adaptive=True, ceiling="16/s")
    run = Run(limited, Free())
    run.until(30)
    assert learnt(limited) == pytest.approx(16)
    limited.goes_by(600)
    run.until(run.now + 0.5)
    assert learnt(limited) <= 2.0, "as fast as ten minutes ago"


def test_only_a_rate_that_is_used_grows(limited: Limited) -> None:
    run = Run(limited, Free())
    run.supply = 0
    for second in range(1, 61):
        run.supply += 1
        run.until(second)
    assert run.passed(0, 60) >= 59
    assert learnt(limited) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"ceiling": "4/s"}, 4),
        ({"rate": "4/s"}, 4),
        ({"delay": 0.25}, 4),
        ({"ceiling": "30/min"}, 0.5),
        ({"concurrency": 1}, 10),
    ],
    ids=str,
)
def test_no_faster_than_was_declared(
    limited: Limited, options: dict[str, object], most: float
) -> None:
    limited.limit("host:*", adaptive=True, **options)
    run = Run(limited, Free(even(0.1)))
    run.until(30)
    assert learnt(limited) < 2 * most
    assert most * 20 * 0.8 < run.passed(10, 30) <= most * 20 + 1, run.told(5)
    assert run.passed(0, 30) <= most * 30 + 1


def test_no_slower_than_its_floor(limited: Limited) -> None:
    limited.limit("host:*", adaptive=True, floor="1/s")
    site = Free(one_of=3)
    run = Run(limited, site)
    run.until(120)
    assert run.share_refused(60, 120) > 0.1
    assert learnt(limited) >= 0.999


def test_a_limit_that_is_no_longer_adaptive_knows_nothing(limited: Limited) -> None:
    run = Run(limited, Bucket(1, 1))
    run.until(20)
    assert limited.state_of(KEY).interval > 500
    limited.limit("host:*", rate="50/s")
    assert limited.state_of(KEY).interval == 0
    limited.goes_by(1.0)
    run.site = Free()
    run.until(run.now + 2)
    assert run.passed(run.now - 1, run.now) > 30


def test_a_rate_is_remembered_for_an_hour(limited: Limited) -> None:
    limited.push("a1", key=KEY)
    limited.settle(limited.claim()[0], THROTTLED)
    limited.goes_by(5)
    limited.done(limited.claim()[0])
    for minutes in (1, 58):
        limited.goes_by(60 * minutes)
        limited.promote()
        assert limited.known() == {KEY}
    limited.goes_by(120)
    limited.promote()
    assert limited.known() == set()


def test_what_was_never_refused_is_soon_forgotten(limited: Limited) -> None:
    limited.push("a1", key=KEY)
    limited.done(limited.claim()[0])
    limited.goes_by(60)
    limited.promote()
    assert limited.known() == set()


@pytest.mark.parametrize("text", ["1,2,3", "x", "nan,nan", "," * 300, ",".join(["x"] * 20)])
def test_a_damaged_memory_is_learnt_anew(limited: Limited, text: str) -> None:
    limited.push(*(f"a{n}" for n in range(9)), key=KEY)
    (one,) = limited.claim(1)
    hash = limited.space.key("keys")
    fields = limited.space.redis.hget(hash, KEY).split(" ")
    fields[7] = text
    limited.space.redis.hset(hash, KEY, " ".join(fields))
    limited.done(one)
    assert learnt(limited) == pytest.approx(2.0)
    limited.goes_by(0.5)
    assert len(limited.claim(5)) == 1
    limited.check()


def test_a_clock_that_is_set_back_stops_no_learning(limited: Limited) -> None:
    limited.sweep()
    run = Run(limited, Bucket(2, 2))
    run.until(30)
    before = learnt(limited)
    limited.is_set_back(86400.0)
    limited.sweep()
    limited.promote()
    again = Run(limited, Bucket(2, 2), name="again")
    again.until(300)
    assert again.used(20, 300, 2) > 0.8, again.told(5)
    assert before * 0.5 < learnt(limited) < before * 2
    assert again.refused(0, 300) >= 1, "nothing was tried any more"
