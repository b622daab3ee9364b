"""register and beat: who is alive, and until when."""

from __future__ import annotations

import pytest

from greenworker.errors import BrokerError
from tests.support.state import Space


def lease_left(space: Space, worker: str) -> float:
    """Seconds until the lease ends, by the server's clock."""
    seconds, micros = space.redis.time()
    return space.redis.zscore(space.key("workers"), worker) / 1000 - seconds - micros / 1e6


def test_a_registered_worker_is_alive_for_one_lease(space: Space) -> None:
    assert space.broker.register("w", 60.0, {"name": "host:1"}, ["a", "b"]) is True
    assert space.state() == {
        "workers": {"w": "later"},
        "about": {"w": '{"name":"host:1"}'},
        "leases": {"w": "60000"},
        "consumers:a": {"w"},
        "consumers:b": {"w"},
        "queues": {"a", "b"},
    }
    assert 50 < lease_left(space, "w") <= 60


def test_registering_again_keeps_what_is_held(space: Space) -> None:
    space.run("w", "m")
    before = space.state()
    space.register("w")
    assert space.state() == before
    space.check()


def test_a_corpse_cannot_register(space: Space) -> None:
    space.redis.sadd(space.key("corpses"), "w")
    assert space.broker.register("w", 60.0, {}, ["default"]) is False
    assert space.state() == {"corpses": {"w"}}


def test_register_refuses_a_key_of_a_wrong_type(space: Space) -> None:
    space.redis.set(space.key("workers"), "not a zset")
    with pytest.raises(BrokerError, match="GWTYPE"):
        space.broker.register("w", 60.0, {}, ["default"])
    assert space.state() == {"workers": "not a zset"}


def test_a_beat_begins_a_new_lease(space: Space) -> None:
    space.register("w", lease=1)
    assert space.broker.beat("w", 60.0) is True
    assert 50 < lease_left(space, "w") <= 60


def test_a_beat_after_the_lease_but_before_a_reaper_is_in_time(space: Space) -> None:
    (one,) = space.run("w", "m")
    space.crash("w")
    assert space.broker.beat("w", 60.0) is True
    assert space.reap().corpses == 0
    assert space.done("w", one) == [True]


def test_the_beat_of_a_stranger_is_refused_and_registers_nobody(space: Space) -> None:
    assert space.broker.beat("w", 60.0) is False
    assert space.state() == {}


def test_a_corpse_does_not_beat_itself_back_to_life(space: Space) -> None:
    space.run("w", *(f"m{n}" for n in range(3)))
    space.crash("w")
    space.reap()
    assert space.broker.beat("w", 60.0) is False
    assert "workers" not in space.state()


def test_leases_survive_a_server_without_memory(own_space: Space) -> None:
    own_space.redis.config_set("maxmemory", 1)
    own_space.register("w", lease=1)
    assert own_space.broker.beat("w", 60.0) is True
    assert 50 < lease_left(own_space, "w") <= 60


def test_who_listens_no_longer_is_not_reckoned_with(space: Space) -> None:
    space.register("w1", "w2", queues=["a", "b"])
    space.push("m", queue="a")
    space.redis.delete(space.key("wake:a"))  # w1 has taken it
    assert space.broker.listen("w1", False, ["a", "b"]) is True
    state = space.state()
    assert state["consumers:a"] == state["consumers:b"] == {"w2"}
    assert state["wake:a"] == ["1"]
    assert state["workers"].keys() == {"w1", "w2"}
    assert space.broker.listen("w1", True, ["a", "b"]) is True
    assert space.state()["consumers:b"] == {"w1", "w2"}


def test_a_stranger_does_not_listen(space: Space) -> None:
    assert space.broker.listen("w", True, ["a"]) is False
    assert space.state() == {}


@pytest.mark.parametrize("key", ["consumers:b", "wake:b"])
def test_listen_refuses_a_key_of_a_wrong_type(space: Space, key: str) -> None:
    space.register("w", queues=["a", "b"])
    space.redis.delete(space.key(key))
    space.redis.set(space.key(key), "x")
    before = space.state()
    with pytest.raises(BrokerError, match="GWTYPE"):
        space.broker.listen("w", False, ["a", "b"])
    assert space.state() == before
