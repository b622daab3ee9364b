"""push: all or nothing, once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from greenworker.errors import BrokerError
from greenworker.message import Outcome
from tests.support.state import Space, envelope

FAILURE = b'{"state":"FAILURE","error":{"type":"E","message":"","traceback":""}}'


def test_messages_wait_in_line_and_one_token_wakes_a_worker(space: Space) -> None:
    assert space.push("m1", "m2", "m3", push_id="p") == 3
    assert space.state() == {
        "msg": {"m1": envelope(), "m2": envelope(), "m3": envelope()},
        "ready:default:5": ["m1", "m2", "m3"],
        "wake:default": ["1"],
        "queues": {"default"},
        "stats": {"enqueued": "3"},
        "push:p": "1",
    }
    space.check()


def test_the_same_push_again_is_a_no_op_for_five_minutes(space: Space) -> None:
    space.push("m1", push_id="p")
    before = space.state()
    assert space.push("m1", "m2", push_id="p") == -1
    assert space.state() == before
    assert 290_000 < space.redis.pttl(space.key("push:p")) <= 300_000


def test_an_id_that_is_present_is_not_doubled_wherever_it_is(space: Space) -> None:
    space.run("w", "held")
    space.push("waiting")
    space.push("delayed", due=60.0)
    before = space.state("push:")
    assert space.push("held", "waiting", "delayed") == 0
    assert space.state("push:") == before
    space.check()


def test_what_is_new_in_a_push_is_added_beside_what_is_present(space: Space) -> None:
    space.push("m1")
    assert space.push("m1", "m2", "m2") == 1
    assert space.waiting() == ["m1", "m2"]
    space.check()


def test_each_queue_and_priority_has_a_line_and_each_queue_a_token(space: Space) -> None:
    space.push("a", queue="slow", priority=9)
    space.push("b", queue="slow", priority=0)
    space.push("c")
    state = space.state("push:")
    assert (state["ready:slow:9"], state["ready:slow:0"]) == (["a"], ["b"])
    assert state["ready:default:5"] == ["c"]
    assert state["wake:slow"] == state["wake:default"] == ["1"]
    assert state["queues"] == {"slow", "default"}
    assert state["msg"]["a"] == envelope(queue="slow", priority=9)


@pytest.mark.parametrize("due", [60.0, datetime.now(UTC) + timedelta(hours=1)])
def test_what_is_due_later_is_scheduled_and_wakes_nobody(
    space: Space, due: float | datetime
) -> None:
    assert space.push("m", due=due) == 1
    assert space.state("push:") == {
        "msg": {"m": envelope()},
        "scheduled": {"m": "later"},
        "queues": {"default"},
        "stats": {"enqueued": "1"},
    }
    space.check()


@pytest.mark.parametrize("due", [None, 0.0, datetime(2020, 1, 1, tzinfo=UTC)])
def test_what_is_due_is_ready(space: Space, due: float | datetime | None) -> None:
    space.push("m", due=due)
    assert space.waiting() == ["m"]


@pytest.mark.parametrize(
    ("expires", "shown"),
    [
        (None, "0"),
        (0.0, "now"),
        (3600.0, "later"),
        (datetime(2020, 1, 1, tzinfo=UTC), "past"),
        # Neither of these may look like "never", or like no number at all.
        (datetime(1970, 1, 1, tzinfo=UTC), "2"),
        (datetime(1960, 1, 1, tzinfo=UTC), "2"),
        (datetime(9999, 12, 31, tzinfo=UTC), "253402214400000"),
    ],
)
def test_expires_is_a_time_span_or_a_moment(
    space: Space, expires: float | datetime | None, shown: str
) -> None:
    space.push("m", expires=expires)
    assert space.state()["msg"] == {"m": envelope(expires=shown)}


def test_the_server_says_what_time_it_is(space: Space) -> None:
    before = space.redis.time()[0]
    space.push("m", due=60.0)
    after = space.redis.time()[0] + 1
    due = space.redis.zscore(space.key("scheduled"), "m") / 1000
    assert before + 60 <= due <= after + 60


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("msg", ["a list"]),
        ("scheduled", ["a list"]),
        ("queues", ["a list"]),
        ("stats", ["a list"]),
        ("ready:default:5", "a string"),
        ("wake:default", "a string"),
    ],
)
def test_a_key_of_a_wrong_type_is_refused_before_anything_is_written(
    space: Space, key: str, value: str | list[str]
) -> None:
    if isinstance(value, str):
        space.redis.set(space.key(key), value)
    else:
        space.redis.rpush(space.key(key), *value)
    with pytest.raises(BrokerError, match=r"GWTYPE .*" + key) as caught:
        space.push("m1", "m2", due=60.0 if key == "scheduled" else None)
    assert caught.value.code == "GWTYPE"
    assert space.state() == {key: value}


def test_without_memory_a_push_is_refused_whole(own_space: Space) -> None:
    own_space.push("before")
    before = own_space.state()
    own_space.redis.config_set("maxmemory", 1)
    with pytest.raises(BrokerError) as caught:
        own_space.push("m1", "m2")
    assert caught.value.code == "OOM"
    assert own_space.state() == before
    own_space.redis.config_set("maxmemory", 0)
    assert own_space.push("m1", "m2") == 2
    own_space.check()


def test_an_id_that_is_sent_again_begins_anew(space: Space) -> None:
    """Neither its old result nor its dead letter may answer for the new run."""
    (one,) = space.run("w", "m")
    space.settle("w", (one, Outcome("dead", FAILURE, 60.0, reason="failed")))
    assert space.push("m") == 1
    assert (
        space.redis.exists(space.key("result:m"), space.key("dead"), space.key("dead:record")) == 0
    )
    assert space.broker.lookup("m").state == "PENDING"
    space.check()


def test_what_comes_together_is_sent_in_its_order_whatever_each_is(space: Space) -> None:
    """Those that are as nearly all are, are written together; one that is not must not change it."""
    space.push("later", due=60.0)
    assert space.push("a", "b", "a", "later", "c") == 3
    assert space.redis.lrange(space.key("ready:default:5"), 0, -1) == ["c", "b", "a"]
    assert space.push("d", "e", "f", key="k") == 3
    assert space.redis.lrange(space.key("line:5:default k"), 0, -1) == ["f", "e", "d"]
    assert space.stats()["enqueued"] == 7
    space.check()


def test_a_thousand_at_once(space: Space) -> None:
    ids = [f"m{n}" for n in range(1000)]
    assert space.push(*ids) == 1000
    assert space.redis.lrange(space.key("ready:default:5"), 0, -1) == ids[::-1]
    space.check()


def test_of_many_that_are_sent_again_each_begins_anew(space: Space) -> None:
    first, second = space.run("w", "m1", "m2")
    space.done("w", first)
    space.settle("w", (second, Outcome("dead", FAILURE, 60.0, reason="failed")))
    assert space.push("m1", "m2", "m3") == 3
    gone = ("result:m1", "result:m2", "dead", "dead:record")
    assert space.redis.exists(*map(space.key, gone)) == 0
    space.check()


def test_what_is_sent_again_and_was_large_is_not_read_all_at_once(own_space: Space) -> None:
    ids = [f"m{n}" for n in range(1000)]
    for start in range(0, 1000, 50):
        own_space.push(*ids[start : start + 50], args=["x" * 50_000])
    peak = own_space.redis.info("memory")["used_memory_peak"]
    assert own_space.push(*ids) == 0
    assert own_space.redis.info("memory")["used_memory_peak"] - peak < 25_000_000
    own_space.check()
