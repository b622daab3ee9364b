"""Service: a loop that starts and stops in any order, and never dies silently or runs hot."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event

from greenworker.errors import BrokerUnavailable
from greenworker.worker.service import Service
from tests.support.eventually import eventually


class Counter(Service):
    """Counts its steps and what runs at once; each step does what the test wants."""

    name = "counter"

    def __init__(
        self, every: float | None = 0.001, do: Callable[[], float | None] = lambda: None
    ) -> None:
        super().__init__(every)
        self.steps = 0
        self.loops = 0
        self._do = do

    def step(self) -> float | None:
        self.steps += 1
        return self._do()

    def run(self) -> None:
        self.loops += 1
        try:
            super().run()
        finally:
            self.loops -= 1


ORDERS = sorted(set(itertools.permutations(["start", "start", "stop", "stop", "wait"])))


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_start_and_stop_in_every_order(order: tuple[str, ...]) -> None:
    service = Counter()
    running = False
    for what in order:
        if what == "wait":
            gevent.sleep(0)
        else:
            getattr(service, what)()
            running = what == "start"
    before = service.steps
    if running:
        eventually(lambda: service.steps > before)
        assert service.loops == 1
    service.stop()
    after = service.steps
    gevent.sleep(0.01)
    assert (service.loops, service.steps) == (0, after)


def test_stop_lets_the_step_under_way_finish() -> None:
    ended: list[str] = []

    def slow() -> None:
        gevent.sleep(0.05)
        ended.append("step")

    service = Counter(do=slow)
    service.start()
    eventually(lambda: service.steps == 1)
    service.stop()
    assert ended == ["step"]


def test_stop_kills_what_has_not_ended_in_time() -> None:
    service = Counter(do=lambda: gevent.sleep(60))
    service.start()
    eventually(lambda: service.steps == 1)
    service.stop(timeout=0.01)
    assert service.loops == 0


def test_a_service_may_stop_itself() -> None:
    service = Counter(do=lambda: service.stop())
    service.start()
    eventually(lambda: service.steps == 1 and service.loops == 0)


def test_it_waits_for_its_interval_and_wake_cuts_that_short() -> None:
    service = Counter(every=60.0)
    service.start()
    eventually(lambda: service.steps == 1)
    service.wake()
    eventually(lambda: service.steps == 2)
    service.stop()
    assert service.steps == 2


def test_without_an_interval_it_runs_only_when_woken_and_misses_no_call() -> None:
    again = Event()

    def wake_while_it_runs() -> None:
        if not again.is_set():
            again.set()
            service.wake()

    service = Counter(every=None, do=wake_while_it_runs)
    service.start()
    eventually(lambda: service.steps == 2)
    service.stop()


def test_a_step_that_answers_0_is_repeated_and_lets_others_run() -> None:
    service = Counter(every=60.0, do=lambda: 0.0)
    service.start()
    eventually(lambda: service.steps > 100)
    service.stop()


@pytest.mark.parametrize(
    "error", [BrokerUnavailable("the server is away"), RuntimeError("a bug"), AssertionError()]
)
def test_it_never_dies_of_an_exception_and_never_runs_hot(error: Exception) -> None:
    failing = True

    def step() -> float:
        if failing:
            raise error
        return 0.01

    service = Counter(do=step)
    service.start()
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        service.wake()  # nobody can wake it into a hot loop
        gevent.sleep(0.001)
    assert service.steps <= 5
    eventually(lambda: service.steps >= 2)

    failing = False
    before = service.steps
    eventually(lambda: service.steps > before + 2)
    service.stop()


def failing_for(times: int, error: Exception) -> Counter:
    left = [error] * times

    def step() -> float:
        if left:
            raise left.pop()
        return 60.0

    return Counter(do=step)


def run_until_well(service: Service, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Its log lines until it goes on."""
    service.start()
    eventually(lambda: f"{service.name}: goes on" in caplog.text)
    service.stop()
    return [f"{it.levelname} {it.getMessage()}" for it in caplog.records]


def test_an_outage_is_told_once_by_one_service(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "greenworker")
    loud, discreet = (failing_for(3, BrokerUnavailable("away")) for _ in range(2))
    loud.announces_outage = True
    assert [it for it in run_until_well(loud, caplog) if not it.startswith("DEBUG")] == [
        "WARNING counter: away; trying again",
        "INFO counter: goes on",
    ]
    caplog.clear()
    assert {it.split()[0] for it in run_until_well(discreet, caplog)} == {"DEBUG"}


def test_an_error_that_lasts_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "greenworker")
    lines = run_until_well(failing_for(3, ValueError("wrong")), caplog)
    assert [line for line in lines if line.startswith("ERROR")] == [
        "ERROR counter: wrong; trying again"
    ]


def test_errors_that_come_and_go_are_told_once_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two keys of a wrong type, say, each met every few seconds, with steps between that succeed."""
    monkeypatch.setattr("greenworker.worker.service._FIRST_PAUSE", 0.001)
    ends = itertools.cycle([ValueError("one"), None, ValueError("other"), None])

    def step() -> None:
        error = next(ends)
        if error is not None:
            raise error

    def errors() -> list[str]:
        return [it.getMessage() for it in caplog.records if it.levelno == logging.ERROR]

    caplog.set_level(logging.DEBUG, "greenworker")
    service = Counter(do=step)
    service.start()
    eventually(lambda: service.steps > 20)
    assert errors() == ["counter: one; trying again", "counter: other; trying again"]
    # One that has not been seen for long is news again
    monkeypatch.setattr("greenworker.worker.service._NEWS_AFTER", 0.0)
    eventually(lambda: len(errors()) > 2)
    service.stop()


def test_however_many_errors_there_are_few_are_kept() -> None:
    service = Counter()
    assert all(service._is_news(f"error {n}") for n in range(1000))
    assert len(service._seen) <= 100


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_a_bug_shows_its_traceback_at_debug_only(
    level: int, shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = failing_for(1, RuntimeError("a bug"))
    service.announces_outage = True
    caplog.set_level(level, "greenworker")
    assert "ERROR counter: a bug; trying again" in run_until_well(service, caplog)
    assert ("Traceback" in caplog.text) == shown


def test_a_stop_in_the_pause_after_an_error_waits_no_longer_than_told() -> None:
    service = failing_for(9, BrokerUnavailable("away"))
    service.start()
    eventually(lambda: service.steps == 1)
    service.stop(timeout=0.01)
    assert service.loops == 0


@pytest.mark.parametrize("error", [gevent.GreenletExit(), gevent.Timeout(1), KeyboardInterrupt()])
def test_whatever_ends_it_it_lives_on(
    error: BaseException, caplog: pytest.LogCaptureFixture, stray_errors: list[str]
) -> None:
    service = Counter()
    service.start()
    for _ in range(2):
        eventually(lambda: service.loops == 1)
        assert service._greenlet is not None
        service._greenlet.kill(error)
        before = service.steps
        eventually(lambda before=before: service.steps > before + 2)
    assert "counter: was ended by" in caplog.text
    service.stop()
    after = service.steps
    gevent.sleep(0.3)
    assert (service.loops, service.steps) == (0, after)
    stray_errors.clear()


def test_one_that_is_killed_before_it_began_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    service = Counter()
    service.start()
    assert service._greenlet is not None
    service._greenlet.kill()
    eventually(lambda: service.steps > 2)
    service.stop()


def test_one_that_was_killed_can_be_stopped_before_it_lives_again() -> None:
    service = Counter()
    service.start()
    eventually(lambda: service.loops == 1)
    assert service._greenlet is not None
    service._greenlet.kill()
    service.stop()
    gevent.sleep(0.3)
    assert service.loops == 0
