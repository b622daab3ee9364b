"""greenworker status: what is where, for people and for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from greenworker.endpoint import redact
from tests.e2e.conftest import Project
from tests.support.process import environment


def test_the_status_of_everything(project: Project) -> None:
    # Given: 3 wait where nobody works, 2 run, 1 is scheduled, 1 is dead, 1 is done
    tasks = project.module("""
        @app.task
        def hold(): wait_for("go")

        @app.task
        def fail(): raise ValueError

        @app.task
        def fine(): ...
    """)
    worker = project.worker("-n", "busy-bee", "-c", "7", "-Q", "default,extra")
    held = [tasks.hold.delay() for _ in range(2)]
    fail, fine = tasks.fail.delay(), tasks.fine.delay()
    for _ in range(3):
        tasks.hold.apply_async(queue="lonely")
    tasks.fine.apply_async(countdown=600)
    worker.wait_for("failed")
    worker.wait_for("received", times=4)
    assert fine.get(timeout=20) is None
    assert fail.ready()

    # Then the table says so
    table = project.run("status", "-A", "tasks")
    assert (table.returncode, table.stderr) == (0, "")
    lines = table.stdout.splitlines()
    assert lines[0] == f"server     {redact(project.url)}, namespace {project.namespace}"
    rows = [line.split() for line in lines]
    for row in (
        "waiting 3",
        "running 2",
        "dead 1",
        "done 1",
        "retried 0",
        "throttled 0",
        "expired 0",
    ):
        assert row.split() in rows
    assert any(line.startswith("scheduled  1, the next due in 59") for line in lines)
    for row in ("default 0 1", "extra 0 1", "lonely 3 none"):
        assert row.split() in rows
    (bee,) = (row for row in rows if row[:1] == ["busy-bee"])
    assert (bee[1:3], bee[-2:]) == (["2", "7"], ["default,", "extra"])
    assert lines[-1] == "queues without a worker: lonely"

    # And --json says the same; with -u it needs no app
    args = ("-u", project.url, "--namespace", project.namespace, "--json")
    as_json = project.run("status", *args)
    assert (as_json.returncode, as_json.stderr) == (0, "")
    status = json.loads(as_json.stdout)
    assert [status[key] for key in ("waiting", "running", "scheduled", "dead")] == [3, 2, 1, 1]
    assert status["queues_without_worker"] == ["lonely"]
    assert {queue["name"]: queue["waiting"] for queue in status["queues"]} == {
        "default": 0, "extra": 0, "lonely": 3,
    }  # fmt: skip
    (bee,) = status["workers"]
    assert (bee["name"], bee["running"], bee["concurrency"]) == ("busy-bee", 2, 7)
    assert bee["queues"] == ["default", "extra"]
    assert status["counters"]["enqueued"] == 8
    project.allow("go")
    assert [result.get(timeout=20) for result in held] == [None, None]


def test_a_namespace_without_anything(project: Project) -> None:
    done = project.run("status", "-u", project.url, "--namespace", project.namespace)
    assert done.returncode == 0
    assert "(no queue yet)" in done.stdout
    assert "(no worker)" in done.stdout
    assert "without a worker" not in done.stdout


def test_what_other_workers_are_called_gives_a_terminal_no_orders(project: Project) -> None:
    """Nor a line of its own, in the banner of a worker that comes later."""
    about = json.dumps({"name": "\x1b[31mEVIL\nready", "queues": ["default"]})
    project.redis.zadd(project.root + "workers", {"w": 1})
    project.redis.hset(project.root + "about", "w", about)
    project.module("@app.task\ndef fine(): ...")
    worker = project.worker()
    line = worker.wait_for("other on these queues")
    assert line.endswith("1 other on these queues: '\\x1b[31mEVIL\\nready'")


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_leaves_early(project: Project, buffered: str) -> None:
    """As in `greenworker status | head`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "greenworker", "status", "-u", project.url],
        env=environment({"PYTHONUNBUFFERED": buffered}),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
