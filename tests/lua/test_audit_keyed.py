"""The audit of keys: it names each damage in a line, and what its mend does heals it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from greenworker.audit import Audit
from greenworker.probe import Probe
from tests.support.auditing import Watched, audit, damage_of
from tests.support.limits import Limited
from tests.support.state import Space

LONG = "host:" + "%C3%A4" * 90


@pytest.fixture
def limited(space: Space) -> Limited:
    """Some of everything: lines in turn, parked by time, by permits and by hand, two keys, a suspect, a key to be forgotten."""
    limited = Limited(space)
    limited.space.register("w", queues=["default", "slow"])
    limited.limit("host:*", concurrency=1)
    limited.limit("slow:*", delay=3600.0)
    limited.push("gone", key="host:gone")
    limited.done(limited.claim(1)[0])
    limited.push("busy1", "busy2", "busy3", key="host:busy")
    limited.push("slow1", "slow2", key="slow:1")
    limited.hold("host:stopped")
    limited.push("stopped1", key="host:stopped")
    limited.push("both1", key="slow:2,host:busy")
    assert sorted(limited.claim_ids()) == ["busy1", "slow1"]
    limited.push("turn1", "turn2", key="host:turn")
    limited.push("turn3", key="host:turn", queue="slow", priority=9)
    limited.push("long", key=LONG)
    limited.push("plain")
    limited.push("suspect", key="host:turn2")
    limited.make_suspect("suspect")
    limited.check()
    return limited


def test_a_whole_namespace(limited: Limited) -> None:
    before = limited.space.state()
    report = audit(limited.space)
    assert [one.text for one in report.findings] == []
    assert report.messages == 13
    assert limited.space.state() == before


def edit(limited: Limited, key: str, old: str, new: str) -> None:
    redis, keys = limited.space.redis, limited.space.key("keys")
    text = redis.hget(keys, key)
    assert old in text
    redis.hset(keys, key, text.replace(old, new))


def later(limited: Limited, key: str) -> Any:
    return limited.space.redis.zrem(limited.space.key("later"), key)


K = Limited  # to be short below
DAMAGES: dict[str, tuple[Callable[[Limited], Any], set[tuple[str, str, str]]]] = {
    "a line that is noted nowhere": (
        lambda k: edit(k, "host:turn", ";t5:default", "") if "host:turn" and ";t5:default" in k.space.redis.hget(k.space.key("keys"), "host:turn") else edit(k, "host:turn", "t5:default;", ""),
        {("unvisited", "line:5:default host:turn", "host:turn"), ("unnoted", "turn:default:5", "host:turn")},
    ),
    "all that was known of a key": (
        lambda k: k.space.redis.hdel(k.space.key("keys"), "slow:1"),
        {("unvisited", "line:5:default slow:1", "slow:1")},
    ),
    "what is known of a key cannot be read": (
        lambda k: k.space.redis.hset(k.space.key("keys"), "slow:1", "junk"),
        {("garbled", "keys", "slow:1")},
    ),
    "where a key has lines cannot be read": (
        lambda k: edit(k, "slow:1", "p5:default", "p5"),
        {("garbled", "keys", "slow:1")},
    ),
    "a key that fell out of its turn": (
        lambda k: k.space.redis.lrem(k.space.key("turn:default:5"), 0, "host:turn"),
        {("unturned", "turn:default:5", "host:turn")},
    ),
    "a key that is twice in turn": (
        lambda k: k.space.redis.rpush(k.space.key("turn:default:5"), "host:turn"),
        {("overturned", "turn:default:5", "host:turn")},
    ),
    "a key in turn that has nothing there": (
        lambda k: k.space.redis.rpush(k.space.key("turn:default:1"), "host:turn"),
        {("unnoted", "turn:default:1", "host:turn")},
    ),
    "a parked key that nothing fetches": (
        lambda k: later(k, "slow:1"),
        {("stuck", "keys", "slow:1")},
    ),
    "a permit of nobody": (
        lambda k: k.space.redis.sadd(k.space.key("held:host:turn"), "ghost"),
        {("leaked", "held:host:turn", "ghost")},
    ),
    "a permit of what waits": (
        lambda k: k.space.redis.sadd(k.space.key("held:host:turn"), "turn1"),
        {("leaked", "held:host:turn", "turn1")},
    ),
    "a run without its permit": (
        lambda k: k.space.redis.srem(k.space.key("held:slow:1"), "slow1"),
        {("unpermitted", "processing:w", "slow1")},
    ),
    "a key that nothing would forget": (
        lambda k: k.space.redis.zrem(k.space.key("idle"), "host:gone"),
        {("kept", "keys", "host:gone")},
    ),
    "a count that is too small": (
        lambda k: k.space.redis.hincrby(k.space.key("keyed"), "default", -2),
        {("miscounted", "keyed", "default"), ("totals", "msg", "")},
    ),
    "a count that is no number": (
        lambda k: k.space.redis.hset(k.space.key("keyed"), "slow", "many"),
        {("uncounted", "keyed", "slow"), ("totals", "msg", "")},
    ),
    "a count of a queue that has no lines": (
        lambda k: k.space.redis.hset(k.space.key("keyed"), "quick", 2),
        {("miscounted", "keyed", "quick"), ("totals", "msg", "")},
    ),
    "counts of a wrong type": (
        lambda k: (k.space.redis.delete(k.space.key("keyed")), k.space.redis.set(k.space.key("keyed"), "x")),
        {("mistyped", "keyed", "")},
    ),
    "a pair that waits twice": (
        lambda k: k.space.redis.lpush(k.space.key("pairs:5:default host:busy"), "slow:2,host:busy"),
        {("overturned", "pairs:5:default host:busy", "slow:2,host:busy")},
    ),
    "a count that is gone": (
        lambda k: k.space.redis.hdel(k.space.key("keyed"), "slow"),
        {("miscounted", "keyed", "slow"), ("totals", "msg", "")},
    ),
    "a limit that cannot be read": (
        lambda k: k.space.redis.hset(k.space.key("limits"), "tenant:1", "junk"),
        {("unlimited", "limits", "tenant:1")},
    ),
    "a pattern that is not in order": (
        lambda k: k.space.redis.hset(k.space.key("limits"), "x:*", "s 1 concurrency=1"),
        {("unlimited", "limits", "x:*")},
    ),
    "what code declares beneath nothing": (
        lambda k: k.space.redis.hset(k.space.key("limits:under"), "x:*", "concurrency=1"),
        {("uncovered", "limits:under", "x:*")},
    ),
    "limits that nobody declares": (
        lambda k: k.space.redis.hset(k.space.key("limits:by"), "ghost", "host:*"),
        {("stranger", "limits:by", "ghost")},
    ),
    "an id in the line of a key that is not its own": (
        lambda k: k.space.redis.lmove(k.space.key("line:9:slow host:turn"), k.space.key("line:5:default host:turn"), "LEFT", "LEFT"),
        {("misplaced", "line:5:default host:turn", "turn3"), ("miscounted", "keyed", "default"), ("miscounted", "keyed", "slow")},
    ),
    "an id that fell out of its line": (
        lambda k: k.space.redis.lrem(k.space.key("line:5:default host:turn"), 0, "turn1"),
        {("nowhere", "msg", "turn1"), ("miscounted", "keyed", "default")},
    ),
    "an id in the line of one of its two keys": (
        lambda k: k.space.redis.lpush(k.space.key("line:5:default slow:2"), "both1"),
        {("twice", "line:5:default slow:2", "both1"), ("misplaced", "line:5:default slow:2", "both1"), ("unvisited", "line:5:default slow:2", "slow:2")},
    ),
    "a pair that is noted nowhere": (
        lambda k: k.space.redis.hdel(k.space.key("pairs"), "5:default slow:2,host:busy"),
        {("unvisited", "line:5:default slow:2,host:busy", "slow:2,host:busy")},
    ),
    "a pair that waits nowhere": (
        lambda k: k.space.redis.delete(k.space.key("pairs:5:default host:busy")),
        {("unturned", "pairs:5:default host:busy", "slow:2,host:busy")},
    ),
    "a pair of which is noted what cannot be read": (
        lambda k: k.space.redis.hset(k.space.key("pairs"), "5:default slow:2,host:busy", "3"),
        {("unpaired", "pairs", "slow:2,host:busy")},
    ),
    "a key where a pair waits, and nobody comes past": (
        lambda k: edit(k, "host:busy", "p5:default,", "p9:other"),
        {("stuck", "pairs", "host:busy")},
    ),
    "turns of a wrong type": (
        lambda k: k.space.redis.set(k.space.key("turn:slow:1"), "x"),
        {("mistyped", "turn:slow:1", "")},
    ),
    "a line of a wrong type": (
        lambda k: k.space.redis.set(k.space.key("line:5:default x"), "x"),
        {("mistyped", "line:5:default x", "")},
    ),
    "permits of a wrong type": (
        lambda k: k.space.redis.set(k.space.key("held:x"), "x"),
        {("mistyped", "held:x", "")},
    ),
    "keys of a wrong type": (
        lambda k: (k.space.redis.delete(k.space.key("keys")), k.space.redis.set(k.space.key("keys"), "x")),
        {("mistyped", "keys", "")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_found_and_nothing_else(limited: Limited, name: str) -> None:
    hurt, found = DAMAGES[name]
    hurt(limited)
    before = limited.space.state()
    report = audit(limited.space)
    assert damage_of(report) == found
    for finding in report.findings:
        assert finding.text.isprintable()
    assert limited.space.state() == before


def test_what_is_no_key_is_not_shown(limited: Limited) -> None:
    limited.space.redis.hset(limited.space.key("keys"), "canary card=4111", "x")
    (finding,) = audit(limited.space).findings
    assert "canary" not in finding.text


# What its mend, and what follows of itself, leave whole.
MENDED = [
    "a line that is noted nowhere",
    "all that was known of a key",
    "what is known of a key cannot be read",
    "where a key has lines cannot be read",
    "a pair that waits twice",
    "a key that fell out of its turn",
    "a key that is twice in turn",
    "a parked key that nothing fetches",
    "a pair that is noted nowhere",
    "a pair that waits nowhere",
    "a key where a pair waits, and nobody comes past",
    "a permit of nobody",
    "a run without its permit",
    "a key that nothing would forget",
    "a count that is too small",
    "a count that is gone",
    "a limit that cannot be read",
    "what code declares beneath nothing",
    "limits that nobody declares",
]


@pytest.mark.parametrize("name", MENDED)
def test_a_finding_says_its_mend(limited: Limited, name: str) -> None:
    DAMAGES[name][0](limited)
    for finding in audit(limited.space).findings:
        *_, mend = finding.text.split("; ")
        for command in mend.removesuffix(", and set it again").split(", then "):
            if command.split()[0].isupper():
                limited.space.redis.execute_command(*command.split())
    limited.promote()
    report = audit(limited.space)
    assert [one.text for one in report.findings] == []
    limited.check()


def test_a_line_that_came_after_the_names_were_read_is_looked_into(limited: Limited) -> None:
    link = Watched(limited.space, hide=("line:",))
    report = Audit(Probe(link, limited.space.broker.namespace)).run()
    assert report.findings == []
    assert link.confirmed == 0


def test_a_message_that_goes_over_to_its_other_line_meanwhile_is_not_lost(
    limited: Limited,
) -> None:
    limited.push(*(f"m{n}" for n in range(50)), key="slow:9,tenant:1")
    limited.hold("tenant:1")
    link = Watched(limited.space, lambda: link.scans["msg"] and limited.claim(1))
    assert Audit(Probe(link, limited.space.broker.namespace)).run().findings == []
