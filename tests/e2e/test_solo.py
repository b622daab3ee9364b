"""--solo: one task at a time in the main greenlet, where a debugger can hold it."""

from __future__ import annotations

import subprocess
import sys
from signal import SIGTERM, SIGTTIN

from greenworker import State
from tests.e2e.conftest import Project
from tests.support.process import environment


def test_a_breakpoint_in_a_task(project: Project) -> None:
    tasks = project.module("""
        @app.task(timeout=0.5)
        def double(n):
            answer = 2 * n
            breakpoint()
            return answer
    """)
    result = tasks.double.delay(21)
    # pdb reads what is typed, and the time limit does not hurry it
    done = subprocess.run(
        [sys.executable, "-m", "greenworker", "--solo", "--burst", "tasks"],
        input="import time; time.sleep(0.7)\np 'answer', answer\np current_task().id\nc\n",
        cwd=project.folder,
        env=environment(),
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "('answer', 42)" in done.stdout
    assert f"'{result.id}'" in done.stdout
    assert "concurrency  one at a time, in the main greenlet" in done.stderr
    assert result.get(timeout=10) == 42


def test_stdout_is_bare(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def talk(): print("hello")
    """)
    tasks.talk.delay()
    done = project.run("--solo", "--burst", "tasks")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def test_one_at_a_time(project: Project) -> None:
    tasks = project.module("""
        import gevent
        main, running = gevent.getcurrent(), 0

        @app.task
        def alone():
            global running
            running += 1
            time.sleep(0.01)
            together, running = running, 0
            return [together, gevent.getcurrent() is main]
    """)
    results = tasks.alone.delay_many([()] * 20)
    worker = project.worker("--solo", "-c", "50")
    assert [result.get(timeout=20) for result in results] == [[1, True]] * 20
    # And it ends as others do
    worker.signal(SIGTERM)
    assert worker.wait() == 0


def test_a_second_signal_releases_what_hangs(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def hang():
            wait_for("go")
            return current_task().delivery
    """)
    hang = tasks.hang.delay()
    worker = project.worker("--solo", "--grace", "600")
    worker.wait_for("received")
    worker.signal(SIGTTIN)
    worker.wait_for(f"tasks.hang[{hang.id}]:")
    worker.wait_for("in wait_for")
    worker.signal(SIGTERM)
    worker.wait_for("stopping: 1 running")
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    assert hang.state is State.PENDING


def test_the_grace_ends_what_hangs(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def hang(): wait_for("go")
    """)
    hang = tasks.hang.delay()
    worker = project.worker("--solo", "--grace", "0.3")
    worker.wait_for("received")
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    assert hang.state is State.PENDING
