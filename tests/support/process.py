"""Run the real command, `python -m greenworker …`, in the foreground or the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import gevent
from gevent.monkey import get_original

from tests.support.popen import popen

ROOT = Path(__file__).resolve().parents[2]

# A real thread even where gevent has patched this process: it reads while the loop is blocked.
start_native_thread = get_original("_thread", "start_new_thread")

PathLike = str | os.PathLike[str]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process' environment without GREENWORKER_* settings, plus `extra`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GREENWORKER_")}
    # The greenworker under test is the one that runs, from whatever folder.
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    # Into a pipe print() waits for a full buffer, and the test for a line in it.
    env["PYTHONUNBUFFERED"] = "1"
    return {**env, **(extra or {})}


def run(
    *args: str,
    cwd: PathLike | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run `greenworker args…` to its end; `env` is added to the environment."""
    return subprocess.run(
        [sys.executable, "-m", "greenworker", *args],
        cwd=cwd,
        env=environment(env),
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


class Command:
    """`greenworker args…` in the background; its lines are collected as they come.

    As a context manager it kills the process (and what it started) at the end, and prints the
    output if the block failed. `program` replaces `-m greenworker`: `["-c", "…"]`, `["a.py"]`.
    """

    def __init__(
        self,
        *args: str,
        cwd: PathLike | None = None,
        env: Mapping[str, str] | None = None,
        program: tuple[str, ...] = ("-m", "greenworker"),
    ) -> None:
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self.lines: list[str] = []  # of both, in the order of their arrival
        out, err = os.pipe(), os.pipe()
        try:
            self.process = popen(
                [sys.executable, *program, *args],
                cwd=cwd,
                env=environment(env),
                stdin=subprocess.DEVNULL,
                stdout=out[1],
                stderr=err[1],
                start_new_session=True,
            )
        finally:
            os.close(out[1])
            os.close(err[1])
        self._streams = {out[0], err[0]}  # those that may still bring lines
        start_native_thread(self._collect, (out[0], self.stdout))
        start_native_thread(self._collect, (err[0], self.stderr))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str, within: float = 20.0, times: int = 1) -> str:
        """Wait for a line that holds `text` (for the `times`-th of them), and return it.

        Fails when the process has ended without it: no need to wait for what cannot come.
        """
        deadline = time.monotonic() + within
        while True:
            ended = not self.running and not self._streams
            found = [line for line in self.lines if text in line]
            if len(found) >= times:
                return found[times - 1]
            if ended or time.monotonic() >= deadline:
                why = f"ended with {self.process.returncode}" if ended else f"{within:g} s passed"
                raise AssertionError(
                    f"{why}, and {len(found)} of {times} lines held {text!r}:\n{self.output}"
                )
            gevent.sleep(0.01)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the end and for all its output; return the exit code (-9 = SIGKILL)."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s:\n{self.output}") from None
        # A child that lives on may keep a stream open: then what is there must do.
        deadline = time.monotonic() + 2
        while self._streams and time.monotonic() < deadline:
            gevent.sleep(0.005)
        return code

    def kill(self) -> None:
        """SIGKILL the process and what it started; nothing when it has ended."""
        if self.running:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.kill()
        if kind is not None:
            print(f"--- output of {self.process.args!r}:\n{self.output}\n---")

    def _collect(self, fd: int, lines: list[str]) -> None:
        rest = b""
        while chunk := os.read(fd, 65536):
            *whole, rest = (rest + chunk).split(b"\n")
            self._add([line.decode(errors="replace") for line in whole], lines)
        if rest:
            self._add([rest.decode(errors="replace")], lines)
        os.close(fd)
        self._streams.discard(fd)

    def _add(self, texts: list[str], lines: list[str]) -> None:
        lines.extend(texts)
        self.lines.extend(texts)
