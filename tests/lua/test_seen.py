"""Filters of what was seen: as a set in Python, at some bytes each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenworker.connection import Connection
from greenworker.errors import BrokerError
from greenworker.message import Message
from greenworker.seen import Seen, mark_of
from tests.support.auditing import audit
from tests.support.clockwork import Clockwork
from tests.support.model_parts import Bounds
from tests.support.sending import Sender, sending
from tests.support.server import Server
from tests.support.state import Space


@pytest.fixture
def seen(space: Space) -> Iterator[Seen]:
    connection = Connection(space.endpoint)
    yield Seen(lambda: (connection, space.broker.namespace), "crawl")
    connection.close()


@pytest.fixture
def sender(space: Space) -> Iterator[Sender]:
    with sending(space) as sender:
        yield sender


def shards(place: Any) -> dict[str, set[str]]:
    """Every set of every filter: its key below `seen:`."""
    keys = place.redis.scan_iter(match=place.root + "seen:*:*")
    return {key.removeprefix(place.root + "seen:"): set(place.redis.smembers(key)) for key in keys}


# A filter and a set of Python's


NAMES = ("one", "two")
# The first and the last of each half are where a Lua number is rounded.
marks = st.one_of(
    st.integers(0, 2**63 - 1),
    st.sampled_from([0, 1, 2**62 - 1, 2**62, 2**62 + 1, 2**63 - 1, 2**63 - 2, 2**53, 2**53 + 1]),
    st.integers(0, 40).map(lambda n: n * 2**57),
)
steps = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(NAMES), st.lists(marks, max_size=30)),
    st.tuples(st.just("look"), st.sampled_from(NAMES), st.lists(marks, max_size=30)),
    st.tuples(st.just("drop"), st.sampled_from(NAMES), st.just([])),
    st.tuples(st.just("sweep"), st.just(""), st.just([])),
)


class Direct(Seen):
    """What it has seen are the marks themselves."""

    def mark(self, how: str, *some: int) -> str:
        told = self._run(how, *([uuid4().hex, 1000] if how == "seen_add" else []), self.name, *some)
        return (told if how == "seen_add" else told[1]).decode()


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    with Server() as server:
        yield server


@given(st.lists(steps, max_size=40), st.sampled_from([1, 3, 220]))
def test_it_has_seen_what_a_set_has(own_server: Server, did: list[Any], full: int) -> None:
    place = Clockwork(own_server.url, f"t{uuid4().hex[:8]}", Bounds(full=full))
    place.clock(1_900_000_000_000)
    filters = {name: Direct(lambda: (place, place.broker.namespace), name) for name in NAMES}
    sets: dict[str, set[int]] = defaultdict(set)
    try:
        for how, name, some in did:
            if how == "add":
                fates = ""
                for mark in some:
                    fates += "s" if mark in sets[name] else "n"
                    sets[name].add(mark)
                assert filters[name].mark("seen_add", *some) == fates
            elif how == "look":
                told = filters[name].mark("seen_look", *some)
                assert told == "".join("s" if mark in sets[name] else "n" for mark in some)
            elif how == "drop":
                assert filters[name].drop() == len(sets.pop(name, ()))
            else:
                place.broker.reap(30.0, 1e10, 3)
            for one, known in sets.items():
                assert filters[one].count() == len(known)
                marked = list(known)[:1000]
                assert filters[one].mark("seen_look", *marked) == "s" * len(marked)
        # Once swept, there is nothing but what was seen
        for _ in range(10):
            place.broker.reap(30.0, 1e10, 3)
        found = [mark for shard in shards(place).values() for mark in shard]
        assert sorted(found) == sorted(str(mark) for known in sets.values() for mark in known)
    finally:
        place.close()


def test_sets_stay_small_however_many_are_seen(space: Space, seen: Seen) -> None:
    """Redis keeps a set of up to 512 integers as a sorted array."""
    for start in range(0, 60_000, 10_000):
        assert seen.add(*range(start, start + 10_000)) == 10_000
    found = shards(space)
    assert sum(map(len, found.values())) == seen.count() == 60_000
    sizes = sorted(map(len, found.values()))
    assert len(sizes) == -(-60_000 // 220)
    assert sizes[-1] <= 512
    assert {space.redis.object("encoding", space.key("seen:" + key)) for key in found} == {"intset"}


def test_what_was_seen_is_known_again(seen: Seen) -> None:
    assert seen.add("http://a/", ("a", 1), 7) == 3
    assert seen.add("http://a/", "http://b/", "http://b/") == 1
    assert "http://b/" in seen
    assert seen.contains("http://a/", "http://c/", ("a", 1), ("a", 2)) == [True, False, True, False]
    assert seen.count() == 4


def test_a_filter_that_is_dropped_begins_anew_at_once(space: Space, seen: Seen) -> None:
    seen.add(*range(5000))
    assert seen.drop() == 5000
    assert (seen.count(), 7 in seen, seen.drop()) == (0, False, 0)
    assert seen.add(*range(500)) == 500
    # What it had seen goes with sweeps, and nothing else
    assert len(shards(space)) > 20
    assert audit(space).findings == []
    space.reap()  # a quiet time
    space.reap()
    assert sum(map(len, shards(space).values())) == 500
    assert seen.count() == 500
    assert not space.redis.exists(space.key("seen:dropped"))
    assert audit(space).findings == []


def test_a_sweep_removes_a_thousand_sets(space: Space, seen: Seen) -> None:
    seen.add(7)
    space.redis.hset(space.key("seen"), "crawl", "1 11 0 450560")
    seen.drop()
    space.reap()
    left = []
    while gen := space.redis.hgetall(space.key("seen:dropped")):
        space.reap()
        left.append(gen)
    assert left == [{"1": "11 0 1000"}, {"1": "11 0 2000"}] or left == [
        {"1": "11 0 0"}, {"1": "11 0 1000"}, {"1": "11 0 2000"},
    ]  # fmt: skip


def test_a_lost_reply_says_the_same_again(space: Space, seen: Seen) -> None:
    """Else what is new would be taken for seen, and nobody would fetch it."""
    args = ("push id", 60_000, "crawl", mark_of(b"1"), mark_of(b"2"))
    assert seen._run("seen_add", *args) == b"nn"
    before = space.state()
    assert seen._run("seen_add", *args) == b"nn"
    assert space.state() == before


# With what is sent


def urls(*marks: int) -> list[Message]:
    return [Message(f"m{mark}", "t", mark=mark) for mark in marks]


def test_what_is_seen_is_not_sent(space: Space, seen: Seen, sender: Sender) -> None:
    assert sender.many(urls(1, 2, 1, 3), "crawl", "p") == ("nnsn", [])
    assert space.waiting() == ["m1", "m2", "m3"]
    before = space.state()
    assert sender.many(urls(1, 2, 1, 3), "crawl", "p") == ("nnsn", [])
    assert space.state() == before
    assert sender.many(urls(3, 4), "crawl") == ("sn", [])
    assert sender.many(urls(3, 4), "another") == ("pp", [])
    assert seen.count() == 4
    space.check()


def test_what_is_not_sent_is_not_marked(space: Space, seen: Seen, sender: Sender) -> None:
    sender.send("m1", "url")
    space.push("m2")
    batch = [
        Message("x", "t", options={"unique": "durl"}, mark=1),
        Message("m2", "t", mark=2),
        Message("m3", "t", mark=3),
    ]
    assert sender.many(batch, "crawl") == ("dpn", ["m1"])
    assert seen._run("seen_look", "crawl", 1, 2, 3) == [1, b"nns"]


def test_at_maxmemory_nothing_is_marked_and_a_drop_makes_room(own_space: Space) -> None:
    space = own_space
    with sending(space) as sender:
        connection = Connection(space.endpoint)
        seen = Seen(lambda: (connection, space.broker.namespace), "crawl")
        seen.add(*range(1000))
        space.redis.config_set("maxmemory", 1)
        before = space.state()
        for call in (
            lambda: sender.many(urls(1, 2), "crawl"),
            lambda: sender.many(urls(1, 2), "new"),
            lambda: seen.add(5000),
        ):
            with pytest.raises(BrokerError) as caught:
                call()
            assert caught.value.code == "OOM"
        assert space.state() == before
        assert seen.contains(7, 5000) == [True, False]
        assert seen.drop() == 1000
        space.reap()
        space.reap()
        assert shards(space) == {}
        space.redis.config_set("maxmemory", 0)
        connection.close()


def test_a_set_of_a_wrong_type_is_refused_whole(space: Space, seen: Seen, sender: Sender) -> None:
    seen.add(*range(219))
    (key,) = shards(space)
    space.redis.delete(space.key(f"seen:{key}"))
    space.redis.hset(space.key(f"seen:{key}"), "a", "b")
    (found,) = audit(space).findings
    assert (found.kind, found.where) == ("mistyped", f"seen:{key}")
    before = space.redis.dbsize()
    for call in (
        lambda: sender.many(urls(1, 2), "crawl"),
        lambda: seen.add(7),
        lambda: seen.contains(7),
    ):
        with pytest.raises(BrokerError, match=f"seen:{key} is a hash, not a set"):
            call()
    assert space.redis.dbsize() == before


def test_what_cannot_be_read_is_found(space: Space, seen: Seen) -> None:
    seen.add(1)
    space.redis.hset(space.key("seen"), "crawl", "rubbish")
    (found,) = audit(space).findings
    assert (found.kind, found.name) == ("unknown", "crawl")
    assert seen.count() == 0
