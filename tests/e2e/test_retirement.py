"""A worker that has done its part drains, says why and exits with 0, for a supervisor to restart."""

from __future__ import annotations

import pytest

from greenworker import State
from greenworker.errors import TaskFailed
from tests.e2e.conftest import Project
from tests.support.eventually import eventually


def test_max_tasks(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def work(n):
            note(n)
            time.sleep(0.05)
            return n
    """)
    sent = tasks.work.delay_many((n,) for n in range(25))
    worker = project.worker("-c", "4", "--max-tasks", "10", ready=False)
    assert worker.wait() == 0
    worker.wait_for("retiring: 10 tasks were begun")
    assert len(project.notes) == 10
    states = [result.state for result in sent]
    assert (states.count(State.SUCCESS), states.count(State.PENDING)) == (10, 15)
    assert "(no worker)" in project.run("status", "-A", "tasks").stdout


def test_max_memory(project: Project) -> None:
    tasks = project.module("""
        kept = []

        @app.task
        def leak():
            kept.append(bytearray(200 << 20))
            wait_for("go")
            return "finished"
    """)
    worker = project.worker("--max-memory", "150M", "--grace", "60")
    leak = tasks.leak.delay()
    worker.wait_for("retiring:")
    worker.wait_for("MiB of memory used, more than 150 MiB")
    # What runs is finished
    project.allow("go")
    assert worker.wait() == 0
    assert leak.get(timeout=5) == "finished"


def test_max_stuck(project: Project) -> None:
    tasks = project.module("""
        @app.task(timeout=0.05)
        def stubborn():
            while True:
                try:
                    time.sleep(600)
                except BaseException:
                    pass

        @app.task
        def hello():
            return "hello"
    """)
    worker = project.worker("-c", "2", "--max-stuck", "2", "--grace", "600")
    # Two of them leave all slots free
    for _ in range(2):
        with pytest.raises(TaskFailed, match="ignores it"):
            tasks.stubborn.delay().get(timeout=20)
    assert [tasks.hello.delay().get(timeout=20) for _ in range(5)] == ["hello"] * 5
    assert worker.running
    # The third one is too much; nobody waits for what cannot be ended
    tasks.stubborn.delay()
    assert worker.wait() == 0
    worker.wait_for("retiring: 3 tasks ignore their timeout and cannot be ended, more than 2")
    assert set(eventually(project.dead).values()) == {"stuck"}
