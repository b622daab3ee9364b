"""--burst: run what waits or is soon due, then exit 0."""

from __future__ import annotations

from greenworker import State
from tests.e2e.conftest import Project


def test_it_drains_with_retries_and_what_is_due(project: Project) -> None:
    tasks = project.module("""
        @app.task(retries=3, backoff=0.05)
        def third_time():
            if current_task().attempt < 2:
                raise ValueError("not yet")
            return current_task().attempt

        @app.task
        def parent(n):
            if n:
                parent.delay(n - 1)
            return n

        @app.task
        def fail(): raise LookupError
    """)
    retried, failed, parent = tasks.third_time.delay(), tasks.fail.delay(), tasks.parent.delay(20)
    soon = tasks.parent.apply_async((0,), countdown=0.5)
    later = tasks.parent.apply_async((0,), countdown=600)
    done = project.run("--burst", "tasks")
    assert done.returncode == 0, done.stderr
    assert (retried.get(timeout=1), parent.get(timeout=1), soon.get(timeout=1)) == (2, 20, 0)
    assert failed.state is State.FAILURE
    assert later.state is State.SCHEDULED
    assert done.stderr.count("tasks.parent[") == 2 * 22
    status = tasks.app.status()
    assert (status.waiting, status.running, status.scheduled, status.workers) == (0, 0, 1, [])


def test_nothing_to_do(project: Project) -> None:
    project.write("@app.task\ndef f(): ...")
    assert project.run("--burst", "tasks").returncode == 0
    assert project.run("--burst", "--solo", "tasks").returncode == 0
