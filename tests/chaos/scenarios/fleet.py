"""Many workers, or many senders, and one server that goes away and comes back."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.chaos import outages
from tests.chaos.arena import Arena
from tests.chaos.outages import GO, conclude, crew, load, mark
from tests.chaos.report import Report, scenario
from tests.support.eventually import eventually

BUNCH = 0.05  # seconds: connections that come within it come at once


@scenario("six workers, and their server returns", lease=2.0, concurrency=10)
def fleet_returns(arena: Arena, rng: random.Random) -> Report:
    crew(arena, 6)
    count = load(arena, rng, 300)
    with arena.fault("server killed"):
        arena.server.kill()
        time.sleep(3.0)  # long enough that each pauses for its longest between two tries
        before = len(arena.proxy.opened)
        arena.server.restart()
    back = mark(arena)
    eventually(lambda: arena.completed(back))
    report = conclude(arena, f"{count:,} naps; six workers, 3 s without a server", [back])
    opened = sorted(arena.proxy.opened[before:])
    bunch = max(sum(first <= other < first + BUNCH for other in opened) for first in opened)
    assert report.first[0] < 10
    assert bunch < len(opened), "all connections came at once"
    report.notes = (
        f"{len(opened)} connections over {opened[-1] - opened[0]:.1f} s, at most {bunch} in 50 ms"
    )
    return report


@scenario("five reapers, one corpse", lease=1.5)
def five_reapers(arena: Arena, rng: random.Random) -> Report:
    (victim,) = crew(arena, 1, concurrency=50)
    held = arena.send_many("wait_for", [[GO]] * 50)
    eventually(lambda: len(arena.running(victim)) == 50)
    crew(arena, 5)
    at = arena.kill(victim)
    # Each has a sweep under way, and all of them arrive now.
    arena.proxy.freeze()
    time.sleep(0.5 * arena.lease)
    arena.proxy.thaw()
    eventually(lambda: outages.stats(arena).get("reaped", 0) >= 50)
    arena.allow(GO)
    arena.drain()
    report = conclude(arena, "50 tasks of a killed worker", causes=("worker killed",))
    assert outages.stats(arena)["reaped"] == 50, "a message was moved twice"
    again = [event for event in arena.events("start") if event["t"] > at]
    assert sorted(event["id"] for event in again) == sorted(held)
    assert {event["delivery"] for event in again} == {2}, "one was charged twice"
    first, last = arena.recovery(at, held)
    report.first, report.all = [first], [last]
    return report


@contextmanager
def _gone(arena: Arena) -> Iterator[None]:
    with arena.fault("server killed"):
        arena.server.kill()
        try:
            yield
        finally:
            arena.server.restart()


@contextmanager
def _black_hole(arena: Arena) -> Iterator[None]:
    with arena.fault("black hole for senders"):
        arena.producers.freeze()
        try:
            yield
        finally:
            arena.producers.thaw()


def _refusing(code: str, name: str, there: str, back: str) -> outages.Fault:
    def fault(arena: Arena) -> AbstractContextManager[None]:
        return outages.refusing(arena, code, {name: there}, {name: back})

    return fault


# What a sender is told during each: refused is certain, unknown may have arrived. Where nobody
# answers it depends on whether the request had left.
TOLD: tuple[tuple[str, outages.Fault, set[str]], ...] = (
    ("server gone", _gone, {"refused", "unknown"}),
    ("black hole", _black_hole, {"refused", "unknown"}),
    ("MISCONF", outages.full_disk, {"refused"}),
    ("NOREPLICAS", _refusing("NOREPLICAS", "min-replicas-to-write", "1", "0"), {"refused"}),
    ("OOM", _refusing("OOM", "maxmemory", "1mb", "0"), {"refused"}),
    ("READONLY", lambda arena: outages.replica_of_nobody(arena, "READONLY"), {"refused"}),
)


@scenario("senders during an outage", lease=4.0, patience=2.0)
def senders_are_told(arena: Arena, rng: random.Random) -> Report:
    crew(arena, 1)
    arena.send_many("nap", [[0.01]] * 10)
    told = []
    for name, fault, allowed in TOLD:
        with fault(arena):
            verdicts = _send_from_threads(arena, 3 if arena.short else 8)
        assert verdicts <= allowed, f"{name}: senders were told {sorted(verdicts)}"
        told.append(f"{name}: {' or '.join(sorted(verdicts))}")
        id = arena.send("nap", 0.01)
        eventually(lambda id=id: id in arena.completed(), message=f"not back after {name}")
    longest = max(_answer_times(arena))
    assert longest < 10  # a read timeout, and what a slow machine adds
    return conclude(
        arena, f"some senders at once in each outage; their patience is 2 s; {', '.join(told)}",
        notes=f"each was told within {longest:.1f} s",
    )  # fmt: skip


def _send_from_threads(arena: Arena, count: int) -> set[str]:
    """Send from so many threads; returns what they were told."""
    ids: list[str] = []

    def send() -> None:
        ids.append(arena.send("nap", 0.01))

    threads = [threading.Thread(target=send, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ids) == count, "a sender got no answer in 30 s"
    return {e["verdict"] for e in arena.events("sent") if set(e["ids"]) & set(ids)}


def _answer_times(arena: Arena) -> list[float]:
    """Seconds from each send to its answer."""
    began = {id: event["t"] for event in arena.events("send") for id in event["ids"]}
    return [event["t"] - began[id] for event in arena.events("sent") for id in event["ids"]]
