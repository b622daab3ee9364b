"""Cancelling what runs: thrown once, killed after the grace, and whatever it makes of it, never again."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from greenworker.app import App
from greenworker.broker import Broker, Promotion
from greenworker.errors import BrokerUnavailable, Cancelled
from greenworker.message import CANCELLED, Delivery, Outcome, mark_of
from greenworker.verdicts import Snooze
from greenworker.worker import run
from greenworker.worker.canceller import Canceller
from greenworker.worker.executor import Executor
from greenworker.worker.incarnation import Membership
from greenworker.worker.pool import TaskPool
from greenworker.worker.stats import Stats
from tests.support.eventually import eventually
from tests.worker.builders import delivery_of
from tests.worker.conftest import Start


class Bench:
    """A pool that runs tasks, without a server."""

    def __init__(self) -> None:
        self.app = App("redis://127.0.0.1:1")  # nothing here connects
        self.ended: list[tuple[Delivery, Outcome]] = []
        self.stats = Stats()
        self.pool = TaskPool(10, lambda one: self.executor.run(one), self.settle)
        self.executor = Executor(self.app.tasks, self.stats, 30.0, False, self.pool.write_off)

    def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        self.ended.append((delivery, outcome))

    def begin(self, task: Any, *args: Any) -> Delivery:
        delivery = delivery_of(task.name, *args)
        self.pool.begin(delivery)
        return delivery

    def call_off(self, delivery: Delivery, grace: float = 60.0) -> None:
        self.pool.call_off({delivery.id: delivery}, grace)

    def outcome(self) -> Outcome:
        eventually(lambda: self.ended)
        ((_, outcome),) = self.ended
        return outcome


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_one_that_has_not_begun_does_not(bench: Bench) -> None:
    @bench.app.task
    def never() -> None:
        raise AssertionError("it was cancelled before")

    delivery = bench.begin(never)
    # The loop has not got to it yet.
    bench.pool.call_off({delivery.id: delivery}, 60.0)
    assert bench.outcome() == Outcome("cancelled", CANCELLED, 3600.0)
    assert delivery.id == bench.ended[0][0].id
    assert (bench.stats.cancelled, bench.stats.running) == (1, 0)


def test_it_is_thrown_once_however_often_it_is_told(bench: Bench) -> None:
    thrown: list[str] = []

    @bench.app.task
    def waits() -> str:
        for _ in range(3):
            try:
                gevent.sleep(0.1)
            except Cancelled as error:
                thrown.append(str(error))
        return "done"

    delivery = bench.begin(waits)
    gevent.sleep(0)
    for _ in range(3):
        bench.call_off(delivery)
        gevent.sleep(0.01)
    outcome = bench.outcome()
    assert thrown == ["somebody has cancelled it"]
    assert (outcome.kind, outcome.result) == ("done", b'{"state":"SUCCESS","value":"done"}')


@pytest.mark.parametrize("error", [ValueError("x"), Snooze(5.0), SystemExit(), run.Release()])
def test_whatever_its_tidying_up_raises(bench: Bench, error: BaseException) -> None:
    @bench.app.task(retries=3)
    def waits() -> None:
        try:
            gevent.sleep(60)
        finally:
            raise error

    delivery = bench.begin(waits)
    gevent.sleep(0)
    bench.call_off(delivery)
    assert bench.outcome().kind == "cancelled"
    assert (bench.stats.cancelled, bench.stats.retried, bench.stats.failed) == (1, 0, 0)


def test_after_the_grace_what_it_returns_is_too_late(bench: Bench) -> None:
    @bench.app.task
    def swallows() -> str:
        try:
            try:
                gevent.sleep(60)
            except Cancelled:
                gevent.sleep(60)
        except BaseException:
            return "late"
        return ""

    delivery = bench.begin(swallows)
    gevent.sleep(0)
    bench.call_off(delivery, 0.01)
    assert bench.outcome().kind == "cancelled"


def test_one_that_cannot_be_ended_is_written_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("greenworker.worker.run._THROW_AGAIN", (0.001,))
    end = Event()

    @bench.app.task
    def immortal() -> None:
        while not end.is_set():
            try:
                end.wait(60)
            except BaseException:
                continue

    delivery = bench.begin(immortal)
    gevent.sleep(0)
    bench.call_off(delivery, 0.01)
    assert bench.outcome() == Outcome("cancelled", CANCELLED, 3600.0)
    assert bench.pool.free_count() == 10
    eventually(lambda: "ignores its cancellation, and cannot be ended" in caplog.text)
    end.set()
    eventually(lambda: not bench.pool.stuck)
    assert len(bench.ended) == 1


def test_late_for_one_that_has_ended(bench: Bench) -> None:
    """The throw is for that run and no other, and not for what comes after its function."""

    @bench.app.task
    def quick() -> str:
        return "done"

    delivery = bench.begin(quick)
    assert bench.outcome().kind == "done"
    bench.call_off(delivery, 0.0)
    gevent.sleep(0.02)
    assert len(bench.ended) == 1


class Told:
    """A control that combs nothing."""

    def comb(self, who: str) -> Any:
        raise AssertionError("there is no mark")


def test_it_says_that_it_knows_of_what_it_holds_and_of_nothing_else(bench: Bench) -> None:
    membership = Membership(on_renew=lambda: None)
    canceller = Canceller(Told(), membership, bench.pool, 60.0)  # type: ignore[arg-type]

    @bench.app.task
    def waits() -> None:
        gevent.sleep(60)

    delivery = bench.begin(waits)
    gevent.sleep(0)
    told = Promotion(0, None, b"", {delivery.id: delivery.seq, "other": 1})
    # Its claim's reply is on the way
    canceller.heed(told)
    assert list(canceller.says()[1]) == []
    assert not bench.ended
    membership.current.hold([delivery])
    # Another delivery of this id
    canceller.heed(Promotion(0, None, b"", {delivery.id: delivery.seq + 1}))
    assert list(canceller.says()[1]) == []
    canceller.heed(told)
    assert list(canceller.says()[1]) == [delivery.id, delivery.seq]
    assert bench.outcome().kind == "cancelled"
    # That was heard, or it is said again
    assert list(canceller.says()[1]) == [delivery.id, delivery.seq]


def test_a_lost_reply_loses_no_cancellation(
    app: App, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that of the promotion which tells it, nor what ends the run."""

    @app.task
    def waits() -> None:
        gevent.sleep(60)

    promote, lost = Broker.promote, []

    def promote_and_lose(self: Broker, *args: Any) -> Promotion:
        told = promote(self, *args)
        if told.cancelled and len(lost) < 2:
            lost.append(told)
            raise BrokerUnavailable("the reply was lost")
        return told

    monkeypatch.setattr(Broker, "promote", promote_and_lose)
    start(concurrency=2)
    result = waits.delay()
    eventually(lambda: result.state == "STARTED")
    assert result.cancel()
    eventually(lambda: result.state == "CANCELLED")
    assert len(lost) == 2


def test_what_runs_need_not_wait_for_the_pass(
    app: App, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(tags=["crawl"])
    def waits() -> None:
        gevent.sleep(60)

    nothing = app.client.control.comb("nobody")
    monkeypatch.setattr("greenworker.control.Control.comb", lambda self, who: nothing)
    start(concurrency=2)
    result, other = waits.delay(), waits.apply_async(tags=["night"])
    eventually(lambda: result.state == other.state == "STARTED")
    app.client.control.mark(mark_of("tag", "night"))
    eventually(lambda: other.state == "CANCELLED")
    assert result.state == "STARTED"
    app.cancel(tag="crawl")
    eventually(lambda: result.state == "CANCELLED")
