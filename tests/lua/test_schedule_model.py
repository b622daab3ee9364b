"""Schedules under every interleaving: workers whose requests are lost, late or repeated, on a clock that the test moves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from greenworker.app import App
from greenworker.broker import push_fields
from greenworker.errors import BrokerUnavailable
from greenworker.recurrence import Every
from greenworker.schedule import tick_id
from greenworker.scripts import Script
from greenworker.timetable import Timetable
from greenworker.worker.ticker import LATE, Ticker
from tests.support.clockwork import Clockwork
from tests.support.model_parts import Bounds
from tests.support.server import Server

BEGAN = 1_790_000_000.25
STEP = 0.5


class Unreliable:
    """A link whose ticks may get lost on the way there or back, or arrive when the time for them has gone."""

    def __init__(self, clock: Clockwork, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self.on_the_way: list[tuple[Script, tuple[Any, ...]]] = []
        self.sound = False

    def run(self, script: Script, *args: Any, **options: Any) -> Any:
        luck = 0.0 if self.sound or script.name != "schedule_tick" else self._rng.random()
        if luck < 0.6:
            return self._clock.run(script, *args, **options)
        if luck < 0.7:
            self._clock.run(script, *args, **options)
        elif luck < 0.9:
            self.on_the_way.append((script, args))
        raise BrokerUnavailable("lost")

    def arrive(self) -> None:
        """What was on the way arrives, some of it twice."""
        for script, args in self.on_the_way:
            for _ in range(self._rng.choice((1, 1, 2))):
                self._clock.run(script, *args)
        self.on_the_way.clear()

    def execute(self, *command: Any) -> Any:
        return self._clock.execute(*command)

    def close(self) -> None: ...


class World:
    """Three workers of an app, and what they have sent."""

    def __init__(self, clock: Clockwork, rng: random.Random, namespace: str, misfire: Any) -> None:
        self.clock, self.rng, self.now = clock, rng, BEGAN
        self.app = App("redis://127.0.0.1:1", namespace=namespace)
        task = self.app.task(name="t")(lambda: None)
        self.app.every(STEP, task, misfire=misfire)
        self.links = [Unreliable(clock, rng) for _ in range(3)]
        self.times = [Timetable(link, namespace) for link in self.links]
        self.tickers = [self._ticker(n) for n in range(3)]
        self.sent: list[str] = []
        self.advance(0.0)

    def advance(self, seconds: float) -> None:
        self.now = round(self.now + seconds, 3)
        self.clock.clock(round(self.now * 1000))

    def step(self, which: int, sound: bool = False) -> None:
        self.links[which].sound = sound
        try:
            self.tickers[which].step()
        except BrokerUnavailable:
            assert not sound
        self.collect()

    def arrive(self) -> None:
        self.rng.choice(self.links).arrive()
        self.collect()

    def restart(self, which: int) -> None:
        self.tickers[which] = self._ticker(which)

    def collect(self) -> None:
        """Messages are run and gone at once: nothing but the schedule itself can know of a former tick."""
        redis, root = self.clock.redis, self.clock.root
        while id := redis.rpop(f"{root}ready:default:5"):
            redis.hdel(f"{root}msg", id)
            self.sent.append(id)

    def _ticker(self, which: int) -> Ticker:
        return Ticker(self.times[which], self.app.schedule.declared.values(), push_fields)


@pytest.fixture
def clock(namespace: str) -> Iterator[Clockwork]:
    # Of its own: it leaves nothing behind, of anybody.
    with Server() as server:
        clock = Clockwork(server.url, namespace, Bounds())
        yield clock
        clock.close()


@pytest.mark.parametrize("seed", range(6))
def test_each_moment_once_and_in_order(clock: Clockwork, namespace: str, seed: int) -> None:
    rng = random.Random(seed)
    world = World(clock, rng, namespace, rng.choice(("once", "skip")))
    world.step(0, sound=True)
    sound = world.now
    for _ in range(400):
        world.advance(rng.choice((0.0, 0.001, 0.2, 0.5, 1.3)))
        if world.now - sound > LATE - 2.0:
            # Nobody was lucky for long: this one is, before anything counts as missed
            world.step(rng.randrange(3), sound=True)
            sound = world.now
        elif rng.random() < 0.2:
            world.arrive()
        elif rng.random() < 0.05:
            world.restart(rng.randrange(3))
        else:
            world.step(rng.randrange(3))
    world.step(0, sound=True)
    first = Every(STEP).after(BEGAN)
    count = int((world.now - first) // STEP) + 1
    assert count > 100
    assert world.sent == [tick_id("t", first + STEP * n) for n in range(count)]


# 41: a plan that was on its way over a pause
@pytest.mark.parametrize("seed", [*range(5), 41])
@pytest.mark.parametrize("misfire", ["once", "skip"])
def test_none_twice_whatever_happens(
    clock: Clockwork, namespace: str, misfire: str, seed: int
) -> None:
    """Downtimes, pauses and lost requests, for as long as they like."""
    rng = random.Random(seed)
    world = World(clock, rng, namespace, misfire)
    for _ in range(400):
        world.advance(rng.choice((0.0, 0.0, 0.2, 0.2, 0.5, 1.3, 11.0, 4000.0)))
        match rng.randrange(10):
            case 0 | 1:
                world.arrive()
            case 2:
                world.times[0].pause({"t": True})
                world.times[0].resume({"t": True})
            case 3:
                world.times[0].pause({"t": True})
            case 4 | 5:
                world.times[0].resume({"t": True})
            case _:
                world.step(rng.randrange(3))
    moments = [id.removeprefix("t@") for id in world.sent]
    assert len(moments) > 3
    assert len(set(moments)) == len(moments)
