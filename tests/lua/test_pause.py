"""pause: nothing is claimed from a paused queue, and all that is left as it was."""

from __future__ import annotations

import pytest

from greenworker.control import Control, Switched
from greenworker.errors import BrokerError, ConfigError
from greenworker.message import Outcome, State
from tests.support.auditing import audit
from tests.support.state import Space


@pytest.fixture
def control(space: Space) -> Control:
    return Control(space.broker._link, space.broker.namespace)


def test_the_next_claim_takes_nothing_there(space: Space, control: Control) -> None:
    space.register("w", queues=["mail", "default"])
    space.push("m1", queue="mail", priority=9)
    space.push("m2")
    assert control.pause("mail") == [Switched("mail", changed=True, known=True)]
    claim = space.claim("w", queues=["mail", "default"])
    assert [one.id for one in claim.deliveries] == ["m2"]
    assert not claim.more
    assert space.broker.lookup("m1").state is State.PENDING
    assert control.resume("mail") == [Switched("mail", changed=True, known=True)]
    assert space.claim_ids("w", queues=["mail", "default"]) == ["m1"]
    space.check()


def test_its_suspects_wait_as_well(space: Space, control: Control) -> None:
    space.push_suspect("few", deliveries=2)
    space.push_suspect("solitary", deliveries=4)
    space.register("w")
    control.pause("default")
    assert space.claim_ids("w") == []
    # Nor does anybody make room for the one that runs without anything else
    space.push("other", queue="other")
    claim = space.claim("w", queues=["default", "other"])
    assert ([one.id for one in claim.deliveries], claim.alone) == (["other"], False)
    assert not space.redis.exists(space.key("solitary:w"), space.key("room:default"))
    control.resume("default")
    assert space.take_token(), "suspects, too, are told of"


def test_what_is_held_runs_on_and_what_comes_back_waits(space: Space, control: Control) -> None:
    done, back, again = space.run("w", "done", "back", "again")
    control.pause("default")
    assert space.done("w", done) == [True]
    later = Outcome("later", delay=0.0, envelope=again.envelope)
    assert space.settle("w", (back, Outcome("release")), (again, later)) == [True, True]
    space.broker.promote()
    assert space.claim_ids("w") == []
    assert sorted(space.waiting()) == ["again", "back"]
    space.check()


def test_nobody_is_woken_for_it(space: Space, control: Control) -> None:
    space.register("w")
    space.push("before")
    control.pause("default")
    assert not space.take_token()
    space.push("m1")
    space.push("due", due=0.0)
    space.broker.promote()
    space.push("other", queue="other")
    assert not space.take_token()
    assert space.take_token("other")
    control.resume("default")
    assert space.take_token()


def test_resuming_a_queue_where_nothing_waits_wakes_nobody(space: Space, control: Control) -> None:
    control.pause("default")
    control.resume("default")
    assert not space.take_token()
    assert space.state() == {}


def test_it_says_what_was_so_before_and_what_nobody_uses(space: Space, control: Control) -> None:
    space.register("w", queues=["mail"])
    assert control.pause("mail", "emial", "mail") == [
        Switched("mail", changed=True, known=True),
        Switched("emial", changed=True, known=False),
    ]
    assert control.pause("mail") == [Switched("mail", changed=False, known=True)]
    assert control.resume("never") == [Switched("never", changed=False, known=False)]


def test_status_shows_it_though_nobody_uses_it(space: Space, control: Control) -> None:
    space.push("m")
    control.pause("default", "rare")
    shown = {one.name: (one.waiting, one.paused) for one in space.broker.status().queues}
    assert shown == {"default": (1, True), "rare": (0, True)}
    control.resume("default", "rare")
    shown = {one.name: (one.waiting, one.paused) for one in space.broker.status().queues}
    assert shown == {"default": (1, False)}


def test_a_sweep_does_not_forget_it(space: Space, control: Control) -> None:
    control.pause("rare")
    space.pulse_was(0.0)
    space.reap()
    assert space.state()["paused"] == {"rare"}


def test_it_works_where_memory_is_full(own_space: Space) -> None:
    space = own_space
    control = Control(space.broker._link, space.broker.namespace)
    space.push("m")
    space.redis.config_set("maxmemory", 1)
    assert control.pause("default")[0].changed
    assert control.resume("default")[0].changed
    space.redis.config_set("maxmemory", 0)


def test_what_is_no_name_is_refused(control: Control) -> None:
    with pytest.raises(ConfigError, match="queue 'a b': use 1 to 64 letters"):
        control.pause("fine", "a b")
    with pytest.raises(ConfigError, match="which queues"):
        control.resume()


def test_a_key_of_a_wrong_type_is_refused_and_named(space: Space, control: Control) -> None:
    space.redis.set(space.key("paused"), "x")
    with pytest.raises(BrokerError, match="paused is a string, not a set"):
        control.pause("default")
    space.register("w")
    # Senders do not depend on it; claims would have to guess.
    space.push("m")
    assert space.take_token()
    with pytest.raises(BrokerError, match="paused is a string, not a set"):
        space.claim("w")
    assert "paused is a string, not a set" in str(audit(space).findings[0])
