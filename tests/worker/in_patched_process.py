"""Runs the tests of this folder in one child of pytest, and tells their reports as pytest's own.

A worker lives in a process that gevent patched on its first line, and everything else in one
that nobody patched. So do their tests: to patch the whole session, and late at that, would
make threads green where other tests mean threads. Selection, `-x`, `--lf`, durations and
reports are as ever. To debug with `-s` or `--pdb`, patch the session itself, and the tests run
in place: python -m gevent.monkey --module pytest -s tests/worker
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from gevent import monkey

FOLDER = Path(__file__).parent
REPORTS = "WORKER_TESTS_REPORT_TO"  # in the child: the descriptor that takes its reports
CHILD = """
from gevent import monkey; monkey.patch_all()
import sys, pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def is_patched() -> bool:
    return bool(monkey.is_module_patched("socket"))


def register(config: pytest.Config) -> None:
    """Give this process its part: it hands the tests over, or reports, or is patched and runs them."""
    if not is_patched():
        config.pluginmanager.register(Parent(config))
    elif REPORTS in os.environ:
        config.pluginmanager.register(Reporter(config))


class Parent:
    """In the session that somebody started: hands items over, and passes reports on."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._child: Child | None = None
        self._items: list[pytest.Item] = []
        # The child has its own time limits; this one is for a child that is beyond them.
        self._patience = 2 * float(config.getini("timeout") or 120)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if item.path.is_relative_to(FOLDER):
                item.add_marker(pytest.mark.timeout(0), append=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        self._items = [item for item in session.items if item.path.is_relative_to(FOLDER)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not item.path.is_relative_to(FOLDER):
            return None
        if self._child is None:
            ids = [one.nodeid for one in self._items[self._items.index(item) :]]
            self._child = Child(ids, self._config)
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for data in self._reports(item, self._child):
            report = hook.pytest_report_from_serializable(config=self._config, data=data)
            if isinstance(report.longrepr, list):  # where a test was skipped: JSON has no tuples
                report.longrepr = tuple(report.longrepr)
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_sessionfinish(self) -> None:
        if self._child is not None:
            self._child.close()

    def _reports(self, item: pytest.Item, child: Child) -> Iterator[Any]:
        while (line := child.read_line(self._patience)) is not None:
            data = json.loads(line)
            assert data["nodeid"] == item.nodeid, "the child runs another test"
            yield data
            if data["when"] == "teardown":
                return
        output = child.close()
        self._child = None  # the tests that follow get another one
        why = f"the process of the worker's tests has ended, or hangs, in this test:\n{output}"
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")
        yield item.ihook.pytest_report_to_serializable(config=self._config, report=report)


class Child:
    """A patched process that runs these tests, in this order, whatever their outcome."""

    def __init__(self, ids: Sequence[str], config: pytest.Config) -> None:
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  # see close()
        self._read, write = os.pipe()
        self._rest = b""
        options = [f"--rootdir={config.rootpath}", f"-c{config.inipath}", "-pno:cacheprovider"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *options, *ids],
            cwd=config.rootpath,
            env={**os.environ, "PYTEST_ADDOPTS": "", REPORTS: str(write)},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=[write],
        )
        os.close(write)

    def read_line(self, patience: float) -> bytes | None:
        """The next report; None if the child has ended, or says nothing for so many seconds."""
        while b"\n" not in self._rest:
            readable, _, _ = select.select([self._read], [], [], patience)
            piece = os.read(self._read, 65536) if readable else b""
            if not piece:
                return None
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def close(self) -> str:
        """End the child, which still tidies up, and return the end of its output."""
        if self._process.poll() is None and not self._is_ending():
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        with self._output as output:
            output.seek(0)
            return output.read()[-4000:]

    def _is_ending(self) -> bool:
        # All reports are told: what it does now is its own end.
        readable, _, _ = select.select([self._read], [], [], 10)
        return bool(readable) and not os.read(self._read, 1)


class Reporter:
    """In the child."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._fd = int(os.environ[REPORTS])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        line = json.dumps(data, default=str).encode() + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]
