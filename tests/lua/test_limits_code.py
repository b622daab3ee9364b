"""What code declares stands under what people set, and counts again at once when that is dropped."""

from __future__ import annotations

import pytest

from greenworker.audit import Audit
from greenworker.probe import Probe
from tests.support.limits import Limited
from tests.support.state import Space


@pytest.fixture
def limited(space: Space) -> Limited:
    limited = Limited(space)
    limited.space.register("w")
    return limited


def spec(limited: Limited, key: str = "host:a") -> str:
    """By what a key goes."""
    return limited.state_of(key).spec


def declare(limited: Limited, worker: str, **limits: str) -> list[str]:
    """All that a worker's code declares: host="delay=1" is of host:*."""
    said = [part for name, line in limits.items() for part in (f"{name}:*", line)]
    return limited._set("d", worker, *said)


def under(limited: Limited) -> dict[str, str]:
    return limited.space.redis.hgetall(limited.space.key("limits:under"))


@pytest.fixture
def parked(limited: Limited) -> Limited:
    """A key that is looked at as its limits change."""
    limited.push("a1", "a2", "a3", key="host:a")
    return limited


def test_set_over_declared(parked: Limited) -> None:
    declare(parked, "w", host="concurrency=1")
    parked.limit("host:*", concurrency=0)
    assert parked.claim_ids() == []
    assert parked.drop("host:*") == ["host:*"]
    assert spec(parked) == "concurrency=1"
    assert parked.claim_ids() == ["a1"], "what was parked is looked at again"
    assert under(parked) == {}
    parked.check()


def test_declared_under_what_was_set(parked: Limited) -> None:
    parked.limit("host:*", concurrency=0)
    assert declare(parked, "w", host="concurrency=1") == [], "people's stands"
    assert spec(parked) == "concurrency=0"
    assert parked.drop("host:*") == ["host:*"]
    assert spec(parked) == "concurrency=1"


def test_a_key_of_its_own_likewise(parked: Limited) -> None:
    parked._set("d", "w", "host:a", "concurrency=2")
    parked.limit("host:a", concurrency=0)
    parked.drop("host:a")
    assert parked.claim_ids() == ["a1", "a2"]


def test_what_was_declared_last_counts_again(parked: Limited) -> None:
    parked.space.register("v")
    declare(parked, "w", host="concurrency=1")
    parked.limit("host:*", concurrency=0)
    parked.limit("host:*", concurrency=5)
    declare(parked, "v", host="concurrency=2")
    parked.drop("host:*")
    assert spec(parked) == "concurrency=2"


def test_nothing_comes_back_that_nobody_declares_any_more(parked: Limited) -> None:
    declare(parked, "w", host="concurrency=1")
    parked.limit("host:*", concurrency=0)
    declare(parked, "w", tenant="concurrency=1")
    assert spec(parked) == "concurrency=0", "people's goes with nobody"
    assert under(parked) == {}
    parked.limit("tenant:*", concurrency=0)
    parked.space.register("v")
    parked.space.broker.release("w")
    assert under(parked) == {}
    for pattern in ("host:*", "tenant:*"):
        assert parked.drop(pattern) == [pattern]
    assert parked.claim_ids(worker="v") == ["a1", "a2", "a3"]
    assert "limits:under" not in parked.space.state()


def test_what_only_code_says_cannot_be_dropped(parked: Limited) -> None:
    declare(parked, "w", host="concurrency=1")
    assert parked.drop("host:*") == []
    assert spec(parked) == "concurrency=1"
    parked.limit("host:*", concurrency=5)
    assert parked.drop("host:*") == ["host:*"]
    assert parked.drop("host:*") == [], "as if the first one's reply had been lost"
    assert spec(parked) == "concurrency=1"


def test_unless_nobody_declares_it_any_more_or_it_is_to_go_whatever_it_is(parked: Limited) -> None:
    declare(parked, "w", host="concurrency=1", tenant="concurrency=1")
    assert parked._set("x", "", "tenant:*", "") == ["tenant:*"]
    parked.space.redis.delete(parked.space.key("limits:by"))
    assert parked.drop("host:*") == ["host:*"]
    assert parked.drop("tenant:*") == []
    assert parked.claim_ids() == ["a1", "a2", "a3"]


def test_the_same_said_by_both(parked: Limited) -> None:
    declare(parked, "w", host="concurrency=1")
    parked.limit("host:*", concurrency=1)
    assert parked.drop("host:*") == ["host:*"], "it was dropped, though nothing changes"
    assert parked.drop("host:*") == []
    assert spec(parked) == "concurrency=1"


# --- beside a version that knows nothing of what lies underneath


def of_before(limited: Limited, pattern: str, line: str | None) -> None:
    """Somebody's set, or drop, with its scripts."""
    redis, name = limited.space.redis, limited.space.key("limits")
    if line is None:
        redis.hdel(name, pattern)
    else:
        redis.hset(name, pattern, line)
    generation, _, wild = (redis.hget(name, "#") or "0 ").partition(" ")
    ones = sorted(set(wild.split()) | {pattern} if line else set(wild.split()) - {pattern})
    redis.hset(name, "#", f"{int(generation) + 1} {' '.join(ones)}")


def kinds(limited: Limited) -> set[str]:
    return {one.kind for one in Audit(Probe(limited._link, limited.space.broker.namespace)).run().findings}  # fmt: skip


def test_what_it_set_lies_over_nothing_that_is_known(parked: Limited) -> None:
    declare(parked, "w", host="concurrency=1")
    of_before(parked, "host:*", "s 1 concurrency=0")
    assert parked.drop("host:*") == ["host:*"]
    assert spec(parked) == ""
    declare(parked, "w", host="concurrency=1")
    assert spec(parked) == "concurrency=1"


def test_what_it_dropped_comes_back_with_a_sweep(parked: Limited) -> None:
    declare(parked, "w", host="concurrency=1")
    parked.limit("host:*", concurrency=0)
    of_before(parked, "host:*", None)
    assert kinds(parked) == {"uncovered"}
    parked.sweep()
    while parked._run("limit_look", 100):
        pass
    assert spec(parked) == "concurrency=1"
    assert kinds(parked) == set()


def test_what_it_declares_is_what_code_says(parked: Limited) -> None:
    declare(parked, "w", host="concurrency=1")
    parked.limit("host:*", concurrency=0)
    of_before(parked, "host:*", "d 5 concurrency=2")
    assert kinds(parked) == {"uncovered"}
    parked.sweep()
    assert (under(parked), kinds(parked)) == ({}, set())
    assert spec(parked) == "concurrency=2"
    parked.limit("host:*", concurrency=0)
    parked.drop("host:*")
    assert spec(parked) == "concurrency=2"


def test_what_it_has_drained_declares_nothing(parked: Limited) -> None:
    parked.space.register("v")
    declare(parked, "v", host="concurrency=1")
    parked.limit("host:*", concurrency=0)
    parked.space.redis.zrem(parked.space.key("workers"), "v")
    parked.space.redis.hdel(parked.space.key("limits:by"), "v")
    assert parked.drop("host:*") == ["host:*"]
    assert (spec(parked), under(parked)) == ("", {})


def test_of_a_wrong_type_it_holds_up_no_message(limited: Limited) -> None:
    limited.space.register("v")
    declare(limited, "v", host="concurrency=1")
    limited.push("a1", "a2", key="host:a")
    limited.space.redis.set(limited.space.key("limits:under"), "x")
    (one,) = limited.claim()
    limited.done(one)
    limited.space.broker.release("v")
    limited.sweep()
    limited.promote()
    assert limited.claim_ids() == ["a2"]
