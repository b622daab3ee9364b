"""A project for each test: a folder with an app module, and the real command to run it."""

from __future__ import annotations

import importlib.util
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import redis

from greenworker import App, keys
from greenworker.findings import Report
from tests.conftest import SERVER_USER
from tests.support import acl
from tests.support.process import Command, run
from tests.support.server import Server

# Stands before each app module. Tasks wait for files of the project's folder, which is where the
# worker runs: a test says when they end, and no sleep has to be long enough.
HEAD = """\
import logging, os, sys, threading, time
from pathlib import Path
from greenworker import App, Backoff, current_task

app = App({url!r}, namespace={namespace!r})

def wait_for(file):
    while not Path(file).exists():
        time.sleep(0.01)

def note(text):
    end = os.open("notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(end, f"{{text}}\\n".encode())
    os.close(end)

"""


class Project:
    """A folder with app modules on a server, in a namespace of its own."""

    def __init__(self, folder: Path, url: str, namespace: str, admin_url: str = "") -> None:
        self.folder, self.url, self.namespace = folder, url, namespace
        self.admin_url = admin_url or url  # for the tests' own looks
        self.root = keys.root(namespace)
        self.redis: Any = redis.Redis.from_url(self.admin_url, decode_responses=True)
        self._checking: App | None = None
        self._stack = ExitStack()
        self._stack.callback(self.redis.close)

    def write(self, body: str, name: str = "tasks") -> None:
        """Write a module: an App on this project's server, and then `body`."""
        head = HEAD.format(url=self.url, namespace=self.namespace)
        (self.folder / f"{name}.py").write_text(head + dedent(body))

    def module(self, body: str, name: str = "tasks") -> Any:
        """Write a module and load it here, to send its tasks."""
        self.write(body, name)
        spec = importlib.util.spec_from_file_location(name, self.folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        app = module.app
        assert isinstance(app, App)
        # Beside the next test: the reader of results takes a second to see that it may leave.
        self._stack.callback(threading.Thread(target=app.close).start)
        return module

    def worker(
        self, *args: str, ready: bool = True, env: Mapping[str, str] | None = None
    ) -> Command:
        """Start `greenworker ARGS tasks`, and wait until it claims; killed with the test."""
        worker = self._stack.enter_context(Command(*args, "tasks", cwd=self.folder, env=env))
        if ready:
            worker.wait_for("ready")
        return worker

    def run(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `greenworker ARGS` to its end in the folder."""
        if SERVER_USER and args[:1] == ("check",) and "-u" not in args:
            args += ("-u", self.url_of("dashboard"))  # a worker's user may not look at all keys
        return run(*args, cwd=self.folder, **options)

    def audit(self) -> Report:
        """What `greenworker check` finds."""
        if self._checking is None:
            self._checking = App(self.url_of("dashboard"), namespace=self.namespace)
            self._stack.callback(self._checking.close)
        return self._checking.check()

    def url_of(self, role: str) -> str:
        """The server as it is reached by a user of docs/security.md, where there are users."""
        return acl.url_of(role, self.admin_url) if SERVER_USER else self.url

    def script(self, body: str, *args: str) -> Command:
        """Start a program of the user's own in the folder; killed with the test."""
        (self.folder / "script.py").write_text(dedent(body))
        command = Command(*args, program=("script.py",), cwd=self.folder)
        return self._stack.enter_context(command)

    def allow(self, file: str) -> None:
        """Let the tasks go on that `wait_for` this file."""
        (self.folder / file).touch()

    def pause(self, seconds: float) -> None:
        """Let a fault last: what is under way meanwhile is the fault itself."""
        time.sleep(seconds)

    @property
    def notes(self) -> list[str]:
        """What tasks have noted, of whatever process: a line each."""
        file = self.folder / "notes"
        return file.read_text().splitlines() if file.exists() else []

    def dead(self) -> dict[str, str]:
        """Dead letters: the reason by id."""
        records = self.redis.hgetall(keys.dead_records(self.root))
        return {id: record.split(" ")[1] for id, record in records.items()}

    def check(self) -> None:
        """All is well, whatever goes on: what `greenworker check` says."""
        report = self.audit()
        assert report.well, "\n".join([report.summary, *map(str, report.findings)])

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def project(tmp_path: Path, server: Server, namespace: str) -> Iterator[Project]:
    """A project on the session's server."""
    project = Project(tmp_path, server.url, namespace, server.admin_url)
    yield project
    project.close()


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server of this test alone, which it may hurt."""
    with Server(user=SERVER_USER) as server:
        yield server


@pytest.fixture
def own_project(tmp_path: Path, own_server: Server, namespace: str) -> Iterator[Project]:
    """A project on a server of this test alone."""
    project = Project(tmp_path, own_server.url, namespace, own_server.admin_url)
    yield project
    project.close()
