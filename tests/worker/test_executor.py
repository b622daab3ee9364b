"""Executor: runs one delivery, and every end of it is an Outcome."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import gevent
import orjson
import pytest
from gevent.event import Event

from greenworker.app import App
from greenworker.backoff import Backoff
from greenworker.context import CurrentTask, current_task
from greenworker.errors import SoftTimeout
from greenworker.message import RELEASE, Delivery, Outcome, decode
from greenworker.signing import Signer
from greenworker.verdicts import Ignore, Reject, Snooze
from greenworker.worker.executor import Executor
from greenworker.worker.run import Release
from greenworker.worker.stats import Stats
from tests.support.eventually import eventually
from tests.worker.builders import declare_immortal, delivery_of, raw

GOOD = b"1 0 0 5 1000 0 3600000 default t"


class RunGreenlet(gevent.Greenlet):
    """One run, as the pool would have it, in a greenlet whose value is the outcome."""

    released = called_off = False

    def throw(self, *error: Any) -> None:
        self.released = self.released or error[0] is Release
        super().throw(*error)


class Bench:
    """An executor for the tasks that a test declares, with what it wrote off."""

    def __init__(
        self,
        timeout: float | None = 30.0,
        log_values: bool = False,
        verifier: Signer | None = None,
    ) -> None:
        self.app = App("redis://127.0.0.1:1")  # nothing here connects
        self.task: Callable[..., Any] = self.app.task
        self.stats = Stats()
        self.written_off: list[tuple[Delivery, Outcome]] = []
        self.executor = Executor(
            self.app.tasks,
            self.stats,
            timeout,
            log_values,
            lambda *it: self.written_off.append(it),
            verifier,
        )

    def start(self, delivery: Delivery) -> gevent.Greenlet:
        greenlet = RunGreenlet(self.executor.run, delivery)
        greenlet.start()
        return greenlet

    def run(self, delivery: Delivery) -> Outcome:
        outcome = self.start(delivery).get()
        assert isinstance(outcome, Outcome)
        return outcome

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Outcome:
        """Declare a function as a task, and run it once."""
        return self.run(delivery_of(self.task(**options)(function).name, *args))


def signed(delivery: Delivery, signer: Signer) -> Delivery:
    *front, tail = delivery.envelope.split(b" ", 6)
    tail = signer.sign(delivery.id, tail)
    return replace(delivery, envelope=b" ".join((*front, tail)))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def value_of(outcome: Outcome) -> Any:
    assert outcome.kind == "done"
    result = orjson.loads(outcome.result)
    assert result["state"] == "SUCCESS"
    return result["value"]


def error_of(outcome: Outcome, reason: str = "failed") -> dict[str, str]:
    assert (outcome.kind, outcome.reason) == ("dead", reason)
    result = orjson.loads(outcome.result)
    assert result["state"] == "FAILURE"
    error: dict[str, str] = result["error"]
    assert set(error) == {"type", "message", "traceback"}
    return error


# How a run ends


def test_a_value_is_a_result_with_its_time_to_live(bench: Bench) -> None:
    @bench.task
    def plus(a: int, b: int) -> dict[str, int]:
        return {"sum": a + b}

    outcome = bench.run(delivery_of(plus.name, 1, b=2, result_ttl=90.0))
    assert value_of(outcome) == {"sum": 3}
    assert outcome.result_ttl == 90.0
    assert (bench.stats.received, bench.stats.succeeded, bench.stats.running) == (1, 1, 0)
    assert len(bench.stats.durations) == 1


def test_a_result_that_nobody_wants_is_not_even_encoded(bench: Bench) -> None:
    name = bench.task(ignore_result=True)(lambda: object()).name
    assert bench.run(delivery_of(name, result_ttl=0.0)) == Outcome("done")


def test_an_error_is_told_with_type_text_and_the_users_frames_only(bench: Bench) -> None:
    def breaks() -> None:
        raise ValueError("no such page")

    outcome = bench.call(breaks)
    error = error_of(outcome)
    assert (error["type"], error["message"]) == ("ValueError", "no such page")
    assert "in breaks" in error["traceback"]
    assert "worker/executor.py" not in error["traceback"]
    assert outcome.result_ttl == 3600.0
    assert (bench.stats.failed, bench.stats.running) == (1, 0)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, gevent.GreenletExit])
def test_what_ends_programs_is_a_tasks_own_failure(bench: Bench, kind: type[BaseException]) -> None:
    def leaves() -> None:
        raise kind("enough")

    error = error_of(bench.call(leaves, retries=3))
    assert (error["type"], error["message"]) == (kind.__name__, "enough")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("I have no words")


class Slow(Exception):
    def __str__(self) -> str:
        gevent.sleep(0.1)
        return "at last"


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ValueError("half a \ud83d"), "half a ?"),
        (Unspeakable(), "(its text cannot be had)"),
        (ValueError("x" * 100_000), "x" * 2000),
        (ValueError(), ""),
    ],
    ids=["a surrogate", "a __str__ that raises", "a long text", "no text"],
)
def test_whatever_text_an_error_has_it_can_be_told(
    bench: Bench, raised: Exception, message: str
) -> None:
    def breaks() -> None:
        raise raised

    error = error_of(bench.call(breaks))
    assert (error["type"], error["message"]) == (type(raised).__name__, message)
    assert len(error["traceback"]) <= 20_000


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({1, 2}, "not JSON serializable: set"),
        (2**64, "64-bit"),
        (nested(300), "Recursion limit"),
        (nested(220), "deeper than 200"),
        ("x" * 1_000_001, "1,000,003 bytes, the limit is 1,000,000"),
        ("\ud800", "surrogates"),
    ],
    ids=["set", "2**64", "300 deep", "220 deep", "> 1 MB", "surrogate"],
)
def test_a_result_that_json_cannot_carry_is_a_failure_that_says_so(
    bench: Bench, value: Any, text: str
) -> None:
    error = error_of(bench.call(lambda: value, name="odd", retries=5), "result")
    assert error["type"] in ("NotEncodable", "PayloadTooLarge")
    assert error["message"].startswith("the result of odd")
    assert text in error["message"]


# Retries


def test_a_failure_is_tried_again_as_a_whole_new_envelope(bench: Bench) -> None:
    @bench.task(retries=2, backoff=Backoff(base=8.0, least=8.0))
    def breaks(x: int) -> None:
        raise OSError("busy")

    delivery = delivery_of(breaks.name, 7)
    outcome = bench.run(delivery)
    assert (outcome.kind, outcome.delay) == ("retry", 8.0)
    again = decode(delivery.id, outcome.envelope)
    noted = {"last": "OSError: busy"}
    assert again == replace(decode(delivery.id, delivery.envelope), attempt=1, options=noted)
    assert (bench.stats.retried, bench.stats.running) == (1, 0)


def test_a_retry_is_signed_as_before_and_knows_only_the_last_error() -> None:
    signer = Signer(["k" * 32], "default")
    bench = Bench(verifier=signer)

    @bench.task(retries=9, sensitive=True)
    def breaks() -> None:
        assert current_task().last_error in ("", "OSError")
        raise OSError("canary")

    delivery = signed(delivery_of(breaks.name), signer)
    for attempt in range(3):
        outcome = bench.run(delivery)
        assert outcome.kind == "retry", attempt
        delivery = replace(delivery, envelope=outcome.envelope)
    assert outcome.envelope.count(b" last=OSError\n") == 1


def test_a_verdict_after_the_timeout_is_too_late(bench: Bench) -> None:
    def careless() -> None:
        try:
            gevent.sleep(60)
        finally:
            raise Snooze(5)

    outcome = bench.call(careless, timeout=0.02)
    assert error_of(outcome)["type"] == "TaskTimeout"


def test_a_snooze_is_as_if_it_had_not_run_yet(bench: Bench) -> None:
    def later() -> None:
        raise Snooze(7)

    delivery = delivery_of(bench.task(later).name, attempt=2)
    outcome = bench.run(delivery)
    assert (outcome.kind, outcome.delay, outcome.envelope) == ("later", 7.0, delivery.envelope)
    assert bench.stats.running == 0


def test_each_retry_waits_for_longer(bench: Bench) -> None:
    @bench.task(retries=9, backoff=Backoff(base=1.0, factor=3.0, least=100.0, cap=5000.0))
    def breaks() -> None:
        raise OSError("busy")

    delays = [bench.run(delivery_of(breaks.name, attempt=n)).delay for n in (0, 6, 7)]
    assert delays[0] == 100.0
    assert all(100.0 <= delay <= 2187.0 for delay in delays)


def test_the_last_failure_is_final(bench: Bench) -> None:
    @bench.task(retries=2)
    def breaks() -> None:
        raise OSError("busy")

    assert bench.run(delivery_of(breaks.name, attempt=1)).kind == "retry"
    assert error_of(bench.run(delivery_of(breaks.name, attempt=2)))["message"] == "busy"


def test_only_the_errors_of_retry_for_are_tried_again(bench: Bench) -> None:
    @bench.task(retries=2, retry_for=(OSError, SystemExit))
    def breaks(how: str) -> None:
        raise {"timeout": TimeoutError, "value": ValueError, "exit": SystemExit}[how]()

    assert bench.run(delivery_of(breaks.name, "timeout")).kind == "retry"
    assert bench.run(delivery_of(breaks.name, "exit")).kind == "retry"
    assert bench.run(delivery_of(breaks.name, "value")).kind == "dead"


# Timeouts


def test_a_run_that_is_too_long_fails_with_tasktimeout(bench: Bench) -> None:
    error = error_of(bench.call(lambda: gevent.sleep(60), timeout=0.02))
    assert (error["type"], error["message"]) == ("TaskTimeout", "ran longer than 0.02 s")


def test_a_timeout_is_an_error_like_any_other_for_retries(bench: Bench) -> None:
    assert bench.call(lambda: gevent.sleep(60), timeout=0.02, retries=1).kind == "retry"


def test_a_task_that_names_no_timeout_has_the_workers(bench: Bench) -> None:
    bench = Bench(timeout=0.02)
    assert error_of(bench.call(lambda: gevent.sleep(60)))["type"] == "TaskTimeout"


@pytest.mark.parametrize("worker", [0.0, 0.02])
def test_timeout_0_is_none(worker: float) -> None:
    bench = Bench(timeout=worker)
    options = {"timeout": 0} if worker else {}

    def slow() -> float | None:
        gevent.sleep(0.1)
        return current_task().deadline

    assert value_of(bench.call(slow, **options)) is None


def test_a_worker_without_timeouts_has_none_for_tasks_that_declare_one() -> None:
    bench = Bench(timeout=None)
    assert value_of(bench.call(lambda: gevent.sleep(0.1), timeout=0.02)) is None


@pytest.mark.parametrize("error", [ValueError, SystemExit, gevent.GreenletExit])
def test_whatever_a_backoff_raises_costs_no_attempt_and_no_worker(
    bench: Bench, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def backoff(retry: int) -> float:
        raise error("canary")

    @bench.task(name="t", retries=1, backoff=backoff)
    def breaks() -> None:
        raise OSError

    outcome = bench.run(delivery_of("t"))
    assert (outcome.kind, outcome.delay <= 1.0) == ("retry", True)
    assert f"t: its backoff failed: {error.__name__}: canary" in caplog.text


def test_records_of_a_run_hold_none_of_its_arguments(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Also as their own values, which some handlers keep beside the text."""
    caplog.set_level(logging.DEBUG)

    @bench.task(name="t", retries=1, sensitive=True)
    def ends(secret: str, how: str) -> None:
        raise {"retry": OSError, "later": Snooze(5), "done": Ignore(), "dead": Reject("no")}[how]

    for how in ("retry", "later", "done", "dead"):
        assert bench.run(delivery_of("t", "canary", how)).kind == how
    records = [record for record in caplog.records if record.name == "greenworker.task"]
    assert len(records) == 8
    assert "canary" not in repr([record.args for record in records])


# Soft timeouts


def test_a_soft_timeout_is_an_error_in_the_task_which_may_tidy_up(bench: Bench) -> None:
    def careful() -> str:
        try:
            gevent.sleep(60)
        except SoftTimeout as error:
            return str(error)
        return "never"

    assert value_of(bench.call(careful, timeout=30, soft_timeout=0.02)) == "has run for 0.02 s"


@pytest.mark.parametrize("timeout", [0, 30])
def test_one_that_is_not_caught_is_a_failure_like_any_other(bench: Bench, timeout: float) -> None:
    options: dict[str, Any] = {"timeout": timeout, "soft_timeout": 0.02}
    error = error_of(bench.call(lambda: gevent.sleep(60), name="once", **options))
    assert (error["type"], error["message"]) == ("SoftTimeout", "has run for 0.02 s")
    assert bench.call(lambda: gevent.sleep(60), name="twice", retries=1, **options).kind == "retry"
    options["retry_for"] = OSError
    assert bench.call(lambda: gevent.sleep(60), name="never", retries=1, **options).kind == "dead"


def test_whoever_goes_on_after_it_meets_the_hard_one(bench: Bench) -> None:
    seen: list[str] = []

    def careless() -> None:
        for _ in range(2):
            try:
                gevent.sleep(60)
            except SoftTimeout:
                seen.append("soft")

    assert error_of(bench.call(careless, timeout=0.06, soft_timeout=0.02))["type"] == "TaskTimeout"
    assert seen == ["soft"]


def test_a_soft_timeout_above_the_workers_timeout_never_comes() -> None:
    bench = Bench(timeout=0.02)
    error = error_of(bench.call(lambda: gevent.sleep(60), soft_timeout=5))
    assert error["type"] == "TaskTimeout"


def test_the_deadline_is_the_first_of_them(bench: Bench) -> None:
    def left() -> float | None:
        deadline = current_task().deadline
        return None if deadline is None else deadline - time.monotonic()

    for name, options, most in (
        ("soft", {"timeout": 50, "soft_timeout": 20}, 20),
        ("hard", {"timeout": 50}, 50),
        ("worker", {"soft_timeout": 40}, 30),
        ("alone", {"timeout": 0, "soft_timeout": 20}, 20),
    ):
        seconds = value_of(bench.call(left, name=name, **options))
        assert most - 10 < seconds <= most, name
    assert value_of(bench.call(left, name="none", timeout=0)) is None


def test_a_thousand_at_once_are_each_told_once(bench: Bench) -> None:
    told: list[str] = []

    @bench.task(timeout=30, soft_timeout=0.2)
    def waits() -> None:
        try:
            gevent.sleep(60)
        except SoftTimeout:
            told.append(current_task().id)
            gevent.sleep(0.01)

    runs = [bench.start(delivery_of(waits.name)) for _ in range(1000)]
    assert {run.get().kind for run in runs} == {"done"}
    assert len(told) == 1000


def test_the_hard_one_is_never_early_however_long_the_loop_was_held(bench: Bench) -> None:
    """A thousand that tidy up one after the other hold it for seconds: what the loop takes for now is then long ago."""
    came: list[float] = []
    began = time.monotonic()

    def tidies_up() -> None:
        try:
            Event().wait()
        except SoftTimeout:
            while time.monotonic() < began + 0.4:
                pass
        try:
            Event().wait()
        finally:
            came.append(time.monotonic())

    error = error_of(bench.call(tidies_up, timeout=0.6, soft_timeout=0.02))
    assert error["type"] == "TaskTimeout"
    assert came[0] >= began + 0.6


# Hard ones


def test_a_timeout_that_is_swallowed_is_thrown_again(bench: Bench) -> None:
    swallowed: list[BaseException] = []

    def stubborn() -> None:
        while len(swallowed) < 4:
            try:
                gevent.sleep(60)
            except BaseException as error:
                swallowed.append(error)
        gevent.sleep(60)

    error = error_of(bench.call(stubborn, timeout=0.02))
    assert error["type"] == "TaskTimeout"
    assert len(swallowed) == 4
    assert not bench.written_off


@pytest.mark.parametrize("then", ["returns", "raises"])
def test_a_task_that_swallows_its_timeout_is_too_late_all_the_same(bench: Bench, then: str) -> None:
    def careless() -> str:
        try:
            gevent.sleep(60)
        except BaseException:
            if then == "raises":
                raise KeyError("half done") from None
        return "too late"

    outcome = bench.call(careless, name="once", timeout=0.02, retry_for=TimeoutError)
    error = error_of(outcome)
    assert (error["type"], error["message"]) == ("TaskTimeout", "ran longer than 0.02 s")
    assert ("KeyError: 'half done'" in error["traceback"]) == (then == "raises")
    assert (bench.stats.succeeded, bench.stats.failed) == (0, 1)
    # It is tried again as any timeout, by `retries` alone
    assert bench.call(careless, name="twice", timeout=0.02, retries=1).kind == "retry"


def test_a_task_that_swallows_all_its_timeouts_is_written_off(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    immortal, end = declare_immortal(bench.app)
    delivery = delivery_of(immortal.name)
    greenlet = bench.start(delivery)
    ((which, outcome),) = eventually(lambda: bench.written_off)
    assert which is delivery
    assert "ignores it" in error_of(outcome, "stuck")["message"]
    assert bench.stats.stuck == 1
    assert not greenlet.dead
    eventually(lambda: caplog.text)
    assert f"{immortal.name}[{delivery.id}] ignores its timeout of 0.02 s" in caplog.text

    # What it answers in the end is the settler's to drop; it is written off once.
    end.set()
    assert greenlet.get() == RELEASE
    assert len(bench.written_off) == 1


def test_a_log_that_hangs_does_not_keep_the_slot_of_what_is_written_off(bench: Bench) -> None:
    immortal, end = declare_immortal(bench.app)
    log, slow = logging.getLogger("greenworker.task"), logging.Handler(logging.CRITICAL)
    lines: list[str] = []
    slow.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(slow)
    slow.acquire()  # somebody writes, and the network is slow
    greenlet = bench.start(delivery_of(immortal.name))
    try:
        eventually(lambda: bench.written_off)
        assert not lines
    finally:
        slow.release()
    eventually(lambda: lines)
    log.removeHandler(slow)
    end.set()
    greenlet.get()


def test_what_was_written_off_and_is_released_later_counts_once(bench: Bench) -> None:
    @bench.task(timeout=0.02)
    def stubborn() -> None:
        while True:
            try:
                gevent.sleep(60)
            except Release:
                raise
            except BaseException:
                continue

    greenlet = bench.start(delivery_of(stubborn.name))
    eventually(lambda: bench.written_off)
    greenlet.kill(Release)
    assert greenlet.value == RELEASE
    assert (bench.stats.failed, bench.stats.released, bench.stats.running) == (1, 0, 0)


def test_a_timeout_does_not_fall_into_the_telling_of_an_error(bench: Bench) -> None:
    def breaks() -> None:
        raise Slow

    assert error_of(bench.call(breaks, timeout=0.05))["message"] == "at last"
    assert (
        error_of(bench.call(breaks, timeout=0.05, retries=1, retry_for=OSError))["type"] == "Slow"
    )


def test_the_timer_of_a_task_that_has_ended_hits_nobody(bench: Bench) -> None:
    """The next run begins in the very greenlet in which the first one ended."""
    first = delivery_of(bench.task(name="first", timeout=0.03)(lambda: None).name)
    second = delivery_of(bench.task(name="second")(lambda: gevent.sleep(0.1)).name)

    def both() -> list[Outcome]:
        return [bench.executor.run(first), bench.executor.run(second)]

    assert [outcome.kind for outcome in gevent.spawn(both).get()] == ["done", "done"]


def test_a_late_kill_of_a_task_never_hits_another(bench: Bench) -> None:
    name = bench.task(lambda: "fine").name
    first, second = bench.start(delivery_of(name)), bench.start(delivery_of(name))
    first.join()
    first.kill(Release)
    assert value_of(second.get()) == "fine"


# Release


def test_a_task_that_is_released_goes_back(bench: Bench) -> None:
    begun = Event()

    @bench.task(retries=3)
    def slow() -> None:
        begun.set()
        gevent.sleep(60)

    greenlet = bench.start(delivery_of(slow.name))
    begun.wait()
    greenlet.kill(Release)
    assert greenlet.value == RELEASE
    assert (bench.stats.released, bench.stats.running) == (1, 0)


def test_a_task_may_still_finish_when_it_is_released(bench: Bench) -> None:
    begun = Event()

    @bench.task
    def careful() -> str:
        begun.set()
        try:
            gevent.sleep(60)
        except gevent.GreenletExit:
            pass
        return "finished"

    greenlet = bench.start(delivery_of(careful.name))
    begun.wait()
    greenlet.kill(Release)
    assert value_of(greenlet.value) == "finished"


def fails_to_close() -> None:
    try:
        gevent.sleep(60)
    finally:
        raise OSError("the peer is gone")


def tells_it_otherwise() -> None:
    try:
        gevent.sleep(60)
    except BaseException as error:
        raise RuntimeError("failed") from error


def tells_it_later() -> None:
    failure = None
    try:
        gevent.sleep(60)
    except BaseException as error:
        failure = str(error)
    if failure is not None:
        raise RuntimeError(failure)


@pytest.mark.parametrize("function", [fails_to_close, tells_it_otherwise, tells_it_later])
@pytest.mark.parametrize("retries", [0, 3])
def test_whatever_clean_up_makes_of_a_release_the_task_goes_back(
    bench: Bench, function: Callable[[], None], retries: int
) -> None:
    greenlet = bench.start(delivery_of(bench.task(retries=retries)(function).name))
    gevent.sleep(0)
    greenlet.kill(Release)
    assert greenlet.value == RELEASE
    assert (bench.stats.released, bench.stats.failed, bench.stats.retried) == (1, 0, 0)


def test_a_failure_before_the_release_gets_to_it_is_the_tasks_own(bench: Bench) -> None:
    go_on = Event()

    @bench.task
    def fails() -> None:
        go_on.wait()
        raise OSError("its own")

    greenlet = bench.start(delivery_of(fails.name))
    gevent.sleep(0)
    # Both come with the loop's next turn, the kill behind
    go_on.set()
    greenlet.kill(Release, block=False)
    greenlet.join()
    assert error_of(greenlet.value)["message"] == "its own"


# What cannot be run


def test_an_unknown_task_is_put_off_since_a_deploy_may_bring_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = delivery_of("app.coming", 1, claimed_at=5000.0)
    outcome = bench.run(delivery)
    assert (outcome.kind, outcome.delay) == ("later", 1.0)
    assert "app.coming" in caplog.text
    assert bench.stats.running == 0

    # It remembers when it was first seen, and comes back the later the longer it waits.
    delivery = replace(delivery, envelope=outcome.envelope, claimed_at=5010.0)
    outcome = bench.run(delivery)
    assert (outcome.kind, outcome.delay) == ("later", 10.0)
    delivery = replace(delivery, envelope=outcome.envelope, claimed_at=5599.0)
    outcome = bench.run(delivery)
    assert (outcome.kind, outcome.delay) == ("later", 30.0)
    assert decode(delivery.id, outcome.envelope).args == [1]

    # And is dead after ten minutes
    outcome = bench.run(replace(delivery, envelope=outcome.envelope, claimed_at=5600.0))
    error = error_of(outcome, "unknown")
    assert error["type"] == "UnknownTask"
    assert "app.coming" in error["message"]


@pytest.mark.parametrize("first_seen", ["nan", "inf", "1e300"])
def test_no_forged_time_puts_an_unknown_task_off_for_ever(bench: Bench, first_seen: str) -> None:
    delivery = raw(GOOD + f" unknown={first_seen}\n[[],{{}}]".encode())
    outcome = bench.run(delivery)
    assert outcome.envelope == GOOD + b" unknown=1000000.000\n[[],{}]"


def test_an_option_that_makes_no_sense_ends_the_message_not_the_worker(bench: Bench) -> None:
    error_of(bench.run(raw(GOOD + b" unknown=yesterday\n[[],{}]")), "internal")
    assert bench.stats.running == 0


def test_an_unknown_task_that_has_come_is_run(bench: Bench) -> None:
    delivery = delivery_of("late", 1)
    outcome = bench.run(delivery)
    bench.task(name="late")(lambda x: x)
    assert value_of(bench.run(replace(delivery, envelope=outcome.envelope))) == 1


@pytest.mark.parametrize("error", [OSError(), Snooze(3600)])
def test_what_has_run_is_put_off_anew_where_it_is_unknown(bench: Bench, error: Exception) -> None:
    """An hour after its run a worker may meet it that does not know it: of the former version, say."""

    @bench.task(name="late", retries=1)
    def runs() -> None:
        raise error

    known, delivery = bench.app.tasks.pop("late"), delivery_of("late")
    delivery = replace(delivery, envelope=bench.run(delivery).envelope)
    assert b" unknown=" in delivery.envelope
    bench.app.tasks["late"] = known
    delivery = replace(delivery, envelope=bench.run(delivery).envelope)
    del bench.app.tasks["late"]
    outcome = bench.run(replace(delivery, claimed_at=delivery.claimed_at + 3600))
    assert (outcome.kind, outcome.delay) == ("later", 1.0)


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"\x00\xff\xfe",
        b"2 0 0 5 1000 0 3600000 default t\n[[],{}]",
        GOOD,
        GOOD + b"\n",
        GOOD + b"\n[[],{}",
        GOOD + b"\n{}",
        GOOD + b"\n[[]]",
        GOOD + b"\n[{},[]]",
        GOOD + b"\n" + b"[" * 100_000 + b"]" * 100_000,
        GOOD + b"\n[[" + b" " * 1_000_001 + b"],{}]",
        b"1 0 0 5 1000 " + b"9" * 30 + b" 3600000 default t\n[[],{}]",
    ],
    ids=lambda envelope: repr(envelope[:60]),
)
def test_what_is_no_message_is_dead_and_says_why(bench: Bench, envelope: bytes) -> None:
    error = error_of(bench.run(raw(envelope)), "malformed")
    assert error["type"] == "MalformedMessage"
    assert bench.stats.running == 0


@pytest.mark.parametrize("args", [(), (1,), (1, 2, 3)])
def test_arguments_that_do_not_fit_are_dead_at_once(bench: Bench, args: tuple[int, ...]) -> None:
    name = bench.task(name="pair", retries=5)(lambda a, b: 0).name
    error = error_of(bench.run(delivery_of(name, *args)), "arguments")
    assert error["type"] == "BadArguments"
    assert "pair(a, b)" in error["message"]
    error = error_of(bench.run(delivery_of(name, 1, c=2)), "arguments")
    assert "'c'" in error["message"] or "'b'" in error["message"]


# What a task sees


def test_a_bound_task_is_passed_its_own_run(bench: Bench) -> None:
    @bench.task(bind=True, timeout=0)
    def bound(me: CurrentTask, x: int) -> list[Any]:
        return [me.id, me.name, me.queue, me.attempt, me.delivery, me.deadline, x]

    delivery = delivery_of(bound.name, 7, attempt=2, deliveries=1)
    assert value_of(bench.run(delivery)) == [delivery.id, bound.name, "default", 2, 2, None, 7]


def test_current_task_is_this_run_and_none_afterwards(bench: Bench) -> None:
    @bench.task
    def who() -> str:
        gevent.sleep(0)
        return current_task().id

    deliveries = [delivery_of(who.name) for _ in range(10)]
    greenlets = [bench.start(delivery) for delivery in deliveries]
    assert [value_of(it.get()) for it in greenlets] == [delivery.id for delivery in deliveries]

    # In the greenlet of a solo worker, too
    bench.executor.run(delivery_of(who.name))
    with pytest.raises(RuntimeError, match="current_task"):
        current_task()


def test_context_variables_do_not_leak_from_one_task_to_the_next(bench: Bench) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    local = threading.local()

    @bench.task
    def work(name: str) -> list[str]:
        found = [tenant.get(), getattr(local, "name", "nobody")]
        tenant.set(name)
        local.name = name
        gevent.sleep(0)
        return [*found, tenant.get(), local.name]

    def one_after_the_other() -> list[Any]:
        return [value_of(bench.run(delivery_of(work.name, name))) for name in ("a", "b")]

    assert gevent.spawn(one_after_the_other).get() == [
        ["nobody", "nobody", "a", "a"],
        ["nobody", "nobody", "b", "b"],
    ]


# What is logged


class Secretive:
    def __repr__(self) -> str:
        raise RuntimeError("I tell nothing")


def test_a_value_whose_repr_raises_is_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "greenworker.task")
    bench = Bench(log_values=True)

    @bench.task(ignore_result=True)
    def secretive() -> Secretive:
        return Secretive()

    assert bench.run(delivery_of(secretive.name, result_ttl=0.0)).kind == "done"


@pytest.mark.parametrize("log_values", [False, True])
def test_arguments_and_results_are_logged_only_on_request(
    log_values: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "greenworker.task")
    bench = Bench(log_values=log_values)
    name = bench.task(name="say")(lambda word, to: word.upper()).name
    bench.run(delivery_of(name, "canary", to="robin"))
    assert "say[" in caplog.text
    assert [word in caplog.text for word in ("canary", "robin", "CANARY")] == [log_values] * 3


# Signatures


def test_what_nobody_has_signed_is_not_even_parsed() -> None:
    signer = Signer(["a key of the senders"], "default")
    bench = Bench(verifier=signer)
    ran: list[int] = []

    @bench.task
    def note(n: int) -> None:
        ran.append(n)

    assert bench.run(signed(delivery_of(note.name, 1), signer)).kind == "done"
    for bad in (delivery_of(note.name, 2), raw(GOOD + b"\n" + b"[" * 1000), raw(b"garbage")):
        assert error_of(bench.run(bad), "signature")["type"] == "BadSignature"
    body = raw(GOOD + b"\n[[3]")
    assert error_of(bench.run(signed(body, signer)), "malformed")["type"] == "MalformedMessage"
    assert ran == [1]


def test_without_keys_nothing_is_between_a_message_and_its_decoding(bench: Bench) -> None:
    assert bench.executor._decode is decode


# Hostile heads: whatever lies in Redis ends as an Outcome


@pytest.mark.parametrize("ttl", [b"9" * 400, b"9" * 5000, b"-1", b"x", b""])
def test_a_time_to_live_that_is_none_ends_as_a_dead_letter(bench: Bench, ttl: bytes) -> None:
    outcome = bench.run(raw(b"1 0 0 5 1000 0 %b default t\n[[" % ttl))
    assert error_of(outcome, "malformed")["type"] == "MalformedMessage"


def test_names_and_errors_from_outside_write_no_lines_of_their_own(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks() -> None:
        raise ValueError("a page said \x1b[2J\r\nERROR all is lost \u202e")

    with caplog.at_level(logging.INFO, "greenworker"):
        bench.call(breaks)
        bench.run(raw(b"1 0 0 5 1000 0 0 default a%0AERROR%1B[2J\n[[],{}]"))
        bench.run(raw(b"1 0 0 5 1000 0 0 default a%0AERROR%1B[2J\n[[]"))
        bench.run(raw(b"1 0 0 5 1000 0 0 default " + b"a" * 500_000 + b"\n[[],{}]"))
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 1000
    assert "a page said \\x1b[2J ERROR all is lost \\u202e" in caplog.text


def test_an_error_whose_traceback_cannot_be_had(bench: Bench) -> None:
    class Rude(Exception):
        @property
        def __cause__(self) -> None:  # type: ignore[override]
            raise RuntimeError

    def breaks() -> None:
        raise Rude("no")

    error = error_of(bench.call(breaks))
    assert (error["message"], error["traceback"]) == ("no", "(its traceback cannot be had)")


# What log lines tell


@pytest.mark.parametrize("log_values", [False, True])
@pytest.mark.parametrize("sensitive", [False, True])
def test_log_lines_tell_values_only_when_they_may(
    caplog: pytest.LogCaptureFixture, log_values: bool, sensitive: bool
) -> None:
    bench = Bench(log_values=log_values)

    @bench.task(sensitive=sensitive)
    def echo(value: str) -> str:
        return f"{value} back"

    with caplog.at_level(logging.DEBUG):
        bench.run(delivery_of(echo.name, "c4n4ry"))
        bench.run(delivery_of(echo.name, value="c4n4ry"))
    assert ("c4n4ry" in caplog.text) == (log_values and not sensitive)


def test_an_error_of_a_sensitive_task_is_logged_as_its_type_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(log_values=True)

    @bench.task(sensitive=True, retries=1)
    def breaks(secret: str) -> None:
        raise ValueError(f"cannot use {secret}")

    @bench.task(sensitive=True)
    def odd(secret: str) -> Any:
        return {secret: {secret}}

    with caplog.at_level(logging.DEBUG):
        assert bench.run(delivery_of(breaks.name, "c4n4ry")).kind == "retry"
        failed = bench.run(delivery_of(breaks.name, "c4n4ry", attempt=1))
        bench.run(delivery_of(breaks.name, c4n4ry="c4n4ry"))  # does not fit
        bench.run(delivery_of(odd.name, "c4n4ry"))  # nor does its result
        bench.run(raw(f"1 0 0 5 1000 0 c4n4ry default {breaks.name}\n[[]".encode()))
    assert "c4n4ry" not in caplog.text
    for told in ("retry in", "ValueError", "BadArguments", "NotEncodable", "MalformedMessage"):
        assert told in caplog.text
    # Whoever may read the result, or the dead letter, is told all.
    assert error_of(failed)["message"] == "cannot use c4n4ry"
