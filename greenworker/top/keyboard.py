"""Keyboard: keys as they are pressed, from a terminal that is given back as it was."""

from __future__ import annotations

import os
import re
import termios
import tty
from types import TracebackType
from typing import Self

from gevent.socket import wait_read

_REST = 0.05  # seconds: the rest of a key that a terminal sends as several bytes
_NAMED = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x15": "clear",  # Ctrl-U, as in a shell
    "\x03": "quit",  # where the terminal makes no signal of it
    "\x04": "quit",
    "\x1b": "escape",
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
}
# A sequence that a terminal sends for one key; a lone escape; or any other character.
_KEY = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|O.)|.", re.DOTALL)
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-9;?]*|O)?\Z|[\xc0-\xff][\x80-\xbf]{0,2}\Z")


class Keyboard:
    """As a context manager: keys come one by one and are not shown. Signals by Ctrl-C and Ctrl-Z stay.

    However it is left, the terminal is as it was before.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[object] = []

    def take(self) -> None:
        """Take the terminal; also again, after somebody else has had it."""
        self._before = self._before or termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd, termios.TCSANOW)

    def give_back(self) -> None:
        if self._before:
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)  # type: ignore[arg-type]

    def read(self) -> list[str]:
        """Wait for keys; empty when the terminal has gone."""
        wait_read(self._fd)
        try:
            data = os.read(self._fd, 4096)
            if _UNFINISHED.search(data):
                try:
                    wait_read(self._fd, timeout=_REST)
                    data += os.read(self._fd, 4096)
                except TimeoutError:
                    pass
        except OSError:
            return []
        return keys_in(data)

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.give_back()


def keys_in(data: bytes) -> list[str]:
    """The keys that these bytes mean: a printable character is itself, others have names; what has none is
    left out."""
    found = _KEY.findall(data.decode("utf-8", "ignore"))
    return [_NAMED.get(key, key) for key in found if key in _NAMED or key.isprintable()]
