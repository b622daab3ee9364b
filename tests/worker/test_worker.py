"""Worker: the services together. It may be started and stopped in any order, and leaves nothing."""

from __future__ import annotations

import gc
import itertools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import gevent
import pytest
from gevent.event import Event

from greenworker.app import App
from greenworker.context import current_task
from greenworker.errors import (
    BrokerUnavailable,
    ConfigError,
    NotPatched,
    TaskFailed,
    UnsuitableServer,
)
from greenworker.message import State
from greenworker.worker import Worker
from greenworker.worker.watchdog import Watchdog
from tests.support.eventually import eventually
from tests.support.process import environment
from tests.support.server import Server
from tests.support.state import Space
from tests.support.tcp_proxy import TcpProxy

Start = Callable[..., Worker]


def connections(space: Space) -> list[str]:
    """The names of this process' connections to the server."""
    names = (client["name"] for client in space.redis.client_list())
    return sorted(name for name in names if name.startswith("greenworker"))


def is_watchdog(frame: FrameType | None) -> bool:
    """Whether a native thread with this stack is one of a worker's."""
    while frame is not None and frame.f_code is not Watchdog._watch.__code__:
        frame = frame.f_back
    return frame is not None


def greenlets() -> list[gevent.Greenlet]:
    gc.collect()
    return [it for it in gc.get_objects() if isinstance(it, gevent.Greenlet) and it]


def check_nobody_is_left(space: Space) -> None:
    """No worker is known to the server, and none holds a connection, a thread or a greenlet."""
    traces = ("workers", "corpses", "about", "seq", "processing:", "consumers:", "suspect:")
    assert [key for key in space.state() if key.startswith(traces)] == []
    lanes = ["greenworker-consumer", "greenworker-settler", "greenworker-watchdog"]
    eventually(lambda: not set(lanes) & set(connections(space)))
    mine = [it.name for it in greenlets() if it.name.startswith("greenworker-")]
    assert mine == []
    eventually(lambda: not any(map(is_watchdog, sys._current_frames().values())))


@pytest.fixture
def start(app: App) -> Iterator[Start]:
    """Start a worker of the app and wait until it is registered; at the end it is stopped."""
    workers: list[Worker] = []

    def start(which: App = app, **options: Any) -> Worker:
        worker = Worker(which, **{"concurrency": 10, "lease": 1.0, **options})
        workers.append(worker)
        worker.start()
        assert worker.ready.wait(10)
        return worker

    yield start
    for worker in workers:
        worker.stop(timeout=0)


# Start and stop


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["start", "quiet", "resume", "stop"])), ids="-".join
)
def test_in_every_order(app: App, space: Space, order: tuple[str, ...]) -> None:
    task = _nothing(app)
    worker = Worker(app, concurrency=2, lease=1.0)
    for what in order:
        getattr(worker, what)()
    task.delay()
    started = order.index("start") > order.index("stop")
    quiet = order.index("quiet") > order.index("resume")
    if started and not quiet:
        eventually(lambda: space.stats().get("done"))
    elif started:
        assert worker.ready.wait(10)
        gevent.sleep(0.02)
    assert space.stats().get("done", 0) == (1 if started and not quiet else 0)
    assert worker.stop() == 0
    check_nobody_is_left(space)
    space.check()


def _nothing(app: App) -> Any:
    @app.task(ignore_result=True)
    def nothing() -> None:
        pass

    return nothing


def test_starts_and_stops_from_many_greenlets_at_once(app: App, space: Space) -> None:
    worker = Worker(app, lease=1.0)
    for what in (worker.start, worker.stop, worker.start):
        gevent.joinall([gevent.spawn(what) for _ in range(5)], raise_error=True)
    assert worker.ready.wait(10)
    assert len(space.state()["workers"]) == 1
    assert connections(space).count("greenworker-consumer") == 1
    gevent.joinall([gevent.spawn(it) for it in (worker.stop, worker.start, worker.stop)])
    worker.stop()
    check_nobody_is_left(space)


def test_start_and_stop_again_and_again(app: App, space: Space) -> None:
    task = _nothing(app)
    worker = Worker(app, lease=1.0)
    for n in range(1, 6):
        worker.start()
        worker.start()
        task.delay()
        eventually(lambda n=n: space.stats().get("done") == n)
        assert worker.stop() == worker.stop() == 0
        check_nobody_is_left(space)


def test_as_a_context_manager_it_stops_whatever_happens(app: App, space: Space) -> None:
    def work() -> None:
        with Worker(app, lease=1.0) as worker:
            assert worker.ready.wait(10)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        work()
    check_nobody_is_left(space)


def test_one_that_was_never_started_can_be_stopped(app: App, space: Space) -> None:
    assert Worker(app).stop() == 0
    assert connections(space) == []


def test_an_unpatched_process_is_told_how_to_mend_it() -> None:
    program = (
        "from greenworker import App, Worker, errors\n"
        "try: Worker(App('redis://127.0.0.1:1')).start()\n"
        "except errors.NotPatched as error: print(error)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "monkey.patch_all()" in answer.stdout
    assert issubclass(NotPatched, ConfigError)


def test_an_option_that_does_not_exist_is_a_mistake_in_the_set_up(app: App) -> None:
    with pytest.raises(ConfigError, match="concurency"):
        Worker(app, concurency=5)


def test_a_server_that_evicts_is_refused_and_nothing_stays_open(namespace: str) -> None:
    with (
        Server(config={"maxmemory-policy": "allkeys-lru"}) as server,
        Space(server.url, namespace) as space,
    ):
        app = App(server.url, namespace=namespace)
        worker = Worker(app)
        with pytest.raises(UnsuitableServer, match="allkeys-lru"):
            worker.start()
        assert connections(space) == []
        with Worker(app, allow_eviction=True) as worker:
            assert worker.ready.wait(10)
        app.close()


def test_one_that_starts_before_its_server_waits_for_it(namespace: str) -> None:
    with Server() as server:
        server.kill()
        app = App(server.url, namespace=namespace, patience=0.1)
        with Worker(app, lease=1.0) as worker:
            assert not worker.ready.is_set()
            server.restart()
            assert worker.ready.wait(10)
        server.kill()
        with pytest.raises(BrokerUnavailable):
            Worker(app, burst=True).start()
        app.close()


# Its way of working


def test_two_workers_in_one_process(app: App, start: Start) -> None:
    both = [Event(), Event()]

    @app.task
    def meet(n: int) -> bool:
        both[n].set()
        return both[1 - n].wait(20)

    start(concurrency=1)
    start(concurrency=1)
    results = [meet.delay(n) for n in (0, 1)]
    assert [result.get(20) for result in results] == [True, True]


@pytest.mark.parametrize("concurrency", [10, 1000])
def test_the_number_of_connections_does_not_depend_on_concurrency(
    url: str, namespace: str, space: Space, start: Start, concurrency: int
) -> None:
    app = App(url, namespace=namespace, connections=2)
    end = Event()

    @app.task
    def wait() -> None:
        end.wait(30)

    worker = start(app, concurrency=concurrency)
    _nothing(app).delay()
    lanes = ["greenworker-consumer", "greenworker-settler", "greenworker-watchdog"]
    eventually(lambda: connections(space)[-3:] == lanes)
    wait.delay_many([()] * concurrency)
    eventually(lambda: worker.stats.running == concurrency, within=20)
    while_all_run = connections(space)
    end.set()
    eventually(lambda: space.stats().get("done") == concurrency + 1, within=20)
    for seen in (while_all_run, connections(space)):
        assert seen[-3:] == lanes
        assert 1 <= seen.count("greenworker") == len(seen) - 3 <= 2
    worker.stop()
    app.close()


def test_a_thousand_tasks_that_time_out_at_once(app: App, space: Space, start: Start) -> None:
    @app.task(timeout=0.5)
    def slow() -> None:
        gevent.sleep(60)

    worker = start(concurrency=1000)
    results = slow.delay_many([()] * 1000)
    eventually(lambda: space.stats().get("dead") == 1000, within=40)
    for result in itertools.islice(results, 0, 1000, 100):
        with pytest.raises(TaskFailed) as failure:
            result.get(10)
        assert failure.value.type == "TaskTimeout"
    types = {record.split('"type":"')[1].split('"')[0] for record in dead_records(space)}
    assert types == {"TaskTimeout"}
    eventually(lambda: worker.pool.free_count() == 1000)
    assert (worker.stats.failed, worker.stats.running) == (1000, 0)
    space.check()


def dead_records(space: Space) -> list[str]:
    records: list[str] = space.redis.hvals(space.key("dead:record"))
    return records


def test_a_task_that_cannot_be_ended_costs_its_slot_until_it_ends(
    app: App, space: Space, start: Start
) -> None:
    end = Event()

    @app.task(timeout=0.02)
    def immortal() -> str:
        while not end.is_set():
            try:
                end.wait(60)
            except BaseException:
                continue
        return "alive"

    worker = start(concurrency=1)
    stuck, after = immortal.delay(), _nothing(app).delay()
    with pytest.raises(TaskFailed, match="ignores it"):
        stuck.get(20)
    assert worker.pool.free_count() == 0
    assert after.state is State.PENDING
    end.set()
    eventually(lambda: space.stats().get("done") == 1)
    assert stuck.state is State.FAILURE
    space.check()


def test_retries_run_until_one_succeeds(app: App, start: Start) -> None:
    @app.task(retries=3, backoff=0.05)
    def third_time_lucky() -> int:
        if current_task().attempt < 2:
            raise OSError("not yet")
        return current_task().attempt

    start()
    assert third_time_lucky.delay().get(20) == 2


# The end


def test_a_stop_finishes_what_runs(app: App, space: Space, start: Start) -> None:
    begun, go = Event(), Event()

    @app.task
    def careful() -> str:
        begun.set()
        go.wait(20)
        return "finished"

    worker = start()
    result = careful.delay()
    begun.wait(10)
    stop = gevent.spawn(worker.stop)
    eventually(lambda: worker.stopping)
    go.set()
    assert stop.get(timeout=20) == 0
    assert result.get(5) == "finished"
    check_nobody_is_left(space)


@pytest.mark.parametrize("how", ["stop now", "hurry"])
def test_what_does_not_end_in_time_is_released_uncharged(
    app: App, space: Space, start: Start, how: str
) -> None:
    begun = Event()

    @app.task(retries=0)
    def endless() -> None:
        begun.set()
        gevent.sleep(60)

    worker = start()
    result = endless.delay()
    begun.wait(10)
    if how == "hurry":
        stop = gevent.spawn(worker.stop)
        eventually(lambda: worker.stopping)
        worker.hurry()
        assert stop.get(timeout=20) == 0
    else:
        assert worker.stop(timeout=0) == 0
    assert result.state is State.PENDING
    assert space.state()["msg"][result.id].startswith("1 0 0 ")
    check_nobody_is_left(space)
    space.check()


def test_a_stop_says_which_outcomes_it_could_not_settle(
    namespace: str, proxy: TcpProxy, space: Space, start: Start
) -> None:
    app = App(proxy.url, namespace=namespace, patience=0.1)
    ended = Event()

    @app.task
    def task() -> None:
        proxy.refuse()
        proxy.cut()
        ended.set()

    worker = start(app)
    task.delay()
    ended.wait(10)
    assert worker.stop(timeout=0) == 1
    assert "done" not in space.stats()
    app.close()


def test_a_stop_that_is_asked_for_while_it_starts_is_heard(
    namespace: str, proxy: TcpProxy, space: Space
) -> None:
    app = App(proxy.url, namespace=namespace)
    worker = Worker(app, lease=1.0)
    proxy.delay(0.2)
    serving = gevent.spawn(worker.serve_forever)
    eventually(lambda: proxy.connections)
    worker.ask_to_stop()
    assert serving.get(timeout=20) == 0
    check_nobody_is_left(space)
    app.close()


@pytest.mark.parametrize("solo", [False, True])
def test_it_serves_until_it_is_asked_to_stop_and_may_serve_again(
    app: App, space: Space, solo: bool
) -> None:
    task = _nothing(app)
    worker = Worker(app, lease=1.0, solo=solo)
    for n in (1, 2):
        serving = gevent.spawn(worker.serve_forever)
        task.delay()
        eventually(lambda n=n: space.stats().get("done") == n)
        worker.ask_to_stop()
        assert serving.get(timeout=20) == 0
        check_nobody_is_left(space)


@pytest.mark.parametrize("solo", [False, True])
def test_a_burst_ends_when_all_is_done_retries_included(app: App, space: Space, solo: bool) -> None:
    @app.task(retries=2, backoff=0.1)
    def flaky() -> None:
        if current_task().attempt < 2:
            raise OSError("not yet")

    worker = Worker(app, lease=1.0, burst=True, solo=solo)
    for n in (3, 6):
        flaky.delay_many([()] * 3)
        flaky.apply_async(countdown=3600)
        assert worker.serve_forever() == 0
        assert space.stats()["done"] == n
        assert len(space.state()["scheduled"]) == n / 3
        check_nobody_is_left(space)
    space.check()


# What may happen to it


def test_a_zombies_outcome_does_not_count(app: App, space: Space, start: Start) -> None:
    released = Event()
    runs: list[int] = []

    @app.task
    def task() -> str:
        runs.append(current_task().delivery)
        if len(runs) > 1:
            return "second"
        try:
            gevent.sleep(60)
        except gevent.GreenletExit:
            released.set()
        return "first"

    worker = start()
    result = task.delay()
    eventually(lambda: runs)
    (past,) = space.state()["workers"]
    space.crash(past)
    assert space.reap().returned == 1
    assert released.wait(10), "the watchdog has it given up"
    assert result.get(20) == "second"
    assert runs == [1, 2]
    assert space.stats()["done"] == 1
    assert not worker.is_me(past)
    space.check()


def test_the_messages_of_one_that_beats_no_more_run_elsewhere(
    app: App, space: Space, start: Start
) -> None:
    end = Event()
    runs: list[int] = []

    @app.task
    def task() -> str:
        runs.append(current_task().delivery)
        if len(runs) > 1:
            return "elsewhere"
        end.wait(60)
        return "here"

    dead = start(concurrency=1)
    result = task.delay()
    eventually(lambda: runs)
    dead.watchdog.stop()
    dead.quiet()
    start()
    assert result.get(20) == "elsewhere"
    assert runs == [1, 2]

    # What the dead one says is not heard any more
    end.set()
    eventually(lambda: dead.stats.running == 0)
    assert dead.settler.flush(10) == 0
    assert result.get(5) == "elsewhere"
    assert space.stats()["done"] == 1


def test_a_server_that_comes_back_empty(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "greenworker")
    with Server() as server, Space(server.url, namespace) as space:
        app = App(server.url, namespace=namespace)
        task = _nothing(app)
        with Worker(app, lease=1.0) as worker:
            assert worker.ready.wait(10)
            server.kill()
            eventually(lambda: "cannot be reached" in caplog.text)
            server.restart()
            task.delay()
            eventually(lambda: space.stats().get("done") == 1)
            assert "going on as a new incarnation" in caplog.text
            assert len(space.state()["workers"]) == 1
        warnings = [
            it.getMessage() for it in caplog.records if "cannot be reached" in it.getMessage()
        ]
        assert len(warnings) == 1, "the outage is told once"
        assert "Traceback" not in caplog.text
        app.close()


def test_a_server_that_stops_for_longer_than_the_lease_makes_nothing_run_twice(
    namespace: str,
) -> None:
    with Server() as server, Space(server.url, namespace) as space:
        app = App(server.url, namespace=namespace)
        runs: list[str] = []
        end = Event()

        @app.task
        def task() -> None:
            runs.append(current_task().id)
            end.wait(60)

        with Worker(app, lease=1.0), Worker(app, lease=1.0):
            results = task.delay_many([()] * 20)
            eventually(lambda: len(runs) == 20)
            for pause in (1.5, 2.5):
                server.stop_process()
                gevent.sleep(pause)  # the fault itself
                server.cont()
                space.redis.ping()
            end.set()
            eventually(lambda: space.stats().get("done") == 20)
            eventually(lambda: not space.state().get("msg"))
        assert sorted(runs) == sorted(result.id for result in results)
        assert "reaped" not in space.stats()
        space.check()
        app.close()
