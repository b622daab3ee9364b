"""Reaper: the sweeps that bring a dead worker's deliveries back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from greenworker.worker import proof
from greenworker.worker.reaper import Reaper
from tests.support.eventually import eventually
from tests.support.state import Space


def reaper_of(
    space: Space, every: float = 0.05, on_dead: Callable[[str], None] = [].append
) -> Reaper:
    broker = space.another_broker()
    return Reaper(broker, every, lease=30.0, quiet=20.0, max_deliveries=3, on_dead=on_dead)


def test_a_dead_workers_messages_return_and_it_is_said(
    space: Space, caplog: pytest.LogCaptureFixture
) -> None:
    space.run("w", "m1", "m2")
    space.crash("w")
    reaper = reaper_of(space)
    reaper.start()
    eventually(lambda: space.redis.zcard(space.key("scheduled")) == 2)
    reaper.stop()
    assert "1 dead worker(s) found" in caplog.text
    assert "2 message(s) of a dead worker return, 0 buried" in caplog.text
    space.check()


def test_the_living_are_left_alone(space: Space) -> None:
    space.run("w", "m1")
    space.pulse_was(0.0)
    reaper = reaper_of(space)
    assert reaper.step() == 0.05
    assert space.state()["processing:w"] == {"m1": "1"}


def test_a_process_of_this_host_that_is_gone_is_not_waited_for(space: Space) -> None:
    mark = proof.mark()
    assert mark is not None
    for worker, told in (("gone", {**mark, "began": 1}), ("here", mark), ("silent", None)):
        space.push(f"of-{worker}")
        assert space.broker.register(worker, 60.0, {"process": told}, ["default"])
        space.claim(worker)
    space.redis.hset(space.key("about"), "odd", "no JSON")
    space.pulse_was(0.0)
    reaper_of(space).step()
    state = space.state()
    assert set(state["scheduled"]) == {"of-gone"}
    assert set(state["workers"]) == {"here", "silent"}
    space.check()


def test_several_corpses_are_drained_without_a_pause(space: Space) -> None:
    for worker in ("a", "b", "c"):
        space.push(f"of-{worker}")
        space.register(worker)
        space.claim(worker)
    space.crash("a", "b", "c")
    reaper = reaper_of(space)
    assert [reaper.step() for _ in range(3)] == [0.0, 0.0, 0.05]
    assert set(space.state()["scheduled"]) == {"of-a", "of-b", "of-c"}


def test_a_shorter_lease_than_its_own_is_swept_for_as_often_as_it_needs(space: Space) -> None:
    space.register("short", lease=3.0)
    space.pulse_was(0.0)
    reaper = reaper_of(space, every=15.0)
    assert reaper.step() == 1.5
    space.broker.release("short")
    assert reaper.step() == 15.0


def test_nobody_is_reaped_after_a_silence_of_all(space: Space) -> None:
    """The server, or every worker, was away: leases that ran out meanwhile say nothing."""
    space.run("w", "m1")
    space.crash("w")
    space.pulse_was(21.0)
    reaper = reaper_of(space)
    assert reaper.step() == 0.05
    assert space.redis.zscore(space.key("workers"), "w") > 1
    assert space.state()["processing:w"] == {"m1": "1"}


def test_poison_is_buried_alone(space: Space, caplog: pytest.LogCaptureFixture) -> None:
    space.push_suspect("poison", deliveries=4)
    space.register("w")
    space.push("healthy")
    assert space.claim_ids("w") == ["poison"], "it runs without anything else"
    space.crash("w")
    told: list[str] = []
    reaper_of(space, on_dead=told.append).step()
    state = space.state()
    assert set(state["dead"]) == {"poison"} == set(told)
    assert state["msg"]["healthy"].startswith("1 0 "), "the healthy one is charged nothing"
    assert "0 message(s) of a dead worker return, 1 buried" in caplog.text
    space.check()
