"""What is known of keys is damaged, or changes under what waits: it costs a limit at most, and never a message."""

from __future__ import annotations

from typing import Any

import pytest

from greenworker.message import Outcome
from tests.support.limits import Limited
from tests.support.server import Server
from tests.support.state import Space


@pytest.fixture
def limited(space: Space) -> Limited:
    limited = Limited(space)
    limited.space.register("w")
    return limited


def key(limited: Limited, name: str) -> str:
    return limited.space.key(name)


def sweep(limited: Limited) -> None:
    """As a reaper, who finds nobody dead."""
    limited.sweep()


def drain(limited: Limited) -> set[str]:
    """All that is handed out as time goes by."""
    found: set[str] = set()
    for _ in range(20):
        for one in limited.claim(100):
            found.add(one.id)
            limited.done(one)
        limited.goes_by(6.0)
        limited.promote()
        sweep(limited)
    return found


# --- limits that change


def test_a_rate_that_is_raised_counts_at_once(limited: Limited) -> None:
    limited.limit("host:a", rate="1/hour")
    limited.push("a1", "a2", "a3", key="host:a")
    assert limited.claim_ids() == ["a1"]
    limited.limit("host:a", rate="1/s")
    limited.goes_by(1.0)
    assert limited.claim_ids() == ["a2"], "it waits for what was allowed before"
    limited.goes_by(0.999)
    assert limited.claim_ids() == []


def test_what_a_worker_declares_no_more_goes(limited: Limited) -> None:
    limited.limit("host:*", by="d", worker="w", concurrency=1)
    limited.limit("tenant:*", by="d", worker="w", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    assert limited.claim_ids() == ["a1", "a2"]
    limited.check()


def test_who_is_gone_declares_nothing(limited: Limited) -> None:
    assert limited.limit("host:*", by="d", worker="ghost", concurrency=1) == []
    assert "limits" not in limited.state()


# --- the server's clock is set back


@pytest.mark.parametrize(
    "options",
    [{"delay": 1.0}, {"rate": "1/s"}, {"rate": "10/s", "burst": 5}, {"concurrency": 1}, {}],
    ids=str,
)
def test_a_clock_that_is_set_back_stops_no_key(limited: Limited, options: dict[str, Any]) -> None:
    limited.limit("host:*", **options)
    limited.push(*(f"a{n}" for n in range(8)), key="host:a")
    limited.push(*(f"b{n}" for n in range(8)), key="host:b")
    sweep(limited)
    running = limited.claim(4)
    limited.take_token()
    limited.is_set_back(3600.0)
    for one in running:
        limited.done(one)
    sweep(limited)
    assert len(running) + len(drain(limited)) == 16
    limited.check()


def test_nor_does_it_admit_more(limited: Limited) -> None:
    limited.limit("host:a", delay=1.0)
    limited.push("a1", "a2", "a3", key="host:a")
    assert limited.claim_ids() == ["a1"]
    limited.is_set_back(3600.0)
    assert limited.claim_ids() == []
    sweep(limited)
    limited.promote()
    limited.goes_by(0.999)
    assert limited.claim_ids() == []
    limited.goes_by(0.002)
    assert limited.claim_ids() == ["a2"]


def test_a_throttle_ends_though_the_clock_was_set_back(limited: Limited) -> None:
    limited.push("a1", "a2", key="host:a")
    limited.settle(limited.claim(1)[0], Outcome("throttled", delay=3000.0))
    sweep(limited)
    limited.is_set_back(1e6)
    assert limited.claim_ids() == []
    limited.goes_by(3600.0)
    limited.promote()
    assert limited.claim_ids() == ["a1", "a2"]


def test_a_hold_ends_though_the_clock_was_set_back(limited: Limited) -> None:
    limited.push("a1", "a2", key="host:a")
    limited.done(limited.claim(1)[0])
    limited.hold("host:a", 900.0)
    sweep(limited)
    limited.is_set_back(1e6)
    assert limited.claim_ids() == []
    limited.goes_by(899.9)
    limited.promote()
    assert limited.claim_ids() == []
    limited.goes_by(0.1)
    limited.promote()
    assert limited.claim_ids() == ["a2"]


@pytest.mark.parametrize("how", ["throttled", "held"])
def test_who_is_told_to_wait_after_that_waits(limited: Limited, how: str) -> None:
    limited.push("a1", "a2", key="host:a")
    (one,) = limited.claim(1)
    limited.is_set_back(1e6)
    if how == "held":
        limited.hold("host:a", 30.0)
    else:
        limited.settle(one, Outcome("throttled", delay=30.0))
    limited.goes_by(29.9)
    limited.promote()
    assert limited.claim_ids() == []
    limited.goes_by(0.1)
    limited.promote()
    assert limited.claim_ids() != []


# --- suspects


def test_a_suspect_that_a_limit_refuses_holds_no_worker_up(limited: Limited) -> None:
    """It would run without anything else: nobody makes room for what cannot run anyway."""
    limited.push("a1", key="host:a")
    limited.make_suspect("a1")
    limited.space.edit("a1", "1 2 ", "1 4 ")
    limited.hold("host:a")
    limited.push("p1", "p2")
    assert limited.claim_ids(1) == ["p1"]
    assert limited.claim_ids(1) == ["p2"]
    assert "room" not in limited.state()
    limited.resume("host:a")
    assert limited.claim_ids() == [], "it waits for who holds nothing"
    limited.check()


# --- damage

JUNK = [
    "",
    "x",
    "1 nan 0 0 0 0 0 - 0,0,0 0 - - ",
    "1 0 0 0 0 0 0 - junk 0 - - ",
    "1 inf inf inf 0 0 0 - 0,0,0 0 - p5:default ",
]


@pytest.mark.parametrize("text", [None, *JUNK])
@pytest.mark.parametrize("options", [{}, {"concurrency": 1}, {"delay": 1.0}], ids=str)
def test_what_is_known_of_a_key_is_damaged(
    limited: Limited, text: str | None, options: dict[str, float]
) -> None:
    limited.limit("host:a", **options)
    limited.push("a1", "a2", "a3", key="host:a")
    first = limited.claim(1)
    limited.claim(0)
    if text is None:
        limited.space.redis.hdel(key(limited, "keys"), "host:a")
    else:
        limited.space.redis.hset(key(limited, "keys"), "host:a", text)
    for one in first:
        limited.done(one)
    assert {one.id for one in first} | drain(limited) == {"a1", "a2", "a3"}
    limited.check()


@pytest.mark.parametrize(
    "name",
    [
        "keys",
        "later",
        "held:host:a",
        "held:host:b",
        "idle",
        "line:5:default host:b",
        "limits",
        "limits:under",
        "pairs",
        "pairs:5:default host:a",
        "pairs:5:default host:b",
        "line:5:default host:a,host:b",
    ],
)
def test_a_key_of_a_wrong_type_loses_no_message(limited: Limited, name: str) -> None:
    limited.limit("host:*", concurrency=1, delay=1.0)
    limited.push("a1", "a2", key="host:a")
    limited.push("b1", key="host:b")
    limited.push("c1", "c2", key="host:a,host:b")
    running = limited.claim(2)
    redis = limited.space.redis
    kept = redis.exists(key(limited, name)) and redis.rename(
        key(limited, name), key(limited, "kept")
    )
    redis.set(key(limited, name), "x")
    for one in running:
        limited.done(one)
    ended = {one.id for one in running}
    for _ in range(6):
        limited.goes_by(1.0)
        limited.promote()
        sweep(limited)
        for one in limited.claim(1):
            ended.add(one.id)
            limited.done(one)
    redis.delete(key(limited, name))
    if kept:
        redis.rename(key(limited, "kept"), key(limited, name))
    assert ended | drain(limited) == {"a1", "a2", "b1", "c1", "c2"}
    limited.check()


def test_turns_of_a_wrong_type_hold_up_nothing_else(limited: Limited) -> None:
    limited.limit("host:a", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    limited.push("s1", key="host:a", queue="slow")
    running = limited.claim(1)
    limited.claim(1)
    # What waits elsewhere for the permit cannot take turns there.
    limited.space.redis.rpop(key(limited, "turn:slow:5"))
    limited.space.claim("w", 1, ["slow"])
    limited.space.redis.set(key(limited, "turn:slow:5"), "x")
    redis = limited.space.redis
    text = redis.hget(key(limited, "keys"), "host:a")
    redis.hset(key(limited, "keys"), "host:a", text.replace("t5:slow", "p5:slow"))
    limited.done(running[0])
    assert limited.claim_ids() == ["a2"]
    redis.delete(key(limited, "turn:slow:5"))
    limited.limit("host:a", concurrency=2)
    limited.goes_by(5.0)
    limited.promote()
    assert [one.id for one in limited.space.claim("w", 1, ["slow"]).deliveries] == ["s1"]
    limited.check()


@pytest.mark.parametrize("value", ["abc", "", "-3", "0", None])
def test_a_count_that_is_off_stops_nobody(limited: Limited, value: str | None) -> None:
    limited.push("a1", "a2", key="host:a")
    redis = limited.space.redis
    if value is None:
        redis.delete(key(limited, "keyed"))
    else:
        redis.hset(key(limited, "keyed"), "default", value)
    sweep(limited)
    limited.check()
    assert limited.claim_ids() == ["a1", "a2"]
    assert redis.hgetall(key(limited, "keyed")) == {}


def test_nor_does_it_where_there_are_too_many_keys_to_count(limited: Limited) -> None:
    for n in range(600):
        limited.push(f"a{n}", key=f"host:{n}")
    limited.space.redis.delete(key(limited, "keyed"))
    assert len(drain(limited)) == 600
    limited.check()


def test_a_permit_of_what_is_gone_comes_back(limited: Limited) -> None:
    """The message has gone by somebody's hand, and a worker that adopts its claim does not know it."""
    limited.limit("host:a", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    limited.claim(1)
    limited.space.redis.hdel(key(limited, "msg"), "a1")
    limited.space.redis.hincrby(key(limited, "stats"), "done", 1)
    limited.space.broker.sync("w", 0, 1)
    assert limited.held("host:a") == {"a1"}
    assert limited.claim_ids() == []
    sweep(limited)
    assert limited.claim_ids() == ["a2"]
    limited.check()


def test_a_permit_that_a_worker_of_before_has_left_comes_back(limited: Limited) -> None:
    """It settles without a word of keys."""
    limited.limit("host:a", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    (one,) = limited.claim(1)
    reply = limited._run("settle", "w", 1, "a1", one.seq, "done", 0, b"{}", "")
    assert reply == [1]
    assert limited.claim_ids() == []
    sweep(limited)
    assert limited.claim_ids() == ["a2"]
    limited.check()


def test_permits_of_what_runs_stay(limited: Limited) -> None:
    limited.limit("*", concurrency=2)
    limited.space.register("v")
    for n in range(30):
        limited.push(f"a{n}", f"b{n}", f"c{n}", key=f"host:{n}")
    held = len(limited.claim_ids(40)) + len(limited.claim_ids(100, worker="v"))
    assert held == 60
    sweep(limited)
    limited.check()
    assert limited.claim_ids(100) == []


@pytest.mark.parametrize("name", ["later", "turn:default:5", "limits"])
def test_who_was_to_be_fetched_is_found_again(limited: Limited, name: str) -> None:
    limited.limit("host:*", delay=1.0)
    limited.push("a1", "a2", key="host:a")
    limited.push("b1", key="host:b")
    limited.claim(2)
    limited.push("c1", key="host:c")
    limited.space.redis.delete(key(limited, name))
    assert drain(limited) == {"a2", "c1"}


def test_a_line_of_which_nothing_is_known(limited: Limited) -> None:
    """`greenworker check` says what brings it back: ZADD later 0."""
    limited.limit("host:a", concurrency=1)
    limited.push("a1", "a2", key="host:a")
    (one,) = limited.claim(1)
    limited.claim(1)
    redis = limited.space.redis
    text = redis.hget(key(limited, "keys"), "host:a")
    redis.hset(key(limited, "keys"), "host:a", text.replace("p5:default", "t9:other"))
    limited.done(one)
    assert limited.claim_ids() == []
    redis.zadd(key(limited, "later"), {"host:a": 0})
    assert limited.claim_ids() == ["a2"]


def test_an_outcome_of_a_suspect_without_its_keys(limited: Limited) -> None:
    """Given back without an envelope, as by a worker that knows of nothing: its head tells the keys."""
    limited.limit("host:a", concurrency=1)
    limited.push("a1", key="host:a")
    (one,) = limited.claim(1)
    reply = limited._run("settle", "w", 1, "a1", one.seq, "release", "", "", "")
    assert reply == [1]
    limited.check()
    limited.settle(limited.claim(1)[0], Outcome("release"))
    limited.check()


# --- a pass over all keys, after a limit has changed


def test_a_pass_that_a_failover_interrupts_begins_anew(namespace: str) -> None:
    """In another process of the server hashes are in another order: what the pass has been past there is not what it has been
    past here. It needs no sweep, and goes on without a pause."""
    count = 3000
    with Server(appendonly=True) as server:
        with Space(server.url, namespace) as space:
            limited = Limited(space)
            limited.space.register("w")
            limited.limit("host:*", concurrency=0)
            for start in range(0, count, 500):
                for n in range(start, start + 500):
                    limited.push(f"m{n}", key=f"host:{n}")
                assert limited.claim(500) == []
            limited._run("limit_set", "s", "", "host:*", "none")
            assert limited._run("limit_look", 1000) == 1
        server.kill()
        server.restart()
        with Space(server.url, namespace) as space:
            calls = 1
            while space.broker.promote().next_due == 0.0:
                calls += 1
            assert calls <= count / 500 + 2
            space.register("v")
            got = 0
            while some := space.claim_ids("v", 1000):
                got += len(some)
            assert got == count, "some were left to the sweeps"
