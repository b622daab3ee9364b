"""Middleware around runs, and what it hears of a worker's life."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from types import CodeType
from typing import Any

import gevent
import pytest
from gevent.event import Event

from greenworker import App, Message, Middleware, Reject, current_task
from greenworker.errors import TaskFailed
from greenworker.worker import Worker
from greenworker.worker.executor import Executor
from tests.support.eventually import eventually
from tests.support.state import Space
from tests.worker.conftest import Start
from tests.worker.test_worker import check_nobody_is_left

Next = Callable[[Message], Any]


class Around(Middleware):
    """Runs what it is given in place of `run`."""

    def __init__(self, run: Callable[[Message, Next], Any]) -> None:
        self._run = run

    def run(self, message: Message, call_next: Next) -> Any:
        return self._run(message, call_next)


class Hearing(Middleware):
    """Notes the events of a worker's life, and does what else it is told."""

    def __init__(self, name: str, notes: list[str], **does: Callable[[], object]) -> None:
        self._name, self._notes, self._does = name, notes, does

    def _hear(self, what: str) -> None:
        self._notes.append(f"{self._name} {what}")
        self._does.get(what, lambda: None)()

    def on_start(self, worker: Any) -> None:
        self._hear("start")

    def on_quiet(self, worker: Any) -> None:
        self._hear("quiet")

    def on_shutdown(self, worker: Any) -> None:
        self._hear("shutdown")


@pytest.fixture
def serve(app: App, start: Start) -> Iterator[Callable[..., Worker]]:
    """Start a worker with this middleware."""

    def serve(*middleware: Middleware, **options: Any) -> Worker:
        app.close()  # whatever was sent before
        for one in middleware:
            app.middleware(one)
        return start(**options)

    return serve


def test_the_first_is_the_outermost_and_sees_what_the_next_made_of_it(
    app: App, serve: Callable[..., Worker]
) -> None:
    seen: list[Any] = []

    def outer(message: Message, call_next: Next) -> Any:
        seen.append((message.args, message.task, current_task().id == message.id))
        return call_next(replace(message, args=(message.args[0] + 1,))) * 100

    def inner(message: Message, call_next: Next) -> Any:
        seen.append(message.args)
        return call_next(replace(message, kwargs={"more": 5})) + 1

    @app.task(name="t", bind=True)
    def t(self: Any, n: int, more: int = 0) -> int:
        assert self is current_task()
        return n + more

    serve(Around(outer), Around(inner))
    assert t.delay(1).get(timeout=10) == (2 + 5 + 1) * 100
    assert seen == [([1], "t", True), (2,)]


def test_without_any_nothing_is_between_the_executor_and_a_tasks_function(
    app: App, serve: Callable[..., Worker]
) -> None:
    callers: list[CodeType] = []

    class OnlySends(Middleware):
        def send(self, message: Message, call_next: Next) -> None:
            call_next(message)

    @app.task
    def t() -> None:
        callers.append(sys._getframe(1).f_code)

    serve(OnlySends())
    t.delay().get(timeout=10)
    assert callers == [Executor._call.__code__]


def test_what_it_raises_is_the_tasks_failure(app: App, serve: Callable[..., Worker]) -> None:
    def refuses(message: Message, call_next: Next) -> Any:
        if message.attempt:
            raise Reject("not a second time")
        call_next(message)
        raise PermissionError("after all")

    ran = []

    @app.task(retries=3, backoff=0)
    def t() -> None:
        ran.append(1)

    serve(Around(refuses))
    with pytest.raises(TaskFailed, match="Reject: not a second time") as failed:
        t.delay().get(timeout=10)
    assert len(ran) == 1
    assert "in refuses" in failed.value.traceback
    assert "greenworker/" not in failed.value.traceback.partition("in refuses")[0]


def test_an_error_that_it_keeps_is_none(app: App, serve: Callable[..., Worker]) -> None:
    seen: list[BaseException] = []

    def keeps(message: Message, call_next: Next) -> Any:
        try:
            return call_next(message)
        except Exception as error:
            seen.append(error)
            return "instead"

    @app.task
    def t() -> None:
        raise ValueError("no such page")

    serve(Around(keeps))
    assert t.delay().get(timeout=10) == "instead"
    assert str(seen[0]) == "no such page"


def test_its_time_is_the_tasks_time(app: App, serve: Callable[..., Worker]) -> None:
    def dawdles(message: Message, call_next: Next) -> Any:
        try:
            return call_next(message)
        finally:
            gevent.sleep(30)

    @app.task(timeout=0.05)
    def t() -> None: ...

    serve(Around(dawdles))
    with pytest.raises(TaskFailed, match="TaskTimeout"):
        t.delay().get(timeout=10)


def test_context_variables_are_those_of_the_run_alone(
    app: App, serve: Callable[..., Worker]
) -> None:
    session: ContextVar[str] = ContextVar("session", default="none")

    def opens(message: Message, call_next: Next) -> Any:
        before = session.get()
        session.set(message.id)
        return [before, call_next(message)]

    @app.task(thread=True)
    def threaded() -> str:
        return session.get()

    @app.task
    def green() -> str:
        return session.get()

    serve(Around(opens))
    for task in (threaded, green, threaded):
        sent = task.delay()
        assert sent.get(timeout=10) == ["none", sent.id]


def test_nor_do_they_last_in_solo(app: App) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="none")
    seen: list[str] = []

    @app.task
    def t() -> None:
        seen.append(tenant.get())
        tenant.set("somebody")

    t.delay_many([(), ()])
    Worker(app, solo=True, burst=True).serve_forever()
    assert seen == ["none", "none"]


# A worker's life


def test_it_begins_in_order_and_ends_in_the_opposite_one(app: App, start: Start) -> None:
    notes: list[str] = []
    app.middleware(Hearing("a", notes))
    app.middleware(Hearing("b", notes))
    worker = start()
    assert notes == ["a start", "b start"]
    worker.quiet()
    worker.quiet()
    eventually(lambda: notes[2:] == ["a quiet", "b quiet"])
    worker.resume()
    worker.stop()
    assert notes[4:] == ["a quiet", "b quiet", "b shutdown", "a shutdown"]
    worker.stop()
    worker.start()
    worker.quiet()
    worker.stop()
    assert notes[8:] == [*notes[:4], "b shutdown", "a shutdown"]


def test_nothing_is_claimed_before_all_have_begun(app: App, space: Any, start: Start) -> None:
    looked: list[int] = []

    class Looking(Middleware):
        def on_start(self, worker: Worker) -> None:
            looked.append(len(app.status().workers))
            assert worker.app is app

    app.middleware(Looking())
    start()
    assert looked == [0]


def test_what_fails_in_quiet_or_shutdown_is_logged_and_changes_nothing(
    app: App, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    notes: list[str] = []

    def breaks() -> None:
        raise SystemExit("never")

    app.middleware(Hearing("a", notes))
    app.middleware(Hearing("b", notes, quiet=breaks, shutdown=breaks))
    start().stop()
    assert notes[-2:] == ["b shutdown", "a shutdown"]
    lines = [record.getMessage() for record in caplog.records]
    assert "Hearing.on_quiet failed: SystemExit: never" in lines
    assert "Hearing.on_shutdown failed: SystemExit: never" in lines


def test_a_shutdown_that_hangs_holds_no_stop_up(app: App, start: Start) -> None:
    app.middleware(Hearing("a", [], quiet=Event().wait, shutdown=Event().wait))
    worker = start()
    with gevent.Timeout(20):
        worker.stop(timeout=0)
    assert app.status().workers == []


def test_a_start_that_fails_begins_nothing(app: App, space: Space) -> None:
    notes: list[str] = []

    def breaks() -> None:
        raise OSError("no database")

    app.middleware(Hearing("a", notes))
    app.middleware(Hearing("b", notes, start=breaks))
    app.middleware(Hearing("c", notes))
    worker = Worker(app)
    for _ in range(2):
        with pytest.raises(OSError, match="no database"):
            worker.start()
    assert notes == ["a start", "b start", "a shutdown"] * 2
    assert not worker.ready.is_set()
    check_nobody_is_left(space)
    worker.stop()


def test_a_stop_waits_for_no_start_that_hangs(app: App, space: Space) -> None:
    notes: list[str] = []
    app.middleware(Hearing("a", notes))
    app.middleware(Hearing("b", notes, start=Event().wait))
    worker = Worker(app)
    serving = gevent.spawn(worker.serve_forever)
    eventually(lambda: notes == ["a start", "b start"])
    worker.ask_to_stop(time.monotonic())
    assert serving.get(timeout=20) == 0
    assert notes == ["a start", "b start", "a shutdown"]
    # Likewise where it was started as a library
    notes.clear()
    starting = gevent.spawn(worker.start)
    eventually(lambda: notes == ["a start", "b start"])
    worker.stop()
    starting.get(timeout=20)
    assert notes == ["a start", "b start", "a shutdown"]
    assert not worker.ready.is_set()
    check_nobody_is_left(space)


def test_nor_for_one_that_ignores_its_end(app: App) -> None:
    notes: list[str] = []
    over = Event()

    def for_ever() -> None:  # until the database is there
        while not over.is_set():
            try:
                over.wait()
            except BaseException:
                pass

    app.middleware(Hearing("a", notes))
    app.middleware(Hearing("b", notes, start=for_ever))
    worker = Worker(app)
    serving = gevent.spawn(worker.serve_forever)
    eventually(lambda: notes == ["a start", "b start"])
    worker.ask_to_stop(time.monotonic())
    assert serving.get(timeout=30) == 0
    over.set()
    gevent.sleep(0)
    assert notes == ["a start", "b start", "a shutdown"]


def test_a_start_that_is_interrupted_ends_what_had_begun(app: App) -> None:
    notes: list[str] = []
    app.middleware(Hearing("a", notes))
    app.middleware(Hearing("b", notes, start=Event().wait))
    starting = gevent.spawn(Worker(app).start)
    eventually(lambda: notes == ["a start", "b start"])
    starting.kill()
    assert notes == ["a start", "b start", "a shutdown"]
