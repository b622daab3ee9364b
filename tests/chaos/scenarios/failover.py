"""Several servers: another one takes over, or a part of the keys moves to it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.arena import Arena
from tests.chaos.outages import conclude, crew, load, mark
from tests.chaos.report import Report, scenario
from tests.support.cluster import Cluster, ask
from tests.support.eventually import eventually
from tests.support.sentinel import SentinelSetup
from tests.support.server import Server


class ByReplica(SentinelSetup):
    """Whoever judges looks at the replica, which is master in the end."""

    def __init__(self, _: str) -> None:
        super().__init__()

    @property
    def judge(self) -> Server:
        return self.second


class ByTarget(Cluster):
    """Whoever judges looks at the node that the slot of these keys is moved to."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.slot = int(ask(self.first, "CLUSTER", "KEYSLOT", root))
        self.judge = self.other(self.owner(self.slot))

    @property
    def url(self) -> str:
        return self.first.url


@scenario("failover: the master is killed, the sentinels choose its replica",
          place=ByReplica, lease=2.0)  # fmt: skip
def failover(arena: Arena, rng: random.Random) -> Report:
    crew(arena)
    count = load(arena, rng)
    with _senders(arena):
        # It has not acknowledged anything after this.
        arena.place.first.kill()
        killed = mark(arena, "the master is killed")
        with arena.fault("failover", loses_data=True, stops_all=True):
            eventually(
                lambda: arena.place.master_port() == arena.server.port,
                within=30,
                message="no failover",
            )
        back = mark(arena)
        eventually(lambda: arena.completed(back))
    report = conclude(
        arena, f"{count:,} naps and senders that go on; two workers, three sentinels",
        causes=("server lost data", "incarnation given up"),
    )  # fmt: skip
    report.first = [back - killed + arena.resumption(back)]
    gone = len(report.verdict.lost_by_server)
    report.notes = f"{back - killed:.1f} s of it until the replica is chosen; {gone} acknowledged were lost with it"
    return report


@scenario("a slot of a cluster moves to another node", place=ByTarget, lease=2.0)
def slot_moves(arena: Arena, rng: random.Random) -> Report:
    cluster, slot = arena.place, arena.place.slot
    crew(arena)
    count = load(arena, rng)
    with _senders(arena):
        with arena.fault("slot is moved", stops_all=True):
            cluster.begin_to_move(slot)
            cluster.move_keys(slot, most=3)
            # Half of it here, half of it there: nobody may touch it.
            seen = len(arena.completed())
            cluster.move_keys(slot)
            cluster.end_to_move(slot)
        back = mark(arena)
        eventually(lambda: len(arena.completed()) > seen + 10)
    assert cluster.owner(slot) is arena.server
    return conclude(
        arena, f"{count:,} naps and senders that go on; two workers: ASK, then MOVED", [back]
    )


@contextmanager
def _senders(arena: Arena) -> Iterator[None]:
    """Send from a thread of its own for as long as the context lasts."""
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.01):
            arena.send("nap", 0.01)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)
