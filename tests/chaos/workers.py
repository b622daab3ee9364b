"""Worker commands of an arena, and the supervisor that starts those anew which have died."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.chaos.history import Journal
from tests.support import failpoints
from tests.support.process import Command


class Worker:
    """One worker command in the folder of an arena; supervised, it is started anew when it ends.

    Under the same name and with the same arguments, but without the failpoint: that is for one life.
    """

    def __init__(
        self,
        journal: Journal,
        folder: Path,
        name: str,
        args: tuple[str, ...],
        *,
        failpoint: str = "",
        env: Mapping[str, str] | None = None,
        supervised: bool = False,
    ) -> None:
        self.name = name
        self.supervised = supervised
        self.stopped = False  # by SIGSTOP
        self.leaving = False  # told to end: nobody may expect it to claim
        self.next_failpoint = ""  # of its next life
        self.lives: list[Command] = []
        self.codes: list[int] = []
        self._journal, self._folder, self._args = journal, folder, args
        self._env = dict(env or {})
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._start(failpoint)
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{name}", daemon=True)
        self._watcher.start()

    @property
    def command(self) -> Command:
        """The present life, or the last one."""
        return self.lives[-1]

    @property
    def pid(self) -> int:
        return self.command.pid

    @property
    def running(self) -> bool:
        return self.command.running

    @property
    def age(self) -> float:
        """Seconds since the present life was started."""
        return time.monotonic() - self._since

    @property
    def pids(self) -> list[int]:
        """Of all its lives."""
        return [life.pid for life in self.lives]

    @property
    def output(self) -> str:
        return "\n---\n".join(life.output for life in self.lives)

    def signal(self, number: signal.Signals) -> float:
        """Send a signal to the present life, nothing when it has ended; returns the time.

        What ends it is journaled as a fault.
        """
        life, moment = self.command, time.monotonic()
        if number in (signal.SIGTERM, signal.SIGKILL):
            moment = self._journal.write("fault", name=number.name, of=life.pid)
            self._journal.write("mended", name=number.name)
        with contextlib.suppress(ProcessLookupError):
            life.signal(number)
        return moment

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the end of an unsupervised worker; returns its exit code (-9 = SIGKILL)."""
        code = self.command.wait(timeout)
        self._watcher.join(5)  # it has written the end down
        return code

    def end(self) -> None:
        """Kill it, and start it no more."""
        self.supervised = False
        self._ended.set()
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            self.command.kill()
        self._watcher.join(10)

    def _start(self, failpoint: str = "") -> None:
        program = ("-m", "tests.support.failpoints" if failpoint else "greenworker")
        env = {**self._env, "CHAOS_WORKER": self.name}
        if failpoint:
            env[failpoints.VARIABLE] = failpoint
        command = Command(*self._args, cwd=self._folder, env=env, program=program)
        self.stopped = self.leaving = False
        self._since = time.monotonic()
        self.lives.append(command)
        self._journal.write(
            "up", of=command.pid, name=self.name, failpoint=failpoint, args=list(self._args)
        )

    def _watch(self) -> None:
        while True:
            code = self.command.process.poll()
            if code is None:
                time.sleep(0.01)
                continue
            self.codes.append(code)
            self._journal.write("down", of=self.pid, name=self.name, code=code)
            if not self.supervised or self._ended.is_set():
                return
            time.sleep(0.1)  # as a supervisor would, against a crash loop
            if self.supervised and not self._ended.is_set():
                failpoint, self.next_failpoint = self.next_failpoint, ""
                self._start(failpoint)
