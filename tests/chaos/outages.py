"""What the scenarios of servers and networks share: workers under load, and a server that is away."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import redis

from greenworker import keys
from greenworker.broker import Broker
from greenworker.connection import Connection
from greenworker.endpoint import Endpoint
from tests.chaos.arena import Arena
from tests.chaos.report import Report
from tests.chaos.workers import Worker
from tests.support.eventually import eventually

GO = "go"  # the file that the held tasks wait for
HELD = 6  # how many tasks run from before an outage until after it
Away = Callable[[Arena, float], None]  # a server that is away for so many seconds
Fault = Callable[[Arena], AbstractContextManager[None]]


def crew(arena: Arena, count: int = 2, *args: str, **options: Any) -> list[Worker]:
    """Start workers all at once, and wait until each is registered."""
    workers = [arena.worker(*args, ready=False, **options) for _ in range(count)]
    for worker in workers:
        arena.wait_registered(worker)
    return workers


def load(arena: Arena, rng: random.Random, short: int = 150, long: int = 3000) -> int:
    """Send naps, and tasks that run until `conclude`; returns how many naps, once all is at work.

    When the fault comes, some tasks end during it, and some run on after it.
    """
    count = short if arena.short else long
    held = arena.send_many("wait_for", [[GO]] * HELD)
    eventually(lambda: set(held) <= set(arena.running()), message="the held tasks do not run")
    ids = arena.send_many("nap", [[rng.uniform(0.05, 0.3)] for _ in range(count)])
    eventually(lambda: len(arena.completed().keys() & set(ids)) >= 10)
    return count


def conclude(
    arena: Arena,
    done: str,
    back: Sequence[float] = (),
    causes: Sequence[str] = (),
    notes: str = "",
    within: float = 60.0,
    codes: Sequence[int] = (),
) -> Report:
    """Let the held tasks end, drain, verify; `back`: the moments at which the server was back."""
    arena.allow(GO)
    arena.drain(within)
    verdict = arena.verify(causes, codes=codes)
    if not causes:
        uncharged(arena)
    return Report(done, verdict, [arena.resumption(moment) for moment in back], notes=notes)


def uncharged(arena: Arena) -> None:
    """No run was begun of a message that a crash was held against."""
    charged = [event for event in arena.events("start") if event["delivery"] != 1]
    assert not charged, f"{len(charged)} runs were of charged messages: {charged[:3]}"


def mark(arena: Arena, name: str = "server is back") -> float:
    """A moment that times are counted from."""
    return arena.journal.write("mark", name=name)


def stats(arena: Arena) -> dict[str, int]:
    """The namespace's counters."""
    return {name: int(n) for name, n in arena.redis.hgetall(keys.stats(arena.root)).items()}


# Ways in which a server is away for so many seconds; none of them loses data.


def killed(arena: Arena, seconds: float) -> None:
    with arena.fault("server killed"):
        arena.server.kill()
        time.sleep(seconds)
        with sweep_comes_first(arena):
            arena.server.restart()


def stopped(arena: Arena, seconds: float) -> None:
    with arena.fault("server stopped", stops_all=True):
        arena.server.stop_process()
        try:
            time.sleep(seconds)
        finally:
            with sweep_comes_first(arena):
                arena.server.cont()


def no_replicas(arena: Arena, seconds: float) -> None:
    with refusing(arena, "NOREPLICAS", {"min-replicas-to-write": 1}, {"min-replicas-to-write": 0}):
        time.sleep(seconds)


def disk_full(arena: Arena, seconds: float) -> None:
    with full_disk(arena):
        time.sleep(seconds)


def read_only(arena: Arena, seconds: float) -> None:
    with replica_of_nobody(arena, "READONLY"):
        time.sleep(seconds)


def master_down(arena: Arena, seconds: float) -> None:
    arena.redis.config_set("replica-serve-stale-data", "no")
    with replica_of_nobody(arena, "MASTERDOWN"):
        time.sleep(seconds)


@contextmanager
def sweep_comes_first(arena: Arena) -> Iterator[None]:
    """Mend the server: before any beat it gets a sweep, as of a worker that is elsewhere.

    By then every lease has run out, and says nothing about who lives.
    """
    arena.proxy.freeze()
    broker = Broker(Connection(Endpoint(arena.server.url)), arena.namespace)
    try:
        yield
        broker.reap(arena.lease, arena.lease * 2 / 3, 3)
    finally:
        broker.close()
        arena.proxy.thaw()


@contextmanager
def refusing(arena: Arena, code: str, break_: Any, mend: Any) -> Iterator[None]:
    """CONFIG SET what makes the server refuse every write with `code`, and back."""
    with arena.fault(code, stops_all=True):
        for name, value in break_.items():
            arena.redis.config_set(name, value)
        try:
            assert refusal(arena) == code
            yield
        finally:
            with sweep_comes_first(arena):
                for name, value in mend.items():
                    arena.redis.config_set(name, value)


@contextmanager
def full_disk(arena: Arena) -> Iterator[None]:
    """No file of the server's may grow: its append-only file cannot, and it refuses to write."""
    # (One that syncs `always` would end itself.)
    arena.redis.config_set("appendfsync", "everysec")
    with arena.fault("disk full", stops_all=True):
        arena.server.limit_files(1)
        try:
            eventually(lambda: refusal(arena) == "MISCONF", message="the server still writes")
            yield
        finally:
            with sweep_comes_first(arena):
                arena.server.limit_files(-1)
                # It tries its file again at the next write, or each second.
                eventually(lambda: not refusal(arena), message="the server does not write again")
    arena.redis.config_set("appendfsync", "always")


@contextmanager
def replica_of_nobody(arena: Arena, code: str) -> Iterator[None]:
    """The server is made the replica of one that does not exist; its data stays."""
    with arena.fault(code, stops_all=True):
        arena.redis.replicaof("127.0.0.1", 1)
        try:
            assert refusal(arena) == code
            yield
        finally:
            with sweep_comes_first(arena):
                arena.redis.replicaof("NO", "ONE")


def refusal(arena: Arena) -> str:
    """The code with which the server refuses a script that writes; '' when it does not."""
    key = f"{arena.namespace}-probe"  # not of the namespace
    try:
        arena.redis.execute_command("EVAL", "return redis.call('SET', KEYS[1], 1)", 1, key)
    except redis.exceptions.ReadOnlyError:
        return "READONLY"
    except redis.exceptions.MasterDownError:
        return "MASTERDOWN"
    except redis.exceptions.OutOfMemoryError:
        return "OOM"
    except redis.ResponseError as error:
        return str(error).split(" ", 1)[0]
    return ""
