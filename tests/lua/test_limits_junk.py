"""What somebody's hand has left of limits and keys makes no sense: no script ends in its middle for it."""

from __future__ import annotations

import pytest

from greenworker.control import Control
from tests.support.auditing import audit
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
