"""Throttled, and what a run with keys tells the server; what a plain one does not."""

from __future__ import annotations

import logging
import time

import gevent
import pytest

from greenworker.context import current_task
from greenworker.message import CANCELLED, RELEASE
from greenworker.verdicts import Snooze, Throttled
from tests.support.eventually import eventually
from tests.worker.builders import declare_immortal, delivery_of
from tests.worker.test_executor import Bench

TWO = "host:a,tenant:ä"


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("verdict", "delay", "reason"),
    [
        (Throttled(30), 30.0, ""),
        (Throttled("30"), 30.0, ""),
        (Throttled(), -1.0, ""),
        (Throttled("soon", key="tenant:ä"), -1.0, "tenant:%C3%A4"),
        (Throttled(5, key="host:a"), 5.0, "host:a"),
    ],
)
def test_its_key_is_held(bench: Bench, verdict: Throttled, delay: float, reason: str) -> None:
    def throttled() -> None:
        raise verdict

    delivery = delivery_of(bench.task(throttled).name, attempt=2, keys=TWO)
    outcome = bench.run(delivery)
    assert (outcome.kind, outcome.delay, outcome.reason) == ("throttled", delay, reason)
    assert (outcome.result, outcome.envelope) == (b"", b"")
    assert (bench.stats.throttled, bench.stats.snoozed, bench.stats.running) == (1, 0, 0)
    assert delivery.keys == b"host:a%2Ctenant:%C3%A4"


@pytest.mark.parametrize(("told", "delay"), [(5.0, 5.0), (None, 30.0), (0.0, 30.0)])
def test_without_keys_it_is_a_snooze(bench: Bench, told: float | None, delay: float) -> None:
    def throttled() -> None:
        raise Throttled(told, key="whatever")

    delivery = delivery_of(bench.task(throttled).name, attempt=2)
    outcome = bench.run(delivery)
    assert (outcome.kind, outcome.delay, outcome.envelope) == ("later", delay, delivery.envelope)
    assert outcome.took == 0.0
    assert (bench.stats.throttled, bench.stats.snoozed, bench.stats.running) == (1, 0, 0)


def test_another_key_than_its_own_is_a_mistake(bench: Bench) -> None:
    def throttled() -> None:
        raise Throttled(key="host:b")

    task = bench.task(throttled)
    outcome = bench.run(delivery_of(task.name, keys=TWO))
    assert (outcome.kind, outcome.reason) == ("dead", "failed")
    wrong = (
        b"Throttled: key='host:b': this message has host:a and tenant:\xc3\xa4: name one of its own"
    )
    assert wrong in outcome.result
    assert bench.stats.running == 0


def test_the_log_line_says_what_is_held(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    @bench.task(name="t")
    def throttled(seconds: float | None, key: str | None = None) -> None:
        raise Throttled(seconds, key=key)

    bench.run(delivery_of("t", 30, keys=TWO))
    bench.run(delivery_of("t", 9e9, "tenant:ä", keys=TWO))
    bench.run(delivery_of("t", None, keys=TWO))
    bench.run(delivery_of("t", None))
    said = [line.partition("] ")[2] for line in caplog.messages if "throttled" in line]
    assert said == [
        "throttled: host:a is held for 30 s at least",
        "throttled: tenant:ä is held for 3600 s",
        "throttled: host:a is held for as long as the back-off says",
        "throttled: again in 30 s",
    ]


@pytest.mark.parametrize("how", ["done", "retry", "later", "dead", "throttled"])
def test_how_long_it_took_is_told_of_what_has_keys(bench: Bench, how: str) -> None:
    @bench.task(name="t", retries=1, no_retry_for=ValueError)
    def run() -> None:
        gevent.sleep(0.02)
        errors = {
            "retry": OSError(),
            "later": Snooze(5),
            "dead": ValueError(),
            "throttled": Throttled(),
        }
        if how in errors:
            raise errors[how]

    began = time.monotonic()
    outcome = bench.run(delivery_of("t", keys="a"))
    most = time.monotonic() - began
    assert outcome.kind == how
    assert 0.02 <= outcome.took <= most
    assert bench.run(delivery_of("t")).took == 0.0


def test_also_of_what_was_written_off(bench: Bench) -> None:
    task, end = declare_immortal(bench.app)
    bench.start(delivery_of(task.name, keys="a"))
    bench.start(delivery_of(task.name))
    eventually(lambda: len(bench.written_off) == 2)
    end.set()
    took = {delivery.keys: outcome.took for delivery, outcome in bench.written_off}
    assert took[b"a"] > 0.02
    assert took[b""] == 0.0


def test_not_of_what_did_not_run(bench: Bench) -> None:
    assert bench.run(delivery_of("unknown", keys="a")).took == 0.0
    bench.task(name="t")(lambda: None)
    assert bench.run(delivery_of("t", "too many", keys="a")).took == 0.0


def test_what_was_cancelled_is_cancelled_and_what_goes_back_is_the_same_as_ever(
    bench: Bench,
) -> None:
    @bench.task(name="t")
    def throttled() -> None:
        raise Throttled(5)

    greenlet = bench.start(delivery_of("t", keys="a"))
    greenlet.called_off = True
    assert greenlet.get().result == CANCELLED
    greenlet = bench.start(delivery_of("t", keys="a"))
    greenlet.released = True
    assert greenlet.get() is RELEASE


def test_a_task_is_told_its_keys(bench: Bench) -> None:
    seen = []

    @bench.task(name="t")
    def look() -> None:
        seen.append(current_task().keys)

    bench.run(delivery_of("t", keys=TWO))
    bench.run(delivery_of("t"))
    assert seen == [("host:a", "tenant:ä"), ()]
