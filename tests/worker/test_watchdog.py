"""Watchdog: a blocked loop is not a dead worker, and the task that blocks it is named."""

from __future__ import annotations

import ctypes
import gc
import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import gevent
import pytest
from gevent.hub import Hub
from gevent.monkey import get_original

from greenworker.app import App
from greenworker.broker import Broker
from greenworker.connection import Connection
from greenworker.endpoint import Endpoint
from greenworker.worker import watchdog
from greenworker.worker.config import WorkerConfig
from greenworker.worker.dump import stack_text
from greenworker.worker.executor import Executor
from greenworker.worker.incarnation import Membership
from greenworker.worker.stats import Stats
from greenworker.worker.watchdog import Watchdog
from tests.support.eventually import eventually
from tests.support.state import Space
from tests.support.tcp_proxy import TcpProxy
from tests.worker.builders import delivery_of, reap_the_living

block_the_loop: Callable[[float], None] = get_original("time", "sleep")

native_lock = get_original("_thread", "allocate_lock")


class Bench:
    """A watchdog of a registered incarnation with a lease of one second."""

    def __init__(self, space: Space, url: str = "", **options: Any) -> None:
        self.space = space
        self.renewals = 0
        self.gave_up: list[float] = []
        self.stats = Stats()
        self.membership = Membership(on_renew=self._count)
        self.register()
        self.asked: list[FrameType | None] = []
        config = WorkerConfig(**{"lease": 1.0, "block_warn": 0.1, **options})
        self.watchdog = Watchdog(
            Broker(Connection(Endpoint(url or space.url), "test-watchdog"), space.broker.namespace),
            self.membership,
            config,
            self.stats,
            self.asked.append,
        )
        self.watchdog.on_max_block = lambda: self.gave_up.append(time.monotonic())

    def register(self) -> None:
        me = self.membership.current
        self.space.register(me.id, lease=1.0)
        me.registered = True

    def lease(self) -> float:
        """What is left of it, in seconds by the server's clock."""
        seconds, micros = self.space.redis.time()
        key, me = self.space.key("workers"), self.membership.current.id
        return float(self.space.redis.zscore(key, me) or 0) / 1000 - seconds - micros / 1e6

    def sees_no_block(self) -> bool:
        """Whether the thread has seen the loop run again: the next block is another one."""
        return not self.watchdog._told

    def _count(self) -> None:
        self.renewals += 1


Make = Callable[..., Bench]


@pytest.fixture
def make(space: Space) -> Iterator[Make]:
    """Benches that end with the test, however it ends: what a thread left behind would beat on."""
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(space, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.watchdog.stop()


@pytest.fixture
def bench(make: Make) -> Bench:
    bench = make()
    bench.watchdog.start()
    return bench


def blocks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The reports so far of a blocked loop, which the loop itself logs, a moment after its block."""
    return [it.getMessage() for it in caplog.records if "blocks the loop" in it.getMessage()]


def test_the_lease_lives_on_while_the_loop_runs_and_while_it_is_blocked(bench: Bench) -> None:
    bench.space.pulse_was(0.0)
    block_the_loop(1.5)
    assert bench.lease() > 0
    assert bench.space.reap().corpses == 0
    first = bench.lease()
    eventually(lambda: bench.lease() > first, message="no beats")


@pytest.mark.usefixtures("bench")
def test_it_names_the_task_that_blocks_with_file_and_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App("redis://127.0.0.1:1")

    @app.task
    def hog() -> None:
        block_the_loop(0.6)  # this line

    delivery = delivery_of(hog.name)
    executor = Executor(app.tasks, Stats(), 30.0, False, lambda *_: None)
    assert gevent.spawn(executor.run, delivery).get().kind == "done"
    report = eventually(lambda: blocks(caplog))[0]
    assert f"{hog.name}[{delivery.id}] blocks the loop" in report
    assert re.search(r'test_watchdog\.py", line \d+, in hog\n\s+block_the_loop\(0\.6\)', report)


def test_while_it_is_blocked_others_are_answered_from_the_thread(bench: Bench) -> None:
    block_the_loop(2.0)
    assert len(bench.asked) > 1
    frame = bench.asked[0]
    assert frame is not None
    assert frame.f_code.co_name == "test_while_it_is_blocked_others_are_answered_from_the_thread"


@pytest.mark.usefixtures("bench")
def test_a_loop_that_is_blocked_by_no_task_is_told_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    block_the_loop(0.6)
    report = eventually(lambda: blocks(caplog))[0]
    assert "something that is no task blocks the loop" in report
    assert "test_a_loop_that_is_blocked_by_no_task" in report


def test_a_long_block_is_told_once_per_doubling(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    block_the_loop(2.0)
    eventually(lambda: bench.sees_no_block() and not bench.watchdog._news)
    eventually(lambda: len(blocks(caplog)) >= 2)
    seconds = [float(re.findall(r"for ([\d.]+) s", report)[0]) for report in blocks(caplog)]
    assert len(seconds) <= 5  # 0.1, 0.2, 0.4, 0.8, 1.6
    # Each was rounded to a tenth.
    assert all(later > 2 * sooner - 0.16 for sooner, later in itertools.pairwise(seconds))

    # And the next one anew
    caplog.clear()
    block_the_loop(0.6)
    eventually(lambda: blocks(caplog))


def test_blocks_are_counted_each_once_with_the_longest(bench: Bench) -> None:
    assert bench.stats.describe_blocks() == ""
    for seconds in (0.9, 0.5):
        block_the_loop(seconds)
        eventually(bench.sees_no_block)
    assert bench.stats.blocked == 2
    assert bench.stats.longest_block > 0.6
    assert "the loop was blocked 2 times, for " in bench.stats.describe_blocks()


def hold_the_gil(seconds: float) -> None:
    ctypes.PyDLL(None).usleep(round(seconds * 1e6))


def test_who_holds_the_gil_is_named_and_counted_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("redis://127.0.0.1:1")

    @app.task
    def greedy() -> None:
        for _ in range(3):  # on a busy machine one may be over before somebody looks
            hold_the_gil(1.0)  # this line
            block_the_loop(0.2)

    bench.space.redis.zadd(bench.space.key("workers"), {bench.membership.current.id: 0})
    eventually(lambda: bench.lease() > 0)  # the thread is there
    delivery = delivery_of(greedy.name)
    executor = Executor(app.tasks, Stats(), 30.0, False, lambda *_: None)
    assert gevent.spawn(executor.run, delivery).get().kind == "done"
    eventually(lambda: "C code held the GIL" in caplog.text)
    assert f"{greedy.name}[{delivery.id}]: C code held the GIL for" in caplog.text
    assert "hold_the_gil(1.0)  # this line" in caplog.text
    assert bench.stats.blocked == 1


def test_who_held_the_gil_while_it_was_told_who_blocks_the_loop(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The telling itself waits for the GIL, and when it is over, so is the run."""
    app = App("redis://127.0.0.1:1")
    telling: list[float] = []  # when the loop was last seen alive

    def stack_text(*_: object) -> str:
        telling.append(bench.watchdog._alive)
        block_the_loop(0.3)  # as long as files are read; then the GIL is held
        return "its stack"

    def show(*_: object) -> None:
        while bench.watchdog._alive == telling[-1]:
            block_the_loop(0.01)

    @app.task
    def greedy() -> None:
        while not telling:
            block_the_loop(0.05)
        hold_the_gil(1.5)

    monkeypatch.setattr(watchdog, "stack_text", stack_text)
    monkeypatch.setattr(watchdog, "_PATIENCE", 30.0)
    bench = make(max_block=60.0)
    bench.watchdog.own_process(show, stop_by=lambda: None)
    bench.watchdog._alarm = None  # this process is pytest's
    bench.watchdog.start()
    eventually(lambda: bench.lease() > 0.8)
    delivery = delivery_of(greedy.name)
    executor = Executor(app.tasks, Stats(), 30.0, False, lambda *_: None)
    assert gevent.spawn(executor.run, delivery).get().kind == "done"
    eventually(lambda: "C code held the GIL" in caplog.text)
    assert f"it is over, and {greedy.name}[{delivery.id}] ran just before" in caplog.text


@pytest.mark.usefixtures("bench")
def test_another_switch_interval_is_no_held_gil(caplog: pytest.LogCaptureFixture) -> None:
    gevent.sleep(1.0)  # the thread has waited for some ticks
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.2)
    try:
        gevent.sleep(0.5)
    finally:
        sys.setswitchinterval(before)
    gevent.sleep(0.2)
    assert "held the GIL for" not in caplog.text


def test_an_error_in_a_report_ends_neither_the_watch_nor_the_beats(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(_: object) -> str:
        raise ValueError("no source")

    monkeypatch.setattr(watchdog, "stack_text", breaks)
    bench = make(max_block=0.5)
    bench.watchdog.start()
    eventually(lambda: bench.lease() > 0.8)
    block_the_loop(3.0)
    gave_up = list(bench.gave_up)
    eventually(lambda: "watchdog: Traceback" in caplog.text)
    eventually(lambda: bench.lease() > 0)
    bench.watchdog.stop()
    assert len(gave_up) == 1


def test_a_loader_without_a_source_does_not_hide_the_stack() -> None:
    class Loader:
        def get_source(self, name: str) -> str:
            raise ValueError(name)

    code = "import sys\ndef hog():\n    return sys._getframe()\n"
    module = {"__name__": "odd", "__loader__": Loader(), "__file__": "odd.py"}
    exec(compile(code, "odd.py", "exec"), module)  # noqa: S102
    frame = module["hog"]()  # type: ignore[operator]
    assert 'File "odd.py", line 3, in hog' in stack_text(frame)


def wake_this_process(seconds: float) -> subprocess.Popen[bytes]:
    """Have it go on after so many seconds, if it is stopped by then."""
    return subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {os.getpid()}"])


def stop_this_process(seconds: float) -> None:
    """Returns when it goes on."""
    waker = wake_this_process(seconds)
    os.kill(os.getpid(), signal.SIGSTOP)
    waker.wait()


def test_time_in_which_the_process_was_stopped_counts_for_nothing(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(block_warn=0.5, max_block=0.8)  # a busy machine may hold the loop up for less
    bench.watchdog.start()
    eventually(lambda: bench.lease() > 0.8)
    stop_this_process(1.5)
    gevent.sleep(0.2)
    bench.watchdog.stop()
    assert [it.getMessage() for it in caplog.records] == []
    assert bench.stats.blocked == 0
    assert not bench.gave_up


def test_an_output_that_hangs_stops_no_beats(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_PATIENCE", 0.05)
    shown, go_on = [], native_lock()
    go_on.acquire()

    def show(level: int, logger: str, text: str) -> None:
        shown.append(text)
        with go_on:
            pass

    bench = make()
    bench.watchdog.own_process(show, stop_by=lambda: None)
    bench.watchdog._alarm = None  # this process is pytest's
    bench.watchdog.start()
    block_the_loop(1.5)
    assert bench.lease() > 0
    assert len(shown) > 1
    go_on.release()


def test_a_process_that_is_stopped_during_a_beat(make: Make, proxy: TcpProxy) -> None:
    bench = make(url=proxy.url, max_block=1.5)
    bench.watchdog.start()
    eventually(lambda: bench.lease() > 0.8)
    proxy.freeze()
    eventually(lambda: bench.lease() < 0.5)  # a beat hangs
    stop_this_process(2.0)
    # And the loop is blocked when the beat ends
    proxy.thaw()
    block_the_loop(0.7)
    assert bench.lease() > 0
    bench.watchdog.stop()
    assert not bench.gave_up


def test_a_process_that_is_stopped_during_a_report(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_PATIENCE", 0.1)
    stopped: list[str] = []

    def show(level: int, logger: str, text: str) -> None:
        if not stopped:
            stopped.append(text)
            os.kill(os.getpid(), signal.SIGSTOP)
            block_the_loop(0.05)  # it is stopped a moment later

    bench = make(max_block=3.0)
    bench.watchdog.own_process(show, stop_by=lambda: None)
    bench.watchdog._alarm = None  # this process is pytest's
    bench.watchdog.on_max_block = lambda: bench.gave_up.append(time.monotonic())
    bench.watchdog.start()
    eventually(lambda: bench.lease() > 0.8)
    waker = wake_this_process(3.5)
    block_the_loop(4.5)
    waker.wait()
    bench.watchdog.stop()
    assert "blocks the loop" in stopped[0]
    assert not bench.gave_up


def test_reports_that_take_long_are_no_excuse(make: Make) -> None:
    bench = make(max_block=2.0)
    bench.watchdog.own_process(lambda *_: block_the_loop(0.8), stop_by=lambda: None)
    bench.watchdog._alarm = None  # this process is pytest's
    bench.watchdog.on_max_block = lambda: bench.gave_up.append(time.monotonic())
    bench.watchdog.start()
    eventually(lambda: bench.lease() > 0.8)
    began = time.monotonic()
    block_the_loop(6.0)
    assert len(bench.gave_up) == 1
    assert bench.gave_up[0] < began + 6.0


def test_a_slow_server_is_no_excuse(make: Make, proxy: TcpProxy) -> None:
    """A beat that waits for its answer does not say that the process was stopped."""
    bench = make(url=proxy.url, max_block=1.5)
    bench.watchdog.start()
    eventually(lambda: bench.lease() > 0.8)
    proxy.delay(0.9)
    block_the_loop(6.0)
    assert len(bench.gave_up) == 1


@pytest.mark.usefixtures("bench")
def test_the_thread_contends_for_no_lock_of_the_logs(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A green lock that native threads wait for may never be free again."""
    threads: list[int] = []
    monkeypatch.setattr(
        caplog.handler, "handle", lambda _: threads.append(watchdog._get_ident()) or True
    )
    block_the_loop(0.6)
    eventually(lambda: threads)
    assert set(threads) == {watchdog._get_ident()}


def test_a_stop_that_is_overdue_is_not_held_up_by_a_blocked_loop(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_AT_A_STOP", 0.5)
    bench = make()
    bench.watchdog.stop_by = lambda: began + 0.5
    began = time.monotonic()
    bench.watchdog.start()
    gevent.sleep(1.0)
    assert not bench.gave_up, "the loop runs: it stops by itself"
    block_the_loop(1.0)
    assert len(bench.gave_up) == 1


@pytest.mark.parametrize("block_warn", [0.0, 0.1])
def test_an_overdue_stop_that_goes_on_step_by_step_is_left_to_end(
    make: Make, block_warn: float
) -> None:
    bench = make(block_warn=block_warn)
    bench.watchdog.stop_by = time.monotonic
    bench.watchdog.start()
    for _ in range(4):
        block_the_loop(0.6)
        gevent.sleep(0.3)
    assert not bench.gave_up


def test_block_warn_0_tells_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    bench = make(block_warn=0.0)
    bench.watchdog.start()
    block_the_loop(0.6)
    bench.watchdog.stop()  # what it had to tell is logged by then
    assert not blocks(caplog)


def test_a_loop_that_runs_is_never_called_blocked(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(block_warn=0.5)  # a busy machine may hold it up for less
    bench.watchdog.start()
    for _ in range(200):
        gevent.sleep(0.005)
    bench.watchdog.stop()
    assert not blocks(caplog)


def test_one_that_was_reaped_is_renewed_in_the_loop(bench: Bench) -> None:
    past = bench.membership.current.id
    reap_the_living(bench.space, past)
    eventually(lambda: bench.membership.current.id != past)
    assert bench.renewals == 1
    bench.register()
    eventually(lambda: 0.9 < bench.lease() <= 1.0)
    assert bench.renewals == 1


def test_nobody_beats_before_registration(make: Make) -> None:
    bench = make()
    bench.membership.fresh()
    bench.watchdog.start()
    gevent.sleep(0.4)
    bench.watchdog.stop()
    assert bench.renewals == 0


def test_max_block_ends_the_beats_once_and_for_this_block_only(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(max_block=0.3)
    bench.watchdog.start()
    eventually(lambda: bench.lease() > 0.8)
    block_the_loop(3.0)
    assert bench.lease() < 0, "others may take over"
    assert len(bench.gave_up) == 1
    eventually(lambda: "the loop is blocked for more than" in caplog.text)
    assert [it.levelno for it in caplog.records].count(logging.CRITICAL) == 1
    # The loop runs again, and nobody has reaped it
    eventually(lambda: bench.lease() > 0)


def resources() -> tuple[int, int, int]:
    """Native threads, hubs that may still run, and open files."""
    gc.collect()  # gevent keeps the shell of a hub that was destroyed with its thread
    hubs = [it for it in gc.get_objects() if isinstance(it, Hub) and not it.dead]
    return len(sys._current_frames()), len(hubs), len(os.listdir("/dev/fd"))


def test_stop_leaves_no_thread_no_hub_and_no_connection(make: Make, space: Space) -> None:
    def connected() -> bool:
        return "test-watchdog" in {client["name"] for client in space.redis.client_list()}

    make()  # opens the connections of the test itself
    eventually(lambda: not connected())
    before = resources()
    for _ in range(3):
        bench = make()
        bench.watchdog.start()
        bench.watchdog.start()
        eventually(connected)
        bench.watchdog.stop()
        bench.watchdog.stop()
        eventually(lambda: not connected())
        # The thread has said its last word; the system takes it away a little later.
        eventually(lambda: all(map(int.__le__, resources(), before)))


def test_it_can_be_started_again(bench: Bench) -> None:
    bench.watchdog.stop()
    eventually(lambda: bench.lease() < 0)
    bench.watchdog.start()
    eventually(lambda: bench.lease() > 0)


def test_a_stop_before_the_first_beat(make: Make) -> None:
    bench = make()
    bench.watchdog.start()
    bench.watchdog.stop()
    assert bench.renewals == 0


def test_beats_go_on_when_the_server_is_back(make: Make, proxy: TcpProxy) -> None:
    bench = make(url=proxy.url)
    bench.watchdog.start()
    eventually(lambda: proxy.connections)
    proxy.refuse()
    proxy.cut()
    eventually(lambda: bench.lease() < 0)
    proxy.accept()
    eventually(lambda: bench.lease() > 0)
    assert bench.renewals == 0
