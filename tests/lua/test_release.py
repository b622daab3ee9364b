"""release: a graceful end gives everything back, in order and uncharged."""

from __future__ import annotations

import pytest

from greenworker import broker
from tests.support.state import Space, envelope


def test_what_is_held_goes_back_to_the_front_in_its_order(space: Space) -> None:
    space.run("w", "m1", "m2", "m3")
    space.push("m4")
    space.take_token()
    space.broker.release("w")
    assert space.state("push:") == {
        "msg": {id: envelope() for id in ("m1", "m2", "m3", "m4")},
        "ready:default:5": ["m1", "m2", "m3", "m4"],
        "wake:default": ["1"],
        "queues": {"default"},
        "stats": {"enqueued": "4"},
    }
    space.check()


def test_who_holds_nothing_leaves_without_a_trace(space: Space) -> None:
    space.register("w", "other")
    space.claim("w")
    space.broker.release("w")
    assert space.state() == {
        "workers": {"other": "later"},
        "about": {"other": '{"name":"other"}'},
        "leases": {"other": "60000"},
        "consumers:default": {"other"},
        "queues": {"default"},
    }


def test_each_goes_back_to_its_own_queue_and_priority(space: Space) -> None:
    space.push("a", queue="slow", priority=9)
    space.push("b")
    space.push_suspect("s")
    space.register("w", queues=["slow", "default"])
    assert len(space.claim("w", queues=["slow", "default"]).deliveries) == 3
    space.broker.release("w")
    state = space.state()
    assert state["ready:slow:9"] == ["a"]
    assert state["ready:default:5"] == ["b"]
    assert state["suspects:default"] == ["s"]
    assert "suspected:w" not in state
    space.check()


def test_a_released_message_is_another_workers_at_once(space: Space) -> None:
    (one,) = space.run("w", "m")
    space.broker.release("w")
    space.register("other")
    assert space.claim_ids("other") == ["m"]
    assert space.done("w", one) == [False]


def test_any_number_is_released(space: Space) -> None:
    ids = [f"m{n}" for n in range(2500)]
    for start in range(0, 2500, 500):
        space.push(*ids[start : start + 500])
    space.register("w")
    while space.claim("w", 1000).more:
        pass
    space.broker.release("w")
    state = space.state()
    assert sorted(state["ready:default:5"]) == sorted(ids)
    assert not {"processing:w", "workers", "seq"} & set(state)
    space.check()


@pytest.mark.parametrize(("held", "left"), [(3000, 1500), (3000, 50)])
def test_all_is_released_of_a_hash_that_is_large_and_sparse(
    space: Space, held: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan from the start finds only empty slots there once the first have been taken."""
    space.hold("w", held, left)
    monkeypatch.setattr(broker, "MAX_COUNT", 10)
    space.broker.release("w")
    assert len(space.waiting()) == left
    assert not {"processing:w", "workers"} & set(space.state())
    space.check()


def test_who_leaves_passes_the_token_on_that_it_may_have_taken(space: Space) -> None:
    space.register("w", "other")
    space.push("m")
    space.take_token()
    space.broker.release("w")
    assert space.take_token()


def test_it_goes_on_without_memory(own_space: Space) -> None:
    own_space.run("w", "m1", "m2")
    own_space.redis.config_set("maxmemory", 1)
    own_space.broker.release("w")
    assert own_space.waiting() == ["m1", "m2"]
    own_space.check()
