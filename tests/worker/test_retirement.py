"""Retirement: a worker that has done its part, or is no longer fit, stops by itself."""

from __future__ import annotations

import gevent
import pytest

from greenworker.app import App
from greenworker.errors import ConfigError, TaskFailed
from greenworker.message import State
from greenworker.worker import Worker, WorkerConfig, retirement
from tests.support.eventually import eventually
from tests.support.state import Space
from tests.worker.builders import declare_immortal, declare_nothing
from tests.worker.conftest import Start
from tests.worker.test_worker import check_nobody_is_left


@pytest.mark.parametrize("concurrency", [1, 3, 100])
def test_exactly_so_many_runs_are_begun(
    app: App, space: Space, start: Start, concurrency: int
) -> None:
    task = declare_nothing(app)
    task.delay_many([()] * 20)
    worker = start(concurrency=concurrency, max_tasks=7)
    eventually(lambda: worker.retired)
    eventually(lambda: not space.redis.exists(space.key("workers")))
    assert space.stats()["done"] == 7
    assert worker.retired == "7 tasks were begun, and that is all it was told to run"
    check_nobody_is_left(space)
    space.check()
    # Started again it is as good as new
    worker.start()
    assert worker.retired == ""
    eventually(lambda: space.stats()["done"] == 14)


def test_what_is_no_task_of_the_worker_is_no_run(
    app: App, space: Space, start: Start, namespace: str
) -> None:
    other = App(app.endpoint.url, namespace=namespace)
    other.task(name="new")(lambda: None).delay_many([()] * 5)
    other.close()
    task = declare_nothing(app)
    worker = start(max_tasks=3)
    eventually(lambda: worker.stats.not_run == 5)
    task.delay_many([()] * 4)
    eventually(lambda: worker.retired)
    eventually(lambda: not space.redis.exists(space.key("workers")))
    assert space.stats()["done"] == 3


@pytest.mark.parametrize("solo", [False, True])
def test_serve_forever_returns_when_what_runs_has_ended(app: App, space: Space, solo: bool) -> None:
    ended: list[int] = []

    @app.task
    def slow() -> None:
        gevent.sleep(0.3)
        ended.append(1)

    slow.delay_many([()] * 5)
    worker = Worker(app, max_tasks=3, lease=1.0, solo=solo)
    assert worker.serve_forever() == 0
    assert len(ended) == 3
    assert worker.retired
    check_nobody_is_left(space)
    space.check()


def test_one_that_was_left_by_an_exception_retires_as_a_library(app: App, space: Space) -> None:
    task = declare_nothing(app)
    worker = Worker(app, max_tasks=3, lease=1.0)
    me, interrupted = gevent.getcurrent(), gevent.Timeout()

    def interrupt() -> None:
        assert worker.ready.wait(10)
        gevent.kill(me, interrupted)

    gevent.spawn(interrupt)
    with pytest.raises(gevent.Timeout):
        worker.serve_forever()
    task.delay_many([()] * 5)
    eventually(lambda: worker.retired)
    eventually(lambda: not space.redis.exists(space.key("workers")))
    assert space.stats()["done"] == 3
    check_nobody_is_left(space)


def test_more_memory_than_it_may_use(
    app: App, space: Space, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    used = 100 << 20
    monkeypatch.setattr(retirement, "memory_used", lambda: used)
    monkeypatch.setattr(retirement, "_LOOK_EVERY", 0.02)
    worker = Worker(app, max_memory=200 << 20, lease=1.0)
    serving = gevent.spawn(worker.serve_forever)
    assert worker.ready.wait(10)
    gevent.sleep(0.1)
    assert worker.retired == ""
    used = 300 << 20
    assert serving.get(timeout=20) == 0
    assert worker.retired == "300 MiB of memory used, more than 200 MiB"
    assert caplog.text.count("retiring: 300 MiB of memory used") == 1
    check_nobody_is_left(space)


def test_the_memory_of_this_process_is_known() -> None:
    before = retirement.memory_used()
    ballast = bytearray(64 << 20)
    assert retirement.memory_used() - before > 32 << 20
    assert len(ballast) == 64 << 20
    assert before > 4 << 20


def test_tasks_that_cannot_be_ended(app: App, space: Space, start: Start) -> None:
    immortal, end = declare_immortal(app)
    # Given a worker that bears one of them, beside its slot
    worker = start(concurrency=1, max_stuck=1)
    stuck = immortal.delay()
    declare_nothing(app).delay()
    with pytest.raises(TaskFailed, match="ignores it"):
        stuck.get(20)
    eventually(lambda: space.stats().get("done") == 1)
    assert (worker.pool.free_count(), len(worker.pool.stuck)) == (1, 1)
    assert worker.stats.running == 0
    assert worker.retired == ""
    # When there is another one, then it leaves, and waits for neither
    immortal.delay()
    with gevent.Timeout(15):  # the grace is 25 s
        eventually(lambda: worker.retired)
        eventually(lambda: not space.redis.exists(space.key("workers")), within=15)
    assert worker.retired.startswith("2 tasks ignore their timeout and cannot be ended")
    # What it leaves behind counts no more
    end.set()
    eventually(lambda: not worker.pool.stuck)
    assert stuck.state is State.FAILURE
    assert space.stats()["dead"] == 2
    space.check()


def test_what_is_borne_by_default_is_a_tenth_of_the_concurrency() -> None:
    limits = [WorkerConfig(concurrency=n).stuck_limit for n in (1, 10, 100, 1000)]
    assert limits == [1, 1, 10, 100]
    assert WorkerConfig(concurrency=100, max_stuck=3).stuck_limit == 3
    with pytest.raises(ConfigError, match="max_tasks -1: give a whole number"):
        WorkerConfig(max_tasks=-1)
