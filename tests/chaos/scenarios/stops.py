"""Graceful ends: at the worst moment, told twice, and with tasks that never end."""

from __future__ import annotations

import random
import signal
import time

from tests.chaos.arena import Arena
from tests.chaos.report import Report, scenario
from tests.chaos.workers import Worker
from tests.support import failpoints
from tests.support.eventually import eventually

RELEASED = ("released at a stop",)
# Steps that a worker passes without being told to end.
STEPS = [step for step in failpoints.NAMES if not step.startswith("release")]


def _check_charges(arena: Arena) -> None:
    charged = [e["id"] for e in arena.events("start") if e["delivery"] > 1]
    assert not charged, "a stop costs no delivery"


def _victims(arena: Arena, steps: list[str], *args: str) -> dict[str, Worker]:
    victims = {}
    for step in steps:
        before = "claim.replied=RAISE," if step.startswith("sync") else ""
        victims[step] = arena.worker(*args, failpoint=f"{before}{step}=TERM", ready=False)
    return victims


@scenario("SIGTERM at each step of a worker", lease=1.5)
def term_at_each_step(arena: Arena, rng: random.Random) -> Report:
    arena.worker()
    steps = rng.sample(STEPS, len(STEPS))
    for start in range(0, len(steps), 4):
        victims = _victims(arena, steps[start : start + 4])
        for victim in victims.values():
            victim.leaving = True
        for step, victim in victims.items():
            while victim.running:
                arena.send_many("effect", [[0.01]] * 3)
                time.sleep(0.05)
            code = victim.wait()
            assert code == 0, f"{step}: {code}"
    arena.drain()
    verdict = arena.verify(causes=())
    _check_charges(arena)
    return Report(f"{len(steps)} steps, a worker each; exit code 0, nothing runs twice", verdict)


@scenario("a second SIGTERM, told at each step, with tasks that never end", lease=1.5)
def second_term_at_each_step(arena: Arena, rng: random.Random) -> Report:
    ends = ("task.effect", "task.outcome", "settle.sent", "settle.replied")
    steps = rng.sample([step for step in STEPS if step not in ends], len(STEPS) - len(ends))
    for start in range(0, len(steps), 3):
        victims = _victims(arena, steps[start : start + 3], "--grace", "600")
        for step, victim in victims.items():
            victim.leaving = True
            arena.send_many("wait_for", [["go"]] * 5)
            victim.command.wait_for(f"failpoint {step}: TERM")
            victim.command.wait_for("stopping")
            victim.signal(signal.SIGTERM)
            code = victim.wait()
            assert code == 0, f"{step}: {code}"
    arena.allow("go")
    arena.worker()
    arena.drain()
    verdict = arena.verify(causes=RELEASED)
    _check_charges(arena)
    return Report(f"{len(steps)} steps, a worker each; released at once, exit code 0", verdict)


@scenario("SIGTERM under load, with tasks that outlast the grace")
def term_under_load(arena: Arena, rng: random.Random) -> Report:
    worker = arena.worker("--grace", "1")
    arena.send_many("wait_for", [["go"]] * 5)
    arena.send_many("nap", [[0.2]] * 300)
    eventually(lambda: len(arena.completed()) > 30)
    at = arena.terminate(worker)
    assert worker.wait() == 0
    (end,) = arena.events("down")
    assert not arena.held(arena.events("registered")[0]["worker"])
    arena.allow("go")
    arena.worker()
    arena.drain()
    verdict = arena.verify(causes=RELEASED)
    _check_charges(arena)
    return Report(
        "300 naps finish or stay; five tasks never end: released after a grace of 1 s",
        verdict, notes=f"gone after {end['t'] - at:.1f} s",
    )  # fmt: skip


@scenario("SIGTERM while the server is away", lease=3.0)
def term_without_server(arena: Arena, rng: random.Random) -> Report:
    worker = arena.worker("--grace", "1")
    # Of all lengths: whenever the server goes, some are under way
    arena.send_many("nap", [[rng.uniform(0.1, 0.6)] for _ in range(400)])
    eventually(lambda: len(arena.completed()) > 10)
    with arena.fault("the server refuses", stops_all=True):
        arena.proxy.refuse()
        arena.proxy.cut()
        arena.terminate(worker)
        assert worker.wait() == 1
    arena.proxy.accept()
    unsettled = [e for e in arena.events("says") if "could not be settled" in e["text"]]
    assert unsettled, "it says what it could not settle"
    arena.worker()
    arena.drain()
    verdict = arena.verify(causes=("worker ended before it was settled", *RELEASED))
    return Report(
        "400 naps; exit code 1, what could not be settled is said and runs again", verdict
    )
