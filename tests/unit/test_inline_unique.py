"""app.testing(): what is unique, and what was seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from greenworker import App, Snooze, State
from greenworker.errors import TaskCancelled


@pytest.fixture
def app() -> Iterator[App]:
    app = App("redis://127.0.0.1:1", patience=0.1)
    yield app
    app.close()


def test_one_of_its_kind_until_it_is_done(app: App) -> None:
    runs: list[int] = []

    @app.task(unique=True, name="work")
    def work(x: int) -> int:
        runs.append(x)
        assert work.delay(x) == first  # it runs
        return x

    with app.testing():
        first = work.apply_async((1,), countdown=60, id="first")
        assert work.delay(1) == first
        assert [one.id for one in work.delay_many([(1,), (1,)])] == ["first", "first"]
        app_sent = app.result("first")
        assert app_sent.state is State.SCHEDULED
    with app.testing() as sent:
        first = work.apply_async((1,), countdown=60, id="first")
        sent.drain(seconds=60)
        assert (runs, first.get()) == ([1], 1)
        assert work.apply_async((1,), countdown=60) != first


def test_until_started_the_next_may_be_sent_by_the_run(app: App) -> None:
    runs: list[int] = []

    @app.task(unique="x", unique_until="started", name="work")
    def work(x: int, n: int = 0) -> None:
        runs.append(n)
        if n < 2:
            work.delay(x, n + 1)

    with app.testing():
        work.delay(1)
    assert runs == [0, 1, 2]


def test_what_waits_is_replaced(app: App) -> None:
    runs: list[int] = []

    @app.task(unique="doc", on_conflict="replace", name="index")
    def index(doc: str, version: int) -> None:
        runs.append(version)

    with app.testing() as sent:
        first, last = (index.apply_async(("a", n), countdown=10) for n in (1, 2))
        with pytest.raises(TaskCancelled, match=f"it was replaced by {last.id}"):
            first.get()
        sent.drain(seconds=60)
        assert runs == [2]
        index.delay_many([("a", 3), ("a", 4)])
    assert runs == [2, 4]


def test_for_some_seconds_of_its_clock(app: App) -> None:
    runs: list[int] = []

    @app.task(unique=True, unique_for=10, name="work")
    def work() -> None:
        runs.append(1)

    with app.testing() as sent:
        assert work.delay() == work.delay()
        sent.drain(seconds=10)
        work.delay()
    assert len(runs) == 2


def test_a_filter_needs_no_server(app: App) -> None:
    runs: list[str] = []

    @app.task(name="page")
    def page(url: str) -> None:
        runs.append(url)
        if len(url) < 3:
            page.delay_many([("a",), ("b",), (url + "a",)], seen=app.seen("crawl"))

    with app.testing():
        seen = app.seen("crawl")
        assert len(page.delay_many([("a",), ("a",)], seen=seen)) == 1
        assert (seen.count(), "a" in seen, "c" in seen) == (len(runs), True, False)
        assert (seen.add("c", "a"), seen.drop(), seen.count()) == (1, len(runs) + 1, 0)
    assert runs[:3] == ["a", "b", "aa"]
    assert len(set(runs)) == len(runs)


def test_a_filter_that_was_named_before_needs_none_either(app: App) -> None:
    """As in a module, beside the tasks."""
    seen = app.seen("crawl")

    @app.task(name="page")
    def page(url: str) -> None: ...

    with app.testing():
        page.delay_many([("a",)], seen=seen)
        assert ("a" in seen, seen.add("a", "b")) == (True, 1)
    with app.testing():
        assert seen.count() == 0


def test_a_tick_of_what_waits_is_left_out(app: App) -> None:
    runs: list[int] = []

    @app.every(1, name="beat")
    @app.task(unique=True, name="tick")
    def tick() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise Snooze(10)

    with app.testing() as sent:
        sent.drain(seconds=4)
        assert len(runs) == 1
        sent.drain(seconds=10)
    assert len(runs) > 2
