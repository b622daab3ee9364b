"""promote: what is due becomes ready; never early, never lost, never twice."""

from __future__ import annotations

import pytest

from greenworker.errors import BrokerError
from tests.support.state import Space


def test_what_is_due_becomes_ready_by_the_order_of_its_time(space: Space) -> None:
    space.push("second", "first", due=60.0)
    space.redis.zadd(space.key("scheduled"), {"first": 1, "second": 2})
    moved, next_due = space.broker.promote()
    assert (moved, next_due) == (2, None)
    state = space.state()
    assert state["ready:default:5"] == ["first", "second"]
    assert state["wake:default"] == ["1"]
    assert "scheduled" not in state
    space.check()


def test_nothing_is_promoted_early(space: Space) -> None:
    space.push("m", due=60.0)
    before = space.state()
    moved, next_due = space.broker.promote()
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


def test_at_most_a_thousand_at_once(space: Space) -> None:
    for chunk in range(3):
        space.push(*(f"m{chunk}-{n}" for n in range(500)), due=60.0)
    space.make_due()
    assert space.broker.promote() == (1000, 0.0)
    space.check()
    assert space.broker.promote() == (500, None)
    assert len(space.waiting()) == 1500
    space.check()


def test_a_key_of_a_wrong_type_doubles_and_loses_nothing(space: Space) -> None:
    space.push("a", due=60.0)
    space.push("b", queue="other", due=61.0)
    space.redis.zadd(space.key("scheduled"), {"a": 1, "b": 2})
    space.redis.set(space.key("ready:other:5"), "not a list")
    for _ in range(3):
        with pytest.raises(BrokerError, match="WRONGTYPE"):
            space.broker.promote()
    assert space.waiting() == ["a"]
    space.redis.delete(space.key("ready:other:5"))
    assert space.broker.promote()[0] == 1
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
    assert own_space.broker.promote() == (1, None)
    own_space.check()
