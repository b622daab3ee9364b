"""promote: what is due becomes ready; never early, never lost, never twice."""

from __future__ import annotations

import pytest

from greenworker.errors import BrokerError
from greenworker.message import Outcome
from tests.support.state import Space


def test_what_is_due_becomes_ready_by_the_order_of_its_time(space: Space) -> None:
    space.push("second", "first", due=60.0)
    space.redis.zadd(space.key("scheduled"), {"first": 1, "second": 2})
    moved, next_due, *_ = space.broker.promote()
    assert (moved, next_due) == (2, None)
    state = space.state()
    assert state["ready:default:5"] == ["first", "second"]
    assert state["wake:default"] == ["1"]
    assert "scheduled" not in state
    space.check()


def test_nothing_is_promoted_early(space: Space) -> None:
    space.push("m", due=60.0)
    before = space.state()
    moved, next_due, *_ = space.broker.promote()
    assert moved == 0
    assert 50 < (next_due or 0) <= 60
    assert space.state() == before


def test_not_a_millisecond_early(space: Space) -> None:
    space.push("m", due=0.05)
    due = space.redis.zscore(space.key("scheduled"), "m")
    while not space.broker.promote()[0]:
        pass
    seconds, micros = space.redis.time()
    assert seconds * 1000 + micros / 1000 >= due
    assert space.waiting() == ["m"]


def test_each_goes_to_its_queue_and_priority_and_wakes_somebody_there(space: Space) -> None:
    space.push("a", queue="slow", priority=9, due=60.0)
    space.push("b", due=60.0)
    space.push_suspect("s")
    space.redis.delete(space.key("suspects:default"))
    space.redis.zadd(space.key("scheduled"), {"s": 1})
    space.make_due()
    space.redis.delete(space.key("wake:default"))
    assert space.broker.promote()[0] == 3
    state = space.state()
    assert state["ready:slow:9"] == ["a"]
    assert state["ready:default:5"] == ["b"]
    assert state["suspects:default"] == ["s"]
    assert state["wake:slow"] == state["wake:default"] == ["1"]
    space.check()


def test_what_a_dead_worker_held_does_not_wait_for_what_came_since(space: Space) -> None:
    space.run("w", "m1")
    space.push("m2", "m3")
    space.crash("w")
    space.reap()
    space.make_due()
    space.broker.promote()
    assert space.waiting() == ["m1", "m2", "m3"]
    space.check()


def test_so_does_what_was_not_charged_since_suspects_were_there(space: Space) -> None:
    space.push("m1")
    space.push_suspect("s")
    space.register("w")
    assert space.claim_ids("w") == ["s", "m1"]
    space.push("m2")
    space.crash("w")
    space.reap()
    assert space.broker.lookup("m1").state == "PENDING"
    space.make_due()
    space.broker.promote()
    assert space.waiting() == ["m1", "m2"]
    space.check()


def test_a_later_retry_of_it_waits_its_turn(space: Space) -> None:
    (one,) = space.run("w", "m1")
    space.crash("w")
    space.reap()
    space.make_due()
    space.broker.promote()
    space.register("w2")
    (one,) = space.claim("w2").deliveries
    space.settle("w2", (one, Outcome("retry", envelope=one.envelope, delay=60.0)))
    space.push("m2")
    assert space.broker.lookup("m1").state != "PENDING"
    space.make_due()
    space.broker.promote()
    assert space.waiting() == ["m2", "m1"]
    space.check()


def test_at_most_a_thousand_at_once(space: Space) -> None:
    for chunk in range(3):
        space.push(*(f"m{chunk}-{n}" for n in range(500)), due=60.0)
    space.make_due()
    assert space.broker.promote()[:3] == (1000, 0.0, b"")
    space.check()
    assert space.broker.promote()[:3] == (500, None, b"")
    assert len(space.waiting()) == 1500
    space.check()


@pytest.mark.parametrize("key", ["ready:other:5", "wake:other"])
def test_a_key_of_a_wrong_type_holds_up_nothing_else(space: Space, key: str) -> None:
    space.run("w", "b1")
    space.push("b2", queue="other", due=60.0)
    space.crash("w")
    space.reap()
    space.edit("b1", "default", "other")
    space.push("a", due=60.0)
    space.redis.zadd(space.key("scheduled"), {"b1": 1.5, "b2": 2, "a": 3})
    space.redis.set(space.key(key), "not a list")
    # The ones it concerns are first in line: they are told of, and wait some seconds more
    with pytest.raises(BrokerError, match="GWTYPE"):
        space.broker.promote()
    assert space.waiting() == ["a"]
    moved, next_due, *_ = space.broker.promote()
    assert (moved, next_due is not None and 0 < next_due <= 5) == (0, True)
    # Once it is mended they move, and nothing is lost; what came back is still next in line
    space.redis.delete(space.key(key))
    space.push("c", queue="other")
    space.make_due()
    assert space.broker.promote()[0] == 2
    assert space.waiting("other") == ["b1", "c", "b2"]
    space.check()


def test_what_cannot_be_read_is_left_to_a_claim(space: Space) -> None:
    space.redis.hset(space.key("msg"), "bad", "garbage")
    space.redis.zadd(space.key("scheduled"), {"bad": 1})
    assert space.broker.promote()[0] == 1
    space.register("w")
    assert space.claim_ids("w") == []
    assert list(space.state()["dead"]) == ["bad"]
    space.check()


def test_it_goes_on_without_memory(own_space: Space) -> None:
    own_space.push("m", due=60.0)
    own_space.make_due()
    own_space.redis.config_set("maxmemory", 1)
    assert own_space.broker.promote()[:3] == (1, None, b"")
    own_space.check()
