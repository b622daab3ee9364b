"""spawn: children of a task, which know it and die with it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.monkey import get_original

from greenworker import App, current_task, family, spawn
from greenworker.errors import TaskFailed
from greenworker.family import FAMILIES, Child
from tests.support.eventually import eventually
from tests.worker.conftest import Start


def test_however_a_run_ends_its_children_end(
    app: App, start: Start, stray_errors: list[str]
) -> None:
    ended: list[str] = []
    begun = Event()

    def child(name: str) -> None:
        spawn(grandchild, name)
        lasts(name)

    def grandchild(name: str) -> None:
        begun.set()
        lasts(f"{name}'s child")

    def has_begun() -> None:
        begun.clear()
        spawn(child, "it")
        begun.wait()

    def lasts(name: str) -> None:
        try:
            Event().wait()
        except gevent.GreenletExit:
            ended.append(f"{name} of {current_task().name}")
            raise

    @app.task(name="returns")
    def returns() -> None:
        has_begun()

    @app.task(name="raises")
    def raises() -> None:
        has_begun()
        raise ValueError

    @app.task(name="too_long", timeout=2)
    def too_long() -> None:
        has_begun()
        Event().wait()

    @app.task(name="released")
    def released() -> None:
        has_begun()
        Event().wait()

    worker = start()
    released.delay()
    assert begun.wait(20)
    for task in (returns, raises, too_long):
        try:
            task.delay().get(timeout=10)
        except TaskFailed:
            pass
    eventually(lambda: len(ended) == 6)
    worker.stop(timeout=0)
    eventually(lambda: len(ended) == 8)
    names = ("returns", "raises", "too_long", "released")
    assert sorted(ended) == sorted(
        f"{who} of {name}" for name in names for who in ("it", "it's child")
    )
    assert not FAMILIES


def test_a_run_that_is_written_off_loses_its_children_then(
    app: App, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenworker.worker.run._THROW_AGAIN", (0.01,))
    ended, over = Event(), Event()

    def child() -> None:
        try:
            Event().wait()
        finally:
            ended.set()

    @app.task(timeout=0.02)
    def stuck() -> None:
        spawn(child)
        while not over.is_set():
            try:
                over.wait()
            except BaseException:
                spawn(print)

    start(max_stuck=5)
    with pytest.raises(TaskFailed, match="ignores it"):
        stuck.delay().get(timeout=10)
    assert ended.wait(10)
    over.set()
    eventually(lambda: not FAMILIES)


def test_a_child_is_a_greenlet_to_wait_for(app: App, start: Start) -> None:
    @app.task
    def t() -> list[Any]:
        go = Event()
        one: Child[str] = spawn("{}{}".format, 1, 2)
        two = spawn(lambda: go.wait())
        with pytest.raises(gevent.Timeout):
            two.get(timeout=0.01)
        go.set()
        gevent.joinall([one, two])
        three = spawn(Event().wait)
        three.kill()
        assert isinstance(three.get(), gevent.GreenletExit)
        return [one.get(), two.get(), one.exception]

    start()
    assert t.delay().get(timeout=10) == ["12", True, None]


def test_who_waits_for_many_is_told_what_one_has_failed_of(app: App, start: Start) -> None:
    def breaks() -> None:
        raise ValueError("no such page")

    @app.task
    def t() -> None:
        child = spawn(breaks)
        gevent.joinall([spawn(print), child], raise_error=True)

    @app.task
    def told() -> list[str]:
        child, fine = spawn(breaks), spawn(print)
        gevent.joinall([child, fine])
        return [child.exc_info[0].__name__, str(child.exc_info[1]), str(fine.exc_info)]

    start()
    with pytest.raises(TaskFailed, match="ValueError: no such page") as failed:
        t.delay().get(timeout=10)
    assert "in breaks" in failed.value.traceback
    assert told.delay().get(timeout=10) == ["ValueError", "no such page", "None"]


@pytest.mark.parametrize("sensitive", [False, True])
def test_an_error_ends_the_child_alone_and_is_logged(
    app: App, start: Start, caplog: pytest.LogCaptureFixture, sensitive: bool
) -> None:
    def breaks() -> None:
        raise SystemExit("card 4711")

    @app.task(name="t", sensitive=sensitive)
    def t() -> str:
        child = spawn(breaks)
        with pytest.raises(SystemExit, match="4711"):
            child.get()
        assert isinstance(child.exception, SystemExit)
        spawn(breaks)
        gevent.sleep(0.01)
        return "goes on"

    start()
    sent = t.delay()
    assert sent.get(timeout=10) == "goes on"
    assert f"t[{sent.id}]: its child failed: SystemExit" in caplog.text
    assert ("4711" in caplog.text) is not sensitive


def test_a_child_that_ignores_its_end_is_reported_and_gets_no_more_children(
    app: App, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "_END_AGAIN", (0.01, 0.01))
    over, refused = Event(), []

    def ignores() -> None:
        while not over.is_set():
            try:
                over.wait()
            except gevent.GreenletExit:
                try:
                    spawn(print)
                except RuntimeError as error:
                    refused.append(str(error))

    @app.task(name="t")
    def t() -> None:
        spawn(ignores)
        gevent.sleep(0.01)

    start()
    sent = t.delay()
    sent.get(timeout=10)
    told = f"t[{sent.id}] has ended, and 1 of its children ignore that: they go on"
    eventually(lambda: told in caplog.text)
    assert refused[0] == f"t[{sent.id}] has ended: it gets no more children"
    assert not FAMILIES
    over.set()


def test_one_that_blocks_the_loop_is_named_by_its_task(
    app: App, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="t")
    def t() -> None:
        spawn(get_original("time", "sleep"), 0.6).join()

    start(block_warn=0.1)
    sent = t.delay()
    sent.get(timeout=20)
    eventually(lambda: f"a child of t[{sent.id}] blocks the loop for" in caplog.text)


def test_it_is_for_tasks_in_greenlets(app: App, start: Start) -> None:
    with pytest.raises(RuntimeError, match="as a task"):
        spawn(print)

    @app.task(thread=True)
    def threaded() -> None:
        spawn(print)

    start()
    with pytest.raises(TaskFailed, match="thread=True"):
        threaded.delay().get(timeout=10)


def test_in_solo_a_run_takes_its_children_along(app: App) -> None:
    ended = []

    def child() -> None:
        try:
            Event().wait()
        finally:
            ended.append(1)

    @app.task
    def t(then: str) -> None:
        spawn(child)
        gevent.sleep(0.01)

    from greenworker.worker import Worker

    worker = Worker(app, solo=True, burst=True)
    t.delay("a")
    t.delay("b")
    worker.serve_forever()
    eventually(lambda: len(ended) == 2)


def test_who_only_imports_it_needs_no_gevent() -> None:
    script = """
import sys
from greenworker import App, spawn
assert not {"gevent", "greenworker.worker"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
