"""Workers that die, and tasks that kill: nothing is lost, and little runs twice."""

from __future__ import annotations

from collections import Counter

import pytest

from greenworker import State, keys
from greenworker.errors import TaskFailed
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.state import Space


def test_a_worker_is_killed_in_the_middle_of_2000_tasks(project: Project) -> None:
    # Given a worker that has run some hundreds of 2,000 tasks
    tasks = project.module("""
        @app.task
        def work(n):
            note(n)
            time.sleep(0.1)
            return n
    """)
    first = project.worker("-c", "100", "--lease", "2", "-q", ready=False)
    results = tasks.work.delay_many((n,) for n in range(2000))
    eventually(lambda: len(project.notes) >= 500)
    # When it is killed, and another one comes
    first.kill()
    project.check()
    (corpse,) = project.redis.zrange(keys.workers(project.root), 0, -1)
    held = set(project.redis.hkeys(keys.processing(project.root, corpse)))
    project.worker("-c", "100", "--lease", "2")
    # Then none is lost, and only what was in flight has run twice
    assert [result.get(timeout=60) for result in results] == list(range(2000))
    runs = Counter(map(int, project.notes))
    assert set(runs) == set(range(2000))
    assert max(runs.values()) <= 2
    twice = {results[n].id for n, times in runs.items() if times == 2}
    assert 0 < len(held) <= 100
    assert twice <= held
    assert project.dead() == {}
    project.check()


def test_a_worker_that_is_started_again_returns_what_its_predecessor_held(
    project: Project,
) -> None:
    """At once, whatever the lease: on this host it can prove that the other one is gone."""
    tasks = project.module("""
        @app.task
        def work(n):
            note(n)
            wait_for("go")
            return n
    """)
    results = tasks.work.delay_many((n,) for n in range(20))
    first = project.worker("--lease", "3600")
    eventually(lambda: len(project.notes) == 20)
    other_host = dict.fromkeys(["host", "boot", "namespace"], "another")
    first.kill()
    # And one of the same name on another host, whose pid happens to be free here
    elsewhere = Space(project.url, project.namespace)
    about = {"name": "same", "process": {**other_host, "pid": first.pid, "began": 1}}
    assert elsewhere.broker.register("elsewhere", 3600.0, about, ["other"])
    project.allow("go")
    project.worker("--lease", "3600")
    assert [result.get(timeout=60) for result in results] == list(range(20))
    assert project.redis.zscore(keys.workers(project.root), "elsewhere") is not None
    project.check()
    elsewhere.broker.close()


def test_a_thousand_tasks_time_out_at_once(project: Project) -> None:
    tasks = project.module("""
        here, everybody = 0, threading.Event()

        @app.task(timeout=0.5)
        def hang():
            time.sleep(600)

        @app.task
        def gather(n):
            global here
            here += 1
            if here == 1000:
                everybody.set()
            return n if everybody.wait(60) else None
    """)
    worker = project.worker("-c", "1000", "-q", ready=False)
    hung = tasks.hang.delay_many([()] * 1000)
    for result in hung:
        with pytest.raises(TaskFailed) as caught:
            result.get(timeout=60)
        assert (caught.value.type, caught.value.message) == ("TaskTimeout", "ran longer than 0.5 s")
    assert {result.state for result in hung} == {State.FAILURE}
    # All slots are back: none of the next thousand ends before all of them run at once
    gathered = tasks.gather.delay_many((n,) for n in range(1000))
    assert [result.get(timeout=60) for result in gathered] == list(range(1000))
    assert worker.running


def test_a_poison_task_is_buried_alone(project: Project) -> None:
    """It ends its process, with healthy tasks beside it, whenever it runs."""
    tasks = project.module("""
        @app.task
        def poison():
            note("poison")
            time.sleep(0.1)
            os._exit(9)

        @app.task
        def healthy(n):
            time.sleep(0.3)
            return n
    """)
    # A worker that is busy elsewhere does the sweeping; the others only have to die
    project.worker("-Q", "elsewhere", "--lease", "1")
    healthy = [tasks.healthy.delay(n) for n in range(10)]
    poison = tasks.poison.delay()
    # When every worker that dies is replaced
    for crash in range(1, 6):
        project.check()
        worker = project.worker("--lease", "1", ready=False)
        assert worker.wait() == 9
        assert len(project.notes) == crash
    project.worker("--lease", "1")
    # Then it is buried at last, alone, and the healthy ones have all succeeded
    with pytest.raises(TaskFailed) as caught:
        poison.get(timeout=60)
    assert caught.value.type == "WorkerCrashed"
    assert [result.get(timeout=60) for result in healthy] == list(range(10))
    assert project.dead() == {poison.id: "poison"}
    project.check()
    assert len(project.notes) == 5  # twice in company, and three times alone
