"""Teller: each worker says what it runs, and where that stands, to whoever asks."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import gevent
import orjson
import pytest
from gevent.event import Event
from gevent.monkey import get_original

from greenworker.app import App
from greenworker.errors import ConfigError
from greenworker.message import RELEASE, Delivery, Outcome
from greenworker.running import Running, RunningTask, Vitals, read_answer, read_vitals
from greenworker.worker import teller
from greenworker.worker.dump import describe_running
from greenworker.worker.incarnation import Membership
from greenworker.worker.pool import TaskPool
from greenworker.worker.stats import Stats
from greenworker.worker.threads import Threads
from greenworker.worker.vitals import Pulse
from tests.support.eventually import eventually
from tests.support.state import Space
from tests.worker.builders import delivery_of
from tests.worker.conftest import Start

block = get_original("time", "sleep")  # as C code would

HERE = str(Path(__file__).relative_to(Path.cwd()))


@pytest.fixture
def hold(app: App) -> tuple[Any, Event]:
    """A task that waits, and what lets it go on."""
    go = Event()

    @app.task(name="hold")
    def hold(what: object = None) -> None:
        go.wait(30)  # the line

    return hold, go


def line_of(text: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    return next(f"{HERE}:{n}" for n, line in enumerate(lines, 1) if line.endswith(text))


def ask(app: App, until: Callable[[Running], object] = lambda _: True, **how: Any) -> Running:
    """What runs, as soon as it looks as it should."""
    seen: list[Running] = []

    def look() -> bool:
        seen.append(app.running(**how))
        return bool(until(seen[-1]))

    eventually(look)
    return seen[-1]


def test_what_runs_and_where_it_stands(app: App, start: Start, hold: tuple[Any, Event]) -> None:
    task, go = hold
    start(name="bee", lease=60.0)
    sent = task.delay("secret")
    found = ask(app, lambda found: found.total and found.tasks[0].where != "-")  # it has begun
    (one,) = found.tasks
    assert (one.worker, one.task, one.id, one.stuck) == ("bee", "hold", sent.id, False)
    assert 0 <= one.seconds < 30
    assert one.where == f"{line_of('# the line')} in hold"
    assert (one.call, found.silent) == ("", [])
    go.set()
    assert sent.get(timeout=20) is None
    assert ask(app, lambda found: not found.total) == Running([], 0, [])


def test_nothing_is_said_unless_somebody_asks(
    app: App, start: Start, hold: tuple[Any, Event], space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    described: list[int] = []
    describe = teller.Teller.describe
    monkeypatch.setattr(
        teller.Teller, "describe", lambda self, n: described.append(n) or describe(self, n)
    )
    task, go = hold
    worker = start(lease=60.0)
    task.delay()
    eventually(lambda: worker.stats.running == 1)
    worker.scheduler.stop()  # from here on it looks when it is told to
    for _ in range(5):
        worker.scheduler.step()
    assert not described
    asking = gevent.spawn(app.running, limit=3)

    def is_answered() -> bool:
        worker.scheduler.step()
        return bool(asking.ready())

    eventually(is_answered)
    for _ in range(5):
        worker.scheduler.step()
    assert described == [3], "each question is answered once"
    kept = [
        *space.redis.scan_iter(space.key("asked")),
        *space.redis.scan_iter(space.key("running:*")),
    ]
    assert len(kept) == 2
    assert all(0 < space.redis.pttl(key) <= 10_000 for key in kept)
    go.set()


def test_several_workers_and_the_longest_runs_of_all(
    app: App, start: Start, hold: tuple[Any, Event]
) -> None:
    task, go = hold
    first = task.delay()
    start(name="one", lease=60.0)
    ask(app, lambda found: found.total == 1)
    start(name="two", lease=60.0)
    task.delay_many([()] * 15, results=False)
    found = ask(app, lambda found: found.total == 16, limit=3)
    assert [len(found.tasks), found.tasks[0].id] == [3, first.id]
    seconds = [one.seconds for one in found.tasks]
    assert seconds == sorted(seconds, reverse=True)
    everything = app.running(limit=1_000_000, timeout=20)
    assert len(everything.tasks) == 16
    assert {one.worker for one in everything.tasks} == {"one", "two"}
    go.set()


def test_arguments_are_told_if_the_worker_may(
    app: App, start: Start, hold: tuple[Any, Event]
) -> None:
    task, go = hold

    @app.task(name="discreet", sensitive=True)
    def discreet(what: str) -> None:
        go.wait(30)

    start(log_values=True, lease=60.0)
    task.delay({"a": 1})
    discreet.delay("secret")
    found = ask(app, lambda found: found.total == 2)
    assert {one.task: one.call for one in found.tasks} == {"hold": "({'a': 1})", "discreet": ""}
    go.set()


def test_where_a_task_stands_that_waits_deep_in_a_library(app: App, start: Start) -> None:
    go = Event()

    @app.task(name="deep")
    def deep() -> None:
        def middle() -> None:
            gevent.joinall([gevent.spawn(go.wait, 30)])  # in the middle

        middle()

    @app.task(name="shallow")
    def shallow() -> None:
        go.wait(30)

    app.tasks["library"] = app.task(name="library")(shutil.copytree)
    start(lease=60.0)
    sent = [deep.delay(), shallow.delay()]
    found = ask(app, lambda found: [one.where != "-" for one in found.tasks] == [True, True])
    places = {one.task: one.where for one in found.tasks}
    assert places["deep"] == f"{line_of('# in the middle')} in middle"
    assert places["shallow"].endswith(" in shallow")
    go.set()
    for one in sent:
        one.get(timeout=20)


def test_what_runs_in_a_thread_stands_where_the_thread_does(app: App, start: Start) -> None:
    go: list[int] = []

    @app.task(name="threaded", thread=True)
    def threaded() -> None:
        while not go:
            block(0.005)  # in its thread

    @app.task(name="late", thread=True, timeout=0.05)
    def late() -> None:
        while not go:
            block(0.005)  # and goes on there

    worker = start(lease=60.0, threads=1, max_stuck=5)
    late.delay()
    eventually(lambda: worker.threads.stuck)
    threaded.delay()
    waiting = threaded.delay()
    places = {
        ("late", True, f"{line_of('# and goes on there')} in late"),
        ("threaded", False, f"{line_of('# in its thread')} in threaded"),
        ("threaded", False, "-"),  # for a thread
    }
    ask(app, lambda found: {(one.task, one.stuck, one.where) for one in found.tasks} == places)
    shown = describe_running(worker.pool, worker.threads)
    assert shown.startswith("2 running, and 1 that ignore their timeout\n")
    assert "in late" in shown
    go.append(1)
    waiting.get(timeout=20)
    eventually(lambda: not worker.threads.abandoned)
    assert ask(app, lambda found: not found.total).tasks == []


def test_what_ignores_its_timeout_is_told_apart(
    app: App, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenworker.worker.run._THROW_AGAIN", (0.001,) * 4)
    go = Event()

    @app.task(name="stubborn", timeout=0.05)
    def stubborn() -> None:
        while not go.is_set():
            try:
                go.wait(30)
            except BaseException:  # whatever it is
                pass

    worker = start(lease=60.0, max_stuck=5)
    stubborn.delay()
    found = ask(app, lambda found: found.tasks and found.tasks[0].stuck)
    assert (found.total, found.tasks[0].task) == (1, "stubborn")
    go.set()
    eventually(lambda: not worker.pool.stuck)


def test_who_does_not_answer_is_named(app: App, start: Start, hold: tuple[Any, Event]) -> None:
    task, go = hold
    one, other = start(name="one", lease=60.0), start(name="other", lease=60.0)
    other.scheduler.stop()
    sent = [task.delay(), task.delay()]
    eventually(lambda: one.stats.running + other.stats.running == 2)
    found = app.running(timeout=5)
    assert found.silent == ["other"]
    assert {task.worker for task in found.tasks} <= {"one"}
    go.set()
    for result in sent:
        result.get(timeout=20)


def test_a_question_that_makes_no_sense_stops_nothing(
    app: App, start: Start, hold: tuple[Any, Event], space: Space
) -> None:
    task, go = hold
    start(lease=60.0)
    for key in ("asked", "running:x"):
        space.redis.lpush(space.key(key), "x")
    assert task.apply_async(countdown=0.01).state in ("SCHEDULED", "PENDING", "STARTED")
    go.set()
    assert task.apply_async(countdown=0.01).get(timeout=20) is None
    space.redis.delete(space.key("asked"))
    for question in ("", "x", "1", "1 99999999999999999999", "\xff\xfe 7"):
        space.redis.set(space.key("asked"), question.encode("latin-1"))
        assert task.apply_async(countdown=0.01).get(timeout=20) is None
    assert ask(app).silent == []


@pytest.mark.parametrize(
    "said",
    [
        b"", b"garbage", b"[]", b'{"tasks":7,"total":"x"}', b'{"tasks":[7,{"task":1}],"total":-5}',
        b'{"tasks":[{"task":"t","id":"m","seconds":NaN}]}', b"\xff",
    ],
)  # fmt: skip
def test_what_others_wrote_is_left_out(
    app: App, start: Start, space: Space, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start(name="liar", lease=60.0)
    worker.scheduler.stop()
    (me,) = space.redis.zrange(space.key("workers"), 0, -1)
    space.redis.set(space.key(f"running:{me}"), b"9999999999999 " + said)
    found = app.running(timeout=0.2)
    assert (found.tasks, found.total) == ([], 0)


def test_what_others_wrote_gives_a_terminal_no_orders(app: App, start: Start, space: Space) -> None:
    worker = start(name="liar", lease=60.0)
    worker.scheduler.stop()
    (me,) = space.redis.zrange(space.key("workers"), 0, -1)
    evil = '{"task":"\\u001b[2J","id":"a\\nb","seconds":1.5,"where":"\\u009b","stuck":false,"blocks":false,"call":"\\n"}'
    space.redis.set(space.key(f"running:{me}"), f'9999999999999 {{"total":1,"tasks":[{evil}]}}')
    (one,) = app.running(timeout=5.0).tasks
    assert "".join((one.task, one.id, one.where, one.call)).isprintable()


@pytest.mark.parametrize(
    "given", [{"limit": 0}, {"limit": True}, {"limit": "5"}, {"timeout": 0}, {"timeout": math.inf}]
)
def test_what_makes_no_sense_is_refused(app: App, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give"):
        app.running(**given)


def test_of_many_the_first_ones_are_named(app: App, start: Start) -> None:
    """And only their stacks are looked into."""
    go = Event()

    @app.task(name="many", ignore_result=True)
    def many() -> None:
        go.wait(30)

    worker = start(concurrency=2000, lease=60.0)
    for _ in range(4):
        many.delay_many([()] * 500, results=False)
    found = ask(app, lambda found: found.total == 2000, limit=5)
    assert len(found.tasks) == 5
    assert all(isinstance(one, RunningTask) and one.where != "-" for one in found.tasks)
    assert len(app.running(limit=1_000_000, timeout=20).tasks) == 1000, "one worker names no more"
    go.set()
    eventually(lambda: not worker.stats.running)


def test_what_waits_for_its_first_line_is_named_by_its_message() -> None:
    # Given three deliveries of which the first one asks, before the others have a greenlet
    said: list[dict[str, Any]] = []

    def execute(_: Delivery) -> Outcome:
        said.append(tell.describe(2))
        return RELEASE

    pool = TaskPool(3, execute, lambda *_: None)
    threads = Threads(1, lambda: None)
    control: Any = None
    pulse = Pulse(Stats(), pool, threads)
    tell = teller.Teller(control, Membership(lambda: None), pool, threads, False, pulse)
    deliveries = [delivery_of(name, seq=n) for n, name in enumerate(("a", "b", "c"), 1)]
    for delivery in deliveries:
        pool.begin(delivery)
    assert pool.join(timeout=10)
    # Then those that were claimed first are named, and all are counted
    assert [said[n]["total"] for n in range(3)] == [3, 2, 1]
    assert [(one["task"], one["id"], one["where"]) for one in said[0]["tasks"]] == [
        (name, delivery.id, "-") for name, delivery in zip("ab", deliveries, strict=False)
    ]


def test_vitals_come_with_an_answer(app: App, start: Start, hold: tuple[Any, Event]) -> None:
    task, go = hold

    @app.task(name="fails")
    def fails() -> None:
        raise ValueError

    start(name="bee", concurrency=7, lease=60.0)
    control = app.client.control
    fails.delay()
    task.delay()

    def ask() -> Vitals:
        moment, (bee,) = control.ask(0)
        (said,) = eventually(lambda: [said for _, said in control.answers(moment, [bee.id])])
        assert read_answer(bee, said).tasks == [], "nobody asked what runs"
        vitals = read_vitals(said)
        assert vitals is not None
        return vitals

    first = eventually(lambda: vitals if (vitals := ask()).failed and vitals.used else None)
    assert (first.size, first.used, first.stuck) == (7, 1, 0)
    assert (first.begun, first.succeeded, first.failed) == (2, 0, 1)
    assert 1 << 20 < first.memory < 10 << 30
    assert first.cpu > 0
    assert 0 < first.up < 60
    # It is slowed down
    block(0.3)
    second = eventually(lambda: vitals if (vitals := ask()).worst_lag > 0.02 else None)
    assert second.worst_lag >= second.lag > 0
    assert second.up > first.up
    go.set()
    eventually(lambda: ask().succeeded == 1)


@pytest.mark.parametrize(
    "said",
    [b"", b"x", b'{"vitals":7}', b'{"vitals":{}}', b'{"tasks":[],"total":0}'],
)  # fmt: skip
def test_vitals_that_are_none(said: bytes) -> None:
    assert read_vitals(said) is None


@pytest.mark.parametrize("wrong", ["x", True, -1, None, 1e300])
def test_vitals_that_make_no_sense(wrong: object) -> None:
    vitals = dict.fromkeys((field.name for field in fields(Vitals)), 1)
    assert read_vitals(orjson.dumps({"vitals": vitals})) == Vitals(**vitals)
    assert read_vitals(orjson.dumps({"vitals": {**vitals, "memory": wrong}})) is None
