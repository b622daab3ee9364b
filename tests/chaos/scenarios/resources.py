"""A server that has no memory or no disk left."""

from __future__ import annotations

import random
import time

import pytest

from greenworker import keys
from greenworker.errors import BrokerError, BrokerUnavailable
from tests.chaos import outages
from tests.chaos.arena import Arena
from tests.chaos.outages import GO, conclude, crew, load, mark, stats
from tests.chaos.report import Report, scenario
from tests.support.eventually import eventually


@scenario("OOM: the server is at maxmemory", lease=1.5, concurrency=10)
def memory_full(arena: Arena, rng: random.Random) -> Report:
    """Senders are refused; claims, beats, settles, sweeps and a new worker are not."""
    crew(arena)
    count = 200 if arena.short else 2000
    held = arena.send_many("wait_for", [[GO]] * 30)
    arena.send_many("nap", [[rng.uniform(0.01, 0.1)] for _ in range(count)])
    eventually(lambda: len(arena.running()) == 20)
    with arena.fault("maxmemory"):
        arena.redis.config_set("maxmemory", "1mb")
        with pytest.raises(BrokerError) as refused:
            arena.app.tasks["nap"].delay(0.0)
        assert refused.value.code == "OOM"
        assert not isinstance(refused.value, BrokerUnavailable)
        assert not set(arena.send_many("nap", [[0.0]] * 10)) & _sent(arena)
        late = arena.worker()
        eventually(lambda: len(arena.running(late)) == 10)
        arena.kill(late)
        eventually(lambda: stats(arena).get("reaped") == 10)
        time.sleep(3 * arena.lease)
        assert arena.redis.zcard(keys.workers(arena.root)) == 2
        assert not arena.events("renewed")
        arena.allow(GO)
        arena.drain()
        assert set(held) <= set(arena.completed())
    arena.redis.config_set("maxmemory", "0")
    after = arena.send("nap", 0.0)
    eventually(lambda: after in arena.completed())
    return conclude(
        arena,
        f"three lease lengths at maxmemory, {count + 30:,} tasks in it: sends are refused as OOM, a "
        "worker joins, is killed and reaped, all is run",
        causes=("worker killed",),
    )


def _sent(arena: Arena) -> set[str]:
    """The ids that were acknowledged."""
    return {id for event in arena.events("sent") if event["verdict"] == "ok" for id in event["ids"]}


@scenario("disk full: the append-only file cannot grow", lease=1.5)
def disk_full(arena: Arena, rng: random.Random) -> Report:
    crew(arena)
    count = load(arena, rng)
    with outages.full_disk(arena):
        back = _out_of_disk(arena)
    return _back(arena, count, back, "`RLIMIT_FSIZE` on the server, until its writes fail")


@scenario("disk full: the snapshot cannot be written",
          lease=1.5, appendonly=False, config={"save": "3600 1"})  # fmt: skip
def snapshot_fails(arena: Arena, rng: random.Random) -> Report:
    crew(arena)
    count = load(arena, rng)
    with arena.fault("snapshot fails", stops_all=True):
        arena.server.limit_files(1)
        arena.redis.bgsave()
        eventually(lambda: outages.refusal(arena) == "MISCONF")
        back = _out_of_disk(arena)
        arena.server.limit_files(-1)
        arena.redis.bgsave()
        eventually(lambda: not outages.refusal(arena))
    return _back(arena, count, back, "BGSAVE under `RLIMIT_FSIZE`")


def _out_of_disk(arena: Arena) -> int:
    """Outcomes are kept while the server refuses them, and nothing is claimed; returns how many."""
    began = mark(arena, "the disk is full")
    naps = {id for e in arena.events("send") if e["task"] == "nap" for id in e["ids"]}
    # What was claimed before, and a reply may still bring, runs to its end.
    workers = arena.redis.zrange(keys.workers(arena.root), 0, -1)
    claimed = {id for worker in workers for id in arena.held(worker)}
    eventually(lambda: claimed <= {event["id"] for event in arena.events("start")})
    eventually(lambda: not naps & set(arena.running()))
    begun, done = len(arena.events("start")), stats(arena)["done"]
    time.sleep(1.5 * arena.lease)
    assert len(arena.events("start")) == begun, "something was claimed"
    assert stats(arena)["done"] == done
    return len([event for event in arena.events("end") if event["t"] > began])


def _back(arena: Arena, count: int, kept: int, what: str) -> Report:
    return conclude(
        arena, f"{what}; {count:,} naps, two workers; MISCONF for one and a half leases",
        [mark(arena)], notes=f"{kept} outcomes were kept and sent again",
    )  # fmt: skip
