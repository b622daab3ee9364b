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
