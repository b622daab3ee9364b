"""Locks: one of its kind at a time, given back by every end of their holders, and by nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from greenworker.broker import NotRegistered
from greenworker.connection import Connection
from greenworker.control import Control
from greenworker.errors import BrokerError
from greenworker.message import Delivery, Message, Outcome, State, next_attempt
from tests.support.auditing import audit
from tests.support.sending import KEEP, REPLACE, STARTED, Sender, sending, window
from tests.support.state import Space, envelope

FAILURE = b'{"state":"FAILURE","error":{"type":"E","message":"","traceback":""}}'
SUCCESS = b'{"state":"SUCCESS","value":1}'


@pytest.fixture
def sender(space: Space) -> Iterator[Sender]:
    with sending(space) as sender:
        yield sender


@pytest.fixture
def control(space: Space) -> Iterator[Control]:
    connection = Connection(space.endpoint)
    yield Control(connection, space.broker.namespace)
    connection.close()


def claim_one(space: Space, id: str, worker: str = "w") -> Delivery:
    space.register(worker)
    (delivery,) = space.claim(worker).deliveries
    assert delivery.id == id
    return delivery


def test_the_first_is_sent_as_any_other_and_noted(space: Space, sender: Sender) -> None:
    assert sender.send("m1", "url", push_id="p") == ("n", "m1")
    assert space.state() == {
        "msg": {"m1": envelope(rest="t unique=durl\n[[],{}]")},
        "ready:default:5": ["m1"],
        "wake:default": ["1"],
        "queues": {"default"},
        "stats": {"enqueued": "1"},
        "unique": {"url": "m1"},
        "push:p": "n ",
    }


@pytest.mark.parametrize("due", [None, 60.0])
def test_a_second_one_is_told_the_first(space: Space, sender: Sender, due: float | None) -> None:
    sender.send("m1", "url", due=due)
    before = space.state("push:")
    assert sender.send("m2", "url") == ("d", "m1")
    assert space.state("push:") == before
    assert sender.send("m3", "another") == ("n", "m3")
    space.check()


def test_a_push_that_is_repeated_is_answered_as_before(space: Space, sender: Sender) -> None:
    """Its reply was lost: meanwhile the first one may have ended, and the second be gone."""
    assert sender.send("m1", "url", push_id="p1") == ("n", "m1")
    assert sender.send("m2", "url", push_id="p2") == ("d", "m1")
    space.done("w", claim_one(space, "m1"))
    before = space.state()
    assert sender.send("m1", "url", push_id="p1") == ("n", "m1")
    assert sender.send("m2", "url", push_id="p2") == ("d", "m1")
    assert space.state() == before


def test_many_at_once_and_like_ones_among_them(space: Space, sender: Sender) -> None:
    batch = [
        Message(f"m{n}", "t", options={"unique": f"d{n % 3}"} if n != 4 else {}) for n in range(7)
    ]
    space.push("m6")
    assert sender.many(batch) == ("nnndndp", ["m0", "m2"])
    assert sender.locks == {"0": "m0", "1": "m1", "2": "m2"}
    space.check()


# Every way to end


def done(space: Space, _: Control) -> None:
    space.done("w", claim_one(space, "m1"))


def dead(space: Space, _: Control) -> None:
    space.settle("w", (claim_one(space, "m1"), Outcome("dead", FAILURE, 60.0, reason="failed")))


def expired(space: Space, _: Control) -> None:
    space.edit("m1", " 0 3600000 ", " 2 3600000 ")
    space.register("w")
    assert space.claim_ids("w") == []


def purged(_: Space, control: Control) -> None:
    assert sum(step.purged for step in control.purge("default")) == 1


def buried(space: Space, _: Control) -> None:
    """A poison that ends its worker each time."""
    for n in range(5):
        claim_one(space, "m1", f"w{n}")
        space.crash(f"w{n}")
        space.reap()
        space.make_due()
        space.broker.promote()
    assert space.stats()["dead"] == 1


def malformed(space: Space, _: Control) -> None:
    """Made too large by hand."""
    space.redis.hset(
        space.key("msg"), "m1", space.redis.hget(space.key("msg"), "m1") + "x" * 1200000
    )
    space.redis.hincrby(space.key("stats"), "enqueued", -1)  # it counts as one that no send made
    space.register("w")
    assert space.claim_ids("w") == []


def cancelled(space: Space, _: Control) -> None:
    """Where it waits; it lies there until a claim meets it."""
    assert space.broker.cancel(["m1"]) == "c"
    space.register("w")
    assert space.claim_ids("w") == []


def cancelled_by_a_mark(space: Space, control: Control) -> None:
    control.mark("task:t")
    space.register("w")
    assert space.claim_ids("w") == []
    space.redis.delete(space.key("marks"))
    space.redis.srem(space.key("paused"), "*")


def cancelled_while_it_runs(space: Space, _: Control) -> None:
    delivery = claim_one(space, "m1")
    assert space.broker.cancel(["m1"]) == "r"
    space.settle("w", (delivery, Outcome("cancelled", b'{"state":"CANCELLED"}', 60.0)))


def cancelled_and_released(space: Space, _: Control) -> None:
    delivery = claim_one(space, "m1")
    assert space.broker.cancel(["m1"]) == "r"
    space.settle("w", (delivery, Outcome("release")))


def cancelled_and_its_worker_dead(space: Space, _: Control) -> None:
    claim_one(space, "m1")
    assert space.broker.cancel(["m1"]) == "r"
    space.crash("w")
    space.reap()


CANCELS: list[Callable[[Space, Control], None]] = [
    cancelled,
    cancelled_by_a_mark,
    cancelled_while_it_runs,
    cancelled_and_released,
    cancelled_and_its_worker_dead,
]
ENDS: list[Callable[[Space, Control], None]] = [
    done,
    dead,
    expired,
    purged,
    buried,
    malformed,
    *CANCELS,
]


@pytest.mark.parametrize("mode", [KEEP, STARTED, REPLACE])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_each_end_gives_it_back(
    space: Space, sender: Sender, control: Control, mode: str, end: Callable[[Space, Control], None]
) -> None:
    sender.send("m1", "url", mode)
    assert sender.locks == {"url": "m1"}
    end(space, control)
    assert sender.locks == {}
    assert sender.send("m2", "url", mode) == ("n", "m2")
    space.check()
    assert audit(space).findings == []


@pytest.mark.parametrize("end", [done, dead, expired, purged, malformed, *CANCELS])
def test_nobody_else_gives_it_back(
    space: Space, sender: Sender, control: Control, end: Callable[[Space, Control], None]
) -> None:
    """Whatever a message notes: the lock is another one's by now."""
    sender.send("m1", "url")
    space.redis.hset(space.key("unique"), "url", "other")
    end(space, control)
    assert sender.locks == {"url": "other"}


def test_until_done_it_is_held_through_retries_releases_and_crashes(
    space: Space, sender: Sender
) -> None:
    sender.send("m1", "url")
    delivery = claim_one(space, "m1")
    space.settle("w", (delivery, Outcome("retry", envelope=next_attempt(delivery.envelope))))
    assert sender.send("x1", "url") == ("d", "m1")
    space.make_due()
    space.broker.promote()
    space.settle("w", (claim_one(space, "m1"), Outcome("release")))
    claim_one(space, "m1")
    space.broker.release("w")
    claim_one(space, "m1", "w2")
    space.crash("w2")
    space.reap()
    assert sender.send("x2", "url") == ("d", "m1")
    space.make_due()
    space.broker.promote()
    space.done("w3", claim_one(space, "m1", "w3"))
    assert sender.send("x3", "url") == ("n", "x3")


@pytest.mark.parametrize("mode", [STARTED, REPLACE])
def test_until_started_its_first_claim_gives_it_back_for_good(
    space: Space, sender: Sender, mode: str
) -> None:
    sender.send("m1", "url", mode)
    delivery = claim_one(space, "m1")
    assert sender.locks == {}
    assert sender.send("m2", "url", mode) == ("n", "m2")
    # Neither a retry nor what comes back from a dead worker takes it again, or gives it back
    space.settle("w", (delivery, Outcome("retry", envelope=next_attempt(delivery.envelope))))
    space.redis.lrem(space.key("ready:default:5"), 0, "m2")
    space.make_due()
    space.broker.promote()
    claim_one(space, "m1")
    space.crash("w")
    space.reap()
    space.make_due()
    space.broker.promote()
    space.done("w2", claim_one(space, "m1", "w2"))
    assert sender.locks == {"url": "m2"}


def test_what_settles_for_another_claim_gives_nothing_back(space: Space, sender: Sender) -> None:
    """I5: a zombie, while the message runs elsewhere."""
    sender.send("m1", "url")
    zombie = claim_one(space, "m1")
    space.crash("w")
    space.reap()
    space.make_due()
    space.broker.promote()
    claim_one(space, "m1", "w2")
    assert space.done("w", zombie) == [False]
    assert sender.locks == {"url": "m1"}
    with pytest.raises(NotRegistered):
        space.claim("w")


def test_who_has_expired_holds_nothing_though_nobody_has_met_it(
    space: Space, sender: Sender
) -> None:
    sender.send("m1", "url", expires=0.0)
    assert space.broker.lookup("m1").state is State.EXPIRED
    assert sender.send("m2", "url") == ("n", "m2")
    # And what is met later gives nothing back
    claim_one(space, "m2")
    assert sender.locks == {"url": "m2"}
    assert space.stats()["expired"] == 1
    space.check()


def test_a_cancelled_one_that_was_scheduled_gives_it_back(space: Space, sender: Sender) -> None:
    sender.send("m1", "url", due=60.0)
    assert space.broker.cancel(["m1"]) == "c"
    assert sender.locks == {}


@pytest.mark.parametrize("by", ["id", "mark"])
@pytest.mark.parametrize("mode", [KEEP, REPLACE])
def test_who_is_cancelled_holds_nothing_though_nobody_has_met_it(
    space: Space, sender: Sender, control: Control, by: str, mode: str
) -> None:
    """I1: a send behind the cancellation is sent."""
    sender.send("m1", "url", mode)
    if by == "id":
        space.broker.cancel(["m1"])
    else:
        control.mark("task:t")
    assert sender.send("m2", "url", mode) == ("n", "m2")
    claim_one(space, "m2")
    assert sender.locks == ({"url": "m2"} if mode == KEEP else {})
    assert space.stats()["cancelled"] == 1
    space.check()


def test_what_is_cancelled_holds_it_while_it_runs(space: Space, sender: Sender) -> None:
    sender.send("m1", "url")
    claim_one(space, "m1")
    space.broker.cancel(["m1"])
    assert sender.send("m2", "url") == ("d", "m1")


def test_a_cancelled_id_that_is_sent_again_holds_what_it_says_now(
    space: Space, sender: Sender
) -> None:
    sender.send("m1", "url")
    space.broker.cancel(["m1"])
    assert sender.send("m1", "another") == ("n", "m1")
    assert sender.locks == {"another": "m1"}
    space.broker.cancel(["m1"])
    assert sender.send("m1", "another") == ("n", "m1")
    assert sender.locks == {"another": "m1"}
    space.broker.cancel(["m1"])
    assert space.push("m1") == 1
    assert sender.locks == {}
    space.check()
    assert audit(space).findings == []


def test_what_was_claimed_in_time_holds_it_however_long_it_runs(
    space: Space, sender: Sender
) -> None:
    sender.send("m1", "url", expires=60.0)
    claim_one(space, "m1")
    _, _, _, _, _, expires, *_ = space.redis.hget(space.key("msg"), "m1").split(" ")
    space.edit("m1", expires, "2")
    assert sender.send("m2", "url") == ("d", "m1")
    space.crash("w")
    assert sender.send("m3", "url") == ("d", "m1")


@pytest.mark.parametrize("left", ["", "t\n[[],{}]", "t unique=dother\n[[],{}]"])
def test_a_holder_that_is_none_is_in_nobodys_way(space: Space, sender: Sender, left: str) -> None:
    """Of an older worker, say, that gave nothing back; `check` finds it."""
    space.redis.hset(space.key("unique"), "url", "gone")
    if left:
        space.push("gone")
        space.edit("gone", "t\n[[],{}]", left)
    (found,) = [one for one in audit(space).findings if one.kind == "abandoned"]
    assert found.name == "url"
    assert f"HDEL {space.key('unique')} url" in found.text
    assert sender.send("m1", "url") == ("n", "m1")
    assert [one for one in audit(space).findings if one.name == "url"] == []


# For some seconds


def test_for_a_time_one_is_sent_whatever_becomes_of_it(space: Space, sender: Sender) -> None:
    assert sender.send("m1", "url", window(60_000)) == ("n", "m1")
    assert 59_000 < space.redis.pttl(space.key("unique:url")) <= 60_000
    space.done("w", claim_one(space, "m1"))
    assert sender.send("m2", "url", window(60_000)) == ("d", "m1")
    assert sender.send("m1", "url", window(60_000)) == ("d", "m1")
    space.redis.delete(space.key("unique:url"))  # the time is over
    assert sender.send("m2", "url", window(60_000)) == ("n", "m2")
    space.check()
    assert audit(space).findings == []


# Replacing


def told(space: Space, id: str) -> bytes | None:
    return space.broker.lookup(id).result


def test_what_is_scheduled_is_replaced(space: Space, sender: Sender) -> None:
    sender.send("m1", "doc", REPLACE, due=60.0)
    assert sender.send("m2", "doc", REPLACE, due=90.0) == ("n", "m2")
    assert told(space, "m1") == b'{"state":"CANCELLED","replaced_by":"m2"}'
    state = space.state("push:")
    assert (set(state["msg"]), set(state["scheduled"])) == ({"m2"}, {"m2"})
    assert sender.send("m3", "doc", REPLACE) == ("n", "m3")
    assert space.waiting() == ["m3"]
    assert space.state()["stats"] == {"enqueued": "3", "replaced": "2"}
    assert sender.locks == {"doc": "m3"}
    space.check()


def test_what_waits_is_replaced_in_its_place(space: Space, sender: Sender) -> None:
    space.push("a")
    sender.send("m1", "doc", REPLACE)
    space.push("b")
    sender.send("m2", "doc", REPLACE)
    assert space.waiting() == ["a", "m2", "b"]
    assert told(space, "m1") == b'{"state":"CANCELLED","replaced_by":"m2"}'
    space.check()
    assert audit(space).findings == []


def later(sender: Sender) -> None:
    sender.send("m2", "doc", REPLACE, due=60.0)


def elsewhere(sender: Sender) -> None:
    sender.send("m2", "doc", REPLACE, queue="slow")


@pytest.mark.parametrize("again", [later, elsewhere], ids=lambda one: one.__name__)
def test_what_cannot_be_taken_from_its_line_ends_all_the_same(
    space: Space, sender: Sender, again: Callable[[Sender], Any]
) -> None:
    """It stays in line, small, until somebody meets it."""
    sender.send("m1", "doc", REPLACE)
    again(sender)
    assert told(space, "m1") == b'{"state":"CANCELLED","replaced_by":"m2"}'
    assert space.state()["msg"]["m1"] == envelope(expires="1", rest="t replaced=m2\n")
    assert sender.locks == {"doc": "m2"}
    space.check()
    assert audit(space).findings == []
    space.register("w")
    assert space.claim_ids("w") == []
    assert told(space, "m1") == b'{"state":"CANCELLED","replaced_by":"m2"}'
    assert space.stats() == {"enqueued": 2, "replaced": 1}
    space.check()


def test_its_result_may_be_gone_before_anybody_meets_it(
    space: Space, sender: Sender, control: Control
) -> None:
    sender.send("m1", "doc", REPLACE, result_ttl=0.0)
    sender.send("m2", "doc", REPLACE, due=60.0)
    assert space.broker.lookup("m1").state is None
    assert [step.total for step in control.purge("default")] == [0]
    assert space.stats() == {"enqueued": 2, "replaced": 1}
    space.check()


def test_a_long_line_is_not_walked_through(space: Space, sender: Sender) -> None:
    """100,000 entries a call at most: 1.6 ms."""
    sender.send("m1", "doc", REPLACE)
    fill = "for n = 1, ARGV[1] do redis.call('LPUSH', KEYS[1], 'x' .. n) end"
    space.redis.eval(fill, 1, space.key("ready:default:5"), 100_000)
    sender.send("m2", "doc", REPLACE)
    assert space.redis.lrange(space.key("ready:default:5"), 0, 0) == ["m2"]
    assert told(space, "m1") == b'{"state":"CANCELLED","replaced_by":"m2"}'


def test_what_runs_is_not_replaced(space: Space, sender: Sender) -> None:
    """It was sent when the task was declared to be unique until done."""
    sender.send("m1", "doc", KEEP)
    delivery = claim_one(space, "m1")
    assert sender.send("m2", "doc", REPLACE) == ("n", "m2")
    assert space.broker.lookup("m1").state is State.STARTED
    assert space.state()["msg"]["m1"] == envelope(rest="t unique=ddoc\n[[],{}]")
    assert "result:m1" not in space.state()
    space.done("w", delivery)
    assert sender.locks == {"doc": "m2"}
    space.check()


# Dead letters


def test_a_dead_letter_that_is_sent_again_takes_its_lock_once(space: Space, sender: Sender) -> None:
    sender.send("m1", "url")
    dead(space, None)  # type: ignore[arg-type]
    assert space.broker.revive([b"m1"]) == "r"
    assert sender.locks == {"url": "m1"}
    assert space.broker.revive([b"m1"]) == "g"
    assert sender.send("m2", "url") == ("d", "m1")
    done(space, None)  # type: ignore[arg-type]
    assert sender.locks == {}


def test_a_dead_letter_stays_while_one_like_it_is_there(space: Space, sender: Sender) -> None:
    for id in ("m1", "m2"):
        sender.send(id, "url")
        delivery = claim_one(space, id)
        space.settle("w", (delivery, Outcome("dead", FAILURE, 60.0, reason="failed")))
    # Two alike in one call: the first of them
    assert space.broker.revive([b"m1", b"m2"], dry_run=True) == "rl"
    assert sender.locks == {}
    assert space.broker.revive([b"m1", b"m2"]) == "rl"
    assert sender.locks == {"url": "m1"}
    # Forgetting it gives nothing back
    assert space.broker.dead_delete([b"m2"]) == 1
    assert sender.locks == {"url": "m1"}
    space.check()


# What is refused


@pytest.mark.parametrize(
    ("key", "mode"), [("unique", KEEP), ("workers", KEEP), ("unique:url", window(1000))]
)
def test_a_key_of_a_wrong_type_is_refused_before_the_first_write(
    space: Space, sender: Sender, key: str, mode: str
) -> None:
    space.redis.lpush(space.key(key), "rubbish")
    before = space.state()
    with pytest.raises(BrokerError, match=f"{key} is a list"):
        sender.send("m1", "url", mode)
    assert space.state() == before


def test_an_end_passes_over_locks_of_a_wrong_type(space: Space, sender: Sender) -> None:
    sender.send("m1", "url", STARTED)
    space.redis.delete(space.key("unique"))
    space.redis.lpush(space.key("unique"), "rubbish")
    space.done("w", claim_one(space, "m1"))
    assert space.stats()["done"] == 1


def test_at_maxmemory_nothing_is_sent_and_ends_give_back(own_space: Space) -> None:
    with sending(own_space) as sender:
        sender.send("m1", "url")
        delivery = claim_one(own_space, "m1")
        own_space.redis.config_set("maxmemory", 1)
        before = own_space.state()
        with pytest.raises(BrokerError, match="maxmemory"):
            sender.send("m2", "other", mark=7, seen="crawl")
        assert own_space.state() == before
        own_space.done("w", delivery)
        own_space.redis.config_set("maxmemory", 0)
        assert sender.locks == {}
