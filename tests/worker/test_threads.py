"""Tasks in native threads: what they see, and what a timeout, a release and a stop can do to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.monkey import get_original

from greenworker import App, Message, Middleware, current_task
from greenworker.errors import DeclarationError, TaskFailed
from greenworker.message import State
from greenworker.worker import Worker
from tests.support.eventually import eventually
from tests.worker.conftest import Start

block = get_original("time", "sleep")
ident = get_original("_thread", "get_ident")


class Gate:
    """Blocks native threads until it is opened, as C code would."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.is_open = False

    def pass_through(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        while not self.is_open:
            block(0.005)
        self.inside -= 1


def test_it_runs_elsewhere_and_sees_the_same(app: App, start: Start) -> None:
    @app.task(thread=True, bind=True, timeout=30)
    def t(self: Any, n: int) -> list[Any]:
        assert current_task() is self
        assert self.deadline > 0
        gevent.sleep(0)  # what is cooperative waits in the thread
        return [n, ident()]

    class Where(Middleware):
        def run(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
            return [ident(), *call_next(message)]

    app.middleware(Where())
    start()
    around, n, inside = t.delay(3).get(timeout=10)
    assert n == 3
    assert around == inside != ident()


def test_its_arguments_may_have_any_name(app: App, start: Start) -> None:
    @app.task(thread=True)
    def t(function: int, args: int, kwargs: int, call: int) -> list[int]:
        return [function, args, kwargs, call]

    start()
    assert t.delay(function=1, args=2, kwargs=3, call=4).get(timeout=10) == [1, 2, 3, 4]


def test_so_many_at_once_and_the_others_wait_without_time_passing(app: App, start: Start) -> None:
    gate = Gate()

    @app.task(thread=True, timeout=20)
    def t() -> bool:
        gate.pass_through()
        return True

    worker = start(threads=2)
    sent = t.delay_many([()] * 6)
    eventually(lambda: gate.inside == 2 and worker.pool.free_count() == 4)
    gate.is_open = True
    assert all(one.get(timeout=10) for one in sent)
    assert gate.most == 2
    pool = worker.threads._pool
    assert pool is not None
    assert pool.size == 2
    worker.stop()
    assert pool.size == 0


@pytest.mark.parametrize("error", [ValueError, SystemExit, gevent.GreenletExit])
def test_an_error_is_the_tasks_own(app: App, start: Start, error: type[BaseException]) -> None:
    @app.task(thread=True, retries=1, backoff=0, retry_for=BaseException)
    def t() -> str:
        if not current_task().attempt:
            raise error("first")
        return current_task().last_error

    start()
    assert t.delay().get(timeout=10) == f"{error.__name__}: first"


def test_past_its_timeout_it_is_given_up_and_not_tried_again(app: App, start: Start) -> None:
    gate = Gate()

    @app.task(thread=True, timeout=0.05, retries=3, backoff=0)
    def stuck() -> None:
        gate.pass_through()

    @app.task(thread=True)
    def works() -> int:
        return 1

    worker = start(threads=1, concurrency=1, max_stuck=5)
    for _ in range(2):
        with pytest.raises(TaskFailed, match="its thread goes on, and cannot be ended"):
            stuck.delay().get(timeout=10)
    assert works.delay().get(timeout=10) == 1
    assert (len(worker.threads.abandoned), worker.stats.stuck) == (2, 2)
    eventually(lambda: gate.inside == 2)  # a thread may begin later than its run
    assert {letter.reason for letter in app.dead.list()} == {"stuck"}
    assert worker.stats.running == 0
    # What it returns in the end is dropped, and its thread is one too many
    gate.is_open = True
    eventually(lambda: not worker.threads.abandoned)
    assert works.delay().get(timeout=10) == 1
    assert worker.threads._pool is not None
    assert worker.threads._pool.maxsize == 1


def test_with_too_many_of_them_the_worker_retires(app: App, start: Start) -> None:
    gate = Gate()

    @app.task(thread=True, timeout=0.05)
    def stuck() -> None:
        gate.pass_through()

    worker = start(threads=3, max_stuck=1)
    stuck.delay_many([(), ()])
    eventually(lambda: "2 tasks ignore their timeout" in worker.retired)
    gate.is_open = True


def test_at_a_stop_it_is_released_and_goes_on(app: App, start: Start) -> None:
    gate = Gate()

    @app.task(thread=True)
    def t() -> str:
        gate.pass_through()
        return "done"

    worker = start(threads=1)
    sent = t.delay_many([(), ()])
    eventually(lambda: gate.inside == 1 and worker.stats.running == 2)
    worker.stop(timeout=0)
    assert [one.state for one in sent] == [State.PENDING] * 2
    assert worker.stats.released == 2
    # As a library: the process lives on, and so does the thread; another run is beside it
    worker.start()
    eventually(lambda: gate.inside == 2)
    gate.is_open = True
    assert [one.get(timeout=10) for one in sent] == ["done"] * 2
    eventually(lambda: not worker.threads.abandoned)


def test_records_are_handled_in_the_thread_of_the_loop_and_in_order(
    app: App, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    where: list[tuple[str, Any, str]] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            where.append((record.getMessage(), ident(), current_task().name))

    @app.task(thread=True, name="t")
    def t() -> None:
        for n in range(3):
            log.warning("line %d", n)

    log = logging.getLogger("shop")
    log.addHandler(handler := Noting())
    try:
        start()
        t.delay().get(timeout=10)
    finally:
        log.removeHandler(handler)
    assert where == [(f"line {n}", ident(), "t") for n in range(3)]


def test_in_solo_it_runs_in_the_main_greenlet(app: App) -> None:
    @app.task(thread=True)
    def t() -> bool:
        return ident() == main

    main = ident()
    sent = t.delay()
    Worker(app, solo=True, burst=True).serve_forever()
    assert sent.get(timeout=10) is True


def test_what_it_sends_is_sent(app: App, start: Start) -> None:
    @app.task(thread=True)
    def parent() -> str:
        return child.delay().id

    @app.task
    def child() -> str:
        return "from a thread"

    start()
    assert app.result(parent.delay().get(timeout=10)).get(timeout=10) == "from a thread"


def test_nothing_can_be_raised_in_it(app: App) -> None:
    with pytest.raises(
        DeclarationError, match=r"leave out soft_timeout, and heed current_task\(\)"
    ):
        app.task(thread=True, soft_timeout=1)(print)
    with pytest.raises(DeclarationError, match="thread='yes': give True or False"):
        app.task(thread="yes")(print)


def test_a_thread_that_ends_while_its_run_is_released_harms_nobody(app: App, start: Start) -> None:
    begun = Event()

    @app.task(thread=True)
    def quick() -> None:
        begun.set()

    worker = start()
    for _ in range(20):
        quick.delay()
        gevent.sleep(0)
        worker.pool.kill(gevent.GreenletExit, block=False)
    eventually(lambda: app.status().waiting == 0 and not worker.threads.abandoned)
    eventually(lambda: worker.threads._free.counter == 10)  # the last one may run still


def test_one_that_ended_while_the_loop_was_blocked_may_be_tried_again(
    app: App, start: Start
) -> None:
    """Nothing goes on that another run would be beside."""
    ended: list[float] = []  # until when the loop is held

    def hold_the_loop() -> None:
        while not ended or time.monotonic() < ended[0]:
            block(0.005)

    @app.task(thread=True, timeout=1.0, retries=1, backoff=0)
    def quick() -> int:
        if not current_task().attempt:
            # When the loop hears of neither its end nor its timeout until both have come
            hub.loop.run_callback_threadsafe(hold_the_loop)
            block(0.05)
        ended.append((current_task().deadline or 0.0) + 0.1)
        return current_task().attempt

    hub = gevent.get_hub()
    worker = start()
    assert quick.delay().get(timeout=20) in (0, 1)
    assert worker.stats.stuck == 0
    assert not worker.threads.abandoned


def test_a_filter_that_breaks_ends_no_task(
    app: App, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(record: logging.LogRecord) -> bool:
        raise RuntimeError("no such field")

    @app.task(thread=True)
    def t() -> str:
        log.warning("lost")
        return "done"

    log = logging.getLogger("shop")
    log.addFilter(breaks)
    try:
        start()
        assert t.delay().get(timeout=10) == "done"
    finally:
        log.removeFilter(breaks)
    assert "RuntimeError: no such field" in capsys.readouterr().err
