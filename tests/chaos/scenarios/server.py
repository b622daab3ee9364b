"""A server that dies, stops, pauses, or comes back with less than it had."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from tests.chaos import outages
from tests.chaos.arena import Arena
from tests.chaos.outages import conclude, crew, load, mark
from tests.chaos.report import Report, scenario
from tests.support.eventually import eventually

# The read timeout of a worker's connection is 5 s: a longer outage loses replies, too.
LONG = 7.0


@scenario("SIGKILL of the server, restart with its append-only file", lease=1.5)
def server_killed(arena: Arena, rng: random.Random) -> Report:
    crew(arena)
    count = load(arena, rng)
    outages.killed(arena, 1.5 * arena.lease)
    back = mark(arena)
    # No living worker's task runs twice, however long the server was away.
    return conclude(arena, f"{count:,} naps, two workers; away for one and a half leases", [back])


def _three_times(name: str, away: outages.Away, what: str, **options: Any) -> None:
    def play(arena: Arena, rng: random.Random) -> Report:
        crew(arena)
        backs = []
        for turn in range(3):
            if turn == 0:
                count = load(arena, rng, 100, 1000)
            else:
                arena.send_many("nap", [[rng.uniform(0.05, 0.3)] for _ in range(count)])
            away(arena, 1.2 * arena.lease)
            backs.append(mark(arena))
            # It works again before the next blow.
            eventually(lambda since=backs[-1]: arena.completed(since))
        return conclude(
            arena,
            f"{what}, three times, each for 1.2 leases of {arena.lease:g} s; two workers",
            backs,
        )

    play.__name__ = f"away_three_times_{name}"
    scenario("the server is away for longer than the lease, three times", lease=1.25, **options)(
        play
    )


_three_times("killed", outages.killed, "SIGKILL and restart")
_three_times("stopped", outages.stopped, "SIGSTOP and SIGCONT")
_three_times("misconf", outages.disk_full, "MISCONF, as its disk is full")
_three_times("noreplicas", outages.no_replicas, "NOREPLICAS, as `min-replicas-to-write` is 1")


@scenario("restart of a server without persistence", appendonly=False, lease=1.5)
def server_restarted_empty(arena: Arena, rng: random.Random) -> Report:
    workers = crew(arena)
    count = load(arena, rng)
    with arena.fault("server lost its data", loses_data=True, costs_lease="all"):
        arena.server.kill()
        arena.server.restart()
        back = mark(arena)
        for worker in workers:
            worker.command.wait_for("going on as a new incarnation")
            eventually(lambda name=worker.name: len(_lives(arena, name)) == 2)
    after = arena.send_many("nap", [[0.05]] * 50)
    eventually(lambda: set(after) <= set(arena.completed()))
    assert all(len(worker.lives) == 1 and worker.running for worker in workers)
    # Each once: no crash loop, and no loop of registrations either.
    assert [len(_lives(arena, worker.name)) for worker in workers] == [2, 2]
    report = conclude(
        arena,
        f"{count:,} naps, two workers; all is gone, and 50 naps are sent afterwards",
        [back],
        causes=("server lost data", "incarnation given up"),
    )
    gone = len(report.verdict.lost_by_server)
    report.notes = f"{gone} that waited or ran went with the server's memory, none sent afterwards"
    return report


def _lives(arena: Arena, name: str) -> list[str]:
    """The incarnations under which a worker has registered."""
    pids = {e["of"] for e in arena.events("up") if e["name"] == name}
    return [e["worker"] for e in arena.events("registered") if e["pid"] in pids]


@scenario("DEBUG SLEEP: the server does nothing", lease=1.5, config={"enable-debug-command": "yes"})
def server_sleeps(arena: Arena, rng: random.Random) -> Report:
    return _paused(
        arena, rng, lambda client, seconds: client.execute_command("DEBUG", "SLEEP", seconds)
    )


@scenario("CLIENT PAUSE: the server takes commands, and does nothing about them", lease=1.5)
def server_pauses_clients(arena: Arena, rng: random.Random) -> Report:
    def pause(client: Any, seconds: float) -> None:
        client.execute_command("CLIENT", "PAUSE", int(seconds * 1000), "ALL")
        time.sleep(seconds)

    return _paused(arena, rng, pause)


@scenario("SIGSTOP of the server", lease=1.5)
def server_stopped(arena: Arena, rng: random.Random) -> Report:
    return _paused(arena, rng, lambda _, seconds: outages.stopped(arena, seconds))


def _paused(arena: Arena, rng: random.Random, pause: Any) -> Report:
    crew(arena)
    count = load(arena, rng)
    seconds = 1.6 * arena.lease if arena.short else LONG
    with redis.Redis.from_url(arena.server.url, socket_timeout=30) as client:
        with arena.fault("server pauses", stops_all=True):
            pause(client, seconds)
        back = mark(arena)
    return conclude(
        arena,
        f"{count:,} naps, two workers; for {seconds:.1f} s, the lease is {arena.lease:g} s",
        [back],
    )


@scenario("SCRIPT FLUSH in a loop: NOSCRIPT", lease=2.0)
def scripts_flushed(arena: Arena, rng: random.Random) -> Report:
    crew(arena)
    with _repeated(arena, lambda client: client.script_flush()) as times:
        count = load(arena, rng, 600)
        arena.allow(outages.GO)
        arena.drain()
    flushes = len(times)
    assert flushes > 50
    return conclude(
        arena, f"{count:,} naps, two workers; under a flush every 5 ms", notes=f"{flushes} flushes"
    )


@contextmanager
def _repeated(arena: Arena, blow: Any) -> Iterator[list[float]]:
    """Strike every 5 ms from a thread of its own."""
    times: list[float] = []
    over = threading.Event()

    def strike() -> None:
        with redis.Redis.from_url(arena.server.url) as client:
            while not over.wait(0.005):
                blow(client)
                times.append(time.monotonic())

    thread = threading.Thread(target=strike, daemon=True)
    with arena.fault("scripts are flushed"):
        thread.start()
        try:
            yield times
        finally:
            over.set()
            thread.join(10)


@scenario("BUSY: somebody's script does not end", lease=1.5, config={"busy-reply-threshold": "50"})
def server_busy(arena: Arena, rng: random.Random) -> Report:
    crew(arena)
    count = load(arena, rng)

    def spin() -> None:
        with redis.Redis.from_url(arena.server.url, socket_timeout=30) as client:
            try:
                client.eval("while true do end", 0)
            except redis.ResponseError:
                ended.set()  # killed

    ended = threading.Event()
    with arena.fault("BUSY", stops_all=True):
        threading.Thread(target=spin, daemon=True).start()
        eventually(lambda: outages.refusal(arena) == "BUSY")
        time.sleep(1.5 * arena.lease)
        arena.redis.script_kill()
        assert ended.wait(10)
    back = mark(arena)
    return conclude(arena, f"{count:,} naps, two workers; busy for one and a half leases", [back])


@scenario("READONLY: the server is made a replica, and a master again", lease=1.5)
def server_made_replica(arena: Arena, rng: random.Random) -> Report:
    return _refused(arena, rng, outages.read_only, "REPLICAOF under running workers")


@scenario("MASTERDOWN: a replica without its master, which serves no stale data", lease=1.5)
def server_master_down(arena: Arena, rng: random.Random) -> Report:
    return _refused(arena, rng, outages.master_down, "REPLICAOF, `replica-serve-stale-data no`")


@scenario("NOREPLICAS: too few replicas to write", lease=1.5)
def server_no_replicas(arena: Arena, rng: random.Random) -> Report:
    return _refused(arena, rng, outages.no_replicas, "`min-replicas-to-write 1`")


def _refused(arena: Arena, rng: random.Random, away: outages.Away, what: str) -> Report:
    crew(arena)
    count = load(arena, rng)
    away(arena, 1.5 * arena.lease)
    back = mark(arena)
    return conclude(arena, f"{what} for one and a half leases; {count:,} naps, two workers", [back])


@scenario("LOADING: the server is back and reads its file", lease=1.5)
def server_loading(arena: Arena, rng: random.Random) -> Report:
    crew(arena)
    count = load(arena, rng)
    with arena.redis.pipeline(transaction=False) as fill:
        for number in range(20_000):
            fill.set(f"{arena.namespace}-{number}", number)
        fill.execute()
    # 150 µs a key, so that the file need not be a large one; the server answers all the while.
    arena.server.configure(key_load_delay="150", loading_process_events_interval_bytes="1024")
    seen: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            seen.append(_answer_of(arena.server.port))

    with arena.fault("LOADING", stops_all=True):
        watcher = threading.Thread(target=look, daemon=True)
        arena.server.kill()
        watcher.start()
        began = time.monotonic()
        arena.server.restart()
        loading = time.monotonic() - began
        over.set()
        watcher.join(10)
    back = mark(arena)
    assert seen.count("-LOADING") > 5, f"the server said {sorted(set(seen))}"
    assert loading > arena.lease
    return conclude(
        arena,
        f"{count:,} naps, two workers; the server loads for longer than the lease of {arena.lease:g} s",
        [back], notes=f"{loading:.1f} s",
    )  # fmt: skip


def _answer_of(port: int) -> str:
    """The first word of a server's answer to a new connection."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as end:
            end.sendall(b"PING\r\n")
            return end.recv(100).decode().split()[0]
    except (OSError, IndexError):
        return ""


@scenario(
    "a server that may evict what it has acknowledged", config={"maxmemory-policy": "allkeys-lru"}
)
def server_evicts(arena: Arena, rng: random.Random) -> Report:
    refused = arena.worker(ready=False)
    assert refused.wait() == 2
    assert "maxmemory-policy is allkeys-lru" in refused.output
    assert "Traceback" not in refused.output
    assert not arena.events("registered")
    ids = arena.send_many("nap", [[0.05]] * 50)
    arena.worker("--allow-eviction")
    arena.drain()
    assert set(ids) <= set(arena.completed())
    return conclude(
        arena,
        "`allkeys-lru`: the worker ends at once with exit code 2; `--allow-eviction` runs 50 naps",
        codes=(2,),
    )
