"""Limits by key: whose turn it is, what is held back, and how it comes again."""

from __future__ import annotations

import pytest

from greenworker.message import Delivery, Outcome
from tests.support.limits import Limited
from tests.support.state import Space

THROTTLED = Outcome("throttled", delay=-1.0)


@pytest.fixture
def limited(space: Space) -> Limited:
    """The space, its time standing still until the test moves it, and a worker `w`."""
    limited = Limited(space)
    limited.space.register("w")
    return limited


def test_keys_take_turns(limited: Limited) -> None:
    limited.push("a1", "a2", "a3", "a4", key="host:a")
    limited.push("b1", "b2", key="host:b")
    limited.push("c1", key="host:c")
    assert limited.claim_ids(7) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    limited.check()


def test_turns_go_on_from_claim_to_claim(limited: Limited) -> None:
    for name in "abc":
        limited.push(*(f"{name}{n}" for n in range(3)), key=f"host:{name}")
    told = [limited.claim_ids(1)[0] for _ in range(9)]
    assert told == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_priority_goes_before_turns_and_age_within_a_key(limited: Limited) -> None:
    limited.push("a1", "a2", key="host:a")
    limited.push("a9", key="host:a", priority=9)
    limited.push("b0", key="host:b", priority=0)
    assert limited.claim_ids(4) == ["a9", "a1", "a2", "b0"]


def test_what_has_a_key_and_what_has_none_take_turns(limited: Limited) -> None:
    limited.push(*(f"p{n}" for n in range(100)))
    limited.push(*(f"a{n}" for n in range(100)), key="host:a")
    some = limited.claim_ids(20)
    assert sum(id.startswith("a") for id in some) == 10
    ones = [limited.claim_ids(1)[0][0] for _ in range(10)]
    assert ones.count("a") == 5
    limited.check()


def test_what_cannot_run_now_is_nobodys_share(limited: Limited) -> None:
    """A thousand that wait for their site: the others are spread over the workers as if those were not there."""
    limited.space.register("v")
    limited.hold("host:a")
    limited.push(*(f"a{n}" for n in range(1000)), key="host:a")
    limited.push(*(f"p{n}" for n in range(10)))
    assert limited.claim_ids(10) == [f"p{n}" for n in range(5)]
    assert len(limited.claim_ids(10, worker="v")) == 5
    limited.check()


def test_so_many_at_once_and_the_next_when_a_permit_comes_back(limited: Limited) -> None:
    limited.limit("host:*", concurrency=2)
    limited.push("a1", "a2", "a3", "a4", key="host:a")
    limited.push("b1", key="host:b")
    first = limited.claim(10)
    assert [one.id for one in first] == ["a1", "b1", "a2"]
    limited.take_token()
    assert limited.claim_ids() == []
    limited.check()
    limited.done(first[0])
    assert limited.take_token(), "nobody was woken for the permit that came back"
    assert limited.claim_ids() == ["a3"]
    limited.check()


def test_a_gap_between_starts(limited: Limited) -> None:
    limited.limit("host:*", delay=0.25)
    limited.push("a1", "a2", "a3", key="host:a")
    assert limited.claim_ids() == ["a1"]
    limited.take_token()
    claim = limited.space.claim("w")
    assert claim.deliveries == []
    assert claim.next_due == pytest.approx(0.25, abs=0.002)
    limited.goes_by(0.249)
    assert limited.claim_ids() == []
    limited.goes_by(0.001)
    assert limited.claim_ids() == ["a2"]
    limited.check()


def test_promotion_wakes_somebody_when_a_key_may_run_again(limited: Limited) -> None:
    limited.limit("host:*", delay=0.25)
    limited.push("a1", "a2", key="host:a")
    limited.claim_ids()
    limited.take_token()
    limited.promote()
    assert not limited.take_token()
    limited.goes_by(0.25)
    limited.promote()
    assert limited.take_token()
    assert limited.claim_ids() == ["a2"]


def test_a_rate_admits_its_burst_and_then_one_by_one(limited: Limited) -> None:
    limited.limit("host:*", rate="100/min", burst=20)
    limited.push(*(f"a{n:03}" for n in range(200)), key="host:a")
    assert len(limited.claim_ids(100)) == 20
    assert limited.claim_ids(100) == []
    limited.goes_by(0.6)
    assert len(limited.claim_ids(100)) == 1
    limited.goes_by(6.0)
    assert len(limited.claim_ids(100)) == 10
    limited.goes_by(3600)
    assert len(limited.claim_ids(100)) == 20, "no more than the burst, however long nobody asked"
    limited.check()


def test_the_most_specific_limit_counts_alone(limited: Limited) -> None:
    limited.limit("*", concurrency=0)
    limited.limit("host:*", concurrency=1)
    limited.limit("host:*.example.com", concurrency=2)
    limited.limit("host:api.example.com", concurrency=3)
    for host, most in (("x.org", 1), ("www.example.com", 2), ("api.example.com", 3)):
        limited.push(*(f"{host}{n}" for n in range(5)), key=f"host:{host}")
        assert len(limited.claim_ids(10)) == most, host
    limited.push("t", key="tenant:1")
    assert limited.claim_ids() == []
    limited.check()


def test_a_limit_that_is_raised_counts_at_the_next_claim(limited: Limited) -> None:
    limited.limit("host:*", concurrency=1)
    limited.push(*(f"a{n}" for n in range(9)), key="host:a")
    limited.push(*(f"b{n}" for n in range(9)), key="host:b")
    assert limited.claim_ids() == ["a0", "b0"]
    limited.take_token()
    limited.limit("host:*", concurrency=3)
    assert limited.take_token()
    assert sorted(limited.claim_ids()) == ["a1", "a2", "b1", "b2"]
    limited.limit("host:a", concurrency=4)
    assert limited.claim_ids() == ["a3"]
    limited.drop("host:a")
    limited.drop("host:*")
    assert len(limited.claim_ids(100)) == 5 + 6
    limited.check()


def test_a_faster_rate_owes_nothing_of_the_slower_one(limited: Limited) -> None:
    limited.limit("host:*", rate="2/hour", burst=2)
    limited.push(*(f"a{n}" for n in range(9)), key="host:a")
    assert len(limited.claim_ids()) == 2
    limited.limit("host:*", rate="5/s", burst=1)
    assert limited.claim_ids() == []
    limited.goes_by(0.2)
    assert len(limited.claim_ids()) == 1
    limited.goes_by(0.2)
    assert len(limited.claim_ids()) == 1
    limited.check()


def test_a_limit_below_what_runs_takes_effect_as_permits_return(limited: Limited) -> None:
    limited.limit("host:*", concurrency=4)
    limited.push(*(f"a{n}" for n in range(9)), key="host:a")
    running = limited.claim(10)
    assert len(running) == 4
    limited.limit("host:*", concurrency=2)
    for one in running[:2]:
        limited.done(one)
        assert limited.claim_ids() == []
    limited.done(running[2])
    assert len(limited.claim_ids()) == 1
    limited.check()


def test_with_two_keys_it_waits_for_the_one_that_refuses(limited: Limited) -> None:
    limited.limit("tenant:1", concurrency=1)
    limited.push("a1", "a2", key="host:a,tenant:1")
    limited.push("b1", key="host:b")
    running = limited.claim(10)
    assert [one.id for one in running] == ["a1", "b1"]
    limited.check()
    limited.push("a3", key="host:a")
    assert limited.claim_ids() == ["a3"], (
        "what only has the first key is held up by nobody's second"
    )
    limited.done(running[0])
    assert limited.claim_ids() == ["a2"]
    limited.check()


def test_permits_come_back_from_a_dead_worker(limited: Limited) -> None:
    limited.limit("host:*", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    assert limited.claim_ids() == ["a1"]
    limited.space.register("v")
    limited.space.crash("w")
    limited.space.reap()
    limited.check()
    limited.goes_by(1.0)
    limited.promote()
    # It has waited its turn already.
    assert limited.claim_ids(worker="v") == ["a1"]
    limited.check()


def test_permits_come_back_from_who_leaves(limited: Limited) -> None:
    limited.limit("host:*", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    assert limited.claim_ids() == ["a1"]
    limited.space.broker.release("w")
    limited.space.register("v")
    assert limited.claim_ids(worker="v") == ["a1"]
    limited.check()


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("done", b"{}", 60.0),
        Outcome("dead", b"{}", 60.0, reason="failed"),
        Outcome("cancelled", b"{}", 60.0),
        Outcome("release"),
        THROTTLED,
    ],
    ids=lambda outcome: outcome.kind,
)
def test_each_outcome_gives_its_permits_back(limited: Limited, outcome: Outcome) -> None:
    limited.limit("*", concurrency=1)
    limited.push("a1", key="host:a,tenant:1")
    (one,) = limited.claim(1)
    assert limited.held("host:a") == limited.held("tenant:1") == {"a1"}
    limited.settle(one, outcome)
    assert limited.held("host:a") == limited.held("tenant:1") == set()
    limited.check()


def test_a_retry_gives_its_permits_back_while_it_waits(limited: Limited) -> None:
    limited.limit("*", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    (one,) = limited.claim(1)
    limited.settle(one, Outcome("retry", delay=60.0, envelope=one.envelope))
    assert limited.claim_ids() == ["a2"]
    limited.check()


def test_an_outcome_that_is_not_ours_gives_nothing_back(limited: Limited) -> None:
    limited.limit("*", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    (one,) = limited.claim(1)
    stranger = Delivery(one.id, one.seq + 1, one.worker, one.envelope, 0.0)
    assert limited.space.settle("w", (stranger, Outcome("done", b"{}", 60.0))) == [False]
    assert limited.held("host:a") == {"a1"}
    assert limited.claim_ids() == []


def test_a_throttle_holds_its_key_and_the_message_is_next(limited: Limited) -> None:
    limited.push("a1", "a2", "a3", key="host:a")
    limited.push("b1", key="host:b")
    running = limited.claim(3)
    assert [one.id for one in running] == ["a1", "b1", "a2"]
    limited.settle(running[0], Outcome("throttled", delay=30.0))
    assert limited.claim_ids() == []
    limited.check()
    # What ran meanwhile may end.
    limited.done(running[2])
    limited.goes_by(29.9)
    assert limited.claim_ids() == []
    limited.goes_by(0.1)
    (again,) = limited.claim(1)
    assert (again.id, again.envelope) == ("a1", running[0].envelope), "it has cost an attempt"
    assert limited.space.stats()["throttled"] == 1
    limited.check()


def test_what_was_throttled_has_run_and_is_unknown_no_more(limited: Limited) -> None:
    limited.push("a1", key="host:a")
    limited.space.edit("a1", " keys=", " unknown=12.000 keys=")
    (one,) = limited.claim(1)
    limited.settle(one, Outcome("throttled", delay=1.0))
    limited.goes_by(1.0)
    (again,) = limited.claim(1)
    assert b"unknown" not in again.envelope
    assert again.keys == b"host:a"
    limited.check()


def test_what_was_no_run_counts_among_no_durations(limited: Limited) -> None:
    limited.push("a1", "a2", key="host:a")
    first, second = limited.claim(2)
    limited.done(first, took=0.2)
    limited.settle(second, Outcome("dead", b"{}", 60.0, reason="unknown"))
    assert limited.state_of("host:a").p50 == 200


def test_throttles_of_runs_that_were_under_way_count_as_one(limited: Limited) -> None:
    limited.push(*(f"a{n}" for n in range(9)), key="host:a")
    running = limited.claim(9)
    limited.goes_by(1.0)
    for one in running:
        limited.settle(one, THROTTLED, took=1.0)
    assert limited.state_of("host:a").state == "throttled"
    limited.goes_by(1.0)
    assert len(limited.claim_ids(20)) == 9


def test_repeated_throttles_back_off_and_open_the_circuit_until_a_probe_gets_through(
    limited: Limited,
) -> None:
    limited.push(*(f"a{n}" for n in range(9)), key="host:a")
    for pause in (1.0, 2.0, 4.0, 8.0, 16.0):
        running = limited.claim(9)
        limited.settle(running[0], THROTTLED)
        for one in running[1:]:
            limited.settle(one, Outcome("release"))
        limited.goes_by(pause - 0.01)
        assert limited.claim_ids() == [], f"{pause} s were not kept"
        limited.goes_by(0.01)
    assert limited.state_of("host:a").state == "circuit"
    (probe,) = limited.claim(9)
    assert limited.claim_ids() == []
    limited.done(probe, took=0.0)
    assert limited.state_of("host:a").state == "open"
    assert len(limited.claim_ids(9)) == 8
    limited.check()


def test_a_hold_is_capped(limited: Limited) -> None:
    limited.push("a1", key="host:a")
    (one,) = limited.claim(1)
    limited.settle(one, Outcome("throttled", delay=1e9))
    limited.goes_by(3600.0)
    assert limited.claim_ids() == ["a1"]


def test_a_key_is_held_by_hand_and_goes_on(limited: Limited) -> None:
    limited.push("a1", "a2", key="host:a")
    limited.hold("host:a")
    assert limited.claim_ids() == []
    assert limited.state_of("host:a").state == "held"
    limited.goes_by(1e6)
    assert limited.claim_ids() == []
    limited.take_token()
    limited.resume("host:a")
    assert limited.take_token()
    assert limited.claim_ids() == ["a1", "a2"]
    limited.check()


def test_a_key_that_nothing_uses_any_more_is_forgotten(limited: Limited) -> None:
    limited.limit("host:*", delay=100.0)
    limited.push("a1", key="host:a")
    limited.done(limited.claim(1)[0])
    limited.goes_by(99.0)
    limited.promote()
    assert limited.known() == {"host:a"}, "its delay would have been forgotten with it"
    limited.goes_by(2.0)
    limited.promote()
    assert limited.known() == set()
    assert set(limited.state()) <= {
        "limits",
        "limits:by",
        "stats",
        "workers",
        "seq",
        "queues",
        "result",
    }


def test_keys_are_forgotten_as_fast_as_new_ones_come(limited: Limited) -> None:
    for n in range(40):
        limited.push(*(f"a{n}.{m}" for m in range(10)), key="")
        for m in range(10):
            limited.push(f"k{n}.{m}", key=f"user:{n}.{m}")
        for one in limited.claim(20):
            limited.done(one)
        limited.goes_by(16.0)
    assert len(limited.known()) <= 30
    limited.check()


def test_purge_takes_what_waits_in_lines_too(limited: Limited) -> None:
    limited.limit("host:a", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    limited.push("b1", key="host:b", priority=2)
    limited.push("p1")
    (held,) = limited.claim(1)
    assert limited.purge() == 3
    limited.check()
    limited.done(held)
    assert limited.claim_ids() == []
    limited.push("a9", key="host:a")
    assert limited.claim_ids() == ["a9"]
    limited.check()


def test_status_counts_what_waits_in_lines(limited: Limited) -> None:
    limited.push("a1", "a2", key="host:a")
    limited.push("p1")
    (queue,) = limited.space.broker.status().queues
    assert queue.waiting == 3


def test_a_suspect_is_limited_too(limited: Limited) -> None:
    limited.limit("host:a", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    for id in ("a1", "a2"):
        limited.make_suspect(id)
    running = limited.claim(10)
    assert [one.id for one in running] == ["a1"]
    assert limited.claim_ids() == []
    limited.done(running[0])
    assert limited.claim_ids() == ["a2"]
    limited.check()
