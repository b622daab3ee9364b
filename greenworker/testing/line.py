"""Line: what is to run inline, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextvars import ContextVar

from greenworker.testing.memory import Entry
from greenworker.testing.record import Ran


class Line:
    """What one send has brought about, and what that has, first come, first served."""

    def __init__(self, inline: object) -> None:
        self.inline = inline
        self.failed: list[Ran] = []
        self.told: list[Exception] = []
        self.runs = 0
        self._entries: deque[Entry] = deque()
        self._is_open = True
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        return self._is_open

    def add(self, entries: Sequence[Entry]) -> bool:
        """False when it is over: a greenlet that a task has left behind sends for itself."""
        with self._lock:
            if self._is_open:
                self._entries.extend(entries)
            return self._is_open

    def next(self) -> Entry | None:
        """The first one; None: that was all, and it is over."""
        with self._lock:
            if self._entries:
                return self._entries.popleft()
            self._is_open = False
            return None

    def take(self, entry: Entry) -> bool:
        """This one before its turn, if it waits here."""
        with self._lock:
            if entry not in self._entries:
                return False
            self._entries.remove(entry)
            return True

    def break_off(self) -> None:
        """It is over, whatever it has: nobody is to wait for that."""
        with self._lock:
            self._is_open = False
            for entry in self._entries:
                entry.left = True
            self._entries.clear()

    def reopen(self, entries: Sequence[Entry]) -> None:
        with self._lock:
            self._is_open = True
            self._entries.extend(entries)


# The line into which the code at hand sends: within a send, and in the runs that it has brought about.
LINE: ContextVar[Line | None] = ContextVar("greenworker.testing.line", default=None)
