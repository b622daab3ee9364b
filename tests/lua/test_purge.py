"""purge: what waits in a queue is dropped, and nobody waits for it any more."""

from __future__ import annotations

import pytest

from greenworker.broker import Sighting
from greenworker.control import Control, Purged
from greenworker.errors import BrokerError, ConfigError
from greenworker.message import State
from tests.support.auditing import audit
from tests.support.state import Space

CANCELLED = Sighting(State.CANCELLED, b'{"state":"CANCELLED"}')


@pytest.fixture
def control(space: Space) -> Control:
    return Control(space.broker._link, space.broker.namespace)


def purge(control: Control, queue: str = "default") -> Purged:
    done = Purged()
    for step in control.purge(queue):
        done = done.plus(step)
    return done


def test_what_waits_is_dropped_and_all_else_stays(space: Space, control: Control) -> None:
    space.run("w", "held")
    space.push("m1", "m2")
    space.push("first", priority=9)
    space.push_suspect("suspect")
    space.push("other", queue="other")
    space.push("delayed", due=60.0)
    assert control.count("default") == 4
    done = purge(control)
    assert (done.purged, done.expired, done.foreign, done.total) == (4, 0, 0, 4)
    for id in ("m1", "m2", "first", "suspect"):
        assert space.broker.lookup(id) == CANCELLED
    states = {id: space.broker.lookup(id).state for id in ("held", "other", "delayed")}
    assert states == {"held": "STARTED", "other": "PENDING", "delayed": "SCHEDULED"}
    assert space.stats() == {"enqueued": 7, "purged": 4}
    assert audit(space).well
    space.check()


def test_who_waits_is_told(space: Space, control: Control) -> None:
    space.push("m")
    heard = space.redis.pubsub(ignore_subscribe_messages=True)
    heard.subscribe(space.key("done:m"))
    heard.get_message(timeout=10)
    purge(control)
    message = heard.get_message(timeout=10)
    assert message["data"] == '{"state":"CANCELLED"}'
    heard.close()
    assert 0 < space.redis.pttl(space.key("result:m")) <= 3_600_000


def test_what_nobody_asked_a_result_of_leaves_none(space: Space, control: Control) -> None:
    space.push("m", result_ttl=0.0)
    assert purge(control).purged == 1
    assert space.broker.lookup("m") == Sighting(None)
    assert space.state("push:") == {
        "queues": {"default"}, "stats": {"enqueued": "1", "purged": "1"}, "wake:default": ["1"],
    }  # fmt: skip


def test_what_had_expired_is_counted_as_that(space: Space, control: Control) -> None:
    space.push("late", expires=0.0)
    space.push("m")
    assert space.broker.lookup("late").state is State.EXPIRED
    done = purge(control)
    assert (done.purged, done.expired) == (1, 1)
    assert space.broker.lookup("late").state is State.EXPIRED
    assert space.stats() == {"enqueued": 2, "purged": 1, "expired": 1}
    space.check()


def test_what_is_no_message_is_a_dead_letter(space: Space, control: Control) -> None:
    space.push("m")
    space.redis.lpush(space.key("ready:default:5"), "stray", "broken")
    space.redis.hset(space.key("msg"), "broken", "no envelope")
    done = purge(control)
    assert (done.purged, done.foreign) == (1, 2)
    assert set(space.state()["dead"]) == {"stray", "broken"}
    space.check()


def test_calls_are_bounded_by_count(space: Space, control: Control) -> None:
    for start in range(0, 2500, 500):
        space.push(*(f"m{n}" for n in range(start, start + 500)))
    assert [step.total for step in control.purge("default")] == [1000, 1000, 500]
    space.check()


def test_calls_are_bounded_by_bytes(space: Space, control: Control) -> None:
    for n in range(10):
        space.push(f"m{n}", args=["x" * 900_000])
    steps = [step.total for step in control.purge("default")]
    assert sum(steps) == 10
    assert max(steps) <= 5
    space.check()


def test_what_is_sent_meanwhile_stays(space: Space, control: Control) -> None:
    """Else a purge might never end, and drop what nobody had seen when they said yes."""
    for start in range(0, 1500, 500):
        space.push(*(f"m{n}" for n in range(start, start + 500)))
    steps = control.purge("default")
    assert next(steps).more
    space.push("later", "later still")
    # By the clock of the server: not within the millisecond in which it began
    for id in ("later", "later still"):
        seconds, micros = space.redis.time()
        fields = space.redis.hget(space.key("msg"), id).split(" ")
        fields[4] = str(seconds * 1000 + micros // 1000 + 1)
        space.redis.hset(space.key("msg"), id, " ".join(fields))
    assert [step.total for step in steps] == [500]
    assert space.waiting() == ["later", "later still"]


def test_the_first_in_line_go_first(space: Space, control: Control) -> None:
    space.push(*(f"m{n}" for n in range(1000)))
    space.push("last")
    assert control.purge_some("default", None).more
    assert space.waiting() == ["last"]


def test_counting_changes_nothing(space: Space, control: Control) -> None:
    space.push("m", expires=0.0)
    before = space.state()
    assert control.count("default") == 1
    assert control.count("nobody") == 0
    assert space.state() == before


def test_a_paused_queue_can_be_purged(space: Space, control: Control) -> None:
    control.pause("default")
    space.push("m")
    assert purge(control).purged == 1
    control.resume("default")
    assert not space.take_token()


def test_it_works_where_memory_is_full(own_space: Space) -> None:
    """That is when it is needed."""
    space = own_space
    space.push(*(f"m{n}" for n in range(10)))
    space.redis.config_set("maxmemory", 1)
    assert purge(Control(space.broker._link, space.broker.namespace)).purged == 10
    space.redis.config_set("maxmemory", 0)


def test_a_key_of_a_wrong_type_is_refused_and_nothing_dropped(
    space: Space, control: Control
) -> None:
    space.push("m", priority=9)
    space.redis.set(space.key("ready:default:0"), "x")
    before = space.state()
    with pytest.raises(BrokerError, match="ready:default:0 is a string, not a list"):
        purge(control)
    assert space.state() == before
    with pytest.raises(ConfigError, match="queue 'a b'"):
        purge(control, "a b")
