"""Worker: what it promises while it works, and whatever happens to it or to its server."""

from __future__ import annotations

import itertools
import logging

import gevent
import pytest
from gevent.event import Event

from greenworker.app import App
from greenworker.context import current_task
from greenworker.errors import TaskFailed
from greenworker.worker import Worker
from tests.support.eventually import eventually
from tests.support.server import Server
from tests.support.state import Space
from tests.worker.builders import connections, declare_nothing, reap_the_living
from tests.worker.conftest import Start


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
    declare_nothing(app).delay()
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


def test_retries_run_until_one_succeeds(app: App, start: Start) -> None:
    @app.task(retries=3, backoff=0.05)
    def third_time_lucky() -> int:
        if current_task().attempt < 2:
            raise OSError("not yet")
        return current_task().attempt

    start()
    assert third_time_lucky.delay().get(20) == 2


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
    reap_the_living(space, past)
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
    dead.consumer.stop()
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
        task = declare_nothing(app)
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


def test_a_worker_whose_beats_get_lost_keeps_what_it_runs(
    app: App, space: Space, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = Event()
    runs: list[int] = []

    @app.task
    def task() -> None:
        runs.append(current_task().delivery)
        end.wait(60)

    worker = start(lease=4.0, concurrency=1)
    monkeypatch.setattr(worker.watchdog._broker, "beat", lambda *_: 1 / 0)
    other = start(queues=["elsewhere"])  # who would take it over
    task.delay()
    eventually(lambda: runs)
    gevent.sleep(6.0)  # longer than the lease
    end.set()
    eventually(lambda: space.stats().get("done") == 1)
    assert runs == [1]
    assert other.stats.received == 0
    monkeypatch.undo()


def test_leave_is_taken_though_the_settlers_connection_is_dead_since_an_outage(
    app: App, start: Start, space: Space
) -> None:
    worker = start(lease=60.0)
    eventually(lambda: "greenworker-consumer" in connections(space))
    declare_nothing(app).delay()
    eventually(lambda: "greenworker-settler" in connections(space))
    eventually(lambda: not worker._membership.current.held)
    for client in space.redis.client_list():
        if client["name"] == "greenworker-settler":
            space.redis.client_kill_filter(_id=client["id"])
    worker.stop(timeout=0)
    assert "workers" not in space.state()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("digits", [308, 309, 310, 311, 312, 5000])
def test_a_raw_message_whose_results_time_to_live_is_out_of_all_bounds_ends(
    url: str, namespace: str, space: Space, start: Start, digits: int, signed: bool
) -> None:
    """As milliseconds it is a float's infinity: it would never be settled, and hold its slot."""
    app = App(url, namespace=namespace, signing_keys=["k" * 16] if signed else None)

    @app.task(name="t")
    def task() -> int:
        return 7

    space.redis.hset(space.key("msg"), "raw", f"1 0 0 5 1 0 {'9' * digits} default t\n[[],{{}}]")
    space.redis.lpush(space.key("ready:default:5"), "raw")
    start(app, concurrency=1)
    result = app.result("raw")
    if signed:
        with pytest.raises(TaskFailed, match="BadSignature"):
            result.get(20)
    elif digits > 311:
        with pytest.raises(TaskFailed, match="MalformedMessage"):
            result.get(20)
    else:
        assert result.get(20) == 7
    assert task.delay().get(20) == 7, "its slot is free again"
    eventually(lambda: not space.redis.exists(space.key("msg")))
    app.close()
