"""settle: an outcome counts once, for the delivery it belongs to."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from greenworker.errors import BrokerError
from greenworker.message import RELEASE, Outcome, next_attempt
from tests.support.eventually import eventually
from tests.support.state import Space, envelope

SUCCESS = b'{"state":"SUCCESS","value":1}'
FAILURE = b'{"state":"FAILURE","error":{"type":"E","message":"","traceback":""}}'

# What a registered worker leaves in a namespace besides messages.
WORKER = ("workers", "about", "leases", "consumers", "queues", "seq", "push:")


def test_done_ends_the_message_with_its_result(space: Space) -> None:
    (one,) = space.run("w", "m")
    assert space.settle("w", (one, Outcome("done", SUCCESS, 60.0))) == [True]
    assert space.state(*WORKER) == {
        "result:m": SUCCESS.decode(),
        "stats": {"enqueued": "1", "done": "1"},
        "wake:default": ["1"],
    }
    assert 50_000 < space.redis.pttl(space.key("result:m")) <= 60_000
    space.check()


def test_done_without_a_time_to_live_keeps_no_result(space: Space) -> None:
    (one,) = space.run("w", "m")
    assert space.settle("w", (one, Outcome("done"))) == [True]
    assert space.state(*WORKER, "wake") == {"stats": {"enqueued": "1", "done": "1"}}
    space.check()


def test_the_result_is_announced(space: Space) -> None:
    (one,) = space.run("w", "m")
    with space.redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(space.key("done:m"))
        eventually(lambda: space.redis.pubsub_numsub(space.key("done:m"))[0][1])
        space.done("w", one)
        heard = eventually(lambda: listener.get_message(timeout=0.1))
    assert heard["data"] == SUCCESS.decode()


def test_retry_schedules_the_replacement(space: Space) -> None:
    (one,) = space.run("w", "m")
    retry = Outcome("retry", delay=60.0, envelope=next_attempt(one.envelope))
    assert space.settle("w", (one, retry)) == [True]
    assert space.state(*WORKER, "wake") == {
        "msg": {"m": envelope(attempt=1)},
        "scheduled": {"m": "later"},
        "stats": {"enqueued": "1", "retried": "1"},
    }
    space.check()


def test_later_is_a_retry_that_is_not_counted(space: Space) -> None:
    (one,) = space.run("w", "m")
    assert space.settle("w", (one, Outcome("later", delay=60.0, envelope=one.envelope))) == [True]
    assert space.state(*WORKER, "wake") == {
        "msg": {"m": envelope()},
        "scheduled": {"m": "later"},
        "stats": {"enqueued": "1"},
    }
    space.check()


def test_dead_keeps_what_is_needed_to_understand_and_to_revive(space: Space) -> None:
    (one,) = space.run("w", "m")
    outcome = Outcome("dead", FAILURE, 60.0, reason="failed")
    assert space.settle("w", (one, outcome)) == [True]
    assert space.state(*WORKER, "wake") == {
        "dead": {"m": "now"},
        "dead:record": {"m": f"now failed w 0\nw\n{FAILURE.decode()}\n{envelope()}"},
        "result:m": FAILURE.decode(),
        "stats": {"enqueued": "1", "dead": "1"},
    }
    space.check()


def test_release_puts_it_next_in_line_as_if_never_claimed(space: Space) -> None:
    (one,) = space.run("w", "m1")
    space.push("m2")
    space.take_token()
    assert space.settle("w", (one, RELEASE)) == [True]
    assert space.waiting() == ["m1", "m2"]
    assert space.state()["msg"]["m1"] == envelope()
    assert space.take_token()
    space.check()


def test_a_released_suspect_is_a_suspect_still(space: Space) -> None:
    space.push_suspect("s1", "s2", deliveries=3)
    space.register("w")
    (one,) = space.claim("w").deliveries
    assert space.settle("w", (one, RELEASE)) == [True]
    assert space.state()["suspects:default"] == ["s1", "s2"]
    assert space.claim_ids("w") == ["s1"]
    space.check()


def test_a_batch_answers_for_each(space: Space) -> None:
    one, two, three = space.run("w", "m1", "m2", "m3")
    done = Outcome("done", SUCCESS, 60.0)
    dead = Outcome("dead", FAILURE, 60.0, reason="failed")
    wrong = (replace(two, seq=9), done)
    assert space.settle("w", (one, done), wrong, (three, dead)) == [True, False, True]
    assert space.state()["processing:w"] == {"m2": "1"}
    assert space.stats() == {"enqueued": 3, "done": 1, "dead": 1}
    space.check()


# Fencing


@pytest.mark.parametrize("kind", ["done", "retry", "later", "dead", "release"])
def test_an_outcome_for_another_claim_changes_nothing(space: Space, kind: str) -> None:
    (one,) = space.run("w", "m")
    space.register("other")
    before = space.state()
    outcome = Outcome(kind, FAILURE, 60.0, 1.0, one.envelope, "failed")
    assert space.settle("w", (replace(one, seq=one.seq + 1), outcome)) == [False]
    assert space.settle("other", (one, outcome)) == [False]
    assert space.settle("w", (replace(one, id="unknown"), outcome)) == [False]
    assert space.state() == before


def test_settling_again_is_answered_with_no(space: Space) -> None:
    (one,) = space.run("w", "m")
    assert space.done("w", one) == [True]
    before = space.state()
    assert space.done("w", one) == [False]
    assert space.state() == before


def test_settling_twice_in_one_batch_counts_once(space: Space) -> None:
    (one,) = space.run("w", "m")
    retry = Outcome("retry", delay=1.0, envelope=next_attempt(one.envelope))
    assert space.settle("w", (one, Outcome("done", SUCCESS, 60.0)), (one, retry)) == [True, False]
    assert space.stats() == {"enqueued": 1, "done": 1}
    space.check()


def test_a_repeat_never_ends_a_later_run_by_the_same_worker(space: Space) -> None:
    """The reply was lost; meanwhile the message was retried, promoted and claimed again."""
    (one,) = space.run("w", "m")
    retry = Outcome("retry", delay=0.0, envelope=next_attempt(one.envelope))
    space.settle("w", (one, retry))
    space.broker.promote()
    (again,) = space.claim("w").deliveries
    before = space.state()
    assert space.settle("w", (one, retry)) == [False]
    assert space.state() == before
    assert space.done("w", again) == [True]
    space.check()


def test_what_was_reaped_is_no_longer_ours(space: Space) -> None:
    (one,) = space.run("w", "m")
    space.crash("w")
    space.reap()
    assert space.done("w", one) == [False]
    assert space.stats() == {"enqueued": 1, "reaped": 1}
    space.check()


# Suspects


def test_a_settled_suspect_is_cleared_and_wakes_somebody_for_the_next(space: Space) -> None:
    space.push_suspect("s1", "s2", deliveries=3)
    space.register("w")
    (one,) = space.claim("w").deliveries
    space.take_token()
    space.done("w", one)
    assert not space.redis.exists(space.key("suspected:w"))
    assert space.take_token()
    space.check()


def test_settling_another_message_leaves_the_suspect(space: Space) -> None:
    space.push_suspect("s")
    space.push("m")
    space.register("w")
    _, healthy = space.claim("w").deliveries
    space.done("w", healthy)
    assert set(space.state()["suspected:w"]) == {"s"}


# What stands in the way


@pytest.mark.parametrize(
    "key", ["stats", "dead", "dead:record", "suspected:w", "solitary:w", "scheduled"]
)
def test_a_key_of_a_wrong_type_is_refused_before_anything_is_written(
    space: Space, key: str
) -> None:
    (one,) = space.run("w", "m")
    space.push_suspect("s")
    (suspect,) = space.claim("w").deliveries
    space.redis.delete(space.key(key))
    space.redis.lpush(space.key(key), "in a list")
    before = space.state()
    retry = Outcome("retry", delay=60.0, envelope=next_attempt(suspect.envelope))
    done = Outcome("done", SUCCESS, 60.0)
    with pytest.raises(BrokerError, match="GWTYPE .*" + key):
        space.settle("w", (one, done), (suspect, retry))
    assert space.state() == before


@pytest.mark.parametrize("key", ["scheduled", "solitary:w", "queues"])
def test_what_a_settle_does_not_need_is_in_nobodys_way(space: Space, key: str) -> None:
    (one,) = space.run("w", "m")
    space.redis.delete(space.key(key))
    space.redis.lpush(space.key(key), "in a list")
    assert space.done("w", one) == [True]
    assert space.redis.lrange(space.key(key), 0, -1) == ["in a list"]


def test_settles_go_on_without_memory(own_space: Space) -> None:
    one, two, three, four = own_space.run("w", "m1", "m2", "m3", "m4")
    own_space.redis.config_set("maxmemory", 1)
    outcomes = [
        Outcome("done", SUCCESS, 60.0),
        Outcome("dead", FAILURE, 60.0, reason="failed"),
        Outcome("retry", delay=60.0, envelope=next_attempt(three.envelope)),
        RELEASE,
    ]
    settled = own_space.settle("w", *zip([one, two, three, four], outcomes, strict=True))
    assert settled == [True] * 4
    own_space.check()


def test_whoever_was_reaped_settles_nothing_even_before_it_is_drained(space: Space) -> None:
    (one,) = space.run("w", "m")
    space.redis.zrem(space.key("workers"), "w")
    space.redis.sadd(space.key("corpses"), "w")
    before = space.state()
    assert space.settle("w", (one, Outcome("done", SUCCESS, 60.0))) == [False]
    assert space.state() == before


def test_nothing_to_settle_is_no_call(space: Space) -> None:
    assert space.broker.settle("nobody", []) == []


# The last ones, and infinity, are no number of milliseconds any more.
HUGE = [1e20, 1e304, 1e306, 1.7e308, math.inf]


@pytest.mark.parametrize("kind", ["done", "dead"])
@pytest.mark.parametrize("ttl", HUGE)
def test_a_time_to_live_that_the_server_refuses_is_cut(space: Space, ttl: float, kind: str) -> None:
    (one,) = space.run("w", "m")
    assert space.settle("w", (one, Outcome(kind, FAILURE, ttl, reason="failed"))) == [True]
    assert space.redis.pttl(space.key("result:m")) > 10**12
    space.check()


@pytest.mark.parametrize("delay", HUGE)
def test_a_delay_without_bounds_is_cut(space: Space, delay: float) -> None:
    (one,) = space.run("w", "m")
    retry = Outcome("retry", delay=delay, envelope=next_attempt(one.envelope))
    assert space.settle("w", (one, retry)) == [True]
    assert 99 * 365 * 86400 < (space.broker.lookup("m").due_in or 0) < 101 * 365 * 86400
    space.check()


def test_a_message_that_became_huge_meanwhile_leaves_a_small_dead_letter(space: Space) -> None:
    (delivery,) = space.run("w", "m")
    space.edit("m", "[[]", "[[" + '"x",' * 3_000_000)
    assert space.settle("w", (delivery, Outcome("dead", FAILURE, 60.0, reason="failed"))) == [True]
    assert len(space.redis.hget(space.key("dead:record"), "m")) < 10_000
    space.check()
