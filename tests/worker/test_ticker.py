"""Ticker: one tick for each moment, what was missed, and what it never waits for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime

import gevent
import pytest

from greenworker.app import App
from greenworker.broker import push_fields
from greenworker.errors import BrokerError
from greenworker.recurrence import Every
from greenworker.schedule import tick_id
from greenworker.timetable import Timetable
from greenworker.worker.ticker import LATE, Ticker
from tests.support.eventually import eventually
from tests.support.server import Server
from tests.support.state import Space
from tests.worker.conftest import Start

Make = Callable[[], Ticker]


@pytest.fixture
def make(app: App, space: Space) -> Iterator[Make]:
    """Makes tickers of the app, each with a connection of its own; at the end they are stopped."""
    made: list[Ticker] = []

    def make() -> Ticker:
        link = space.another_broker()._link
        made.append(
            Ticker(
                Timetable(link, app.namespace), app.schedule.declared.values(), app.client.fields
            )
        )
        return made[-1]

    yield make
    for ticker in made:
        ticker.stop()


def every(app: App, seconds: float, **options: object) -> None:
    app.every(seconds, app.task(name="t", queue="q")(lambda: None), **options)  # type: ignore[call-overload]


def was_due(space: Space, seconds: float, ago: float) -> float:
    """Let the schedule `t` have been due so long ago, at one of its moments; returns that one."""
    moment = Every(seconds).after(space.broker.time() - ago - seconds)
    now = round(space.broker.time() * 1000)
    line = f"{round(moment * 1000)} 0 0 {now} 0 every {seconds:g}\nt"
    space.redis.hset(space.key("schedules"), "t", line)
    return moment


def next_due(space: Space) -> float:
    return int(space.redis.hget(space.key("schedules"), "t").split(" ")[0]) / 1000


def sent(space: Space) -> list[str]:
    return space.waiting("q")


def test_the_first_look_plans_and_the_next_one_sends(app: App, space: Space, make: Make) -> None:
    every(app, 0.2)
    ticker = make()
    ticker.step()
    assert sent(space) == []
    due = next_due(space)
    while not sent(space):
        gevent.sleep(ticker.step() or 0.0)
    assert sent(space)[0] == tick_id("t", due)
    assert space.broker.time() >= due
    assert space.take_token("q")
    space.check()


def test_ten_of_them_send_each_moment_once(app: App, space: Space, make: Make) -> None:
    every(app, 0.1)
    tickers = [make() for _ in range(10)]
    for ticker in tickers:
        ticker.start()
    eventually(lambda: len(sent(space)) >= 20)
    for ticker in tickers:
        ticker.stop()
    ids = sent(space)
    first = ids[0]
    began = next(
        moment
        for n in range(10_000)
        if tick_id("t", moment := round(next_due(space) - n / 10, 1)) == first
    )
    assert ids == [tick_id("t", round(began + n / 10, 1)) for n in range(len(ids))]
    assert space.stats()["enqueued"] == len(ids)
    space.check()


@pytest.mark.parametrize("misfire", ["once", "skip"])
def test_what_is_only_late_is_sent_moment_by_moment(
    app: App, space: Space, make: Make, misfire: str
) -> None:
    every(app, 2, misfire=misfire)
    due = was_due(space, 2, ago=LATE / 2)
    before = space.broker.time()
    make().step()
    ids = sent(space)
    assert 2 <= len(ids) <= 4
    assert ids == [tick_id("t", due + 2 * n) for n in range(len(ids))]
    assert next_due(space) > before
    space.check()


@pytest.mark.parametrize("seconds", [0.1, 2, 3600])
def test_after_a_downtime_one_is_sent_for_all(
    app: App, space: Space, make: Make, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    every(app, seconds)
    was_due(space, seconds, ago=30 * 86400.0)
    before = space.broker.time()
    make().step()
    (id,) = sent(space)
    # It is the last one that came and went
    upcoming = next_due(space)
    assert before - 2 * seconds < upcoming - seconds <= space.broker.time()
    assert id == tick_id("t", round(upcoming - seconds, 3))
    assert "schedule t: ticks were missed; one is sent for them" in caplog.text
    make().step()
    assert len(sent(space)) <= 1 + round(60 / seconds)
    space.check()


@pytest.mark.parametrize("seconds", [2, 3600])
def test_or_none_where_that_is_wanted(
    app: App, space: Space, make: Make, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    every(app, seconds, misfire="skip")
    was_due(space, seconds, ago=2 * 86400.0)
    make().step()
    assert sent(space) == []
    assert next_due(space) > space.broker.time() - seconds
    assert "schedule t: ticks were missed, and are skipped" in caplog.text
    assert space.stats() == {}


def test_a_schedule_whose_time_was_changed_is_planned_from_now(
    app: App, space: Space, make: Make
) -> None:
    every(app, 3600)
    was_due(space, 7, ago=60.0)
    before = space.broker.time()
    make().step()
    assert sent(space) == []
    # An hour may begin meanwhile
    moments = {Every(3600).after(moment) for moment in (before, space.broker.time())}
    assert next_due(space) in moments


def test_what_is_paused_waits(app: App, space: Space, make: Make) -> None:
    every(app, 0.1)
    ticker = make()
    ticker.start()
    eventually(lambda: sent(space))
    app.schedule.pause("t")
    count = len(sent(space))
    paused_at = space.broker.time()
    make().step()
    eventually(lambda: space.broker.time() > paused_at + 0.5)
    assert len(sent(space)) == count
    app.schedule.resume("t")
    ticker.wake()
    eventually(lambda: len(sent(space)) > count)
    moment = datetime.fromisoformat(sent(space)[count].partition("@")[2]).timestamp()
    assert moment > paused_at + 0.4  # nothing is caught up with


def test_it_is_there_when_the_next_one_is_due(app: App, space: Space, make: Make) -> None:
    every(app, 3600)
    ticker = make()
    ticker.step()
    assert (ticker.step() or 0.0) <= 2.001
    was_due(space, 3600, ago=0.0)
    due = round((space.broker.time() + 1.8) * 1000)
    line = space.redis.hget(space.key("schedules"), "t").split(" ", 1)[1]
    space.redis.hset(space.key("schedules"), "t", f"{due} {line}")
    assert 0 < (ticker.step() or 0.0) <= 1.802


def test_a_server_that_was_away_is_no_reason_to_lose_one_or_to_send_one_twice(
    app: App, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    with Server(appendonly=True) as server, Space(server.url, namespace) as space:
        every(app, 0.2)
        tickers = [
            Ticker(
                Timetable(space.another_broker()._link, namespace),
                app.schedule.declared.values(),
                push_fields,
            )
            for _ in range(3)
        ]
        for ticker in tickers:
            ticker.start()
        eventually(lambda: len(sent(space)) > 3)
        server.kill()
        eventually(lambda: all(ticker._pause for ticker in tickers))
        server.restart()
        back = space.broker.time()
        eventually(lambda: next_due(space) > back + 1.0)
        for ticker in tickers:
            ticker.stop()
        ids = sent(space)
        last = next_due(space) - 0.2
        expected = [tick_id("t", round(last - 0.2 * n, 1)) for n in range(len(ids))]
        assert ids == expected[::-1]
        space.check()
        assert not caplog.records


def bad_ones_first(app: App, space: Space, bad: int, size: int) -> None:
    """Schedules of a queue whose key is no list, and after them a good one, all due, and not once more while a test runs."""
    task = app.task(name="t", queue="q")(lambda text: None)
    for n in range(bad):
        app.every(3600, task, name=f"bad{n}", queue="bad", args=("x" * size,))
    app.every(3600, task, name="good", args=("",))
    was_due(space, 3600, ago=0.0)
    line = space.redis.hgetall(space.key("schedules"))["t"]
    space.redis.delete(space.key("schedules"))
    for name in app.schedule.declared:
        space.redis.hset(space.key("schedules"), name, line)
    space.redis.set(space.key("ready:bad:5"), "not a list")


# More than one call for what is planned, and more than one for what is sent
@pytest.mark.parametrize(("bad", "size"), [(1001, 1), (5, 900_000)])
def test_a_queue_of_a_wrong_type_holds_up_no_other_schedule_however_many_wait_for_it(
    app: App, space: Space, make: Make, bad: int, size: int
) -> None:
    bad_ones_first(app, space, bad, size)
    ticker = make()
    for _ in range(2):
        with pytest.raises(BrokerError, match="GWTYPE"):
            ticker.step()
    assert [id.partition("@")[0] for id in sent(space)] == ["good"]


def test_it_is_told_once(
    app: App, space: Space, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bad_ones_first(app, space, 1, 1)
    app.every(0.1, app.tasks["t"], name="beat", args=("",))
    make().start()
    eventually(lambda: len(sent(space)) > 20)
    told = [one.getMessage() for one in caplog.records if "GWTYPE" in one.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("ticker: ")
    assert "ready:bad:5 is a string, not a list" in told[0]


def test_an_app_without_schedules_asks_for_nothing(app: App, space: Space, make: Make) -> None:
    ticker = make()
    ticker.start()
    assert ticker._greenlet is None
    ticker.stop()


def test_a_worker_sends_and_runs_them_and_a_burst_sends_none(app: App, start: Start) -> None:
    runs: list[int] = []
    app.every(0.1, app.task(name="t")(runs.append), args=(7,))
    worker = start()
    eventually(lambda: len(runs) >= 3)
    worker.stop()
    count = len(runs)
    assert set(runs) == {7}
    burst = start(burst=True)
    assert burst.ticker._greenlet is None
    burst.stop()
    # … and what is due once there is a worker again, comes
    start()
    eventually(lambda: len(runs) > count)
