"""Schedules with the real command: each due time once, whoever is killed; what a deploy changes."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from greenworker.schedule import tick_id
from tests.e2e.conftest import Project
from tests.support import failpoints
from tests.support.eventually import eventually
from tests.support.process import Command

TASKS = """
    @app.every(0.5, name="beat")
    @app.task
    def tick():
        note(current_task().id)
"""


def moment_of(id: str) -> float:
    name, _, moment = id.partition("@")
    assert name == "beat"
    return datetime.fromisoformat(moment).timestamp()


def all_of(first: float, last: float) -> list[str]:
    count = round((last - first) / 0.5) + 1
    return [tick_id("beat", first + 0.5 * n) for n in range(count)]


def each_once(project: Project) -> list[str]:
    """All that was sent, run or still waiting: each moment, and no message more."""
    sent = {*project.notes, *project.redis.hkeys(f"{project.root}msg")}
    ids = sorted(sent, key=moment_of)
    assert ids == all_of(moment_of(ids[0]), moment_of(ids[-1]))
    assert project.redis.hget(f"{project.root}stats", "enqueued") == str(len(ids))
    return ids


def test_three_workers_and_kills_and_each_due_time_once(project: Project) -> None:
    project.write(TASKS)
    # Given three workers whose tasks are few: what runs twice would be the reaper's doing, not theirs
    workers = [project.worker("--lease", "2", "-n", f"w{n}") for n in range(3)]
    for n in range(6):
        eventually(lambda least=4 * n + 4: len(project.notes) >= least, within=30)
        # When one after the other is killed, at whatever it does, and replaced
        workers.pop(0).kill()
        workers.append(project.worker("--lease", "2", "-n", f"again{n}"))
    seen = len(project.notes)
    eventually(lambda: len(project.notes) >= seen + 4, within=30)
    for worker in workers:
        worker.signal(15)
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    # Then every moment between the first and the last was sent, and as one message: a run that was
    # under way at a kill may have been repeated.
    assert len(each_once(project)) >= 24
    assert len(project.notes) <= len(set(project.notes)) + 6
    project.check()


def test_a_worker_alone_is_killed_at_each_step_of_a_tick(project: Project) -> None:
    """The next one sends what it left, and nothing that it had sent."""
    project.write(TASKS)
    for step in failpoints.SCHEDULE_STEPS:
        for action in ("RAISE", "KILL"):
            victim = Command(
                *("--lease", "2", "tasks"),
                cwd=project.folder,
                env={failpoints.VARIABLE: f"{step}={action}@3"},
                program=("-m", "tests.support.failpoints"),
            )
            with victim:
                victim.wait_for(f"failpoint {step}: {action}")
                if action == "KILL":
                    assert victim.wait() == -9
                else:  # it goes on
                    seen = len(project.notes)
                    eventually(lambda least=seen + 2: len(project.notes) >= least)
    worker = project.worker("--lease", "2")
    seen = len(project.notes)
    eventually(lambda: len(project.notes) >= seen + 4, within=30)
    worker.signal(15)
    assert worker.wait() == 0
    each_once(project)
    project.check()


def test_a_fleet_that_was_away_catches_up_with_one(project: Project) -> None:
    project.write(TASKS)
    worker = project.worker()
    eventually(lambda: project.notes, within=30)
    worker.signal(15)
    assert worker.wait() == 0
    # Ticks come until the end of a stop, and the last one may wait for the next worker.
    old = {*project.notes, *project.redis.hkeys(f"{project.root}msg")}
    due, rest = project.redis.hget(f"{project.root}schedules", "beat").split(" ", 1)
    project.redis.hset(f"{project.root}schedules", "beat", f"{int(due) - 3600_000} {rest}")
    again = project.worker()
    again.wait_for("schedule beat: ticks were missed; one is sent for them")
    eventually(lambda: len({*project.notes} - old) > 3, within=30)
    # What it caught up with was the last one, and from there on it goes on
    ids = sorted({*project.notes} - old, key=moment_of)
    assert ids == all_of(moment_of(ids[0]), moment_of(ids[-1]))


def test_a_deploy_that_changes_the_time_while_old_workers_live(project: Project) -> None:
    project.write(TASKS)
    old = project.worker("-n", "old")
    eventually(lambda: project.notes, within=30)
    # When a worker with another definition comes, and the old one stays
    project.write(TASKS.replace("every(0.5", "every(3600"))
    new = project.worker("-n", "new")
    banner = next(line for line in new.lines if "schedules" in line)
    assert banner.split(None, 1) == ["schedules", "beat (every 3600)"]

    def line() -> dict[str, object]:
        done = project.run(
            "schedule", "-u", project.url, "--namespace", project.namespace, "--json"
        )
        (line,) = map(json.loads, done.stdout.splitlines())
        return line

    # Then the newer one counts, from its next moment on
    eventually(lambda: line()["when"] == "every 3600")
    count = len(project.notes)
    looks = project.redis.time()[0]
    eventually(lambda: project.redis.time()[0] > looks + 5, within=30)
    assert line()["when"] == "every 3600"
    assert len(project.notes) <= count + 1
    told = line()["next"]
    assert isinstance(told, float)
    assert told % 3600 == 0
    assert told > datetime.now(UTC).timestamp() - 60
    for worker in (old, new):
        worker.signal(15)
        assert worker.wait() == 0


def test_pause_resume_run_and_list_beside_a_worker(project: Project) -> None:
    project.write("""
        @app.cron("0 3 * * *", tz="Europe/Berlin", args=("nightly",))
        @app.task(name="report")
        def report(what): note(what)
    """)
    project.worker()
    done = project.run("schedule", "run", "report", "-A", "tasks")
    assert (done.returncode, done.stderr) == (0, "")
    eventually(lambda: project.notes == ["nightly"])
    eventually(lambda: "report" in project.run("schedule", "-A", "tasks").stdout)
    for verb, says in (("pause", "paused"), ("resume", "resumed")):
        done = project.run("schedule", verb, "report", "-A", "tasks")
        assert (done.returncode, done.stdout) == (0, f"report: {says}\n")
    eventually(lambda: "not planned yet" not in project.run("schedule", "tasks").stdout)
    _, line = project.run("schedule", "tasks").stdout.splitlines()
    assert line.startswith("report    cron 0 3 * * * Europe/Berlin  ")
    assert "declare" not in line


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('@app.every(30)\n    def f(): ...', "f is no task: put this above @app.task, not below"),
        ('@app.cron("* * *")\n    @app.task\n    def f(): ...', "cron('* * *'): wrong number of"),
        ('@app.every(0)\n    @app.task\n    def f(): ...', "every(0): give seconds, 0.1 or more"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_at_the_start(project: Project, line: str, says: str) -> None:
    project.write(f"\n    {line}\n")
    done = project.run("tasks")
    assert done.returncode == 2
    (told,) = done.stderr.splitlines()
    assert told.startswith("greenworker: tasks: ")
    assert says in told


def test_ticks_are_signed_where_messages_are(project: Project) -> None:
    key = "s1gn1ng-key-of-today"
    project.write(
        f"app = App(app._url, namespace=app.namespace, signing_keys=[{key!r}])\n"
        "@app.every(0.5)\n@app.task\ndef tick():\n    note('ran')\n"
    )
    project.worker()
    eventually(lambda: len(project.notes) >= 3)
    assert project.dead() == {}
