"""greenworker check: the audit of a live server, for people and for programs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest

from greenworker.endpoint import redact
from tests.e2e.conftest import Project
from tests.support.eventually import eventually

TASKS = """
    @app.task
    def hold(): wait_for("go")

    @app.task
    def fail(): raise ValueError

    @app.task(retries=1, backoff=Backoff(0.05, cap=0.05))
    def twice():
        if current_task().attempt == 0:
            raise ValueError

    @app.task(ignore_result=True)
    def nothing(n): ...
"""


def test_all_is_well_or_not(project: Project) -> None:
    # Given: two run, one waits where nobody works, one is scheduled, one is dead
    tasks = project.module(TASKS)
    worker = project.worker("-c", "7", "-n", "bee")
    held = [tasks.hold.delay() for _ in range(2)]
    tasks.hold.apply_async(queue="lonely", id="stray")
    tasks.nothing.apply_async((1,), countdown=600)
    tasks.fail.delay()
    worker.wait_for("received", times=3)
    eventually(lambda: project.dead())  # its line comes before that
    # Then all is well
    done = project.run("check", "-A", "tasks")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"server     {redact(project.url_of('dashboard'))}, namespace {project.namespace}",
        "4 messages, 1 worker: all is well",
    ]
    # When a message falls out of its list, and others come from nowhere
    ready = f"{project.root}ready:lonely:5"
    project.redis.lrem(ready, 0, "stray")
    project.redis.lpush(ready, "junk-1", "junk-2")
    # Then each has a line, and the command fails
    done = project.run("check", "-A", "tasks")
    assert (done.returncode, done.stderr) == (1, "")
    _, *findings, last = done.stdout.splitlines()
    assert findings == [
        f"missing: ready:lonely:5 holds {id}, which is no message: it ends as a dead letter; LREM {ready} 1 {id}"
        for id in ("junk-2", "junk-1")
    ] + [
        f"nowhere: message stray is in no list: it will never run; LPUSH {ready} stray",
        "totals: there are 4 messages, but 5 entries in all lists together: some are lost, or would run twice",
    ]
    assert last == "4 messages, 1 worker: 4 findings"
    # And the same for programs: with -u it needs no app
    as_json = (
        "-u",
        project.url_of("dashboard"),
        "--namespace",
        project.namespace,
        "--json",
        "--limit",
        "1",
    )
    done = project.run("check", *as_json)
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert (report["well"], report["messages"], report["more"]) == (False, 4, 1)
    assert [worker["name"] for worker in report["workers"]] == ["bee"]
    assert [(one["kind"], one["where"], one["name"]) for one in report["findings"]] == [
        ("missing", "ready:lonely:5", "junk-2"),
        ("nowhere", "msg", "stray"),
        ("totals", "msg", ""),
    ]
    # And from Python
    assert [str(one) for one in project.audit().findings] == [
        line.partition(": ")[2] for line in findings
    ]
    project.allow("go")
    assert [result.get(timeout=20) for result in held] == [None, None]


def test_a_namespace_without_anything(project: Project) -> None:
    done = project.run("check", "-u", project.url_of("dashboard"), "--namespace", project.namespace)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:] == ["0 messages, 0 workers: all is well"]


def test_a_server_that_is_away(project: Project) -> None:
    done = project.run("check", "-u", "redis://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


def test_a_killed_worker_is_a_note_until_it_is_swept(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("-n", "victim", "--lease", "1")
    result = tasks.hold.delay()
    worker.wait_for("received")
    worker.kill()
    overdue = eventually(lambda: project.audit().notes)
    assert "worker victim (" in overdue[0]
    assert "is overdue by" in overdue[0]
    assert project.audit().well
    project.allow("go")
    project.worker("--lease", "1")
    assert result.get(timeout=30) is None
    assert eventually(lambda: not project.audit().notes)
    assert project.run("check", "-A", "tasks").returncode == 0


def test_no_false_alarm_while_thousands_come_and_go(project: Project) -> None:
    # Given two workers that drain, and two senders that send as fast as they can
    tasks = project.module(TASKS)
    workers = [project.worker("-c", "50", "-q", ready=False) for _ in range(2)]
    enough = threading.Event()

    def keep(send: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            while not enough.is_set():
                send()
                eventually(lambda: enough.is_set() or tasks.app.status().waiting < 5_000)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    sending = [
        keep(lambda: tasks.nothing.delay_many([(n,) for n in range(2000)], results=False)),
        keep(lambda: tasks.twice.delay_many([()] * 200, results=False)),
    ]
    try:
        eventually(lambda: tasks.app.status().counters.get("done", 0) > 1000, within=30)
        eventually(lambda: len(tasks.app.status().workers) == 2, within=30)
        # When the server is audited again and again
        for _ in range(10):
            done_before = tasks.app.status().counters["done"]
            report = project.audit()
            assert [finding.text for finding in report.findings] == []
            assert len(report.workers) == 2
            # (and it is busy all the time)
            eventually(lambda so_far=done_before: tasks.app.status().counters["done"] > so_far)
        done = project.run("check", "-A", "tasks")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("2 workers: all is well\n")
    finally:
        enough.set()
        for thread in sending:
            thread.join()
    assert all(worker.running for worker in workers)
    # Then, with nobody sending any more, all has been run
    eventually(lambda: project.audit().messages == 0, within=60)
    assert project.audit().summary == "0 messages, 2 workers: all is well"
    counters = tasks.app.status().counters
    assert counters["enqueued"] == counters["done"] > 5_000


@pytest.mark.parametrize("command", ["check", "status"])
def test_the_password_is_not_shown(own_project: Project, command: str) -> None:
    user = ("on", ">canary", "~*", "&*", "+@all")
    own_project.redis.execute_command("ACL", "SETUSER", "looker", *user)
    url = own_project.admin_url.replace("redis://", "redis://looker:canary@")
    done = own_project.run(command, "-u", url, "--namespace", own_project.namespace)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("server     redis://looker:***@127.0.0.1:")
    assert "canary" not in done.stdout


@pytest.mark.parametrize("command", ["check", "status"])
def test_the_names_of_an_environment_that_cannot_show_them(project: Project, command: str) -> None:
    """A terminal's encoding is no reason for a traceback, and JSON stays JSON."""
    about = '{"name": "M\u00fcller", "queues": ["default"]}'
    project.redis.zadd(project.root + "workers", {"w": 1})
    project.redis.hset(project.root + "about", "w", about)
    where = (command, "-u", project.url_of("dashboard"), "--namespace", project.namespace)
    done = project.run(*where, env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "M\\xfcller" in done.stdout
    done = project.run(*where, "--json", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    (worker,) = json.loads(done.stdout)["workers"]
    assert worker["name"] == "M\u00fcller"
