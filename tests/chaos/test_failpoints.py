"""Failpoints strike where they say, at every step of a worker and of a sender."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenworker.scripts import load
from tests.chaos.arena import Arena
from tests.support import failpoints
from tests.support.eventually import eventually


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """One arena for all, with work enough for every step; what is left at its end is run by a
    healthy worker, and nothing is missing."""
    with Arena(tmp_path_factory.mktemp("arena"), lease=1.0) as arena:
        yield arena
        arena.worker()
        arena.drain()
        arena.verify(causes=("worker killed", "worker ended before it was settled"))


@pytest.mark.parametrize("step", failpoints.NAMES)
def test_a_worker_is_killed_at_each_step(arena: Arena, step: str) -> None:
    if step.startswith("sync"):  # only after a claim whose reply was lost
        arena.proxy.drop_next_reply(load("claim").sha)
    worker = arena.worker(failpoint=f"{step}=KILL", ready=False)
    arena.send_many("effect", [[0.01]] * 3)
    if step.startswith("release"):
        arena.wait_registered(worker)
        worker.signal(signal.SIGTERM)
    assert worker.wait() == -signal.SIGKILL
    assert f"failpoint {step}: KILL" in worker.output


def test_the_nth_pass(arena: Arena) -> None:
    worker = arena.worker("--burst", failpoint="task.start=KILL@3", concurrency=1, ready=False)
    arena.send_many("nap", [[0.0]] * 3)
    assert worker.wait() == -signal.SIGKILL
    assert len([event for event in arena.events("start") if event["pid"] == worker.pid]) == 2


def test_a_lost_connection_at_a_step(arena: Arena) -> None:
    """RAISE in a request is a lost connection: the worker goes on, and adopts what it claimed."""
    worker = arena.worker(failpoint="claim.replied=RAISE")
    id = arena.send("nap", 0.0)
    eventually(lambda: id in arena.completed())
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_a_frozen_worker_can_be_found_and_goes_on(arena: Arena) -> None:
    worker = arena.worker(failpoint="task.outcome=STOP")
    id = arena.send("nap", 0.0)
    worker.command.wait_for("failpoint task.outcome: STOP")
    eventually(lambda: is_stopped(worker.pid))  # it says so before
    worker.signal(signal.SIGCONT)
    eventually(lambda: id in arena.completed())
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def is_stopped(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return status.partition("State:")[2].split()[0] == "T"


@pytest.mark.parametrize("step", failpoints.CLIENT_STEPS)
def test_a_sender_is_killed_at_each_step(arena: Arena, step: str) -> None:
    assert arena.sender("nap", 3, 0.0, failpoint=f"{step}=KILL@2").wait() == -signal.SIGKILL


def test_a_sender_whose_connection_is_lost_repeats_what_may_be_repeated(arena: Arena) -> None:
    before = arena.present()
    assert arena.sender("nap", 1, 0.0, failpoint="push.sent=RAISE").wait() == 0
    assert arena.present() == before + 1


@pytest.mark.parametrize(
    ("spec", "said"),
    [("claim=KILL", "no failpoint 'claim'"), ("claim.sent=EXPLODE", "no action 'EXPLODE'")],
)
def test_a_mistake_is_told(spec: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        failpoints.parse(spec)
