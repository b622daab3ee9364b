"""Dead letters: what is kept of them, and how they are read and forgotten in bounded calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from greenworker.errors import BrokerError
from greenworker.message import Outcome
from tests.support.state import Space, envelope

FAILURE = b'{"state":"FAILURE","error":{"type":"E","message":"","traceback":""}}'


def bury(space: Space, *ids: str) -> None:
    """Let these messages fail for good, all in the same millisecond."""
    space.push(*ids)
    if not space.redis.exists(space.key("workers")):
        space.register("w")
    dead = Outcome("dead", FAILURE, 60.0, reason="failed")
    deliveries = space.claim("w", 1000).deliveries
    assert all(space.settle("w", *((one, dead) for one in deliveries)))


def seed(space: Space, *ids: str, died: int = 1) -> None:
    """Dead letters that died at this moment (ms)."""
    space.redis.zadd(space.key("dead"), dict.fromkeys(ids, died))
    record = f"{died} failed w 0\nw\n{FAILURE.decode()}\n{envelope(sent='1')}"
    space.redis.hset(space.key("dead:record"), mapping=dict.fromkeys(ids, record))


def all_ids(pages: Iterator[list[bytes]]) -> list[str]:
    return [id.decode() for page in pages for id in page]


def ids_of(space: Space, older: float = 0.0, newer: float | None = None) -> Iterator[list[bytes]]:
    """The pages of those that died more, and less, than so many seconds ago."""
    now = space.broker.time()
    return space.broker.dead_ids(None if newer is None else now - newer, now - older)


def records(space: Space, *ids: str, whole: bool = True) -> list[str | None]:
    found = space.broker.dead_records([id.encode() for id in ids], whole)
    return [None if record is None else record.decode("utf-8", "replace") for record in found]


# What is kept


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"name": "host.7"}, "host.7"),
        ({"name": 'a "b" \u20ac'}, 'a "b" \u20ac'),
        ({"name": "two\nlines\x1b"}, "two?lines?"),
        ({"name": 7}, "?"),
        ({}, "?"),
    ],
)
def test_the_workers_name_is_kept(space: Space, about: dict[str, object], name: str) -> None:
    assert space.broker.register("w", 60.0, about, ["default"])
    bury(space, "m")
    (record,) = records(space, "m")
    assert (record or "").split("\n")[1] == name


def test_a_worker_that_nobody_can_name_buries_all_the_same(space: Space) -> None:
    (one,) = space.run("w", "m")
    space.redis.delete(space.key("about"))
    space.redis.set(space.key("about"), "of a wrong type")
    assert space.settle("w", (one, Outcome("dead", FAILURE, 60.0, reason="failed"))) == [True]
    assert (records(space, "m")[0] or "").split("\n")[1] == "?"


@pytest.mark.parametrize("size", [3_000_000, 1_200_000])
def test_of_what_is_larger_than_a_send_makes_the_beginning_is_kept(space: Space, size: int) -> None:
    bytes_ = "x" * size
    space.redis.hset(space.key("msg"), "bad", bytes_)
    space.redis.lpush(space.key("ready:default:5"), "bad", bytes_)
    space.register("w")
    assert space.claim_ids("w") == []
    kept = space.redis.hgetall(space.key("dead:record"))
    assert len(kept) == 2
    for record in kept.values():
        assert record.split("\n")[0].endswith(f" malformed w {size}")
        assert record.rpartition("\n")[2] == "x" * 4096
    assert space.broker.revive([b"bad"]) == "u"
    space.check()


def test_the_largest_message_is_kept_whole(space: Space) -> None:
    bury(space, "small")
    space.push("m", args=["x" * 999_900])
    (one,) = space.claim("w").deliveries
    space.settle("w", (one, Outcome("dead", FAILURE, 60.0, reason="failed")))
    assert space.broker.revive([b"m"]) == "r"
    assert space.claim("w").deliveries[0].envelope == one.envelope


@pytest.mark.parametrize(
    ("entry", "kept_as"),
    [
        ("order-17", "order-17"),
        ("x" * 64, "x" * 64),
        ("x" * 65, "foreign:"),
        ('{"token": "canary"}', "foreign:"),
        ("", "foreign:"),
        ("a\x1b[31m", "foreign:"),
    ],
)
def test_an_entry_that_no_push_made_is_kept_under_a_harmless_name(
    space: Space, entry: str, kept_as: str
) -> None:
    """Also where it begins like the id of a message, which stays."""
    space.redis.rpush(space.key("ready:default:5"), entry)
    space.register("w")
    space.claim("w")
    (id,) = space.redis.zrange(space.key("dead"), 0, -1)
    assert id.startswith(kept_as)
    assert (id == entry) is (kept_as != "foreign:")
    space.check()


# Reading


def test_ids_come_oldest_first_in_pages(space: Space) -> None:
    seed(space, *(f"c{n:04}" for n in range(1500)), died=3)
    seed(space, *(f"a{n:04}" for n in range(1500)), died=5)
    seed(space, "z", died=1)
    pages = list(ids_of(space))
    assert [len(page) for page in pages] == [1000, 1000, 1000, 1]
    assert all_ids(iter(pages)) == [
        "z", *(f"c{n:04}" for n in range(1500)), *(f"a{n:04}" for n in range(1500)),
    ]  # fmt: skip


@pytest.mark.parametrize("leave", [slice(None), slice(0, 1), slice(999, 1000), slice(0, 0)])
def test_what_leaves_while_they_are_read_makes_none_be_left_out(space: Space, leave: slice) -> None:
    """All died in the same millisecond, so only their ids order them: as bytes."""
    ids = sorted(f"{'aZ_-.'[n % 5]}{n}" for n in range(2500))
    seed(space, *ids, died=7)
    seen = []
    for page in ids_of(space):
        seen += page
        if page[leave]:
            space.broker.dead_delete(page[leave])
    assert [id.decode() for id in seen] == ids


def test_who_dies_while_they_are_read_is_not_read(space: Space) -> None:
    """So that retrying what fails again comes to an end."""
    seed(space, "m")
    pages = ids_of(space)
    assert next(pages) == [b"m"]
    seconds, _ = space.redis.time()
    seed(space, "later", died=(seconds + 5) * 1000)
    assert list(pages) == []


def test_ids_by_age(space: Space) -> None:
    seconds, _ = space.redis.time()
    for age in (5, 500, 50_000):
        seed(space, f"m{age}", died=(seconds - age) * 1000)
    assert all_ids(ids_of(space)) == ["m50000", "m500", "m5"]
    assert all_ids(ids_of(space, older=100.0)) == ["m50000", "m500"]
    assert all_ids(ids_of(space, newer=1000.0)) == ["m500", "m5"]
    assert all_ids(ids_of(space, older=100.0, newer=1000.0)) == ["m500"]
    assert all_ids(ids_of(space, older=1000.0, newer=100.0)) == []
    assert all_ids(ids_of(space, older=1e6)) == []


def test_records_are_read_whole_or_without_their_bodies(space: Space) -> None:
    bury(space, "m")
    whole = records(space, "m", "nobody")
    front = records(space, "m", "nobody", whole=False)
    assert whole[1] is front[1] is None
    assert (whole[0] or "") == (front[0] or "") + "\n[[],{}]"
    assert (front[0] or "").endswith(" default t")


def test_a_line_without_an_end_is_no_reason_to_send_all_of_it(space: Space) -> None:
    seed(space, "m")
    record = f"1 malformed w 0\nw\n{{}}\n{'x' * 100_000}"
    space.redis.hset(space.key("dead:record"), "m", record)
    (front,) = records(space, "m", whole=False)
    assert front == f"1 malformed w 0\nw\n{{}}\n{'x' * 4096}"


def test_many_and_large_records_take_several_calls(space: Space) -> None:
    """No call reads more than 4 MiB, or 1,000 of them."""
    seed(space, *(f"m{n}" for n in range(1500)))
    large = f"1 failed w 0\nw\n{{}}\n{'x' * 1_000_000}"
    space.redis.hset(space.key("dead:record"), mapping={f"m{n}": large for n in range(10)})
    reply = space.broker._run(
        "dead_records", "whole", 4 * 1024 * 1024, *(f"m{n}" for n in range(9))
    )
    assert len(reply) == 4
    found = records(space, *(f"m{n}" for n in range(1500)), "nobody", "m3")
    assert [len(record or "") > 1000 for record in found] == [
        *[True] * 10, *[False] * 1490, False, True,
    ]  # fmt: skip
    assert found[1500] is None


def test_reading_changes_nothing(space: Space) -> None:
    bury(space, "m1", "m2")
    before = space.state()
    assert all_ids(ids_of(space, older=0.0, newer=600.0)) == ["m1", "m2"]
    records(space, "m1", "m2", "nobody")
    assert space.state() == before


# Forgetting


def test_delete_leaves_nothing_but_the_result(space: Space) -> None:
    bury(space, "m1", "m2")
    assert space.broker.dead_delete([b"m1", b"nobody"]) == 1
    state = space.state()
    assert set(state["dead"]) == set(state["dead:record"]) == {"m2"}
    assert "result:m1" in state
    assert space.stats() == {"enqueued": 2, "dead": 2}
    space.check()


def test_what_has_died_again_stays(space: Space) -> None:
    seed(space, "m1", "m2", "m3", died=7000)
    read = {b"m1": 7.0, b"m2": 6.999}
    assert space.broker.dead_delete([b"m1", b"m2", b"nobody"], {**read, b"nobody": 7.0}) == 1
    assert set(space.state()["dead"]) == {"m2", "m3"}
    assert space.broker.dead_delete([b"m2", b"m3"]) == 2
    assert "dead" not in space.state()


def test_many_and_large_ones_take_several_calls(space: Space) -> None:
    """Records are looked at where a moment is told: no more than 4 MiB a call."""
    seed(space, *(f"m{n}" for n in range(1500)), died=1000)
    large = f"1000 failed w 0\nw\n{{}}\n{'x' * 1_000_000}"
    space.redis.hset(space.key("dead:record"), mapping={f"m{n}": large for n in range(9)})
    pairs = [word for n in range(9) for word in (f"m{n}", 1000)]
    assert space.broker._run("dead_delete", 4 * 1024 * 1024, *pairs) == b"dddd"
    ids = [f"m{n}".encode() for n in range(1500)]
    assert space.broker.dead_delete(ids, dict.fromkeys(ids, 1.0)) == 1496
    assert "dead:record" not in space.state()


@pytest.mark.parametrize("key", ["dead", "dead:record"])
def test_a_key_of_a_wrong_type_is_refused_before_anything_is_deleted(
    space: Space, key: str
) -> None:
    bury(space, "m")
    space.redis.delete(space.key(key))
    space.redis.set(space.key(key), "of a wrong type")
    before = space.state()
    with pytest.raises(BrokerError, match="GWTYPE"):
        space.broker.dead_delete([b"m"])
    assert space.state() == before


def test_deleting_goes_on_without_memory(own_space: Space) -> None:
    bury(own_space, "m")
    own_space.redis.config_set("maxmemory", 1)
    assert own_space.broker.dead_delete([b"m"]) == 1
    own_space.check()
