"""claim: what is taken, in which order, how much, and what ends here."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from greenworker.broker import NotRegistered
from greenworker.errors import BrokerError
from greenworker.message import Outcome
from tests.support.state import Space, envelope

MALFORMED = '{"state":"FAILURE","error":{"type":"MalformedMessage","message":"%s","traceback":""}}'
ENVELOPE = "1 0 0 5 0 0 3600000 default t\n[[],{}]"


def test_a_claim_moves_messages_into_the_processing_list(space: Space) -> None:
    space.push("m1", "m2", "m3")
    space.register("w")
    claim = space.claim("w", 2)
    assert space.state("push:", "about", "leases", "consumers", "queues") == {
        "msg": {"m1": envelope(), "m2": envelope(), "m3": envelope()},
        "ready:default:5": ["m3"],
        "wake:default": ["1"],
        "workers": {"w": "later"},
        "seq": {"w": "1"},
        "processing:w": {"m1": "1", "m2": "1"},
        "stats": {"enqueued": "3"},
    }
    assert [(one.id, one.seq, one.worker) for one in claim.deliveries] == [
        ("m1", 1, "w"),
        ("m2", 1, "w"),
    ]
    assert claim.more
    space.check()


def test_a_delivery_carries_the_envelope_and_the_servers_time(space: Space) -> None:
    space.push("m", args=("http://a/",))
    space.register("w")
    before = space.redis.time()[0]
    (delivery,) = space.claim("w").deliveries
    assert delivery.envelope.decode() == space.redis.hget(space.key("msg"), "m")
    assert delivery.envelope.endswith(b'\n[["http://a/"],{}]')
    assert before <= delivery.claimed_at <= space.redis.time()[0] + 1


def test_priority_goes_before_age(space: Space) -> None:
    space.push("old")
    space.push("low", priority=0)
    space.push("high", priority=9)
    space.push("new")
    space.register("w")
    assert space.claim_ids("w") == ["high", "old", "new", "low"]


def test_the_order_of_queues_goes_before_priority(space: Space) -> None:
    space.push("a", queue="first", priority=0)
    space.push("b", queue="second", priority=9)
    space.register("w", queues=["first", "second"])
    assert space.claim_ids("w", queues=["first", "second"]) == ["a", "b"]


def test_a_claim_takes_from_its_own_queues_only(space: Space) -> None:
    space.push("a", queue="mine")
    space.push("b", queue="other")
    space.register("w", queues=["mine"])
    assert space.claim_ids("w", queues=["mine"]) == ["a"]
    assert space.waiting("other") == ["b"]


def test_an_empty_claim_says_when_something_becomes_due(space: Space) -> None:
    space.register("w")
    assert space.claim("w").next_due is None
    space.push("m", due=60.0)
    claim = space.claim("w")
    assert claim.deliveries == []
    assert not claim.more
    assert 30 < (claim.next_due or 0) <= 60


# Who may claim


def test_who_is_not_registered_claims_nothing(space: Space) -> None:
    space.push("m")
    before = space.state()
    with pytest.raises(NotRegistered):
        space.claim("stranger")
    assert space.state() == before


def test_a_corpse_claims_nothing(space: Space) -> None:
    space.push("m")
    space.register("w")
    space.redis.zrem(space.key("workers"), "w")
    space.redis.sadd(space.key("corpses"), "w")
    with pytest.raises(NotRegistered):
        space.claim("w")
    assert space.waiting() == ["m"]


def test_a_claim_that_arrives_late_takes_nothing(space: Space) -> None:
    space.push("m1", "m2")
    space.register("w")
    space.claim("w", 1, seq=7)
    for late in (7, 6):
        with pytest.raises(BrokerError, match="too late"):
            space.claim("w", 1, seq=late)
    assert space.waiting() == ["m2"]
    space.check()


# How much


def test_a_burst_is_spread_over_the_workers_that_listen(space: Space) -> None:
    space.register("w1", "w2", "w3")
    space.push(*(f"m{n}" for n in range(9)))
    assert [len(space.claim_ids(worker)) for worker in ("w1", "w2", "w3")] == [3, 3, 3]
    space.check()


def test_a_share_is_at_least_one(space: Space) -> None:
    space.register("w1", "w2", "w3")
    space.push("m1")
    assert space.claim_ids("w2") == ["m1"]


def test_a_share_counts_the_workers_of_that_queue_only(space: Space) -> None:
    space.register("w1")
    space.register("w2", "w3", queues=["other"])
    space.push("m1", "m2", "m3", "m4")
    assert len(space.claim_ids("w1")) == 4


def test_what_a_worker_holds_counts_for_its_share(space: Space) -> None:
    space.run("w1", "a", "b", "c", "d")
    space.register("w2")
    space.push("m1", "m2", "m3", "m4")
    assert space.claim_ids("w2") == ["m1", "m2", "m3", "m4"]


def test_among_very_many_workers_a_share_is_what_waits_by_their_number(space: Space) -> None:
    space.register(*(f"w{n}" for n in range(65)))
    space.push(*(f"m{n}" for n in range(130)))
    assert len(space.claim_ids("w0", 100)) == 2


def test_a_claim_takes_four_mebibytes_and_puts_the_rest_back_in_order(space: Space) -> None:
    ids = [f"m{n}" for n in range(10)]
    for id in ids:
        space.push(id, args=("x" * 900_000,))
    space.register("w")
    claim = space.claim("w")
    assert [delivery.id for delivery in claim.deliveries] == ids[:4]
    assert claim.more
    assert space.waiting() == ids[4:]
    space.check()


def test_the_first_message_is_taken_whatever_its_size(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenworker.broker.MAX_BYTES", 100_000)
    space.push("big", args=["x" * 500_000])
    space.push("small")
    space.register("w")
    assert space.claim_ids("w") == ["big"]
    assert space.waiting() == ["small"]


def test_at_most_a_thousand_are_looked_at(space: Space) -> None:
    for chunk in range(3):
        space.push(*(f"m{chunk}-{n}" for n in range(500)), expires=0.0, result_ttl=0.0)
    space.register("w")
    space.take_token()
    claim = space.claim("w")
    assert claim.deliveries == []
    assert claim.more
    assert space.stats() == {"enqueued": 1500, "expired": 1000}
    assert space.take_token(), "somebody has to look at the rest"
    assert not space.claim("w").more
    assert space.stats()["expired"] == 1500
    space.check()


# What ends here


@pytest.mark.parametrize("expires", [0.0, datetime(1960, 1, 1, tzinfo=UTC)])
def test_what_has_expired_ends_so_and_is_not_delivered(
    space: Space, expires: float | datetime
) -> None:
    space.push("late", expires=expires)
    space.push("fine", expires=3600.0)
    space.register("w")
    assert space.claim_ids("w") == ["fine"]
    state = space.state()
    assert state["result:late"] == '{"state":"EXPIRED"}'
    assert state["stats"] == {"enqueued": "2", "expired": "1"}
    assert list(state["msg"]) == ["fine"]
    space.check()


def test_a_moment_in_the_far_future_has_not_expired(space: Space) -> None:
    space.push("m", expires=datetime(9999, 12, 30, tzinfo=UTC))
    space.register("w")
    assert space.claim_ids("w") == ["m"]


@pytest.mark.parametrize(
    ("bytes_", "what"),
    [
        ("garbage", "not an envelope"),
        ("", "not an envelope"),
        ("1 0 0 5 0 0 x default t\n[]", "not an envelope"),
        ("2 0 0 5 0 0 0 default t\n[]", "an envelope of an unknown version"),
    ],
)
def test_a_malformed_envelope_becomes_a_dead_letter(space: Space, bytes_: str, what: str) -> None:
    space.redis.hset(space.key("msg"), "bad", bytes_)
    space.redis.lpush(space.key("ready:default:5"), "bad")
    space.register("w")
    assert space.claim_ids("w") == []
    error = MALFORMED % what
    assert space.state("workers", "about", "leases", "consumers", "queues", "seq") == {
        "dead": {"bad": "now"},
        "dead:record": {"bad": f"now malformed w 0\nw\n{error}\n{bytes_}"},
        "result:bad": error,
        "stats": {"foreign": "1", "dead": "1"},
    }
    space.check()


def test_an_envelope_that_no_send_can_make_so_large_is_sent_to_nobody(space: Space) -> None:
    # Given an envelope of 64 MB, pushed by hand, before a message
    space.redis.hset(space.key("msg"), "huge", ENVELOPE + "x" * 64_000_000)
    space.redis.lpush(space.key("ready:default:5"), "huge")
    space.push("m")
    space.register("w")
    # When a worker claims, it gets the message alone, and the dead letter keeps some of the other
    assert space.claim_ids("w") == ["m"]
    record = space.redis.hget(space.key("dead:record"), "huge")
    assert "an envelope of 64000037 bytes, the limit is 1114112" in record
    assert ENVELOPE in record
    assert len(record) < 10_000
    space.check()


def test_the_largest_message_that_can_be_sent_is_claimed(space: Space) -> None:
    space.push("m", args=["x" * 999_991])
    space.register("w")
    (delivery,) = space.claim("w").deliveries
    assert len(delivery.envelope) > 1_000_000


@pytest.mark.parametrize("id", [b"\xff\xfe", b"a b", b"a\nb", b"x" * 65, b"{}", b""])
def test_a_message_under_an_id_that_no_send_takes_is_sent_to_nobody(
    space: Space, id: bytes
) -> None:
    # A worker could not even name it: what it says of such an id would be of another.
    space.redis.hset(space.key("msg"), id, ENVELOPE)
    space.redis.lpush(space.key("ready:default:5"), id)
    space.push("m")
    space.register("w")
    assert space.claim_ids("w") == ["m"]
    name = f"foreign:{hashlib.sha1(id).hexdigest()}"
    assert ENVELOPE in space.redis.hget(space.key("dead:record"), name)
    assert space.stats() == {"enqueued": 1, "foreign": 1, "dead": 1}
    space.check()


def test_an_entry_that_no_push_made_becomes_a_dead_letter(space: Space) -> None:
    space.push("m")
    space.redis.rpush(space.key("ready:default:5"), "nobody")
    space.register("w")
    assert space.claim_ids("w") == ["m"]
    error = MALFORMED % "an entry that no push made"
    assert space.state()["dead:record"] == {"nobody": f"now malformed w 0\nw\n{error}\nnobody"}
    assert space.stats() == {"enqueued": 1, "foreign": 1, "dead": 1}
    space.check()


@pytest.mark.parametrize(
    "key",
    [
        "ready:second:5",
        "suspects:second",
        "wake:first",
        "processing:w",
        "suspected:w",
        "msg",
        "consumers:first",
        "scheduled",
    ],
)
def test_a_key_of_a_wrong_type_is_refused_before_anything_is_popped(space: Space, key: str) -> None:
    space.push("m", queue="first")
    space.register("w", queues=["first", "second"])
    space.redis.delete(space.key(key))
    space.redis.set(space.key(key), "of a wrong type")
    check_that_a_claim_is_refused(space)


@pytest.mark.parametrize("key", ["solitary:w", "room:first"])
def test_so_is_what_should_be_a_string(space: Space, key: str) -> None:
    space.push_suspect("s", queue="first")
    space.register("w", queues=["first", "second"])
    space.redis.hset(space.key(key), "of a wrong", "type")
    check_that_a_claim_is_refused(space)


def check_that_a_claim_is_refused(space: Space) -> None:
    before = space.state()
    with pytest.raises(BrokerError, match=r"WRONGTYPE|GWTYPE"):
        space.claim("w", queues=["first", "second"])
    assert space.state() == before


def test_no_more_is_held_than_may_be(space: Space) -> None:
    space.push(*(f"m{n}" for n in range(9)))
    space.register("w")
    first = space.claim("w", 3).deliveries
    for most, bound, found in ((5, 4, 1), (5, 4, 0), (1, 9, 1), (0, 9, 0)):
        claim = space.broker.claim("w", space.next_seq("w"), most, ["default"], may_hold=bound)
        assert (len(claim.deliveries), claim.more) == (found, True)
    assert space.done("w", *first) == [True] * 3
    claim = space.broker.claim("w", space.next_seq("w"), 9, ["default"], may_hold=4)
    assert [one.id for one in claim.deliveries] == ["m5", "m6"]
    space.check()


# Suspects


def test_a_worker_runs_a_few_suspects_at_once_and_before_the_others(space: Space) -> None:
    suspects = [f"s{n}" for n in range(40)]
    space.push_suspect(*suspects)
    space.push("m")
    space.register("w")
    assert space.claim_ids("w", 100) == [*suspects[:32], "m"]
    assert space.claim_ids("w", 100) == []
    state = space.state()
    assert set(state["suspected:w"]) == set(suspects[:32])
    assert state["suspects:default"] == suspects[32:]
    space.check()


def test_suspects_take_no_more_than_the_free_slots(space: Space) -> None:
    space.push_suspect("s1", "s2", "s3")
    space.push("m")
    space.register("w")
    assert space.claim_ids("w", 2) == ["s1", "s2"]
    assert set(space.state()["suspected:w"]) == {"s1", "s2"}


def test_whoever_was_among_the_few_at_another_crash_runs_without_other_suspects(
    space: Space,
) -> None:
    space.push_suspect("s1", "s2", deliveries=3)
    space.push_suspect("s3")
    space.push("m")
    space.register("w1", "w2")
    assert space.claim_ids("w1") == ["s1", "m"]
    assert space.claim_ids("w1") == []
    assert space.claim_ids("w2") == ["s2"]
    assert space.claim_ids("w2") == []
    space.check()


def test_it_waits_until_the_few_have_ended(space: Space) -> None:
    space.push_suspect("s1", "s2")
    space.push_suspect("alone", deliveries=3)
    space.register("w")
    few = space.claim("w").deliveries
    assert [one.id for one in few] == ["s1", "s2"]
    space.done("w", few[0])
    assert space.claim_ids("w") == []
    space.done("w", few[1])
    assert space.claim_ids("w") == ["alone"]
    space.check()


def test_each_worker_may_run_a_suspect(space: Space) -> None:
    space.push_suspect("s1", "s2", "s3", deliveries=3)
    space.register("w1", "w2")
    assert space.claim_ids("w1") == ["s1"]
    assert space.claim_ids("w2") == ["s2"]
    space.check()


def test_a_settled_suspect_makes_room_for_the_next_one(space: Space) -> None:
    space.push_suspect("s1", "s2", deliveries=3)
    space.register("w")
    space.done("w", *space.claim("w").deliveries)
    assert space.claim_ids("w") == ["s2"]
    space.check()


def test_behind_an_expired_suspect_one_that_runs_alone_stays_alone(space: Space) -> None:
    space.push_suspect("s", "expired")
    space.push_suspect("alone", deliveries=3)
    space.edit("expired", " 0 3600000 ", " 2 3600000 ")
    space.register("w")
    assert space.claim_ids("w") == ["s"]
    assert space.state()["suspects:default"] == ["alone"]
    assert space.stats()["expired"] == 1
    space.check()


def test_an_expired_suspect_makes_nobody_busy(space: Space) -> None:
    space.push_suspect("s1", "s2", "s3", deliveries=3)
    space.edit("s1", " 0 3600000", " 2 3600000")
    space.register("w")
    assert space.claim_ids("w") == ["s2"]
    assert set(space.state()["suspected:w"]) == {"s2"}
    space.check()


def test_the_one_that_runs_by_itself_waits_until_the_first_listener_holds_nothing(
    space: Space,
) -> None:
    space.push("m1", "m2", "m3")
    space.register("w1", "w2")
    held = [*space.claim("w1", 1).deliveries, *space.claim("w2", 1).deliveries]
    space.push_suspect("s1", "s2", deliveries=4)
    # The first of those who listen lets what it holds end, the other goes on
    assert space.claim_ids("w1") == []
    assert space.claim_ids("w2") == ["m3"]
    space.done("w1", held[0])
    assert space.claim_ids("w1") == ["s1"]
    space.push("m4")
    assert space.claim_ids("w1") == []
    assert space.claim_ids("w2") == ["m4"]
    space.check()


def test_whoever_holds_nothing_takes_the_one_that_runs_by_itself(space: Space) -> None:
    space.push("m")
    space.register("w1", "w2")
    space.claim("w1", 1)
    space.push_suspect("s", deliveries=4)
    space.push("other")
    assert space.claim_ids("w2") == ["s"]
    assert space.state()["solitary:w2"] == "s"
    assert space.claim_ids("w1") == ["other"]


def test_who_is_quiet_need_not_make_room_for_it(space: Space) -> None:
    space.push("m1", "m2")
    space.register("w1", "w2")
    (held,) = space.claim("w1", 1).deliveries
    assert space.claim_ids("w2") == ["m2"]
    space.push_suspect("s", deliveries=4)
    assert space.broker.listen("w1", False, ["default"])
    # Else it would wait for w1, which claims nothing
    assert space.claim("w2").alone
    assert space.broker.listen("w1", True, ["default"])
    assert not space.claim("w2").alone
    assert space.claim("w1").alone
    space.done("w1", held)
    assert space.claim_ids("w1") == ["s"]
    space.check()


def a_minute_later(space: Space) -> None:
    """Whatever a suspect has waited for, or has run, was a minute ago."""
    for queue in ("default",):
        key = space.key(f"room:{queue}")
        if since := space.redis.get(key):
            space.redis.set(key, int(since) - 60_000, keepttl=True)
    for worker in ("w", "w1", "w2"):
        key = space.key(f"suspected:{worker}")
        for id, since in space.redis.zrange(key, 0, -1, withscores=True):
            space.redis.zadd(key, {id: since - 60_000})


def test_whoever_has_room_runs_it_when_the_first_listener_has_none(space: Space) -> None:
    """What fills the first one may have no end: it never claims, and never makes room."""
    space.push("endless", "m1", "m2", "m3")
    space.register("w1", "w2")
    space.claim("w1", 1)
    assert space.claim_ids("w2", 1) == ["m1"]
    space.push_suspect("s", deliveries=4)
    assert space.claim_ids("w2", 1) == ["m2"]
    a_minute_later(space)
    assert space.claim_ids("w2") == ["s", "m3"]
    space.check()


@pytest.mark.parametrize("crashes", [3, 4])
def test_a_suspect_without_an_end_holds_up_nothing_for_longer_than_a_minute(
    space: Space, crashes: int
) -> None:
    space.push_suspect("s1", "s2", deliveries=crashes)
    space.register("w")
    assert space.claim_ids("w") == ["s1"]
    space.push("m1")
    assert space.claim_ids("w") == (["m1"] if crashes == 3 else [])
    a_minute_later(space)
    # Held against nobody any more: the next one runs by itself as far as that can be
    claims = [*space.claim_ids("w"), *space.claim_ids("w")]
    assert claims == (["s2"] if crashes == 3 else [])
    a_minute_later(space)
    assert space.claim_ids("w") == ([] if crashes == 3 else ["s2", "m1"])
    space.check()
    # Should the worker die now, any of them may be guilty
    space.crash("w")
    space.reap()
    assert {id: int(text.split(" ")[1]) for id, text in space.state()["msg"].items()} == {
        "s1": crashes + 1, "s2": crashes + 1, "m1": 1,
    }  # fmt: skip


def test_what_has_no_end_is_waited_for_a_minute_and_then_it_runs_beside_it(space: Space) -> None:
    space.push("endless", "m1")
    space.register("w")
    space.claim("w", 1)
    space.push_suspect("s1", "s2", deliveries=4)
    claim = space.claim("w")
    assert (claim.alone, claim.deliveries) == (True, [])
    assert 590 < space.redis.ttl(space.key("room:default")) <= 600
    a_minute_later(space)
    claim = space.claim("w")
    assert [one.id for one in claim.deliveries] == ["s1", "m1"]
    assert not claim.alone
    # One after the other, and for ten minutes nothing waits once more for the same reason
    space.push("m2")
    assert space.claim_ids("w") == ["m2"]
    space.done("w", claim.deliveries[0])
    assert space.claim_ids("w") == ["s2"]
    # If it ends its worker it is not buried: something else was there
    space.edit("s2", "1 4 ", "1 9 ")
    space.crash("w")
    assert space.reap().buried == 0
    space.check()


def test_who_has_made_room_for_it_runs_it_without_anything_else(space: Space) -> None:
    space.push("m1", "m2")
    space.register("w")
    (held,) = space.claim("w", 1).deliveries
    space.push_suspect("s", deliveries=4)
    assert space.claim("w").alone
    space.done("w", held)
    claim = space.claim("w")
    assert ([one.id for one in claim.deliveries], claim.alone) == (["s"], True)
    assert space.state()["solitary:w"] == "s"
    assert space.claim("w").alone
    space.done("w", *claim.deliveries)
    assert space.claim_ids("w") == ["m2"]
    space.check()


def test_nobody_makes_room_once_none_waits(space: Space) -> None:
    space.push("m1")
    space.register("w1", "w2")
    space.claim("w1", 1)
    space.push_suspect("s", deliveries=4)
    assert space.claim("w1").alone
    assert space.claim_ids("w2") == ["s"]
    space.push("m2")
    assert space.claim_ids("w1") == ["m2"]
    assert "solitary:w1" not in space.state()


@pytest.mark.parametrize("how", ["away", "another"])
def test_a_solitary_one_that_is_no_longer_held_keeps_nobody(space: Space, how: str) -> None:
    """By hand, or where the server may evict keys."""
    space.push_suspect("s", deliveries=4)
    space.register("w")
    assert space.claim_ids("w") == ["s"]
    space.redis.hdel(space.key("processing:w"), "s")
    if how == "another":
        space.redis.hset(space.key("processing:w"), "other", 1)
    space.push("m")
    assert space.claim_ids("w") == ["m"]
    assert "solitary:w" not in space.state()


def test_a_second_copy_of_a_dead_letter_is_dropped(space: Space) -> None:
    (one,) = space.run("w", "m")
    space.settle("w", (one, Outcome("dead", b'{"state":"FAILURE"}', 60.0, reason="failed")))
    before = space.state()["dead:record"]
    space.redis.rpush(space.key("ready:default:5"), "m")
    assert space.claim_ids("w") == []
    assert space.state()["dead:record"] == before
    space.check()


# Wake tokens


def test_there_is_at_most_one_token_for_a_queue(space: Space) -> None:
    for n in range(3):
        space.push(f"m{n}")
    space.register("w")
    space.claim("w", 1)
    assert space.redis.llen(space.key("wake:default")) == 1


def test_the_token_goes_back_while_work_remains(space: Space) -> None:
    space.push("m1", "m2")
    space.register("w")
    assert space.take_token()
    space.claim("w", 1)
    assert space.take_token()
    space.claim("w", 1)
    assert not space.take_token()


def test_no_token_for_suspects_that_nobody_can_run(space: Space) -> None:
    space.push_suspect("s1", "s2", deliveries=3)
    space.register("w")
    space.take_token()
    assert space.claim_ids("w") == ["s1"]
    claim = space.claim("w")
    assert not claim.more
    assert not space.take_token()


def test_the_token_goes_on_to_suspects_for_whom_there_was_no_room(space: Space) -> None:
    space.push("m")
    space.register("w")
    assert space.claim_ids("w") == ["m"]
    space.push_suspect("s1", "s2")
    for most, bound, found in ((0, 0, []), (1, 1, []), (3, 2, ["s1"])):
        assert space.take_token()
        claim = space.broker.claim("w", space.next_seq("w"), most, ["default"], may_hold=bound)
        assert ([one.id for one in claim.deliveries], claim.more) == (found, True)
    assert space.take_token()
    claim = space.claim("w", 9)
    assert ([one.id for one in claim.deliveries], claim.more) == (["s2"], False)
    assert not space.take_token()


def test_claims_go_on_without_memory(own_space: Space) -> None:
    own_space.push("m", "late")
    own_space.edit("late", " 0 3600000", " 2 3600000")
    own_space.redis.config_set("maxmemory", 1)
    own_space.register("w")
    assert own_space.claim_ids("w") == ["m"]
    own_space.check()


def test_behind_small_messages_large_ones_are_not_read_all_at_once(own_space: Space) -> None:
    own_space.push(*(f"small{n}" for n in range(80)))
    for start in range(0, 120, 8):
        own_space.push(*(f"large{n}" for n in range(start, start + 8)), args=["x" * 500_000])
    own_space.register("w")
    peak = own_space.redis.info("memory")["used_memory_peak"]
    assert len(own_space.claim_ids("w", most=1000)) == 80 + 8
    assert own_space.redis.info("memory")["used_memory_peak"] - peak < 45_000_000
    own_space.check()
