"""Cancel: by id, by task, by tag, wherever it is; nothing of it runs again, whoever dies."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from greenworker import keys
from greenworker.errors import ConfigError, TaskCancelled
from tests.e2e.conftest import Project
from tests.support.eventually import eventually

TASKS = """
    from greenworker import Cancelled

    @app.task
    def add(a, b=0):
        note(f"add {a}")
        return a + b

    @app.task(retries=5, backoff=0.01)
    def hold(name):
        note(f"began {name}")
        try:
            wait_for("go")
        except Cancelled as error:
            note(f"tidied {name}: {error}")
            raise
        return name

    @app.task(retries=5, backoff=0.01)
    def stubborn(name):
        note(f"began {name}")
        try:
            wait_for("go")
        except Exception:
            wait_for("never")

    @app.task
    def rather(name):
        note(f"began {name}")
        try:
            wait_for("go")
        except Cancelled:
            return "what there was"

    @app.task(retries=5, backoff=0.01)
    def goes_wrong(name):
        note(f"began {name}")
        try:
            wait_for("go")
        finally:
            raise ValueError("while tidying up")

    @app.task(thread=True)
    def threaded(name):
        note(f"began {name}")
        while not Path(name).exists():
            time.sleep(0.01)
        return name
"""


def began(project: Project, count: int) -> None:
    eventually(lambda: sum(line.startswith("began") for line in project.notes) >= count)


def test_what_waits_or_is_delayed_never_runs(project: Project) -> None:
    tasks = project.module(TASKS)
    waiting, delayed, stays = (
        tasks.add.delay(1), tasks.add.apply_async((2,), countdown=0.5), tasks.add.delay(3),
    )  # fmt: skip
    assert waiting.cancel()
    assert delayed.cancel()
    # Who waits is told, whether any worker runs or not.
    for result in (waiting, delayed):
        assert result.state == "CANCELLED"
        with pytest.raises(TaskCancelled):
            result.get(timeout=10)
        assert not result.cancel()
    project.check()
    project.worker()
    assert stays.get(timeout=20) == 3
    assert not stays.cancel()
    eventually(lambda: tasks.app.status().counters.get("cancelled") == 2)
    assert project.notes == ["add 3"]
    assert waiting.state == delayed.state == "CANCELLED"
    project.check()


def test_who_waits_is_told_at_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenworker.result._RECHECK", 3600.0)  # nobody looks again by itself
    tasks = project.module(TASKS)
    one = tasks.add.delay(1)
    many = tasks.add.delay_many([(n,) for n in range(3)], tags=["crawl"])
    told: list[str] = []

    def wait(result: Any) -> None:
        with pytest.raises(TaskCancelled):
            result.get(timeout=60)
        told.append(result.id)

    waiters = [threading.Thread(target=wait, args=(result,)) for result in (one, *many)]
    for waiter in waiters:
        waiter.start()
    channels = [keys.done(project.root, result.id) for result in (one, *many)]
    eventually(lambda: all(n for _, n in project.redis.pubsub_numsub(*channels)))
    # No worker is there.
    one.cancel()
    eventually(lambda: told == [one.id])
    tasks.app.cancel(tag="crawl")
    eventually(lambda: len(told) == 4)
    for waiter in waiters:
        waiter.join()


def test_what_runs_may_tidy_up(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker()
    result, other = tasks.hold.delay("a"), tasks.hold.delay("b")
    began(project, 2)
    assert result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(timeout=20)
    assert "tidied a: somebody has cancelled it" in project.notes
    project.allow("go")
    assert other.get(timeout=20) == "b"
    status = tasks.app.status()
    assert (status.counters["cancelled"], status.counters["done"]) == (1, 1)
    assert project.notes.count("began a") == 1, "no retry"
    project.check()


def test_who_does_not_end_is_killed_after_the_grace(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("--cancel-grace", "0.2", "-c", "2")
    stubborn, wrong = tasks.stubborn.delay("a"), tasks.goes_wrong.delay("b")
    began(project, 2)
    assert tasks.app.cancel(stubborn, wrong.id) == {stubborn.id: "running", wrong.id: "running"}
    for result in (stubborn, wrong):
        with pytest.raises(TaskCancelled):
            result.get(timeout=20)
    worker.wait_for("cancelled after")
    # Their slots are free
    assert tasks.add.delay(1).get(timeout=20) == 1
    assert sum(line.startswith("began") for line in project.notes) == 2, "no retries"
    assert project.dead() == {}
    project.check()


def test_a_value_in_spite_of_it_counts(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker()
    result = tasks.rather.delay("a")
    began(project, 1)
    assert result.cancel()
    assert result.get(timeout=20) == "what there was"
    assert result.state == "SUCCESS"
    project.check()


def is_told(project: Project) -> bool:
    """Whether the workers know of all that was cancelled by id."""
    return not project.redis.keys(keys.cancels(project.root, "*"))


def test_a_thread_has_the_grace_to_end(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker("--cancel-grace", "3600", "--threads", "1")
    runs = tasks.threaded.delay("runs")
    began(project, 1)
    # One that waits for a thread is not begun
    waits = tasks.threaded.delay("waits")
    eventually(lambda: waits.state == "STARTED")
    assert tasks.app.cancel(runs, waits) == {runs.id: "running", waits.id: "running"}
    with pytest.raises(TaskCancelled):
        waits.get(timeout=20)
    eventually(lambda: is_told(project))
    assert runs.state == "STARTED"
    project.allow("runs")
    assert runs.get(timeout=20) == "runs"
    assert project.notes == ["began runs"]
    project.check()


def test_a_thread_is_given_up_after_the_grace(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker("--cancel-grace", "0.1", "--threads", "1", "--max-stuck", "9")
    runs = tasks.threaded.delay("runs")
    began(project, 1)
    runs.cancel()
    with pytest.raises(TaskCancelled):
        runs.get(timeout=20)
    # It goes on beside its slot, and the next one has a thread as well
    next_one = tasks.threaded.delay("next")
    project.allow("next")
    assert next_one.get(timeout=20) == "next"
    project.allow("runs")
    project.check()


def test_solo(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker("--solo")
    result = tasks.hold.delay("a")
    began(project, 1)
    assert result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(timeout=20)
    assert tasks.add.delay(1).get(timeout=20) == 1
    project.check()


def test_by_tag_and_only_what_was_sent_before(project: Project) -> None:
    """On several workers: what waits, what is delayed, and what runs."""
    tasks = project.module(TASKS)
    for name in ("one", "two"):
        project.worker("-c", "2", "-n", name)
    running = [tasks.hold.apply_async((n,), tags=["crawl-7"]) for n in range(4)]
    began(project, 4)
    waiting = tasks.add.delay_many([(n,) for n in range(500)], tags=["crawl-7", "night"])
    delayed = tasks.add.apply_async((1,), countdown=3600, tags=["night", "crawl-7"])
    others = [tasks.add.apply_async((1000,), tags=["crawl-70"]), tasks.add.delay(1001)]
    moment = tasks.app.cancel(tag="crawl-7").before
    later = tasks.add.apply_async((1002,), tags=["crawl-7"])
    # At once, wherever it waits
    assert {result.state for result in (*waiting, delayed)} == {"CANCELLED"}
    assert abs(moment - tasks.app.client.broker.time()) < 60
    for result in running:
        with pytest.raises(TaskCancelled):
            result.get(timeout=20)
    assert [one.get(timeout=20) for one in (*others, later)] == [1000, 1001, 1002]
    # The mark goes away by itself
    eventually(lambda: not project.redis.exists(keys.marks(project.root)))
    assert project.redis.smembers(keys.paused(project.root)) == set()
    eventually(lambda: tasks.app.status().counters["cancelled"] == 505)
    # In no order: two workers have run them.
    assert sorted(line for line in project.notes if line.startswith("add")) == [
        f"add {n}" for n in (1000, 1001, 1002)
    ]
    assert sum(line.startswith("began") for line in project.notes) == 4
    project.check()


def test_by_task_on_the_command_line(project: Project) -> None:
    tasks = project.module(TASKS)
    results = tasks.add.delay_many([(n,) for n in range(3)])
    other = tasks.hold.delay("a")
    args = ("cancel", "-A", "tasks", "--task", tasks.add.name)
    done = project.run(*args, "--dry-run")
    assert (done.returncode, done.stdout) == (
        0, f"{tasks.add.name}: 3 would be cancelled, and 0 run\n",
    )  # fmt: skip
    assert {result.state for result in results} == {"PENDING"}
    done = project.run(*args)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tasks.add.name}: all that was sent until 20")
    assert done.stdout.endswith("Z is cancelled\n")
    assert {result.state for result in results} == {"CANCELLED"}
    assert other.state == "PENDING"
    told = json.loads(project.run(*args, "--json", "--dry-run").stdout)
    assert (told["task"], told["waiting"], told["running"]) == (tasks.add.name, 3, 0)
    done = project.run("cancel", "-A", "tasks", "--task", "tasks.ad")
    assert done.stdout.endswith("Z is cancelled; no task of this app is called so\n")
    project.worker()
    eventually(lambda: not project.redis.exists(keys.marks(project.root)))
    project.check()


def test_ids_on_the_command_line(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker("-c", "1")
    running = tasks.hold.delay("a")
    began(project, 1)
    waiting = tasks.add.delay(1)
    ids = (running.id, waiting.id, "no-such-id")
    done = project.run("cancel", *ids, "-A", "tasks", "--dry-run")
    assert (done.returncode, done.stdout.splitlines()) == (1, [
        f"{running.id}: runs; its worker would be told",
        f"{waiting.id}: would be cancelled",
        "no-such-id: nothing is known of it",
    ])  # fmt: skip
    assert waiting.state == "PENDING"
    done = project.run("cancel", *ids, "-A", "tasks", "--json")
    fates = {running.id: "running", waiting.id: "cancelled", "no-such-id": "unknown"}
    assert (done.returncode, json.loads(done.stdout)) == (1, {"dry_run": False, "ids": fates})
    for result in (running, waiting):
        with pytest.raises(TaskCancelled):
            result.get(timeout=20)
    done = project.run("cancel", running.id, waiting.id, "-A", "tasks")
    assert (done.returncode, done.stdout) == (
        0, f"{running.id}: had ended before\n{waiting.id}: had ended before\n",
    )  # fmt: skip
    for wrong in ((), ("x", "--tag", "y"), ("--task", "a", "--tag", "b")):
        done = project.run("cancel", *wrong, "-A", "tasks")
        assert (done.returncode, done.stdout) == (2, "")
        assert "cancel what? Name ids, or --task NAME, or --tag TAG" in done.stderr
    with pytest.raises(ConfigError, match="cancel what"):
        tasks.app.cancel()
    project.check()


@pytest.mark.parametrize("how", ["id", "tag"])
def test_a_worker_is_killed_with_what_is_cancelled(project: Project, how: str) -> None:
    """Whoever returns what it held does not return that."""
    tasks = project.module(TASKS)
    worker = project.worker("-c", "3", "--lease", "2")
    results = [tasks.stubborn.apply_async((n,), tags=["x"]) for n in range(2)]
    other = tasks.hold.delay("stays")
    began(project, 3)
    # It does not even hear of it
    worker.signal(19)
    if how == "id":
        tasks.app.cancel(*results)
    else:
        tasks.app.cancel(tag="x")
    worker.kill()
    project.worker("--lease", "2")
    for result in results:
        with pytest.raises(TaskCancelled):
            result.get(timeout=30)
    began(project, 4)
    project.allow("go")
    assert other.get(timeout=20) == "stays"
    assert sum(line.startswith("began") for line in project.notes) == 4
    eventually(lambda: not project.redis.exists(keys.marks(project.root)))
    assert tasks.app.status().counters["cancelled"] == 2
    project.check()


def test_a_worker_is_killed_after_it_was_told(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("--lease", "2")
    result = tasks.stubborn.delay("a")
    began(project, 1)
    result.cancel()
    eventually(lambda: is_told(project))
    assert result.state == "STARTED"
    worker.kill()
    project.worker("--lease", "2")
    with pytest.raises(TaskCancelled):
        result.get(timeout=30)
    assert project.notes == ["began a"]
    project.check()


def test_a_stop_ends_what_was_cancelled(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("--grace", "0.2", "--cancel-grace", "60")
    result = tasks.stubborn.delay("a")
    began(project, 1)
    result.cancel()
    worker.signal(15)
    assert worker.wait() == 0
    project.worker()
    with pytest.raises(TaskCancelled):
        result.get(timeout=20)
    assert project.notes == ["began a"]
    project.check()


def test_the_same_id_again(project: Project) -> None:
    """What lies in line still is neither run nor in the way."""
    tasks = project.module(TASKS)
    for priority in (5, 9):
        result = tasks.add.apply_async((priority,), id="one")
        assert result.cancel()
        again = tasks.add.apply_async((priority + 1,), id="one", priority=priority)
        assert again.state == "PENDING"
        project.check()
        with project.worker():
            assert again.get(timeout=20) == priority + 1
    assert project.notes == ["add 6", "add 10"]
    project.check()


def test_what_was_sent_with_a_tag_on_the_command_line(project: Project) -> None:
    project.module(TASKS)
    done = project.run("send", "tasks:add", "[1]", "--tag", "by-hand")
    id = done.stdout.strip()
    done = project.run("cancel", "--tag", "by-hand", "-A", "tasks", "--dry-run", "--json")
    assert json.loads(done.stdout)["waiting"] == 1
    assert project.run("cancel", "--tag", "by-hand", "-A", "tasks").returncode == 0
    assert project.redis.hget(keys.messages(project.root), id) is not None
    done = project.run("cancel", id, "-A", "tasks")
    assert (done.returncode, done.stdout) == (0, f"{id}: had ended before\n")
