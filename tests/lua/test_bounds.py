"""What would grow for ever: dead letters, names of queues, results, notes of pushes."""

from __future__ import annotations

import re

import pytest

from greenworker.findings import CAME, WENT
from greenworker.message import Outcome
from tests.support import acl, scripts
from tests.support.state import Space

FAILURE = b'{"state":"FAILURE","error":{"type":"E","message":"","traceback":""}}'
DAY = 24 * 3600

# Many at once: KEYS dead, dead:record; ARGV how many, the first one's ms.
SEED = """
for n = 1, ARGV[1] do
  redis.call('ZADD', KEYS[1], ARGV[2] + n, 'old' .. n)
  redis.call('HSET', KEYS[2], 'old' .. n, '1 failed w 0\\nw\\n{}\\n')
end
"""


def bury(space: Space, *ids: str) -> None:
    deliveries = space.run("w", *ids)
    outcome = Outcome("dead", FAILURE, 60.0, reason="failed")
    assert all(space.settle("w", *((delivery, outcome) for delivery in deliveries)))


def seed_dead(space: Space, count: int, days_ago: float) -> None:
    began = int((space.redis.time()[0] - days_ago * DAY) * 1000)
    space.redis.eval(SEED, 2, space.key("dead"), space.key("dead:record"), count, began)
    # What a snapshot counts: they were messages once.
    space.redis.hincrby(space.key("stats"), "enqueued", count)
    space.redis.hincrby(space.key("stats"), "dead", count)


def dead(space: Space) -> list[str]:
    ids: list[str] = space.redis.zrange(space.key("dead"), 0, -1)
    assert set(ids) == set(space.redis.hkeys(space.key("dead:record")))
    return ids


def test_of_dead_letters_the_latest_hundred_thousand_are_kept(space: Space) -> None:
    seed_dead(space, 99_999, days_ago=1)
    bury(space, "m1")
    assert len(dead(space)) == 100_000
    bury(space, "m2", "m3")
    ids = dead(space)
    assert len(ids) == 100_000
    assert ids[0] == "old3"
    assert {"m1", "m2", "m3"} <= set(ids)


def test_dead_letters_leave_after_thirty_days(space: Space) -> None:
    seed_dead(space, 25, days_ago=31)
    seed_dead(space, 1, days_ago=29)  # the first one, younger
    for n in range(3):
        bury(space, f"m{n}")
    assert dead(space) == ["old1", "m0", "m1", "m2"]


def test_they_leave_as_well_where_nothing_dies_any_more(space: Space) -> None:
    seed_dead(space, 250, days_ago=31)
    for left in (150, 50, 0, 0):
        space.pulse_was(0.0)
        space.reap()
        assert len(dead(space)) == left


def test_too_many_of_them_leave_at_a_sweep(space: Space) -> None:
    seed_dead(space, 100_120, days_ago=1)
    for left in (100_020, 100_000, 100_000):
        space.pulse_was(0.0)
        space.reap()
        assert len(dead(space)) == left


def test_a_queue_that_nobody_uses_any_more_is_forgotten(space: Space) -> None:
    # Given a hundred queues that were used once, and four that are in use
    for n in range(100):
        space.push("m", queue=f"once-{n}")
        space.register("w", queues=[f"once-{n}"])
        space.done("w", *space.claim("w", queues=[f"once-{n}"]).deliveries)
    space.broker.release("w")
    space.push("waits", queue="waits")
    space.push_suspect("suspect", queue="suspect")
    space.push("held", queue="held")
    space.register("v", queues=["held", "idle"])
    assert space.claim_ids("v", queues=["held", "idle"]) == ["held"]
    used = {"waits", "suspect", "held", "idle"}
    assert len(space.redis.smembers(space.key("queues"))) == 104
    # When sweeps look at some of them at a time
    for _ in range(20):
        space.pulse_was(0.0)
        space.reap()
    # Then the names that are in use are left, and nothing of the others
    assert space.redis.smembers(space.key("queues")) == used
    assert not space.redis.keys(space.key("*once-*"))
    space.check()


def test_a_queue_is_known_again_when_something_becomes_due_there(space: Space) -> None:
    space.push("m", queue="rare", due=60.0)
    space.pulse_was(0.0)
    space.reap()
    assert space.redis.smembers(space.key("queues")) == set()
    space.make_due()
    space.broker.promote()
    assert space.redis.smembers(space.key("queues")) == {"rare"}
    assert space.waiting("rare") == ["m"]
    assert space.take_token("rare")
    space.check()


# Of 310 digits a float still makes seconds, and no milliseconds any more.
@pytest.mark.parametrize("ttl", ["3600000", "9" * 30, "9" * 308, "9" * 309, "9" * 311])
def test_every_result_and_every_note_of_a_push_has_a_time_to_live(space: Space, ttl: str) -> None:
    done, failed, expired = (f"1 0 0 5 1 {e} {ttl} default t\n[[],{{}}]" for e in (0, 0, 1))
    messages = {"done": done, "failed": failed, "expired": expired, "bad": "no envelope"}
    space.redis.hset(space.key("msg"), mapping=messages)
    space.redis.lpush(space.key("ready:default:5"), *messages)
    space.push("m")
    space.register("w")
    held = {delivery.id: delivery for delivery in space.claim("w").deliveries}
    assert set(held) == {"done", "failed", "m"}
    space.settle(
        "w",
        (held["done"], Outcome("done", b"{}", int(ttl) / 1000)),
        (held["failed"], Outcome("dead", FAILURE, int(ttl) / 1000, reason="failed")),
        (held["m"], Outcome("done", b"{}", 60.0)),
    )
    results = space.redis.keys(space.key("result:*"))
    assert len(results) == 5
    for key in results + space.redis.keys(space.key("push:*")):
        assert 0 < space.redis.pttl(key) <= 100 * 365 * DAY * 1000


def test_the_counters_are_those_that_the_document_names() -> None:
    counts = re.compile(r"(?:\bcount\(|\bfinish\(\w+, |'HINCRBY', STATS, )'(\w+)'").findall
    in_scripts = {name for path in scripts.LUA.glob("*.lua") for name in counts(path.read_text())}
    row = re.search(r"^\| counters \| (.+) \|$", acl.DOC.read_text(), re.MULTILINE)
    assert row
    assert (
        {*CAME, *WENT, "reaped", "retried", "throttled"}
        == in_scripts
        == set(re.findall(r"`(\w+)`", row[1]))
    )
