"""sync: a living worker recovers the claim whose reply was lost, and only that."""

from __future__ import annotations

import pytest

from greenworker.broker import NotRegistered
from greenworker.errors import BrokerError
from tests.support.state import Space


def test_it_adopts_what_was_claimed_after_the_last_known_sequence(space: Space) -> None:
    space.push("known", "lost1", "lost2")
    space.register("w")
    space.claim("w", 1, seq=1)
    lost = space.claim("w", 2, seq=2).deliveries
    adopted = space.broker.sync("w", known=1, used=2)
    assert {(one.id, one.seq, one.envelope) for one in adopted} == {
        (one.id, 2, one.envelope) for one in lost
    }
    assert space.done("w", *adopted) == [True, True]
    space.check()


def test_it_never_returns_what_the_worker_knows(space: Space) -> None:
    space.run("w", "m1", "m2")
    assert space.broker.sync("w", known=1, used=1) == []


def test_a_claim_still_on_its_way_comes_too_late(space: Space) -> None:
    space.push("m")
    space.register("w")
    assert space.broker.sync("w", known=0, used=3) == []
    with pytest.raises(BrokerError, match="too late"):
        space.claim("w", seq=3)
    assert space.waiting() == ["m"]
    assert [one.id for one in space.claim("w", seq=4).deliveries] == ["m"]
    space.check()


def test_it_never_moves_the_sequence_back(space: Space) -> None:
    space.run("w", "m")
    space.claim("w", seq=9)
    space.broker.sync("w", known=1, used=2)
    assert space.state()["seq"] == {"w": "9"}


def test_it_is_refused_to_who_is_not_registered(space: Space) -> None:
    space.run("w", "m")
    space.crash("w")
    space.reap()
    before = space.state()
    with pytest.raises(NotRegistered):
        space.broker.sync("w", known=0, used=5)
    assert space.state() == before


def test_it_drops_an_id_whose_message_is_gone(space: Space) -> None:
    space.run("w", "m")
    space.redis.hset(space.key("processing:w"), "nobody", 2)
    assert space.broker.sync("w", known=1, used=2) == []
    assert space.state()["processing:w"] == {"m": "1"}
    space.check()


def test_a_suspect_whose_message_is_gone_runs_no_longer(space: Space) -> None:
    space.push_suspect("s")
    space.register("w")
    assert space.claim_ids("w") == ["s"]
    space.redis.hdel(space.key("msg"), "s")
    assert space.broker.sync("w", 0, 1) == []
    assert "suspected:w" not in space.state()


def test_a_sequence_that_is_none_counts_as_zero(space: Space) -> None:
    space.register("w")
    space.redis.hset(space.key("seq"), "w", "rubbish")
    assert space.broker.sync("w", 0, 3) == []
    assert space.state()["seq"] == {"w": "3"}


def test_it_goes_on_without_memory(own_space: Space) -> None:
    own_space.push("m")
    own_space.register("w")
    own_space.claim("w", seq=2)
    own_space.redis.config_set("maxmemory", 1)
    assert [one.id for one in own_space.broker.sync("w", known=1, used=5)] == ["m"]
