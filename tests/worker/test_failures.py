"""on_failure: a person hears of each message that has failed for good, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event

from greenworker import App, DeadLetter
from greenworker.errors import ConfigError, TaskFailed
from greenworker.worker import Worker, failures
from tests.support.eventually import eventually
from tests.support.state import Space
from tests.worker.conftest import Start


@pytest.fixture
def letters(app: App) -> list[DeadLetter]:
    """What was told."""
    told: list[DeadLetter] = []
    app.on_failure(told.append)
    return told


def test_it_is_the_dead_letter_that_is_there(
    app: App, start: Start, letters: list[DeadLetter]
) -> None:
    @app.task(retries=2, backoff=0)
    def breaks(n: int) -> None:
        raise ValueError(f"no page {n}")

    @app.task
    def works() -> None: ...

    worker = start(name="me")
    sent = breaks.delay(7)
    works.delay().get(timeout=10)
    eventually(lambda: letters)
    worker.stop()
    (letter,) = letters
    assert letter == app.dead.get(sent.id)
    assert (letter.id, letter.task, letter.args) == (sent.id, breaks.name, [7])
    assert (letter.error, letter.message) == ("ValueError", "no page 7")
    assert (letter.attempt, letter.worker, letter.reason) == (2, "me", "failed")


def test_what_never_ran_and_what_killed_its_workers_is_told_too(
    app: App, start: Start, space: Space, letters: list[DeadLetter]
) -> None:
    # Given one that is no message, and one that has killed four workers and is alone on the fifth
    space.redis.hset(space.root + "msg", "raw", "1 0 0 5 1000 0 3600000 default t\n[[")
    space.redis.lpush(space.root + "ready:default:5", "raw")
    space.redis.hset(space.root + "msg", "poison", "1 4 0 5 1000 0 3600000 default t\n[[],{}]")
    space.redis.hset(space.root + "processing:gone", "poison", 1)
    space.redis.sadd(space.root + "corpses", "gone")
    space.redis.sadd(space.root + "suspected:gone", "poison")
    space.redis.set(space.root + "solitary:gone", "poison")
    start()
    eventually(lambda: len(letters) == 2)
    assert {letter.id: letter.reason for letter in letters} == {
        "raw": "malformed",
        "poison": "poison",
    }


def test_errors_of_the_function_are_logged_and_the_others_are_called(
    app: App, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_PATIENCE", 0.05)
    ends: list[Callable[[], object]] = [Event().wait, lambda: 1 / 0, lambda: exit("never")]
    told: list[str] = []
    for end in ends:
        app.on_failure(lambda letter, end=end: end())  # type: ignore[misc]

    @app.on_failure
    def last(letter: DeadLetter) -> None:
        told.append(letter.id)

    @app.task
    def breaks() -> None:
        raise ValueError

    start()
    sent = [breaks.delay().id for _ in range(2)]
    eventually(lambda: told == sent)
    lines = [one.getMessage() for one in caplog.records if one.getMessage().startswith("on_f")]
    name = f"on_failure, of {breaks.name}[{sent[0]}]: "
    assert lines[:3] == [
        f"{name}takes more than 0.05 s",
        f"{name}failed: ZeroDivisionError: division by zero",
        f"{name}failed: SystemExit: never",
    ]
    assert app.status().dead == 2


def test_one_that_takes_its_time_delays_no_task(app: App, start: Start) -> None:
    slow, told = Event(), []

    @app.on_failure
    def tell(letter: DeadLetter) -> None:
        slow.wait()
        told.append(letter.id)

    @app.task
    def breaks() -> None:
        raise ValueError

    @app.task
    def works() -> int:
        return 1

    worker = start(concurrency=1)
    for sent in [breaks.delay() for _ in range(5)]:
        with pytest.raises(TaskFailed):
            sent.get(timeout=10)
    assert works.delay().get(timeout=10) == 1
    # A stop gives it what is left of the grace
    gevent.spawn_later(0.05, slow.set)
    worker.stop(timeout=30)
    assert len(told) == 5


def test_a_stop_does_not_wait_for_one_that_hangs(
    app: App, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    entered = Event()

    @app.on_failure
    def tell(letter: DeadLetter) -> None:
        entered.set()
        Event().wait()

    @app.task
    def breaks() -> None:
        raise ValueError

    worker = start()
    breaks.delay()
    assert entered.wait(10)
    breaks.delay()
    eventually(lambda: app.status().dead == 2)
    with gevent.Timeout(20):
        worker.stop(timeout=0)
    assert "1 dead letters were told to no on_failure" in caplog.text


def test_one_that_ignores_its_end_keeps_neither_the_others_nor_a_stop_waiting(
    app: App, start: Start, letters: list[DeadLetter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_PATIENCE", 0.05)
    over = Event()

    @app.on_failure
    def tell(letter: DeadLetter) -> None:
        while not over.is_set():  # until the mail server is there
            try:
                over.wait()
            except BaseException:
                pass

    @app.task
    def breaks() -> None:
        raise ValueError

    worker = start()
    sent = [breaks.delay().id for _ in range(2)]
    eventually(lambda: [letter.id for letter in letters] == sent)
    monkeypatch.setattr(failures, "_PATIENCE", 1000)
    breaks.delay()
    eventually(lambda: len(letters) == 3)
    with gevent.Timeout(30):
        worker.stop(timeout=0)
    over.set()


def test_without_any_nothing_is_remembered(app: App, start: Start) -> None:
    @app.task
    def breaks() -> None:
        raise ValueError

    worker = start()
    breaks.delay()
    eventually(lambda: app.status().dead == 1)
    eventually(lambda: not worker._membership.current.held)  # the settler has heard of it
    assert not worker.failures._waiting


def test_what_cannot_be_read_keeps_nobody_behind_it(
    app: App, start: Start, letters: list[DeadLetter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_AT_ONCE", 1)

    @app.task
    def breaks() -> None:
        raise ValueError

    worker = start()
    worker.failures.add(7)  # type: ignore[arg-type]
    sent = breaks.delay()
    eventually(lambda: [letter.id for letter in letters] == [sent.id])


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes a function of one dead letter"):
        App().on_failure("mail@example.com")  # type: ignore[type-var]


def test_whose_outcome_did_not_count_is_not_told(
    app: App, start: Start, space: Space, letters: list[DeadLetter]
) -> None:
    go = Event()

    @app.task
    def breaks() -> None:
        go.wait()
        raise ValueError

    worker: Worker = start()
    sent = breaks.delay()
    eventually(lambda: sent.state == "STARTED")
    # When somebody else has taken it from this worker
    space.redis.hset(space.root + f"processing:{worker._membership.current.id}", sent.id, 99)
    go.set()
    eventually(lambda: not worker.settler._pending and worker.stats.failed)
    worker.stop(timeout=0)
    assert letters == []
