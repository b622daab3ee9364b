"""status: what is where, in one look that changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from greenworker.commands import check
from greenworker.commands.status import render
from greenworker.message import Outcome
from greenworker.status import QueueStatus, Status
from tests.support.auditing import audit
from tests.support.state import Space


def test_an_empty_namespace(space: Space) -> None:
    assert space.broker.status() == Status([], [], 0, 0, None, {})


def test_all_at_once(space: Space) -> None:
    about = {"name": "host:1", "queues": ["default"], "concurrency": 100}
    assert space.broker.register("w", 60.0, about, ["default"])
    space.push("done", "dead", "held")
    done, dead, _ = space.claim("w").deliveries
    space.done("w", done)
    space.settle("w", (dead, Outcome("dead", b'{"state":"FAILURE"}', 60.0, reason="failed")))
    space.push("a", "b", priority=0)
    space.push("c", queue="slow", priority=9)
    space.push_suspect("s")
    space.push("d", due=60.0)
    before = space.state()

    status = space.broker.status()

    assert status.queues == [
        QueueStatus("default", waiting=2, suspects=1, workers=1),
        QueueStatus("slow", waiting=1, suspects=0, workers=0),
    ]
    (worker,) = status.workers
    assert (worker.id, worker.name, worker.queues) == ("w", "host:1", ["default"])
    assert (worker.concurrency, worker.running) == (100, 1)
    assert 50 < worker.lease <= 60
    assert (status.waiting, status.running, status.scheduled, status.dead) == (4, 1, 1, 1)
    assert 50 < (status.next_due or 0) <= 60
    assert status.counters == {"enqueued": 8, "done": 1, "dead": 1}
    assert space.state() == before
    space.check()


def test_a_corpse_shows_until_it_is_drained(space: Space) -> None:
    space.run("w", "m")
    space.redis.zrem(space.key("workers"), "w")
    space.redis.sadd(space.key("corpses"), "w")
    (worker,) = space.broker.status().workers
    assert (worker.id, worker.running) == ("w", 1)
    assert worker.lease < 0


def test_what_others_wrote_is_told_as_far_as_it_can_be(space: Space) -> None:
    abouts = {
        "w1": "garbage", "w2": b"\xff", "w3": '{"name":5,"queues":7,"concurrency":"x"}',
        "w4": '{"name":"a\\u001b[2J\\nb","queues":["q\\n",5]}', "w5": "[1]",
    }  # fmt: skip
    space.redis.zadd(space.key("workers"), dict.fromkeys([*abouts, b"\xff\n"], 2e12))
    space.redis.hset(space.key("about"), mapping=abouts)
    space.redis.sadd(space.key("queues"), b"\xff\x1b", "fine")
    status = space.broker.status()
    assert len(status.workers) == 6
    shown = [worker.id + worker.name + "".join(worker.queues) for worker in status.workers]
    for text in [*shown, *(queue.name for queue in status.queues)]:
        assert text.isprintable()
    assert {"?", "'a\\x1b[2J\\nb'"} == {worker.name for worker in status.workers}


ABOUTS = [
    "", "7", "[]", "{", "\xff", '{"name": ["list"], "queues": 7, "concurrency": "many"}',
    '{"name": null, "queues": [1, null], "concurrency": 1e99}',
]  # fmt: skip


@pytest.mark.parametrize("about", ABOUTS)
def test_a_worker_that_says_nonsense_of_itself_is_shown(space: Space, about: str) -> None:
    space.run("w", "m")
    space.redis.hset(space.key("about"), "w", about.encode("latin-1"))
    status = space.broker.status()
    (worker,) = status.workers
    assert (worker.id, worker.name, worker.concurrency, worker.running) == ("w", "?", 0, 1)
    assert all(isinstance(queue, str) for queue in worker.queues)
    assert "default" in render(status)


@pytest.mark.parametrize("value", ["abc", "", "1.5", "9" * 20, "9" * 5000])
def test_a_counter_that_is_no_number_is_left_out(space: Space, value: str) -> None:
    space.push("m")
    space.redis.hset(space.key("stats"), "done", value)
    assert space.broker.status().counters == {"enqueued": 1}


ONE_OF_EVERYTHING = {
    "default": (2, 1, 2), "w": ("w", 1), "corpse": ("corpse", 1), "dead": 1, "scheduled": 1,
    "next_due": True, "enqueued": 7, "counted as dead": 1,
}  # fmt: skip
# Its type, and what is told instead when it is of another one.
DAMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "queues": ("set", {"default": None}),
    "ready:default:5": ("list", {"default": (1, 1, 2)}),
    "suspects:default": ("list", {"default": (2, 0, 2)}),
    "consumers:default": ("set", {"default": (2, 1, 0)}),
    "workers": ("zset", {"w": None}),
    "corpses": ("set", {"corpse": None}),
    "processing:w": ("hash", {"w": ("w", 0)}),
    "processing:corpse": ("hash", {"corpse": ("corpse", 0)}),
    "about": ("hash", {"w": ("?", 1), "corpse": ("?", 1)}),
    "scheduled": ("zset", {"scheduled": 0, "next_due": False}),
    "dead": ("zset", {"dead": 0}),
    "stats": ("hash", {"enqueued": None, "counted as dead": None}),
}


@pytest.mark.parametrize("key", DAMAGES)
def test_what_is_damaged_is_left_out_and_all_else_is_told(space: Space, key: str) -> None:
    dead, _ = space.run("corpse", "dead", "m1")
    space.settle("corpse", (dead, Outcome("dead", b"{}", 60.0, reason="failed")))
    space.redis.zrem(space.key("workers"), "corpse")
    space.redis.sadd(space.key("corpses"), "corpse")
    space.run("w", "m2")
    space.push("waiting", priority=3)
    space.push("waits as well")
    space.push("due", due=60.0)
    space.push_suspect("s")
    assert told(space.broker.status()) == ONE_OF_EVERYTHING
    own_kind, instead = DAMAGES[key]
    left = {name: n for name, n in (ONE_OF_EVERYTHING | instead).items() if n is not None}
    for kind in {"string", "list", "hash", "set", "zset", "stream"} - {own_kind}:
        make_it_a(space, kind, key)
        status = space.broker.status()
        assert told(status) == left, kind
        assert render(status)


def make_it_a(space: Space, kind: str, key: str) -> None:
    key = space.key(key)
    space.redis.delete(key)
    match kind:
        case "string":
            space.redis.set(key, "x")
        case "list":
            space.redis.lpush(key, "x")
        case "hash":
            space.redis.hset(key, "x", "y")
        case "set":
            space.redis.sadd(key, "x")
        case "zset":
            space.redis.zadd(key, {"x": 1})
        case "stream":
            space.redis.xadd(key, {"x": "y"})


def told(status: Status) -> dict[str, object]:
    """What a status says, by what it says it of."""
    counters = {"counted as dead" if n == "dead" else n: k for n, k in status.counters.items()}
    return {
        **{queue.name: (queue.waiting, queue.suspects, queue.workers) for queue in status.queues},
        **{worker.id: (worker.name, worker.running) for worker in status.workers},
        "scheduled": status.scheduled,
        "next_due": status.next_due is not None,
        "dead": status.dead,
        **counters,
    }


def test_names_that_are_no_text_are_shown(space: Space) -> None:
    for queue in (b"\xff", b"M\xc3\xbcller"):
        space.redis.sadd(space.key("queues"), queue)
    space.redis.zadd(space.key("workers"), {b"\xfe": 1})
    space.redis.hset(space.key("stats"), b"\xfd", 1)
    status = space.broker.status()
    assert [queue.name for queue in status.queues] == ["M\u00fcller", "\\xff"]
    assert [worker.id for worker in status.workers] == ["\\xfe"]
    assert "\\xff" in render(status)


def test_what_others_call_themselves_gives_a_terminal_no_orders(space: Space) -> None:
    evil = "\x1b[31mEVIL\nnote: fake\x9b"
    assert space.broker.register("w", 60.0, {"name": evil, "queues": [evil]}, [evil])
    assert render(space.broker.status()).replace("\n", "").isprintable()
    assert "\\x1b[31mEVIL\\nnote: fake\\x9b" in render(space.broker.status())
    report = audit(space)
    assert report.well
    space.crash("w")
    text = check.render(audit(space))
    assert text.replace("\n", "").isprintable()
    assert [line for line in text.splitlines() if line.startswith("note: fake")] == []
    assert "worker '\\x1b[31mEVIL\\nnote: fake\\x9b' (w) is overdue" in text


def test_a_queue_says_what_waits_by_key() -> None:
    """Nothing moves there though a worker is idle: where to see why."""
    queues = [QueueStatus("crawl", 5, 0, 1, keyed=3), QueueStatus("mail", 2, 0, 1)]
    text = render(Status(queues, [], 0, 0, None, {"throttled": 4}))
    assert "5        1  3 by key: greenworker limit\n" in text
    assert "2        1\n" in text
    assert "throttled  4\n" in text
