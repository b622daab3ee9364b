"""The audit of a server that stands still: it names each damage in a line, with its mend."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from greenworker.audit import Audit
from greenworker.errors import ConfigError
from greenworker.findings import Report
from greenworker.message import Outcome
from greenworker.probe import Probe
from tests.support.auditing import Watched, audit, damage_of
from tests.support.state import Space, check_whole


def seed(space: Space) -> None:
    """Some of everything: two waiting, one suspect, one scheduled, two held, one dead letter."""
    space.register("w", queues=["default", "slow"])
    space.push("dead")
    (dead,) = space.claim("w").deliveries
    space.settle("w", (dead, Outcome("dead", b'{"state":"FAILURE"}', 60.0, reason="failed")))
    space.push("h1", "h2")
    space.claim("w", queues=["default"])
    space.push("r1", "r2")
    space.push("slow", queue="slow", priority=9)
    space.push_suspect("s")
    space.push("d", due=60.0)


def test_a_whole_namespace(space: Space) -> None:
    seed(space)
    before = space.state()
    report = audit(space)
    assert (report.findings, report.notes, report.more) == ([], [], 0)
    assert report.summary == "7 messages, 1 worker: all is well"
    assert [worker.id for worker in report.workers] == ["w"]
    assert space.state() == before
    check_whole(before)


def test_the_first_call_for_a_key_reads_little(space: Space) -> None:
    """HSCAN brings values: nobody knows yet that each of them has a megabyte."""
    for n in range(60):
        space.push(f"m{n}", args=["x" * 900_000])
    link = Watched(space)
    Audit(Probe(link, space.broker.namespace)).run()
    read = link.looked_at["messages"]
    assert sum(read) > 60 * 900_000
    # Four, and what shares their places in the table: how many these are is chance
    assert max(read) < 60 * 900_000 / 2


def test_a_namespace_without_anything(space: Space) -> None:
    assert audit(space).summary == "0 messages, 0 workers: all is well"


FOREIGN = "foreign:" + hashlib.sha1(b"canary card=4111").hexdigest()  # as claim.lua


# --- each damage: what is done by hand → what is found

Damage = Callable[[Space], Any]
DAMAGES: dict[str, tuple[Damage, set[tuple[str, str, str]]]] = {
    "an id in no place": (
        lambda s: s.redis.lrem(s.key("ready:default:5"), 0, "r1"),
        {("nowhere", "msg", "r1"), ("totals", "msg", "")},
    ),
    "a suspect in no place": (
        lambda s: s.redis.delete(s.key("suspects:default")),
        {("nowhere", "msg", "s"), ("totals", "msg", "")},
    ),
    "an id that fell out of the schedule": (
        lambda s: s.redis.zrem(s.key("scheduled"), "d"),
        {("nowhere", "msg", "d"), ("totals", "msg", "")},
    ),
    "an id that no worker holds any more": (
        lambda s: s.redis.hdel(s.key("processing:w"), "h1"),
        {("nowhere", "msg", "h1"), ("totals", "msg", "")},
    ),
    "an id in two lists": (
        lambda s: s.redis.lpush(s.key("ready:slow:9"), "r1"),
        {
            ("twice", "ready:slow:9", "r1"),
            ("misplaced", "ready:slow:9", "r1"),
            ("totals", "msg", ""),
        },
    ),
    "an id twice in one list": (
        lambda s: s.redis.rpush(s.key("ready:default:5"), "r2"),
        {("twice", "ready:default:5", "r2"), ("totals", "msg", "")},
    ),
    "an id that waits and runs": (
        lambda s: s.redis.lpush(s.key("ready:default:5"), "h1"),
        {("twice", "ready:default:5", "h1"), ("totals", "msg", "")},
    ),
    "an id that is scheduled and runs": (
        lambda s: s.redis.zadd(s.key("scheduled"), {"h1": 1}),
        {("twice", "scheduled", "h1"), ("totals", "msg", "")},
    ),
    "an id that two workers hold": (
        lambda s: (s.register("v"), s.redis.hset(s.key("processing:v"), "h1", 1)),
        {("twice", "processing:v", "h1"), ("totals", "msg", "")},
    ),
    "an id of a list and of a processing list that is nobody's": (
        lambda s: s.redis.hset(s.key("processing:ghost"), "r1", 1),
        {
            ("twice", "ready:default:5", "r1"),
            ("ownerless", "processing:ghost", "ghost"),
            ("totals", "msg", ""),
        },
    ),
    "an id in a list that is no message": (
        lambda s: s.redis.lpush(s.key("ready:default:0"), "x"),
        {("missing", "ready:default:0", "x"), ("totals", "msg", "")},
    ),
    "a scheduled id that is no message": (
        lambda s: s.redis.zadd(s.key("scheduled"), {"x": 1}),
        {("missing", "scheduled", "x"), ("totals", "msg", "")},
    ),
    "a held id that is no message": (
        lambda s: s.redis.hdel(s.key("msg"), "h1"),
        {("missing", "processing:w", "h1"), ("totals", "msg", ""), ("counters", "stats", "")},
    ),
    "an id in another queue's list": (
        lambda s: s.redis.lmove(s.key("ready:default:5"), s.key("ready:slow:5"), "LEFT", "LEFT"),
        {("misplaced", "ready:slow:5", "r2")},
    ),
    "a list of a queue that nobody registered": (
        lambda s: s.redis.lmove(s.key("ready:default:5"), s.key("ready:lone:5"), "LEFT", "LEFT"),
        {("misplaced", "ready:lone:5", "r2")},
    ),
    "an envelope that cannot be read": (
        lambda s: s.redis.hset(s.key("msg"), "r1", "2 from the future"),
        {("unreadable", "msg", "r1")},
    ),
    "an unreadable message in no place": (
        lambda s: s.redis.hset(s.key("msg"), "canary card=4111", "junk"),
        {
            ("unreadable", "msg", FOREIGN),
            ("nowhere", "msg", FOREIGN),
            ("totals", "msg", ""),
            ("counters", "stats", ""),
        },
    ),
    "a lone processing list": (
        lambda s: (s.redis.zrem(s.key("workers"), "w"), s.redis.hdel(s.key("about"), "w")),
        {
            ("ownerless", "processing:w", "w"),
            ("stranger", "leases", "w"),
            ("stranger", "seq", "w"),
            ("stranger", "consumers:default", "w"),
            ("stranger", "consumers:slow", "w"),
        },
    ),
    "suspects of nobody": (
        lambda s: s.redis.zadd(s.key("suspected:ghost"), {"h1": 1}),
        {("ownerless", "suspected:ghost", "ghost")},
    ),
    "a suspect that runs without anything else, of nobody": (
        lambda s: s.redis.set(s.key("solitary:ghost"), "h1"),
        {("ownerless", "solitary:ghost", "ghost")},
    ),
    "a suspect that its worker does not hold": (
        lambda s: s.redis.zadd(s.key("suspected:w"), {"h1": 1, "r1": 1}),
        {("unheld", "suspected:w", "r1")},
    ),
    "a description of nobody": (
        lambda s: s.redis.hset(s.key("about"), "ghost", "{}"),
        {("stranger", "about", "ghost")},
    ),
    "a listener that is no worker": (
        lambda s: s.redis.sadd(s.key("consumers:default"), "ghost"),
        {("stranger", "consumers:default", "ghost")},
    ),
    "a dead letter without its record": (
        lambda s: s.redis.hdel(s.key("dead:record"), "dead"),
        {("unrecorded", "dead", "dead")},
    ),
    "a record without its dead letter": (
        lambda s: s.redis.zrem(s.key("dead"), "dead"),
        {("undated", "dead:record", "dead")},
    ),
    "halves of two dead letters": (
        lambda s: (s.redis.zrem(s.key("dead"), "dead"), s.redis.zadd(s.key("dead"), {"x": 1})),
        {("undated", "dead:record", "dead"), ("unrecorded", "dead", "x")},
    ),
    "a dead letter that is a message": (
        lambda s: (
            s.redis.zadd(s.key("dead"), {"r1": 1}),
            s.redis.hset(s.key("dead:record"), "r1", ""),
        ),
        {("undead", "dead", "r1")},
    ),
    "a claim sequence that is no number": (
        lambda s: s.redis.hset(s.key("seq"), "w", "abc"),
        {("unnumbered", "seq", "w")},
    ),
    "a claim sequence below one": (
        lambda s: s.redis.hset(s.key("seq"), "w", "0"),
        {("unnumbered", "seq", "w")},
    ),
    "a lease that is no number": (
        lambda s: s.redis.hset(s.key("leases"), "w", "-30000"),
        {("unnumbered", "leases", "w")},
    ),
    "a counter that is off": (
        lambda s: s.redis.hincrby(s.key("stats"), "done", 3),
        {("counters", "stats", "")},
    ),
    "a counter that is no number": (
        lambda s: s.redis.hset(s.key("stats"), "done", "many"),
        {("counter", "stats", "done")},
    ),
    "counters that were deleted": (
        lambda s: s.redis.delete(s.key("stats")),
        {("counters", "stats", "")},
    ),
    "a list of a wrong type": (
        lambda s: s.redis.set(s.key("ready:default:0"), "x"),
        {("mistyped", "ready:default:0", "")},
    ),
    "a result of a wrong type": (
        lambda s: s.redis.lpush(s.key("result:r1"), "x"),
        {("mistyped", "result:r1", "")},
    ),
    "a processing list of a wrong type": (
        lambda s: (s.redis.delete(s.key("processing:w")), s.redis.set(s.key("processing:w"), 1)),
        {
            ("mistyped", "processing:w", ""),
            ("nowhere", "msg", "h1"),
            ("nowhere", "msg", "h2"),
        },
    ),
    "messages of a wrong type": (
        lambda s: (s.redis.delete(s.key("msg")), s.redis.set(s.key("msg"), 1)),
        {("mistyped", "msg", "")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_found_and_nothing_else(space: Space, name: str) -> None:
    hurt, found = DAMAGES[name]
    seed(space)
    hurt(space)
    before = space.state()
    report = audit(space)
    assert damage_of(report) == found
    assert not report.well
    for finding in report.findings:
        assert finding.text.isprintable()  # one line
        assert ":" in finding.text
        assert "canary" not in finding.text
    assert space.state() == before


# What breaks neither I2 nor I13: the audit alone sees it.
BEYOND = {
    "an id in another queue's list",
    "a list of a queue that nobody registered",
    "an envelope that cannot be read",
    "a lone processing list",
    "suspects of nobody",
    "a suspect that runs without anything else, of nobody",
    "a suspect that its worker does not hold",
    "a description of nobody",
    "a listener that is no worker",
    "a claim sequence that is no number",
    "a claim sequence below one",
    "a lease that is no number",
    "a result of a wrong type",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_quiet_check_objects_to_what_breaks_a_promise(space: Space, name: str) -> None:
    """The audit and `check_whole` are two ways to say the same."""
    seed(space)
    DAMAGES[name][0](space)
    if name in BEYOND:
        space.check()
    else:
        with pytest.raises((AssertionError, AttributeError, ValueError, TypeError)):
            space.check()


def test_what_was_promoted_to_a_queue_that_nobody_knows_counts(space: Space) -> None:
    """As an envelope that nobody can read: it goes to `default`."""
    space.redis.hset(space.key("msg"), "odd", "2 from the future")
    space.redis.hset(space.key("stats"), "enqueued", 1)
    space.redis.lpush(space.key("ready:default:5"), "odd")
    names = Watched(space, hide=("ready:",))
    report = Audit(Probe(names, space.broker.namespace)).run()
    assert damage_of(report) == {("unreadable", "msg", "odd")}


@pytest.mark.parametrize("value", ["abc", "", "-", "1e999", "nan"])
def test_a_sweep_that_is_no_time_is_no_traceback(space: Space, value: str) -> None:
    space.run("w", "m")
    space.redis.zadd(space.key("workers"), {"w": 1})
    space.redis.set(space.key("sweep"), value)
    assert audit(space).well


@pytest.mark.parametrize("limit", [0, -1, 1.5])
def test_a_limit_that_is_none(space: Space, limit: int) -> None:
    """It would find nothing, and say that all is well."""
    with pytest.raises(ConfigError, match="give a whole number from 1 on"):
        audit(space, limit=limit)


def test_a_report_that_has_more_is_not_well() -> None:
    assert Report(0, [], []).well
    assert not Report(0, [], [], more=1).well


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("an id in no place", "LPUSH {root}ready:default:5 r1"),
        ("an id twice in one list", "LREM {root}ready:default:5 1 r2"),
        ("a lone processing list", "SADD {root}corpses w"),
        ("a list of a wrong type", "RENAME {root}ready:default:0 away:{root}ready:default:0"),
        ("an id that two workers hold", "HDEL {root}processing:"),
        ("a claim sequence below one", "HDEL {root}seq w"),
        ("a lease that is no number", "HDEL {root}leases w"),
    ],
)
def test_a_finding_says_its_mend(space: Space, name: str, mend: str) -> None:
    seed(space)
    DAMAGES[name][0](space)
    line = mend.format(root=space.root)
    (text,) = (finding.text for finding in audit(space).findings if line in finding.text)
    command = text[text.index(line) :]
    space.redis.execute_command(*command.split())
    assert not [one for one in audit(space).findings if line in one.text]


def test_a_limit_bounds_the_list_and_the_search(space: Space) -> None:
    space.push(*(f"m{n}" for n in range(50)))
    space.redis.delete(space.key("ready:default:5"))
    space.redis.rpush(space.key("scheduled:x"), "not ours")
    report = audit(space, limit=10)
    kinds = [finding.kind for finding in report.findings]
    assert (kinds.count("nowhere"), kinds.count("totals")) == (10, 1)
    assert report.more == 40
    assert report.summary == "50 messages, 0 workers: 11 findings, and up to 40 more"


def test_more_messages_than_are_held_in_memory_at_once(space: Space) -> None:
    space.push(*(f"m{n}" for n in range(900)))
    assert audit(space, at_once=100).well
    space.redis.lrem(space.key("ready:default:5"), 0, "m77")
    space.redis.rpush(space.key("ready:default:5"), "m88")
    assert damage_of(audit(space, at_once=100)) == {
        ("nowhere", "msg", "m77"),
        ("twice", "ready:default:5", "m88"),
    }


@pytest.mark.parametrize("place", [1, 98, 99, 100, 101, 497, 498, 499, 500, 2498])
def test_a_double_is_found_wherever_it_is(space: Space, place: int) -> None:
    """At the borders of chunks, too: 100 entries, then 400, then 1,000."""
    for start in range(0, 2500, 500):
        space.push(*(f"m{n}" for n in range(start, start + 500)))
    twin = space.redis.lindex(space.key("ready:default:5"), place)
    space.redis.linsert(space.key("ready:default:5"), "BEFORE", twin, twin)
    assert ("twice", "ready:default:5", twin) in damage_of(audit(space))


def test_large_envelopes_are_read_a_few_at_a_time(space: Space) -> None:
    for n in range(12):
        space.push(f"m{n}", args=["x" * 900_000])
    link = Watched(space)
    assert Audit(Probe(link, space.broker.namespace)).run().well
    assert max(link.looked_at["place"]) <= 5_000_000


def test_who_is_dead_or_overdue_is_told_and_no_fault(space: Space) -> None:
    space.run("w", "m")
    space.run("late", "n")
    space.crash("w", "late")
    space.redis.zrem(space.key("workers"), "w")
    space.redis.sadd(space.key("corpses"), "w")
    now = int(space.broker.time() * 1000)
    space.redis.set(space.key("sweep"), now)
    report = audit(space)
    assert report.summary == "2 messages, 1 worker: all is well"
    late, dead = report.notes
    assert "worker late (late) is overdue by" in late
    assert "if it stays silent, a sweep will take it for dead and return 1 message" in late
    assert "worker w (w) is dead: 1 message of it are being returned" in dead
    # When nobody sweeps, that is worth a line
    space.redis.set(space.key("sweep"), now - 300_000)
    *_, last = audit(space).notes
    assert last.startswith("nobody has swept for 30")
    space.redis.delete(space.key("sweep"))
    assert audit(space).notes[-1].startswith("nobody has swept yet")
    # Once it has been drained, nothing is
    space.pulse_was(0.0)
    while space.redis.scard(space.key("corpses")) + space.redis.zcard(space.key("workers")):
        space.reap()
    assert audit(space).notes == []
