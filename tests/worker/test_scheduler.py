"""Scheduler: what is due becomes ready, never early and never lost."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from greenworker.worker.scheduler import Scheduler
from tests.support.eventually import eventually
from tests.support.server import Server
from tests.support.state import Space


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
