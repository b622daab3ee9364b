"""The real command on a terminal of its own, which a test looks at and types into."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Mapping
from typing import Self

from tests.support.popen import popen
from tests.support.process import PathLike, environment

# A session of its own, whose terminal this is: then its keys make signals.
_LEAD = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'greenworker', *sys.argv[1:]])"
)
_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()].|\x1b[=>]")
HOME, OTHER_SCREEN, FIRST_SCREEN = "\x1b[H", "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """`greenworker args…` on a terminal of so many columns and lines; killed at the end of the context."""

    def __init__(
        self,
        *args: str,
        cwd: PathLike | None = None,
        env: Mapping[str, str] | None = None,
        width: int = 100,
        height: int = 30,
    ) -> None:
        self.output = ""  # all that it wrote
        self._ours, self._theirs = pty.openpty()
        self.resize(width, height)
        self.before = self.attributes()
        env = {"TERM": "xterm-256color", **(env or {})}
        self.process = popen(
            [sys.executable, "-c", _LEAD, *args],
            cwd=cwd,
            env=environment(env),
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
        )
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def attributes(self) -> list[object]:
        """How the terminal is set: what a program has to give back."""
        return termios.tcgetattr(self._theirs)

    def resize(self, width: int, height: int) -> None:
        self._height = height
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    @property
    def lines(self) -> list[str]:
        """What is drawn now: all since the cursor went home last, and that is a whole frame."""
        frames = self.output.split(HOME)
        # The last one may still be on its way.
        frame = frames[-1] if self._is_whole(frames[-1]) or len(frames) < 3 else frames[-2]
        return [line.rstrip() for line in _CODES.sub("", frame).splitlines()]

    def wait_for(self, text: str, within: float = 20.0, gone: str = "") -> str:
        """Wait until a line of the screen holds `text` (and none `gone`); returns that line."""
        deadline = time.monotonic() + within
        while True:
            lines = self.lines
            found = [line for line in lines if text in line]
            if found and not (gone and any(gone in line for line in lines)):
                return found[0]
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"no {text!r} on the screen:\n" + "\n".join(lines))
            time.sleep(0.01)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for its end and for all that it wrote; returns the exit code."""
        code = self.process.wait(timeout)
        self._drain()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._drain()
        os.close(self._ours)
        os.close(self._theirs)
        if kind is not None:
            print("--- the terminal:\n" + "\n".join(self.lines) + "\n---")

    def _is_whole(self, frame: str) -> bool:
        return frame.count("\n") >= self._height - 1

    def _drain(self) -> None:
        self._over.set()
        self._reader.join()

    def _read(self) -> None:
        decode = codecs.getincrementaldecoder("utf-8")("ignore").decode
        while True:
            readable, _, _ = select.select([self._ours], [], [], 0.02)
            if not readable:
                if self._over.is_set():
                    return
                continue
            try:
                self.output += decode(os.read(self._ours, 65536))
            except OSError:  # it has gone
                return
