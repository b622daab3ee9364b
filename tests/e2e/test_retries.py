"""Retries, as their user meets them: what is tried again, when, and what can be seen of it meanwhile."""

from __future__ import annotations

import signal

import pytest

from greenworker.errors import ResultGone, TaskFailed
from greenworker.message import State
from tests.e2e.conftest import Project
from tests.support.eventually import eventually

TASKS = """
    from greenworker import Ignore, Reject, Snooze

    def tries(name):
        note(name)
        return Path("notes").read_text().splitlines().count(name)
"""


def test_a_retry_can_be_seen_while_it_waits(project: Project) -> None:
    tasks = project.module("""
        @app.task(retries=3, backoff=[600])
        def breaks():
            note(f"{current_task().attempt} {current_task().last_error}")
            raise OSError("the line is\\nbusy")
    """)
    project.worker()
    result = tasks.breaks.delay()
    assert eventually(lambda: result.state is State.RETRY)
    info = result.info()
    assert (info.state, info.attempt) == (State.RETRY, 1)
    assert info.last_error == "OSError: the line is busy"
    assert info.due_in is not None
    assert 500 < info.due_in <= 600
    # The next attempt knows of it as well
    project.redis.zadd(project.root + "scheduled", {result.id: 1})
    eventually(lambda: result.info().attempt == 2)
    assert project.notes == ["0 ", "1 OSError: the line is busy"]


def test_delays_are_those_of_the_list_or_of_the_function(project: Project) -> None:
    tasks = project.module("""
        @app.task(retries=3, backoff=[0, 0.1])
        def listed(): raise OSError

        @app.task(retries=3, backoff=lambda retry: retry / 100)
        def computed(): raise OSError

        @app.task(retries=1, backoff=lambda retry: "soon")
        def nonsense(): raise OSError
    """)
    worker = project.worker()
    for task in (tasks.listed, tasks.computed):
        with pytest.raises(TaskFailed):
            task.delay().get(timeout=30)
    worker.wait_for(" retry in ", times=6)
    waits = [line.split(" retry in ")[1] for line in worker.lines if " retry in " in line]
    assert waits[:3] == ["0.0 s: OSError", "0.1 s: OSError", "0.1 s: OSError"]
    assert waits[3:] == ["0.0 s: OSError"] * 3
    # What a function says that is none costs no attempt
    tasks.nonsense.delay()
    worker.wait_for(
        "tasks.nonsense: its backoff failed: ValueError: it answered 'soon' for retry 1"
    )
    eventually(lambda: tasks.app.status().dead == 3)


def test_a_task_says_itself_how_its_run_ends(project: Project) -> None:
    tasks = project.module(
        TASKS
        + """
    @app.task(retries=5)
    def rejects():
        tries("rejects")
        raise Reject("no such customer")

    @app.task
    def ignores():
        raise Ignore

    @app.task
    def snoozes():
        if tries("snoozes") < 3:
            raise Snooze(0.05)
        return current_task().attempt

    @app.task(retries=2)
    def asks():
        if tries("asks") < 3:
            current_task().retry(countdown=0.05)
        return current_task().attempt

    @app.task(retries=1, backoff=0)
    def gives_up():
        try:
            raise ConnectionError("nobody there")
        except OSError:
            current_task().retry(countdown=0)
    """
    )
    worker = project.worker()
    rejected = tasks.rejects.delay()
    with pytest.raises(TaskFailed, match="Reject: no such customer"):
        rejected.get(timeout=30)
    assert tasks.app.dead.get(rejected.id).reason == "rejected"
    assert project.notes.count("rejects") == 1

    assert tasks.snoozes.delay().get(timeout=30) == 0
    assert tasks.asks.delay().get(timeout=30) == 2
    with pytest.raises(TaskFailed, match="ConnectionError: nobody there"):
        tasks.gives_up.delay().get(timeout=30)

    ignored = tasks.ignores.delay()
    worker.wait_for(f"tasks.ignores[{ignored.id}] ignored")
    eventually(lambda: tasks.app.status().waiting + tasks.app.status().running == 0)
    with pytest.raises(ResultGone):
        ignored.get(timeout=30)
    assert project.audit().well
    counters = tasks.app.status().counters
    assert (counters["retried"], counters["done"], counters["dead"]) == (3, 3, 2)


def test_what_is_never_worth_another_attempt(project: Project) -> None:
    tasks = project.module(
        TASKS
        + """
    @app.task(retries=5, retry_for=OSError, no_retry_for=(FileNotFoundError, PermissionError), backoff=0)
    def reads(name):
        tries(name)
        raise {"gone": FileNotFoundError, "busy": TimeoutError, "odd": ValueError}[name]
    """
    )
    project.worker()
    for name in ("gone", "busy", "odd"):
        with pytest.raises(TaskFailed):
            tasks.reads.delay(name).get(timeout=30)
    assert sorted(project.notes) == ["busy"] * 6 + ["gone", "odd"]


def test_attempts_are_neither_lost_nor_doubled_by_kills(project: Project) -> None:
    """The retry is one step with the ack: killed at any moment, a message is retried or redelivered."""
    tasks = project.module("""
        @app.task(retries=3, backoff=[0.05])
        def flaky(n):
            note(f"{n} {current_task().attempt}")
            if current_task().attempt < 3:
                raise OSError
            return n
    """)
    results = tasks.flaky.delay_many([(n,) for n in range(300)])
    for _ in range(3):
        worker = project.worker("-c", "20", "--lease", "1")
        so_far = len(project.notes)
        eventually(lambda so_far=so_far: len(project.notes) > so_far + 50)
        worker.signal(signal.SIGKILL)
        worker.wait()
    project.worker("-c", "20", "--lease", "1")
    assert [result.get(timeout=60) for result in results] == list(range(300))
    seen = {tuple(map(int, line.split())) for line in project.notes}
    assert seen == {(n, attempt) for n in range(300) for attempt in range(4)}
    assert tasks.app.status().counters["retried"] == 900
    assert project.audit().well
