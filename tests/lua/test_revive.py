"""revive: a dead letter becomes a message again, once, as fresh as on its first day."""

from __future__ import annotations

import pytest

from greenworker import keys
from greenworker.errors import BrokerError
from greenworker.message import Message, Outcome, encode_tail
from greenworker.signing import Signer
from tests.support.state import Space, envelope

FAILURE = b'{"state":"FAILURE","error":{"type":"E","message":"","traceback":""}}'

# What a registered worker leaves in a namespace besides messages.
WORKER = ("workers", "about", "leases", "consumers", "queues", "seq", "push:")


def bury(space: Space, *ids: str) -> None:
    """Let these messages, which wait, have failed for good."""
    if not space.redis.exists(space.key("workers")):
        space.register("w")
    dead = Outcome("dead", FAILURE, 60.0, reason="failed")
    deliveries = space.claim("w", 1000).deliveries
    assert {delivery.id for delivery in deliveries} == set(ids)
    assert space.settle("w", *((one, dead) for one in deliveries)) == [True] * len(ids)
    space.take_token()


def revive(space: Space, *ids: str, dry_run: bool = False) -> str:
    return space.broker.revive([id.encode() for id in ids], dry_run)


def test_it_is_a_message_again_and_nothing_else(space: Space) -> None:
    space.push("m", priority=7, queue="default")
    bury(space, "m")
    assert revive(space, "m") == "r"
    assert space.state(*WORKER) == {
        "msg": {"m": envelope(priority=7)},
        "ready:default:7": ["m"],
        "wake:default": ["1"],
        "stats": {"enqueued": "1", "dead": "1", "revived": "1"},
    }
    space.check()


def test_it_starts_with_no_deliveries_and_no_attempts(space: Space) -> None:
    """Not among the suspects, and with all its retries before it."""
    space.push("m")
    space.edit("m", "1 0 0 ", "1 5 3 ")
    space.edit("m", " default t\n", " default t unknown=1700000000.000 later=x\n")
    bury(space, "m")
    assert revive(space, "m") == "r"
    assert space.state()["msg"]["m"] == envelope(rest="t later=x\n[[],{}]")
    assert space.waiting() == ["m"]
    space.check()


def test_the_body_is_left_as_it_is(space: Space) -> None:
    body = ["1 2 3 ", " unknown=1 ", "%1 \u20ac \0 \n"]
    space.push("m", args=body)
    bury(space, "m")
    revive(space, "m")
    space.claim("w")
    text = space.redis.hget(space.key("msg"), "m")
    space.push("other", args=body)
    assert text.partition("\n")[2] == space.redis.hget(space.key("msg"), "other").partition("\n")[2]


def test_a_signature_still_holds(space: Space) -> None:
    """Whatever is fresh about it: the counts, the expiry, no note of an unknown task."""
    signer = Signer(["a key of some length"], space.broker.namespace)
    tail = signer.sign("m", encode_tail(Message("m", "t", [1, " unknown=1 "])))
    signed = b"1 2 3 5 1 601 " + tail.replace(b"\n", b" unknown=1700000000.000\n", 1)
    space.redis.hset(space.key("dead:record"), "m", b"1 unknown w 0\nw\n{}\n" + signed)
    space.redis.zadd(space.key("dead"), {"m": 1})
    assert revive(space, "m") == "r"
    envelope = space.redis.hget(space.key("msg"), "m").encode()
    signer.verify("m", envelope)
    assert envelope.endswith(b" ".join(tail.split(b" ")[1:]))
    assert b" unknown=17" not in envelope
    assert envelope.startswith(b"1 0 0 5 1 ")
    assert not envelope.startswith(b"1 0 0 5 1 601 ")


def test_it_waits_behind_what_waits_already(space: Space) -> None:
    space.push("m")
    bury(space, "m")
    space.push("first")
    revive(space, "m")
    assert space.waiting() == ["first", "m"]


def test_each_gets_an_answer(space: Space) -> None:
    space.push("good", "again", "cut")
    bury(space, "good", "again", "cut")
    records = space.key("dead:record")
    space.redis.hset(space.key("msg"), "again", envelope(sent="1"))
    space.redis.lpush(space.key("ready:default:5"), "again")
    space.redis.hset(
        records, "cut", space.redis.hget(records, "cut").replace(" w 0\n", " w 9\n", 1)
    )
    space.redis.hset(records, "bad", "1 malformed w 0\nw\n{}\nno envelope")
    space.redis.hset(records, "worse", "no record")
    space.redis.zadd(space.key("dead"), {"bad": 1, "worse": 1})
    ids = ("nobody", "good", "again", "cut", "good", "bad", "worse")
    before = space.state()
    # A look tells the same and changes nothing
    assert revive(space, *ids, dry_run=True) == "grpuguu"
    assert space.state() == before
    assert revive(space, *ids) == "grpuguu"
    state = space.state()
    assert set(state["dead"]) == set(state["dead:record"]) == {"again", "cut", "bad", "worse"}
    assert set(state["msg"]) == {"good", "again"}
    assert space.stats()["revived"] == 1


def test_the_same_revival_again_is_a_no_op(space: Space) -> None:
    """As when its reply is lost: it answers the same, even if the message has died again."""
    space.push("m")
    bury(space, "m")
    run = space.broker._run
    assert run("revive", "id", 60000, 1000, "", "m", "", "x", "") == b"rg"
    bury(space, "m")
    assert run("revive", "id", 60000, 1000, "", "m", "", "x", "") == b"rg"
    assert list(space.state()["dead"]) == ["m"]
    assert space.stats() == {"enqueued": 1, "dead": 2, "revived": 1}
    assert 50_000 < space.redis.pttl(keys.push(space.root, "id")) <= 60_000
    space.check()


def test_what_has_died_again_is_another_one(space: Space) -> None:
    """Who read it the first time and chose it by its error means that death."""
    space.push("m")
    bury(space, "m")
    records = space.key("dead:record")
    died = int(space.redis.hget(records, "m").split(" ")[0])
    for read, fate in ((died / 1000 - 0.001, "g"), (died / 1000, "r")):
        moments = {b"m": read}
        assert space.broker.revive([b"m", b"x"], True, moments) == fate + "g"
        assert space.broker.revive([b"m", b"x"], False, moments) == fate + "g"
        space.check()


@pytest.mark.parametrize(
    "record", ["", "no record", "x failed w 0\n", "1 failed w\nw", "9" * 16 + " f w 0\n"]
)
def test_a_death_that_cannot_be_read_is_at_0(space: Space, record: str) -> None:
    space.redis.zadd(space.key("dead"), {"m": 1})
    space.redis.hset(space.key("dead:record"), "m", record)
    assert space.broker.revive([b"m"], died={b"m": 7.0}) == "g"
    assert space.broker.revive([b"m"], died={b"m": 0.0}) == "u"
    assert space.broker.dead_delete([b"m"], {b"m": 7.0}) == 0
    assert space.broker.dead_delete([b"m"], {b"m": 0.0}) == 1


def test_what_fails_again_is_a_dead_letter_again(space: Space) -> None:
    space.push("m")
    bury(space, "m")
    for n in range(1, 4):
        revive(space, "m")
        space.check()
        bury(space, "m")
        space.check()
        assert space.stats() == {"enqueued": 1, "dead": 1 + n, "revived": n}


@pytest.mark.parametrize(
    ("was", "expires"),
    [
        ("0", "0"),  # never
        ("9999999999999", "later"),  # not yet: as it was
        ("{sent}600000", "later"),  # waits for 600 s once more, from now
        ("1", "0"),  # before it was sent: nobody knows for how long
    ],
)
def test_an_expiry_that_has_passed_begins_anew(space: Space, was: str, expires: str) -> None:
    space.push("m")
    bury(space, "m")
    records = space.key("dead:record")
    text = space.redis.hget(records, "m")
    sent = text.rpartition("\n1 0 0 5 ")[2].split(" ")[0]
    long_ago = str(int(sent) - 86_400_000)
    at = was if "{" not in was else str(int(long_ago) + 600_000)
    text = text.replace(f"0 0 5 {sent} 0 ", f"0 0 5 {long_ago} {at} ")
    space.redis.hset(records, "m", text)
    assert revive(space, "m") == "r"
    assert space.state()["msg"]["m"] == envelope(sent="past", expires=expires)
    now = int(sent)
    stored = int(space.redis.hget(space.key("msg"), "m").split(" ")[5])
    if "{" in was:
        assert now + 600_000 <= stored < now + 660_000
    assert space.claim_ids("w") == ["m"]
    space.check()


def test_large_ones_take_several_calls(space: Space) -> None:
    """No call moves more than 4 MiB, or 1,000 messages."""
    space.push(*(f"m{n}" for n in range(8)), args=["x" * 900_000])
    bury(space, "m0", "m1", "m2", "m3")  # as much as a claim brings
    bury(space, "m4", "m5", "m6", "m7")
    pairs = [word for id in space.state()["dead"] for word in (id, "")]
    first = space.broker._run("revive", "id", 60000, 4 * 1024 * 1024, "", *pairs)
    assert first == b"rrrr"
    space.push(*(f"n{n}" for n in range(1500)))
    assert revive(space, *(f"m{n}" for n in range(8))) == "gggg" + "rrrr"
    space.check()


def test_more_than_a_call_takes(space: Space) -> None:
    for start in range(0, 2500, 500):
        ids = [f"m{n}" for n in range(start, start + 500)]
        space.push(*ids)
        bury(space, *ids)
    assert revive(space, *(f"m{n}" for n in range(2500))) == "r" * 2500
    assert space.waiting() == [f"m{n}" for n in range(2500)]
    space.check()


@pytest.mark.parametrize(
    "key", ["msg", "dead", "dead:record", "stats", "queues", "ready:default:5", "wake:default"]
)
def test_a_key_of_a_wrong_type_is_refused_before_the_first_write(space: Space, key: str) -> None:
    space.push("m1", "m2")
    bury(space, "m1", "m2")
    space.redis.delete(space.key(key))
    space.redis.zadd(space.key(key), {"x": 1}) if key != "dead" else space.redis.set(
        space.key(key), "x"
    )
    before = space.state()
    with pytest.raises(BrokerError, match=r"WRONGTYPE|GWTYPE"):
        revive(space, "m1", "m2")
    assert space.state() == before


def test_it_is_refused_whole_without_memory(own_space: Space) -> None:
    own_space.push("m1", "m2")
    bury(own_space, "m1", "m2")
    before = own_space.state()
    own_space.redis.config_set("maxmemory", 1)
    with pytest.raises(BrokerError) as caught:
        revive(own_space, "m1", "m2")
    assert caught.value.code == "OOM"
    assert own_space.state() == before
    # A look is none the worse for it
    assert revive(own_space, "m1", "m2", dry_run=True) == "rr"
