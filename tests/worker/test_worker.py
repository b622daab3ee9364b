"""Worker: the services together. It may be started and stopped in any order, and leaves nothing."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
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
    UnsuitableServer,
)
from greenworker.message import State
from greenworker.worker import Worker, consumer
from greenworker.worker.watchdog import Watchdog
from tests.support.eventually import eventually
from tests.support.process import environment
from tests.support.server import Server
from tests.support.state import Space
from tests.support.tcp_proxy import TcpProxy
from tests.worker.builders import connections, declare_nothing
from tests.worker.conftest import Start


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
    traces = ("workers", "corpses", "about", "seq", "processing:", "consumers:", "suspected:")
    assert [key for key in space.state() if key.startswith(traces)] == []
    lanes = ["greenworker-consumer", "greenworker-settler", "greenworker-watchdog"]
    eventually(lambda: not set(lanes) & set(connections(space)))
    mine = [it.name for it in greenlets() if it.name.startswith("greenworker-")]
    assert mine == []
    eventually(lambda: not any(map(is_watchdog, sys._current_frames().values())))


# Start and stop


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["start", "quiet", "resume", "stop"])), ids="-".join
)
def test_in_every_order(app: App, space: Space, order: tuple[str, ...]) -> None:
    task = declare_nothing(app)
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
    task = declare_nothing(app)
    worker = Worker(app, lease=1.0)
    for n in range(1, 6):
        worker.start()
        worker.start()
        task.delay()
        eventually(lambda n=n: space.stats().get("done") == n)
        assert worker.stop() == worker.stop() == 0
        check_nobody_is_left(space)


def test_the_others_reckon_with_who_claims(app: App, space: Space) -> None:
    """Not with who is quiet, nor with who finishes what runs for as long as the grace lasts."""
    began, go, task = Event(), Event(), declare_nothing(app)

    @app.task
    def hold() -> None:
        began.set()
        go.wait()

    def listeners() -> int:
        return int(space.redis.scard(space.key("consumers:default")))

    worker = Worker(app, lease=1.0)
    worker.start()
    hold.delay()
    assert began.wait(10)
    assert listeners() == 1
    worker.quiet()
    eventually(lambda: listeners() == 0)
    worker.resume()
    eventually(lambda: listeners() == 1)
    task.delay()
    eventually(lambda: space.stats().get("done") == 1)
    stopping = gevent.spawn(worker.stop)
    eventually(lambda: listeners() == 0)
    assert not stopping.ready()
    go.set()
    assert stopping.get() == 0
    check_nobody_is_left(space)


def test_quiet_ends_with_a_stop(app: App, space: Space) -> None:
    task = declare_nothing(app)
    worker = Worker(app, lease=1.0)
    worker.start()
    worker.quiet()
    worker.stop()
    task.delay()
    worker.start()
    eventually(lambda: space.stats().get("done") == 1)
    worker.stop()


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


def test_one_queue_is_a_list_of_one(app: App) -> None:
    with pytest.raises(ConfigError, match=r"give a list of names, \['default'\]"):
        Worker(app, queues="default")


def test_solo_is_started_by_the_one_who_runs_the_tasks(app: App, space: Space) -> None:
    with pytest.raises(ConfigError, match=r"serve_forever\(\): call that"):
        Worker(app, solo=True).start()
    assert connections(space) == []


def test_a_server_that_evicts_is_refused_and_nothing_stays_open(namespace: str) -> None:
    with (
        Server(config={"maxmemory-policy": "allkeys-lru"}) as server,
        Space(server.url, namespace) as space,
    ):
        app = App(server.url, namespace=namespace)
        worker = Worker(app)
        with pytest.raises(UnsuitableServer, match="allkeys-lru"):
            worker.start()
        eventually(lambda: connections(space) == [])
        with Worker(app, allow_eviction=True) as worker:
            assert worker.ready.wait(10)
        app.close()


@pytest.mark.parametrize("solo", [False, True])
def test_a_server_that_turns_out_to_evict_ends_the_service(
    namespace: str, caplog: pytest.LogCaptureFixture, solo: bool
) -> None:
    """It was away at the start: it is looked at when it is there."""
    with (
        Server(config={"maxmemory-policy": "allkeys-lru"}) as server,
        TcpProxy(server.url) as proxy,
    ):
        proxy.refuse()
        app = App(proxy.url, namespace=namespace, patience=0.1)
        worker = Worker(app, lease=1.0, solo=solo)

        def appear() -> None:
            eventually(lambda: "trying until it can" in caplog.text)
            proxy.accept()

        appears = gevent.spawn(appear)
        with pytest.raises(UnsuitableServer, match="allkeys-lru"):
            worker.serve_forever()
        appears.get()
        assert not worker.ready.is_set()
        assert "allkeys-lru" not in caplog.text  # the error tells it, once
        app.close()


def test_an_outage_at_the_start_is_told_once(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Server() as server:
        server.kill()
        app = App(server.url, namespace=namespace, patience=0.1)
        worker = Worker(app, lease=1.0)
        worker.check_server()  # for a banner, say
        worker.start()
        eventually(lambda: worker.consumer._pause > 0.2)
        told = [it for it in caplog.records if it.levelname == "WARNING"]
        assert ["trying until it can" in it.getMessage() for it in told] == [True]
        worker.stop()
        app.close()


def test_a_stop_does_not_wait_for_a_start_on_a_silent_server(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(app, lease=1.0)
    looks: list[object] = []

    def look(*args: object) -> str:
        looks.append(args)
        gevent.sleep(600)
        return ""

    monkeypatch.setattr(worker._lanes["consumer"], "check_server", look)
    starting = gevent.spawn(worker.start)
    eventually(lambda: looks)
    assert worker.stop(0) == 0
    starting.get()
    assert not worker.stopping


def test_in_solo_a_stop_leaves_no_release_behind(app: App) -> None:
    worker = Worker(app, solo=True, grace=600.0)
    worker.ask_to_stop()
    late = worker._release_later
    assert worker.serve_forever() == 0
    eventually(lambda: late.dead)


def test_a_server_that_was_mended_is_no_error_any_more(namespace: str) -> None:
    with Server(config={"maxmemory-policy": "allkeys-lru"}) as server:
        proxy = TcpProxy(server.url)
        proxy.refuse()
        app = App(proxy.url, namespace=namespace, patience=0.2)
        worker = Worker(app, lease=1.0)
        worker.start()
        proxy.accept()
        eventually(lambda: worker.consumer.error)
        with Space(server.url, namespace) as space:
            space.redis.config_set("maxmemory-policy", "noeviction")
        assert worker.ready.wait(20)
        eventually(lambda: worker.consumer.error is None)
        assert not worker.consumer.over.is_set()
        worker.stop()
        app.close()
        proxy.close()


def test_a_password_that_is_changed_meanwhile_ends_the_service_after_a_lease(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Server() as server, Space(server.url, namespace) as space:
        admin = space.redis
        admin.execute_command("ACL", "SETUSER", "u", "on", ">old", "~*", "&*", "+@all")
        app = App(server.url.replace("://", "://u:old@"), namespace=namespace)
        worker = Worker(app, lease=1.0)

        def change() -> None:
            assert worker.ready.wait(10)
            admin.execute_command("ACL", "SETUSER", "u", "resetpass", ">new")
            admin.execute_command("CLIENT", "KILL", "USER", "u")

        changes = gevent.spawn(change)
        with pytest.raises(UnsuitableServer, match="WRONGPASS; check user and password"):
            worker.serve_forever()
        changes.get()
        told = [it.getMessage() for it in caplog.records if it.levelname == "ERROR"]
        assert len([text for text in told if text.startswith("consumer:")]) == 1
        assert len([text for text in told if text.startswith("scheduler:")]) <= 1
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
    app = App(proxy.url, namespace=namespace)
    ended = Event()

    @app.task
    def task() -> None:
        proxy.refuse()
        proxy.cut()
        ended.set()

    worker = start(app)
    task.delay()
    ended.wait(10)
    app.client.pool.patience = 0.1
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
    task = declare_nothing(app)
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


@pytest.mark.parametrize("options", [{}, {"concurrency": 1}, {"solo": True}], ids=str)
def test_a_burst_bears_a_server_that_is_away_only_for_so_long(
    namespace: str,
    proxy: TcpProxy,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    monkeypatch.setattr(consumer, "_BURST_PATIENCE", 0.3)
    app = App(proxy.url, namespace=namespace)

    @app.task
    def task() -> None:
        proxy.refuse()
        proxy.cut()

    task.delay_many([()] * 3)
    app.client.pool.patience = 0.1
    worker = Worker(app, lease=1.0, burst=True, **options)
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        worker.serve_forever()
    app.close()
