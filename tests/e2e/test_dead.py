"""greenworker dead: what failed for good is found, understood, sent again or forgotten."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from typing import Any

import pytest

from greenworker import State
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.process import Command, environment
from tests.support.state import check_whole, snapshot

TASKS = """
    @app.task
    def pay(order, token=None):
        if not Path("mended").exists():
            raise ConnectionError("refused by \\x1b[31mbank\\x1b[0m\\nsecond line")
        note(f"paid {order}")
        return order

    @app.task(queue="slow")
    def mail(to): raise ValueError("no such person")
"""


@pytest.fixture
def tasks(project: Project) -> Any:
    """Three calls of pay and one of mail that have failed, and no worker any more."""
    tasks = project.module(TASKS)
    results = [tasks.pay.apply_async((n,), {"token": "canary"}, id=f"order-{n}") for n in range(3)]
    results.append(tasks.mail.apply_async(("canary",), id="letter"))
    with project.worker("-n", "busy-bee") as worker:
        eventually(lambda: all(result.ready() for result in results), within=30)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    return tasks


def run(project: Project, *args: str) -> subprocess.CompletedProcess[str]:
    """`greenworker dead …` on the project, which never shows what it was not asked to."""
    done = project.run("dead", args[0], "-A", "tasks", *args[1:])
    text = (done.stdout + done.stderr).replace("\n", "")
    assert text.isprintable()
    assert "--values" in args or "canary" not in text
    return done


def check(project: Project) -> None:
    check_whole(snapshot(project.redis, project.root))


def test_failed_letters_are_read_mended_and_sent_again(project: Project, tasks: Any) -> None:
    # Then all of them are listed
    done = run(project, "list")
    assert (done.returncode, done.stderr) == (0, "")
    header, *rows, total = done.stdout.splitlines()
    assert header.split() == ["id", "age", "task", "reason", "error"]
    assert {row.split()[0] for row in rows} == {"order-0", "order-1", "order-2", "letter"}
    (row,) = (row for row in rows if row.startswith("order-1"))
    assert row.split()[2:5] == ["tasks.pay", "failed", "ConnectionError:"]
    assert row.endswith("refused by \\x1b[31mbank\\x1b[0m second line")
    assert total == "4 dead letters"

    # And found by what is known of them
    for filters, ids in (
        (("--task", "tasks.mail"), {"letter"}),
        (("--text", "in mail"), {"letter"}),
        (("--older", "7d"), set()),
        (("--newer", "7d", "--task", "tasks.mail"), {"letter"}),
    ):
        lines = run(project, "list", "--json", *filters).stdout.splitlines()
        assert {json.loads(line)["id"] for line in lines} == ids, filters
    assert run(project, "list", "--limit", "3").stdout.endswith("3 dead letters, --limit reached\n")
    assert run(project, "list", "--limit", "4").stdout.endswith("\n4 dead letters\n")
    assert len(run(project, "list", "--limit", "3", "--json").stdout.splitlines()) == 3

    # One of them is shown: its arguments only when they are asked for
    page = run(project, "show", "order-1").stdout.splitlines()
    assert "queue       default" in page
    assert any(line.startswith("worker      busy-bee (") for line in page)
    assert any('File "' in line and "tasks.py" in line for line in page)
    assert "  second line" in page
    page = run(project, "show", "--values", "order-1").stdout.splitlines()
    assert "args        [1]" in page
    assert 'kwargs      {"token":"canary"}' in page
    (told,) = run(project, "show", "--values", "--json", "letter").stdout.splitlines()
    assert json.loads(told)["args"] == ["canary"]

    # A dry run says what would be done
    before = snapshot(project.redis, project.root)
    done = run(project, "retry", "--task", "tasks.pay", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "would retry 3; nothing was changed\n")
    done = run(project, "delete", "--all", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "would delete 4; nothing was changed\n")
    assert snapshot(project.redis, project.root) == before

    # Retried before the mend they fail again, and after it they are done
    done = run(project, "retry", "order-2", "letter")
    assert (done.returncode, done.stdout) == (0, "2 retried\n")
    assert tasks.app.result("order-2").state is State.PENDING
    worker = project.worker()
    eventually(lambda: len(project.dead()) == 4)
    check(project)
    project.allow("mended")
    done = run(project, "retry", "--error", "ConnectionError", "--rate", "1000")
    assert (done.returncode, done.stdout) == (0, "3 retried\n")
    assert [tasks.app.result(f"order-{n}").get(timeout=20) for n in range(3)] == [0, 1, 2]
    assert sorted(project.notes) == ["paid 0", "paid 1", "paid 2"]
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0

    # What is deleted is gone
    assert run(project, "delete", "letter").stdout == "1 deleted\n"
    assert run(project, "list").stdout == "0 dead letters\n"
    status = project.run("status", "-A", "tasks", "--json")
    counters = json.loads(status.stdout)["counters"]
    assert (counters["enqueued"], counters["dead"], counters["revived"]) == (4, 6, 5)
    check(project)
    audit = project.run("check", "-A", "tasks")
    assert audit.returncode == 0, audit.stdout


def test_the_environment_narrows_nothing(project: Project, tasks: Any) -> None:
    """What was set once, somewhere, hides no dead letter and shows no argument."""
    env = {"GREENWORKER_TASK": "foo", "GREENWORKER_LIMIT": "1", "GREENWORKER_VALUES": "1"}
    page = project.run("dead", "show", "-A", "tasks", "letter", env=env).stdout
    assert "arguments   not shown without --values" in page
    done = project.run("dead", "retry", "-A", "tasks", "letter", env=env)
    assert (done.returncode, done.stdout) == (0, "1 retried\n")
    done = project.run("dead", "retry", "-A", "tasks", "--all", env=env)
    assert (done.returncode, done.stdout) == (0, "3 retried\n")


@pytest.mark.parametrize("verb", ["show", "retry", "delete"])
def test_an_unknown_id(project: Project, tasks: Any, verb: str) -> None:
    """It is said, and what else was named is done."""
    done = run(project, verb, "nope", "letter", "n\x1bpe")
    assert done.returncode == 1
    assert done.stderr == "greenworker: no dead letters nope, n\\x1bpe\n"
    assert done.stdout.startswith({"show": "id ", "retry": "1 ret", "delete": "1 del"}[verb])
    assert run(project, verb, "nope").stderr == "greenworker: no dead letter nope\n"


def test_without_an_app(project: Project, tasks: Any) -> None:
    server = ("-u", project.url, "--namespace", project.namespace)
    done = project.run("dead", "delete", "letter", "order-0", "--json", *server)
    assert json.loads(done.stdout) == {"deleted": 2, "dry_run": False, "interrupted": False}
    assert sorted(project.dead()) == ["order-1", "order-2"]


def test_what_cannot_be_sent_again_is_left(project: Project, tasks: Any) -> None:
    record = "1 malformed w 0\nw\n{}\n\x1b]0;canary\x07"
    project.redis.hset(project.root + "dead:record", "odd\x1b", record)
    project.redis.zadd(project.root + "dead", {"odd\x1b": 1})
    done = run(project, "retry", "--all")
    assert (done.returncode, done.stdout) == (0, "4 retried; left: 1 unreadable\n")
    assert run(project, "list").stdout.splitlines()[1].startswith("odd\\x1b")
    page = run(project, "show", "odd\x1b", "--values").stdout
    assert "envelope    \\x1b]0;canary\\x07" in page
    assert run(project, "delete", "odd\x1b").stdout == "1 deleted\n"


def test_a_throttled_replay_that_is_interrupted(project: Project, tasks: Any) -> None:
    """It says how many it has sent, and the rest is as it was."""
    records = project.redis.hgetall(project.root + "dead:record")
    many = {f"m{n}": records["order-0"] for n in range(500)}
    project.redis.hset(project.root + "dead:record", mapping=many)
    project.redis.zadd(project.root + "dead", dict.fromkeys(many, 1))
    args = ("dead", "retry", "--all", "--rate", "20", "-A", "tasks")
    with Command(*args, cwd=project.folder) as replay:
        eventually(lambda: project.redis.hget(project.root + "stats", "revived"), within=30)
        replay.signal(signal.SIGINT)
        assert replay.wait() == 1
    (line,) = replay.lines
    revived = int(project.redis.hget(project.root + "stats", "revived"))
    assert line == f"interrupted: {revived} retried"
    assert 0 < revived < 400
    assert project.redis.hlen(project.root + "msg") == revived
    assert len(project.dead()) == 504 - revived


def test_at_maxmemory_nothing_is_retried_and_deleting_helps(own_project: Project) -> None:
    tasks = own_project.module(TASKS)
    tasks.mail.apply_async(("x",), id="letter")
    worker = own_project.worker()
    eventually(lambda: own_project.dead())
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    own_project.redis.config_set("maxmemory", 1)
    done = run(own_project, "retry", "letter")
    assert (done.returncode, done.stdout) == (1, "0 retried\n")
    assert "refuses" in done.stderr
    assert done.stderr.count("\n") == 1
    assert own_project.dead() == {"letter": "failed"}
    assert run(own_project, "delete", "letter").stdout == "1 deleted\n"


def test_on_a_terminal_each_letter_is_a_line(project: Project, tasks: Any) -> None:
    control, terminal = pty.openpty()
    os.set_blocking(control, False)
    process = subprocess.Popen(
        [sys.executable, "-m", "greenworker", "dead", "list", "-A", "tasks"],
        cwd=project.folder,
        env=environment({"COLUMNS": "60"}),
        stdout=terminal,
        stdin=subprocess.DEVNULL,
    )
    os.close(terminal)
    shown = b""
    while select.select([control], [], [], 30)[0]:
        try:
            shown += os.read(control, 65536)
        except OSError:  # the other end was closed
            break
    os.close(control)
    assert process.wait(30) == 0
    rows = shown.decode().splitlines()
    assert len(rows) == 6
    assert max(map(len, rows)) <= 60
    assert any(row.endswith("…") for row in rows)


def test_the_names_of_an_environment_that_cannot_show_them(project: Project, tasks: Any) -> None:
    """A terminal's encoding is no reason for a traceback."""
    record = "1 failed w 0\ncaf\u00e9 \u20ac\n{}\n1 0 0 5 1 0 0 q t\n[[],{}]"
    project.redis.hset(project.root + "dead:record", "x", record)
    project.redis.zadd(project.root + "dead", {"x": 1})
    done = project.run("dead", "show", "x", "-A", "tasks", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "worker      caf\\xe9 \\u20ac (w)" in done.stdout


def test_what_was_sent_again_before_an_error_is_told(project: Project, tasks: Any) -> None:
    """Of large ones a call takes four: the fifth is refused, as its queue is none."""
    for n in range(5):
        envelope = f'1 0 0 5 1 0 0 {"bad" if n == 4 else "fine"} t\n[["{"x" * 1_000_000}"],{{}}]'
        record = f"{n + 1} failed w 0\nw\n{{}}\n{envelope}"
        project.redis.hset(project.root + "dead:record", f"large{n}", record)
        project.redis.zadd(project.root + "dead", {f"large{n}": n + 1})
    project.redis.set(project.root + "ready:bad:5", "no list")
    done = run(project, "retry", "--task", "t")
    assert (done.returncode, done.stdout) == (1, "4 retried\n")
    assert "GWTYPE" in done.stderr
    assert done.stderr.count("\n") == 1
    assert project.redis.llen(project.root + "ready:fine:5") == 4
    done = run(project, "retry", "--task", "t", "--json")
    assert json.loads(done.stdout) == {"dry_run": False, "interrupted": False}
    project.redis.delete(project.root + "ready:bad:5")
