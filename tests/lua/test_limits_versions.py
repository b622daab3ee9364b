"""Workers of a version that knows nothing of limits, beside those that do, on the same data."""

from __future__ import annotations

import pytest

from tests.lua.test_limits_damage import sweep
from tests.support.limits import Limited
from tests.support.state import Space


@pytest.fixture
def limited(space: Space) -> Limited:
    limited = Limited(space)
    limited.space.register("w")
    return limited


def promote_as_before(limited: Limited, *ids: str, priority: int = 5) -> None:
    """A scheduled message goes where it waited before there were lines."""
    redis, space = limited.space.redis, limited.space
    for id in ids:
        key = redis.hget(space.key("msg"), id).partition(" keys=")[2].split()[0]
        assert redis.lrem(space.key(f"line:{priority}:default {key}"), 0, id) == 1
        redis.hincrby(space.key("keyed"), "default", -1)
        redis.lpush(space.key(f"ready:default:{priority}"), id)


def test_what_it_has_promoted_is_limited_all_the_same(limited: Limited) -> None:
    limited.limit("host:a", concurrency=1)
    limited.push("a1", "a2", "a3", key="host:a")
    limited.push("p1")
    promote_as_before(limited, "a2", "a3")
    running = limited.claim(10)
    assert {one.id for one in running} == {"a1", "p1"}
    assert limited.claim_ids() == []
    limited.check()
    limited.done(next(one for one in running if one.id == "a1"))
    assert limited.claim_ids() == ["a2"]
    limited.check()


def test_it_is_handed_out_though_nothing_waits_in_lines(limited: Limited) -> None:
    limited.push("a1", "a2", key="host:a")
    promote_as_before(limited, "a1", "a2")
    limited.take_token()
    assert limited.claim_ids() == []
    assert limited.take_token(), "nobody was woken for what went to its line"
    assert limited.claim_ids() == ["a1", "a2"]
    limited.check()


@pytest.mark.parametrize("name", ["line:5:default host:a", "turn:default:5", "queues"])
def test_where_it_cannot_go_to_its_line_it_runs(limited: Limited, name: str) -> None:
    limited.push("a1", key="host:a")
    promote_as_before(limited, "a1")
    limited.space.redis.delete(limited.space.key(name))
    limited.space.redis.set(limited.space.key(name), "x")
    assert limited.claim_ids() == ["a1"]


def test_what_a_worker_declared_goes_though_one_of_before_has_drained_it(
    limited: Limited,
) -> None:
    limited.space.register("v")
    limited.limit("host:*", by="d", worker="v", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    assert limited.claim_ids() == ["a1"]
    # As a sweep of before does it.
    limited.space.redis.zrem(limited.space.key("workers"), "v")
    sweep(limited)
    limited.promote()
    assert limited.claim_ids() == ["a2"]
    assert "limits:by" not in limited.state()
    limited.check()


def test_what_lives_still_declares(limited: Limited) -> None:
    limited.limit("host:*", by="d", worker="w", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    sweep(limited)
    assert limited.claim_ids() == ["a1"]
