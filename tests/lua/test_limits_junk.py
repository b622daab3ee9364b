"""What somebody's hand has left of limits and keys makes no sense, or is in the way: no script ends in its middle for it, and sweeps
clear it away."""

from __future__ import annotations

import pytest

from tests.support.limits import Limited
from tests.support.state import Space


@pytest.fixture
def limited(space: Space) -> Limited:
    limited = Limited(space)
    limited.space.register("w")
    return limited


def drain(limited: Limited) -> set[str]:
    """All that is handed out as time goes by."""
    found: set[str] = set()
    for _ in range(12):
        for one in limited.claim(100):
            found.add(one.id)
            limited.done(one)
        limited.goes_by(6.0)
        limited.promote()
        limited.sweep()
    return found


@pytest.mark.parametrize(
    "lines", ["pjunk", "tjunk", "p5", "t5:default,,", "p5:default;tx", "pp5:default"]
)
@pytest.mark.parametrize("concurrency", [None, 1])
def test_where_a_key_has_lines_is_told_by_nonsense(
    limited: Limited, lines: str, concurrency: int | None
) -> None:
    if concurrency:
        limited.limit("host:a", concurrency=concurrency)
    limited.push("a1", "a2", "a3", key="host:a")
    limited.push("b1", key="host:b")
    (first,) = limited.claim(1)
    redis, known = limited.space.redis, limited.space.key("keys")
    fields = redis.hget(known, "host:a").split(" ")
    redis.hset(known, "host:a", " ".join([*fields[:11], lines, *fields[12:]]))
    limited.sweep()
    limited.done(first)
    assert {first.id} | drain(limited) == {"a1", "a2", "a3", "b1"}
    limited.check()


@pytest.mark.parametrize(
    "spec",
    [
        "rate=./1000",
        "rate=1.1.1/1000",
        "rate=5/.",
        "rate=0/1000",
        "rate=0/0",
        "adaptive=1 floor=./1 ceiling=1.1.1/5",
        "adaptive=1 floor=0/1",
        "adaptive=1 ceiling=0/0",
        "concurrency=x delay=y burst=z",
        "delay=1e999",
        "concurrency=nan delay=nan rate=nan/nan",
    ],
)
def test_a_limit_that_is_nonsense_loses_nothing(limited: Limited, spec: str) -> None:
    limited.limit("host:a", concurrency=5)
    limited.push("a1", "a2", "a3", key="host:a")
    limited.push("p1", "p2")
    redis, limits = limited.space.redis, limited.space.key("limits")
    redis.hset(limits, "host:a", f"s 1 {spec}")
    order = redis.hget(limits, "#") or "1 "
    redis.hset(limits, "#", order.replace(order.split(" ")[0], "77", 1))
    found = drain(limited)
    limited.check()
    limited.drop("host:a")
    assert found | drain(limited) == {"a1", "a2", "a3", "p1", "p2"}
    limited.check()


# --- turns, counts and pairs of what is not there


def test_a_queue_is_not_forgotten_before_its_turns_are(limited: Limited) -> None:
    """Their messages were cancelled, and sent again elsewhere: nobody claims there any more."""
    ids = [f"m{n}" for n in range(300)]
    for n, id in enumerate(ids):
        limited.push(id, key=f"host:{n}", queue="q")
    limited._run("cancel", "", *ids)
    for id in ids:
        limited.push(id)
    for _ in range(3):
        limited.sweep()
    assert not limited.space.redis.exists(limited.space.key("turn:q:5"))
    assert not limited.space.redis.sismember(limited.space.key("queues"), "q")
    limited.check()


@pytest.mark.parametrize("key", ["host:a", "host:a,tenant:1"])
def test_what_is_in_turn_and_nobody_has_counted_is_handed_out(limited: Limited, key: str) -> None:
    limited.push("b1", key="host:b")
    limited.push("a1", "a2", key=key)
    redis, space = limited.space.redis, limited.space
    redis.hdel(space.key("keys"), "host:a")
    redis.delete(space.key("pairs"))
    limited.sweep()
    redis.hdel(space.key("keyed"), "default")
    redis.hset(space.key("keyed"), "default", 1)
    redis.hdel(space.key("keys"), "host:a")
    redis.delete(space.key("pairs"))
    found = drain(limited)
    assert found == {"b1", "a1", "a2"}
    limited.check()


def test_a_count_of_lines_that_are_not_there_goes(limited: Limited) -> None:
    limited.space.redis.hset(limited.space.key("keyed"), "default", 5)
    limited.sweep()
    limited.check()


def test_who_waits_twice_for_two_keys_has_one_turn(limited: Limited) -> None:
    limited.hold("host:a")
    limited.push("m1", "m2", key="host:a,tenant:1")
    limited.push("n1", "n2", key="host:a,tenant:2")
    redis, space = limited.space.redis, limited.space
    for key in ("host:a", "host:a", "tenant:1"):
        redis.lpush(space.key(f"pairs:5:default {key}"), "host:a,tenant:1")
    limited.sweep()
    limited.resume("host:a")
    limited.sweep()
    limited.check()
    assert [one.id for one in limited.claim()] == ["m1", "n1", "m2", "n2"]
    limited.check()


def test_who_waits_for_nothing_any_more_is_not_noted_again_beside_itself(limited: Limited) -> None:
    """What waited of it was cancelled, and sent again elsewhere; more of it comes after a sweep."""
    limited.hold("host:a")
    for n in range(150):
        limited.push(f"m{n}", key=f"host:a,tenant:{n}")
    limited._run("cancel", "", "m149")
    limited.push("m149")
    for _ in range(4):
        limited.sweep()
    limited.push("again", key="host:a,tenant:149")
    limited.check()
