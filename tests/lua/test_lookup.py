"""lookup: where a message is, whatever the place."""

from __future__ import annotations

import pytest

from greenworker.broker import Sighting
from greenworker.message import Outcome, State, next_attempt
from tests.support.state import Space


def test_an_unknown_id(space: Space) -> None:
    assert space.broker.lookup("m") == Sighting(None)


def test_waiting(space: Space) -> None:
    space.push("m")
    assert space.broker.lookup("m") == Sighting(State.PENDING)


def test_waiting_as_a_suspect(space: Space) -> None:
    space.push_suspect("m")
    assert space.broker.lookup("m") == Sighting(State.PENDING)


def test_delayed(space: Space) -> None:
    space.push("m", due=60.0)
    seen = space.broker.lookup("m")
    assert (seen.state, seen.attempt) == (State.SCHEDULED, 0)
    assert 50 < (seen.due_in or 0) <= 60


def test_running(space: Space) -> None:
    space.run("w", "m")
    assert space.broker.lookup("m") == Sighting(State.STARTED)


def test_held_by_a_corpse(space: Space) -> None:
    space.run("w", "m")
    space.redis.zrem(space.key("workers"), "w")
    space.redis.sadd(space.key("corpses"), "w")
    assert space.broker.lookup("m") == Sighting(State.STARTED)


def test_back_from_a_dead_worker(space: Space) -> None:
    space.run("w", "m")
    space.crash("w")
    space.reap()
    assert space.broker.lookup("m") == Sighting(State.PENDING)


def test_put_off_for_a_retry(space: Space) -> None:
    (one,) = space.run("w", "m")
    space.settle("w", (one, Outcome("retry", delay=60.0, envelope=next_attempt(one.envelope))))
    seen = space.broker.lookup("m")
    assert (seen.state, seen.attempt) == (State.RETRY, 1)
    assert 50 < (seen.due_in or 0) <= 60


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome("done", b'{"state":"SUCCESS","value":7}', 60.0), State.SUCCESS),
        (Outcome("dead", b'{"state":"FAILURE","error":{}}', 60.0, reason="failed"), State.FAILURE),
        # A dead letter outlives its result.
        (Outcome("dead", b'{"state":"FAILURE","error":{}}', 0.0, reason="failed"), State.FAILURE),
    ],
)
def test_ended(space: Space, outcome: Outcome, state: State) -> None:
    (one,) = space.run("w", "m")
    space.settle("w", (one, outcome))
    assert space.broker.lookup("m") == Sighting(state, outcome.result)


def test_expired_where_it_waits(space: Space) -> None:
    """Whether it waits in its queue or for its time: nothing can run it any more."""
    expired = Sighting(State.EXPIRED, b'{"state":"EXPIRED"}')
    space.push("ready", expires=0.0)
    space.push("suspect", expires=0.0)
    space.push("delayed", due=60.0, expires=0.0)
    space.edit("suspect", "1 0 ", "1 2 ")
    space.redis.lrem(space.key("ready:default:5"), 0, "suspect")
    space.redis.lpush(space.key("suspects:default"), "suspect")
    before = space.state()
    for id in ("ready", "suspect", "delayed"):
        assert space.broker.lookup(id) == expired
    # It still lies there, and is counted by the claim that meets it, once.
    assert space.state() == before
    assert "expired" not in space.stats()
    space.make_due()
    space.broker.promote()
    space.register("w")
    assert space.claim_ids("w") == []
    assert space.stats() == {"enqueued": 3, "expired": 3}
    for id in ("ready", "suspect", "delayed"):
        assert space.broker.lookup(id) == expired
    space.check()


def test_expired_while_it_waits_for_a_retry(space: Space) -> None:
    space.push("m", expires=60.0)
    space.register("w")
    (one,) = space.claim("w").deliveries
    space.settle("w", (one, Outcome("retry", delay=60.0, envelope=next_attempt(one.envelope))))
    seen = space.broker.lookup("m")
    assert (seen.state, seen.result) == (State.RETRY, None)
    assert 50 < (seen.expires_in or 0) <= 60
    pass_expiry(space, "m")
    assert space.broker.lookup("m").state is State.EXPIRED


def test_what_began_in_time_does_not_expire_while_it_runs(space: Space) -> None:
    space.push("m", expires=60.0)
    space.register("w")
    assert space.claim_ids("w") == ["m"]
    pass_expiry(space, "m")
    assert space.broker.lookup("m") == Sighting(State.STARTED)
    # … but does when its worker dies, and it would have to begin again.
    space.crash("w")
    space.reap()
    assert space.broker.lookup("m").state is State.EXPIRED


def test_when_it_will_expire(space: Space) -> None:
    space.push("m", expires=60.0)
    space.push("delayed", due=600.0, expires=60.0)
    for id in ("m", "delayed"):
        assert 50 < (space.broker.lookup(id).expires_in or 0) <= 60
    # Somebody's raw envelope may say anything.
    space.redis.hset(space.key("msg"), "m", "no envelope")
    assert space.broker.lookup("m") == Sighting(State.PENDING)


def pass_expiry(space: Space, id: str) -> None:
    """Let the expires of a message have passed."""
    fields = space.redis.hget(space.key("msg"), id).split(" ")
    fields[5] = "2"
    space.redis.hset(space.key("msg"), id, " ".join(fields))


def test_expired(space: Space) -> None:
    space.push("m", expires=0.0)
    space.register("w")
    space.claim("w")
    assert space.broker.lookup("m") == Sighting(State.EXPIRED, b'{"state":"EXPIRED"}')


def test_ended_without_a_result(space: Space) -> None:
    (one,) = space.run("w", "m")
    space.settle("w", (one, Outcome("done")))
    assert space.broker.lookup("m") == Sighting(None)


def test_an_id_that_was_used_again_is_where_it_is_now(space: Space) -> None:
    (one,) = space.run("w", "m")
    space.done("w", one)
    space.push("m")
    assert space.broker.lookup("m") == Sighting(State.PENDING)


def test_forget_drops_the_result(space: Space) -> None:
    (one,) = space.run("w", "m")
    space.done("w", one)
    assert space.broker.forget("m") is True
    assert space.broker.forget("m") is False
    assert space.broker.lookup("m") == Sighting(None)


def test_looking_changes_nothing(space: Space) -> None:
    space.run("w", "held")
    space.push("waiting")
    before = space.state()
    for id in ("held", "waiting", "unknown"):
        space.broker.lookup(id)
    assert space.state() == before
