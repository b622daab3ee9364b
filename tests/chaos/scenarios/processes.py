"""Worker processes that are killed, frozen, or end at the worst moment."""

from __future__ import annotations

import random
import signal
import time

from tests.chaos.arena import Arena
from tests.chaos.report import Report, scenario
from tests.support.eventually import eventually

KILLED = ("worker killed",)


@scenario("SIGKILL of a worker at work", lease=2.0)
def worker_killed(arena: Arena, rng: random.Random) -> Report:
    victim, _ = arena.worker(), arena.worker()
    count = 300 if arena.short else 3000
    arena.send_many("nap", [[rng.uniform(0.05, 0.3)] for _ in range(count)])
    eventually(lambda: len(arena.running(victim)) >= 10)
    at = arena.kill(victim)
    victim.wait()
    in_flight = arena.running(victim)
    arena.drain()
    verdict = arena.verify(causes=KILLED)
    assert sum(verdict.twice.values()) <= arena.concurrency
    first, last = arena.recovery(at, in_flight)
    return Report(
        f"{count:,} naps, two workers, one is killed; lease {arena.lease:g} s",
        verdict, [first], [last],
    )  # fmt: skip


@scenario("a worker dies with its claim's reply in its hands", lease=2.0)
def killed_at_claim_replied(arena: Arena, rng: random.Random) -> Report:
    arena.worker()
    victim = arena.worker(failpoint=f"claim.replied=KILL@{rng.randint(2, 4)}", supervised=True)
    first = victim.command
    arena.send_many("nap", [[0.1]] * 200)
    assert first.wait() == -signal.SIGKILL
    (at,) = eventually(lambda: [e["t"] for e in arena.events("down") if e["of"] == first.pid])
    (corpse,) = [e["worker"] for e in arena.events("registered") if e["pid"] == first.pid]
    held = arena.held(corpse)
    assert set(held) - set(arena.running()), "it died before it started what it had claimed"
    arena.drain()
    verdict = arena.verify(causes=KILLED)
    soonest, last = arena.recovery(at, held)
    return Report(
        f"killed between a claim's reply and the tasks' start; lease {arena.lease:g} s",
        verdict, [soonest], [last],
    )  # fmt: skip


@scenario("SIGKILL of the server, restart with its append-only file", lease=2.0)
def server_killed(arena: Arena, rng: random.Random) -> Report:
    arena.worker(), arena.worker()
    arena.send_many("nap", [[rng.uniform(0.05, 0.3)] for _ in range(300)])
    eventually(lambda: len(arena.completed()) > 30)
    with arena.fault("server killed"):
        arena.server.kill()
        time.sleep(1.5 * arena.lease)  # the length of the outage
        arena.server.restart()
    back = arena.journal.write("mark", name="server is back")
    arena.drain()
    # No living worker's task runs twice, however long the server was away
    verdict = arena.verify(causes=())
    return Report(
        "300 naps, two workers; away for one and a half leases", verdict, [arena.resumption(back)]
    )
