"""Live control: what people do to queues and tasks while workers run."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from greenworker.errors import TaskCancelled, TaskFailed
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.process import environment

TASKS = """
    @app.task
    def add(a, b=0):
        return a + b

    @app.task
    def fails(): raise ValueError("brok\\x1ben")

    @app.task
    def hold(file):
        note(file)
        wait_for(file)

    @app.task(sensitive=True)
    def discreet(file):
        note(file)
        wait_for(file)

    @app.task(ignore_result=True)
    def silent(): ...
"""


def test_a_queue_is_paused_and_resumed(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("-Q", "default,mail", "-n", "bee")
    done = project.run("pause", "mail", "emial", "-A", "tasks")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "mail: paused\nemial: paused; no worker listens there, and nothing has been sent to it\n"
    )
    # When: the one that is sent later is done, the other one waits
    held = tasks.add.apply_async((1, 2), queue="mail")
    assert tasks.add.delay(3, 4).get(timeout=20) == 7
    assert held.state == "PENDING"
    table = project.run("status", "-A", "tasks").stdout
    rows = [line.split() for line in table.splitlines()]
    assert ["mail", "1", "1", "paused"] in rows
    assert ["default", "0", "1"] in rows
    as_json = json.loads(project.run("status", "-A", "tasks", "--json").stdout)
    assert {one["name"]: one["paused"] for one in as_json["queues"]} == {
        "default": False, "emial": True, "mail": True,
    }  # fmt: skip
    # Then it goes on, at once
    done = project.run("resume", "mail", "emial", "-A", "tasks", "--json")
    assert json.loads(done.stdout) == {
        "queues": [
            {"queue": "mail", "changed": True, "known": True, "paused": False},
            {"queue": "emial", "changed": True, "known": False, "paused": False},
        ]
    }
    assert held.get(timeout=20) == 3
    assert project.run("resume", "mail", "-A", "tasks").stdout == "mail: was not paused\n"
    worker.wait_for("received")
    project.check()


def test_a_burst_does_not_wait_for_what_is_paused(project: Project) -> None:
    tasks = project.module(TASKS)
    tasks.app.pause("default")
    held = tasks.add.delay(1)
    done = project.run("--burst", "tasks")
    assert done.returncode == 0
    assert held.state == "PENDING"
    project.check()


def test_a_queue_is_purged(project: Project) -> None:
    tasks = project.module(TASKS)
    waiting = [tasks.add.apply_async((n,), queue="mail") for n in range(3)]
    stays = tasks.add.apply_async((1,), queue="mail", countdown=600)
    args = ("purge", "mail", "-A", "tasks")
    # A question that nobody is there to answer
    done = project.run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "greenworker: purge would drop what waits: 3 of mail; "
        "say --yes to do it, --dry-run to count\n"
    )
    # Nor where there is no stdin at all
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "greenworker", *args],
        cwd=project.folder, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (closed.returncode, closed.stderr) == (2, done.stderr)
    done = project.run(*args, env={"GREENWORKER_YES": "1"})
    assert done.returncode == 2, "no setting of the environment is an answer"
    done = project.run(*args, "--dry-run")
    assert (done.returncode, done.stdout) == (0, "mail: 3 would be dropped\n")
    assert {result.state for result in waiting} == {"PENDING"}
    done = project.run(*args, "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "mail: 3 dropped\n", "")
    for result in waiting:
        assert result.state == "CANCELLED"
        with pytest.raises(TaskCancelled):
            result.get(timeout=10)
    assert stays.state == "SCHEDULED"
    # Where nothing waits there is nothing to ask
    done = project.run(*args, "slow", "--json")
    assert json.loads(done.stdout) == {
        "dry_run": False,
        "queues": [
            {"queue": name, "purged": 0, "expired": 0, "cancelled": 0, "foreign": 0}
            for name in ("mail", "slow")
        ],
    }
    tasks.add.apply_async((1,), queue="mail", expires=0)
    assert project.run(*args, "-y").stdout == "mail: 0 dropped; 1 had expired\n"
    project.check()


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y", 0, 0), ("Yes", 0, 0), ("", 1, 1), ("n", 1, 1)]
)
def test_a_purge_asks_at_a_terminal(project: Project, answer: str, code: int, left: int) -> None:
    tasks = project.module(TASKS)
    result = tasks.add.delay(1)
    keyboard, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "greenworker", "purge", "default", "-A", "tasks"],
        cwd=project.folder, env=environment(), stdin=terminal,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as asking:  # fmt: skip
        os.write(keyboard, f"{answer}\n".encode())
        out, err = asking.communicate(timeout=60)
    os.close(keyboard)
    os.close(terminal)
    assert "Drop what waits, 1 of default? [y/N]" in err
    assert ("nothing was dropped" in err, out) == (
        bool(left),
        "" if left else "default: 1 dropped\n",
    )
    assert asking.returncode == code
    assert result.state == ("PENDING" if left else "CANCELLED")


def what_runs(project: Project, *args: str) -> subprocess.CompletedProcess[str]:
    """What the command says once all have answered: a slow machine may need longer than it waits."""
    seen: list[subprocess.CompletedProcess[str]] = []

    def look() -> bool:
        seen.append(project.run("running", "-A", "tasks", *args))
        return seen[-1].returncode == 0

    eventually(look, within=60)
    return seen[-1]


def test_what_runs_on_all_workers(project: Project) -> None:
    tasks = project.module(TASKS)
    first = project.worker("-n", "first", "-Q", "default")
    project.worker("-n", "second", "-Q", "other", "--log-values")
    hold = tasks.hold.delay("go")
    tasks.discreet.delay("go")
    tasks.hold.apply_async(("go",), queue="other")
    tasks.discreet.apply_async(("go",), queue="other")
    eventually(lambda: tasks.app.status().running == 4 and len(project.notes) == 4)
    done = what_runs(project, "--json")
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert (found["total"], found["silent"]) == (4, [])
    shown = {(one["worker"], one["task"]): one for one in found["tasks"]}
    assert shown["first", "tasks.hold"]["id"] == hold.id
    lines = (project.folder / "tasks.py").read_text().splitlines()
    sleeps = next(n for n, line in enumerate(lines, 1) if "time.sleep(0.01)" in line)
    looks = next(n for n, line in enumerate(lines, 1) if ".exists()" in line)
    assert shown["first", "tasks.discreet"]["where"] in (
        f"tasks.py:{sleeps} in wait_for", f"tasks.py:{looks} in wait_for",
    )  # fmt: skip
    calls = {key: one["call"] for key, one in shown.items()}
    assert calls == {
        ("first", "tasks.hold"): "", ("first", "tasks.discreet"): "",
        ("second", "tasks.hold"): "('go')", ("second", "tasks.discreet"): "",
    }  # fmt: skip
    # As a table, and only the longest
    done = what_runs(project, "--limit", "1")
    head, row, summary = done.stdout.splitlines()
    assert head.split() == ["seconds", "worker", "task", "at"]
    assert any(f"{one['task']}[{one['id']}]" in row for one in found["tasks"])
    assert " in wait_for" in row
    assert summary == "4 running, 1 of them shown"
    # A worker that does not answer is named
    first.signal(signal.SIGSTOP)
    done = project.run("running", "-A", "tasks")
    first.signal(signal.SIGCONT)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith("no answer from ")
    assert "first" in last
    project.allow("go")
    assert hold.get(timeout=20) is None


def test_who_blocks_the_loop_is_named(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def waits():
            wait_for("never")

        @app.task(timeout=0)
        def spins():
            while not Path("go").exists():  # all others wait
                pass
    """)
    worker = project.worker("-n", "bee")
    tasks.waits.delay()
    eventually(lambda: tasks.app.status().running == 1)
    sent, behind = tasks.spins.delay_many([(), ()])  # one claim; the other one waits for its turn
    worker.wait_for("blocks the loop")
    done = what_runs(project)
    _, row, summary = done.stdout.splitlines()
    assert f"tasks.spins[{sent.id}]" in row
    assert row.endswith(" in spins (blocks the loop)")
    assert summary == "3 running, 1 of them shown"
    # Each question is answered anew, and by the loop again once it runs
    (one,) = tasks.app.running(timeout=20).tasks
    assert (one.id, one.blocks) == (sent.id, True)
    project.allow("go")
    assert (sent.get(timeout=20), behind.get(timeout=20)) == (None, None)
    (one,) = tasks.app.running(timeout=20).tasks
    assert (one.task, one.blocks) == ("tasks.waits", False)


def test_where_nothing_runs(project: Project) -> None:
    done = project.run("running", "-u", project.url, "--namespace", project.namespace)
    assert (done.returncode, done.stdout) == (0, "0 running\n")


def test_a_call_is_sent(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker()
    done = project.run("send", "tasks:add", "[1, 2]")
    assert (done.returncode, done.stderr) == (0, "")
    assert tasks.app.result(done.stdout.strip()).get(timeout=20) == 3
    # Its result, of named arguments, by its name
    for task, args, value in (
        ("tasks:add", '{"a": "grü", "b": "ße"}', '"grüße"'),
        ("tasks:add", '["a", "\\u001b[2J"]', '"a\\u001b[2J"'),
        ("tasks:hold", '["tasks.py"]', "null"),
    ):
        done = project.run("send", task, args, "--wait")
        assert (done.returncode, done.stdout) == (0, f"{value}\n"), done.stderr
    done = project.run("send", "-A", "tasks", "tasks.add", "[5]", "--wait", "--json", "--id", "n5")
    assert json.loads(done.stdout) == {"id": "n5", "state": "SUCCESS", "value": 5}


def test_how_it_is_sent(project: Project) -> None:
    tasks = project.module(TASKS)
    how = ("--countdown", "600", "--id", "later", "--json")
    done = project.run("send", "tasks:add", "[1]", *how)
    assert json.loads(done.stdout) == {"id": "later"}
    assert 500 < (tasks.app.result("later").info().due_in or 0) <= 600
    done = project.run("send", "tasks:add", "[1]", "--queue", "slow", "--priority", "9")
    assert project.redis.lrange(f"{project.root}ready:slow:9", 0, -1) == [done.stdout.strip()]
    # To another server, by the flag
    done = project.run("send", "tasks:add", "[1]", "-u", "redis://127.0.0.1:1")
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr


def test_a_call_that_fails(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker()
    done = project.run("send", "tasks:fails", "--wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("failed: ValueError: brok\\x1ben\n")
    assert done.stderr.count("\n") == 1
    done = project.run("send", "tasks:fails", "--wait", "--json", "--id", "f")
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert (told["id"], told["state"], told["error"]["type"]) == ("f", "FAILURE", "ValueError")
    # What nobody may run ends here as well
    project.run("pause", "slow", "-A", "tasks")
    tasks.add.apply_async((1,), queue="slow", expires=0, id="late")
    done = project.run("send", "tasks:add", "[1]", "--id", "late", "--wait", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["state"], told["error"]["type"]) == (1, "EXPIRED", "Expired")
    project.check()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("tasks:add",), "missing a required argument"),
        (("tasks:add", "[1,2,3]"), "too many positional arguments"),
        (("tasks:nope",), "tasks:nope is no task: there is none; tasks there: add, fails, hold"),
        (("tasks:wait_for",), "tasks:wait_for is no task: it is a function"),
        (("-A", "tasks", "tasks.nope"), "no task 'tasks.nope' in tasks; there are tasks.add"),
        (("tasks:add", "[1]", "--priority", "10"), "--priority 10: give 0 to 9"),
        (("tasks:add", "[1]", "--queue", "a b"), "queue 'a b': use 1 to 64 letters"),
        (("tasks:add", "[1]", "--id", ""), "id ''"),
        (("tasks:add", "[1]", "--countdown", "soon"), "--countdown soon: give seconds"),
        (
            ("tasks:add", "[1"),
            """in quotes of the shell: greenworker send app.tasks:add '[1, 2]'\n""",
        ),
        (("tasks:",), "which task is 'tasks:'? greenworker send app.tasks:add '[1, 2]'"),
        (("tasks:silent", "--wait"), "--wait: tasks.silent keeps no result"),
    ],
)
def test_a_call_that_cannot_be_sent(project: Project, args: tuple[str, ...], says: str) -> None:
    project.write(TASKS)
    done = project.run("send", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not project.redis.exists(f"{project.root}msg")


def test_a_task_of_an_app_that_is_elsewhere(project: Project) -> None:
    project.module(TASKS)
    (project.folder / "shop.py").write_text("from tasks import add\n")
    done = project.run("send", "shop:add", "[1]", "--id", "x")
    assert (done.returncode, done.stdout) == (0, "x\n")
    (project.folder / "hidden.py").write_text(
        f"from greenworker import App\n\ndef make():\n    app = App({project.url!r})\n"
        "    return app.task(name='t')(lambda: None)\n\nfound = make()\n"
    )
    done = project.run("send", "hidden:found")
    assert done.returncode == 2
    assert "is a task of an App that is not in hidden: give it by -A" in done.stderr


def test_from_python(project: Project, tmp_path: Path) -> None:
    tasks = project.module(TASKS)
    app = tasks.app
    assert [one.changed for one in app.pause("default", "mail")] == [True, True]
    assert [one.changed for one in app.resume("default", "mail", "slow")] == [True, True, False]
    results = tasks.add.delay_many([(n,) for n in range(2500)])
    done = app.purge("default")
    assert (done.purged, done.total, done.more) == (2500, 2500, False)
    with pytest.raises(TaskFailed):
        results[0].get(timeout=10)
    assert app.running().tasks == []
    project.check()
