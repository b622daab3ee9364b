"""Signals to the real command, and how it ends."""

from __future__ import annotations

from signal import SIGCONT, SIGINT, SIGTERM, SIGTSTP, SIGTTIN

import pytest

from greenworker import State
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.server import Server

TASKS = """
    @app.task
    def hold(n):
        wait_for("go")
        return [n, current_task().delivery, current_task().attempt, os.getpid()]

    @app.task
    def who():
        return os.getpid()
"""


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_an_idle_worker_ends_at_once(project: Project, number: int) -> None:
    project.write(TASKS)
    worker = project.worker("--grace", "600")
    worker.signal(number)
    assert worker.wait() == 0
    assert "stopping: 0 running, 600 s to finish" in worker.output
    assert "Traceback" not in worker.output
    # It has said goodbye: nobody has to wait for its lease to run out
    assert "(no worker)" in project.run("status", "-A", "tasks").stdout


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_what_runs_is_finished(project: Project, number: int) -> None:
    # Given 20 tasks that run, and 20 that wait
    tasks = project.module(TASKS)
    worker = project.worker("-c", "20", "--grace", "600")
    sent = tasks.hold.delay_many((n,) for n in range(40))
    worker.wait_for("received", times=20)
    # When the signal comes while they run
    worker.signal(number)
    worker.wait_for("stopping: 20 running")
    project.allow("go")
    # Then these 20 have ended, and of the others none was begun
    assert worker.wait() == 0
    project.check()
    states = [result.state for result in sent]
    assert states == [State.SUCCESS] * 20 + [State.PENDING] * 20
    assert [result.get(timeout=5)[0] for result in sent[:20]] == list(range(20))
    assert worker.output.count("received") == 20


def test_what_never_ends_is_released_at_the_grace_and_charged_nothing(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("--grace", "0.3")
    sent = tasks.hold.delay_many((n,) for n in range(50))
    worker.wait_for("received", times=50)
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    project.check()
    assert {result.state for result in sent} == {State.PENDING}
    # They run elsewhere, as if they had never been claimed
    project.allow("go")
    other = project.worker()
    assert [result.get(timeout=20) for result in sent] == [[n, 1, 0, other.pid] for n in range(50)]


def test_a_second_signal_releases_now(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("--grace", "600")
    sent = tasks.hold.delay_many((n,) for n in range(50))
    worker.wait_for("received", times=50)
    worker.signal(SIGTERM)
    worker.wait_for("stopping: 50 running, 600 s to finish")
    worker.signal(SIGINT)
    worker.wait_for("stopping now: what runs is released")
    assert worker.wait() == 0
    project.check()
    assert {result.state for result in sent} == {State.PENDING}
    project.allow("go")
    project.worker()
    assert {tuple(result.get(timeout=20)[1:3]) for result in sent} == {(1, 0)}


def test_a_task_that_swallows_its_release_cannot_hold_up_the_end(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def stubborn():
            while not Path("go").exists():
                try:
                    time.sleep(600)
                except BaseException:
                    pass
            return current_task().delivery
    """)
    worker = project.worker("--grace", "0")
    stubborn = tasks.stubborn.delay()
    worker.wait_for("received")
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    project.allow("go")
    project.worker()
    assert stubborn.get(timeout=20) == 1


def test_quiet_and_resume(project: Project) -> None:
    # Given a worker that is quiet, with a task under way
    tasks = project.module(TASKS)
    first = project.worker()
    held = tasks.hold.delay(1)
    first.wait_for("received")
    first.signal(SIGTSTP)
    first.wait_for("quiet: claiming nothing more")
    # Then what is sent runs elsewhere, and what was under way goes on
    second = project.worker()
    ran = [result.get(timeout=20) for result in tasks.who.delay_many([()] * 20)]
    assert set(ran) == {second.pid}
    project.allow("go")
    assert held.get(timeout=20)[3] == first.pid
    # When it resumes, it works again
    second.kill()
    first.signal(SIGCONT)
    first.wait_for("resuming")
    assert tasks.who.delay().get(timeout=20) == first.pid
    # And a quiet worker can be stopped
    first.signal(SIGTSTP)
    first.signal(SIGTERM)
    assert first.wait() == 0


def test_ttin_shows_what_runs(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def outer():
            inner()

        def inner():
            wait_for("go")

        @app.task
        def other():
            wait_for("go")
    """)
    worker = project.worker()
    sent = [tasks.outer.delay(), tasks.other.delay()]
    worker.wait_for("received", times=2)
    worker.signal(SIGTTIN)
    worker.wait_for("2 running")
    dump = eventually(lambda: worker.output.count("in wait_for") == 2 and worker.output)
    assert f"tasks.outer[{sent[0].id}]:" in dump
    assert f"tasks.other[{sent[1].id}]:" in dump
    assert "in inner" in dump
    # And it goes on
    project.allow("go")
    assert [result.get(timeout=20) for result in sent] == [None, None]


@pytest.mark.parametrize("stopped", [False, True])
def test_an_end_while_the_server_is_away(
    own_server: Server, own_project: Project, stopped: bool
) -> None:
    # Given five tasks that end while the server is away: dead, or silent
    tasks = own_project.module(TASKS)
    worker = own_project.worker("--grace", "1")
    tasks.hold.delay_many([(n,) for n in range(5)], results=False)
    worker.wait_for("received", times=5)
    own_server.stop_process() if stopped else own_server.kill()
    own_project.allow("go")
    worker.wait_for("succeeded", times=5)
    # When it is told to stop, it ends, and says what could not be settled
    worker.signal(SIGTERM)
    assert worker.wait() == 1
    worker.wait_for("5 outcomes could not be settled: their tasks will run again")
    assert "Traceback" not in worker.output


def test_a_second_signal_does_not_wait_for_a_server_that_is_silent(
    own_server: Server, own_project: Project
) -> None:
    # Given five tasks that end while the server is frozen, and a stop with all the time there is
    tasks = own_project.module(TASKS)
    worker = own_project.worker("--grace", "600")
    tasks.hold.delay_many([(n,) for n in range(5)], results=False)
    worker.wait_for("received", times=5)
    own_server.stop_process()
    own_project.allow("go")
    worker.wait_for("succeeded", times=5)
    worker.signal(SIGTERM)
    worker.wait_for("stopping: 0 running, 600 s to finish")
    # When a second signal comes, it ends while the server is still frozen
    worker.signal(SIGTERM)
    worker.wait_for("stopping now")
    assert worker.wait() == 1
    worker.wait_for("5 outcomes could not be settled: their tasks will run again")
    assert "Traceback" not in worker.output
