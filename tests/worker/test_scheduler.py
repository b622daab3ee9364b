"""Scheduler: what is due becomes ready, never early and never lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import cast

import gevent
import pytest

from greenworker.broker import Broker, Promotion
from greenworker.worker.scheduler import Scheduler
from tests.support.eventually import eventually
from tests.support.server import Server
from tests.support.state import Space


class Looks:
    """Stands for a broker, and counts how often it is asked."""

    def __init__(self, *answers: float | None) -> None:
        self.answers = list(answers)  # in how many seconds the next one is due
        self.count = 0
        self.meanwhile: Callable[[], object] = lambda: None

    def promote(self, *_: object) -> Promotion:
        self.count += 1
        self.meanwhile()
        return Promotion(0, self.answers.pop(0), b"")


def now_ms(space: Space) -> int:
    seconds, micros = space.redis.time()
    return int(seconds * 1000 + micros // 1000)


@pytest.fixture
def scheduler(space: Space) -> Iterator[Scheduler]:
    scheduler = Scheduler(space.another_broker())
    scheduler.start()
    yield scheduler
    scheduler.stop()


@pytest.mark.usefixtures("scheduler")
def test_never_early_by_the_servers_clock(space: Space) -> None:
    space.push(*(f"m{n}" for n in range(50)), due=0.4)
    due = min(
        score for _, score in space.redis.zrange(space.key("scheduled"), 0, -1, withscores=True)
    )
    while not space.redis.exists(space.key("ready:default:5")):
        gevent.sleep(0.001)
    assert now_ms(space) >= due
    eventually(lambda: len(space.waiting()) == 50)
    assert space.take_token()
    space.check()


@pytest.mark.usefixtures("scheduler")
def test_what_is_far_away_stays(space: Space) -> None:
    space.push("soon", due=0.05)
    space.push("late", due=3600.0)
    eventually(lambda: space.waiting() == ["soon"])
    assert space.state()["scheduled"] == {"late": "later"}


def test_what_workers_are_asked_comes_along_however_much_is_due(space: Space) -> None:
    asked: list[bytes] = []
    scheduler = Scheduler(space.broker, on_asked=asked.append)
    scheduler.step()
    assert asked == []
    space.redis.set(space.key("asked"), "1700000000000 7", px=60_000)
    for start in range(0, 1500, 500):
        space.push(*(f"m{n}" for n in range(start, start + 500)), due=60.0)
    space.make_due()
    assert scheduler.step() == 0.0, "a whole call's worth was due"
    assert asked == [b"1700000000000 7"]


def test_it_comes_back_in_time_for_the_next_one(space: Space) -> None:
    scheduler = Scheduler(space.broker, every=60.0)
    assert scheduler.step() == 60.0
    space.push("m1", due=10.0)
    assert 9.0 < (scheduler.step() or 0.0) <= 10.001


def test_it_is_woken_for_what_is_due_sooner_than_its_next_look(space: Space) -> None:
    scheduler = Scheduler(space.another_broker(), every=3600.0)
    scheduler.start()
    eventually(lambda: scheduler._next_look)
    space.push("m1", due=0.05)
    scheduler.expect(0.05)
    eventually(lambda: space.waiting() == ["m1"])
    scheduler.stop()


def test_what_it_is_told_while_the_server_answers_is_not_forgotten() -> None:
    """A key was parked right after the server had looked, and who parked it was answered first."""
    looks = Looks(None)
    scheduler = Scheduler(cast(Broker, looks), every=3600.0)
    looks.meanwhile = lambda: scheduler.expect(10.0)
    assert 9.0 < (scheduler.step() or 0.0) <= 10.001


def test_it_does_not_ask_before_what_it_was_told_of_is_due() -> None:
    looks = Looks(None)
    scheduler = Scheduler(cast(Broker, looks), every=3600.0)
    scheduler.step()
    scheduler.expect(10.0)
    assert 9.0 < (scheduler.step() or 0.0) <= 10.001
    assert looks.count == 1


def test_a_look_that_fails_is_repeated_whatever_it_is_told() -> None:
    looks = Looks()
    scheduler = Scheduler(cast(Broker, looks), every=3600.0)
    for count in (1, 2):
        with pytest.raises(IndexError):
            scheduler.step()
        scheduler.expect(10.0)
        assert looks.count == count


def test_however_many_are_due_one_after_the_other_it_does_not_spin() -> None:
    looks = Looks(*[0.0] * 5)
    scheduler = Scheduler(cast(Broker, looks), every=3600.0)
    for _ in range(5):
        began = time.monotonic()
        wait = scheduler.step()
        assert wait is not None
        assert wait + time.monotonic() - began >= 0.005


def test_nor_when_it_is_told_of_each() -> None:
    """As by claims that park one key after the other."""
    looks = Looks(*[None] * 5)
    scheduler = Scheduler(cast(Broker, looks), every=3600.0)
    began = time.monotonic()
    for count in range(1, 6):
        scheduler.expect(0.0)
        while looks.count < count:
            wait = scheduler.step() or 0.0
            gevent.sleep(wait if looks.count < count else 0.0)
    assert time.monotonic() - began >= 4 * 0.005


def test_more_than_one_calls_worth_is_moved_without_a_pause(space: Space) -> None:
    for start in (0, 1000):
        space.push(*(f"m{n}" for n in range(start, start + 1000)), due=60.0)
    space.push("last", due=60.0)
    space.make_due()
    scheduler = Scheduler(space.broker, every=3600.0)
    assert [scheduler.step() for _ in range(3)] == [0.0, 0.0, 3600.0]
    assert len(space.waiting()) == 2001
    space.check()


def test_what_became_due_while_the_server_was_away_runs_once_it_is_back(namespace: str) -> None:
    with Server(appendonly=True) as server, Space(server.url, namespace) as space:
        scheduler = Scheduler(space.another_broker())
        space.push("m1", due=0.3)
        server.kill()
        scheduler.start()
        eventually(lambda: scheduler._pause)  # it has noticed
        server.restart()
        eventually(lambda: space.waiting() == ["m1"])
        scheduler.stop()
        space.check()
