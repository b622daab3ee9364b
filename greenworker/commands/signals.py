"""Signals of a worker's process: heard by the loop, and by the watchdog's thread while it is blocked."""

from __future__ import annotations

import atexit
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

import gevent

_STOP = (signal.SIGTERM, signal.SIGINT)

_AFTER_GRACE = 5.0  # seconds: a stop's own work, and what tasks do in `finally`
_AFTER_SECOND = 2.0  # … after a second signal


class StopSignals:
    """Hears TERM and INT, whatever the loop does; calls `on_signal` in a greenlet for each, with the
    time.monotonic() of its arrival.

    Python's C handler writes a signal's number to a pipe at once (set_wakeup_fd), even where a
    blocked loop or a held GIL keeps Python's own handlers from running.
    """

    def __init__(self, on_signal: Callable[[float], None], grace: float) -> None:
        self._on_signal = on_signal
        self._grace = grace
        self._handled = 0
        # Appended to by several threads; who hears of a signal first, knows when it came.
        self._by_pipe: list[float] = []
        self._by_handler: list[float] = []

    def install(self) -> None:
        """Take over TERM and INT; call it in the main thread."""
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        loop = gevent.get_hub().loop
        self._readable = loop.io(self._read, 1, ref=False)
        self._readable.start(self._in_the_loop)
        self._arrived = loop.async_(ref=False)
        self._arrived.start(self._in_the_loop)
        for number in _STOP:
            signal.signal(number, self._handle)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_leave_to_the_system)
        # What ends in order is not to die of a second signal that comes when the interpreter has
        # given up its handlers.
        atexit.register(_ignore)

    def stop_by(self) -> float | None:
        """When a stop must be over that was asked for: some seconds after the grace, or after the
        second signal.

        For the watchdog's thread, when it finds the loop blocked.
        """
        arrived = self._look()
        if not arrived:
            return None
        latest = arrived[0] + self._grace + _AFTER_GRACE
        return min(latest, arrived[1] + _AFTER_SECOND) if len(arrived) > 1 else latest

    def _handle(self, _: int, __: FrameType | None) -> None:
        # Between two bytecodes of whatever runs: it may not wait.
        self._by_handler.append(time.monotonic())
        self._arrived.send()

    def _look(self) -> list[float]:
        try:
            numbers = os.read(self._read, 512)
        except BlockingIOError:
            numbers = b""
        now = time.monotonic()
        self._by_pipe += [now for number in numbers if number in _STOP]
        # The handler runs once for several that came together; the pipe may be somebody else's.
        return max(self._by_pipe, self._by_handler, key=len)

    def _in_the_loop(self) -> None:
        arrived = self._look()
        while self._handled < len(arrived):
            gevent.spawn(self._on_signal, arrived[self._handled])
            self._handled += 1


def _ignore() -> None:
    signal.set_wakeup_fd(-1)
    for number in _STOP:
        signal.signal(number, signal.SIG_IGN)


def _leave_to_the_system() -> None:
    # A forked child would write to our pipe.
    signal.set_wakeup_fd(-1)
    for number in _STOP:
        signal.signal(number, signal.SIG_DFL)
