"""The number of Redis connections of a worker is the same few, whatever its concurrency."""

from __future__ import annotations

import time
from collections import Counter

from greenworker import keys
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.process import Command


def connections(project: Project) -> Counter[str]:
    """How many connections of which name the server has."""
    names = (client["name"] for client in project.redis.client_list())
    return Counter(name for name in names if name.startswith("greenworker"))


def done(project: Project) -> int:
    """How many tasks have ended well."""
    return int(project.redis.hget(keys.stats(project.root), "done") or 0)


def most_under_load(project: Project, concurrency: str) -> Counter[str]:
    """The most connections of each name while a worker runs tasks that send and await tasks."""
    tasks = project.module("""
        @app.task(ignore_result=True)
        def leaf():
            time.sleep(0.01)

        @app.task
        def answer():
            return 42

        @app.task(ignore_result=True)
        def tree():
            for _ in range(3):
                leaf.delay()

        @app.task
        def ask():
            return answer.delay().get(timeout=60, allow_in_task=True)
    """)
    goal = done(project) + 2 + 500 + 3 * 500
    tasks.ask.delay()
    tasks.tree.delay_many([()] * 500, results=False)
    tasks.app.close()  # from here on every connection is the worker's
    eventually(lambda: not connections(project))
    most: Counter[str] = Counter()
    with Command("-c", concurrency, "-q", "tasks", cwd=project.folder) as worker:
        deadline = time.monotonic() + 60
        while done(project) < goal:
            assert worker.running, worker.output
            assert time.monotonic() < deadline, worker.output
            most |= connections(project)
    return most


def test_six_at_c_10_and_at_c_1000(own_project: Project) -> None:
    few = most_under_load(own_project, "10")
    many = most_under_load(own_project, "1000")
    assert few == many
    assert few.total() <= 6
    assert few == {
        "greenworker-consumer": 1,
        "greenworker-settler": 1,
        "greenworker-watchdog": 1,
        "greenworker-results": 1,
        "greenworker": 2,
    }
