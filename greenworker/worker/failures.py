"""Failures: tells an app's on_failure functions of what has failed for good."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

import gevent
from gevent.event import Event

from greenworker.dead import DeadLetter, DeadLetters
from greenworker.errors import BrokerUnavailable
from greenworker.worker.report import told
from greenworker.worker.service import Service

_log = logging.getLogger("greenworker.worker")

_MOST = 10_000  # that wait to be told
_AT_ONCE = 100  # read in one call
_PATIENCE = 30.0  # seconds for one function
_IN_A_HURRY = 0.5


class Failures(Service):
    """Reads the dead letters that this worker has made, and hands each to each function, one at a time.

    So a function that fails, waits or hangs delays no task. What is no dead letter any more is not told.
    """

    name = "failures"

    def __init__(
        self, letters: DeadLetters, functions: Sequence[Callable[[DeadLetter], object]]
    ) -> None:
        super().__init__()
        self._letters = letters
        self._functions = functions
        self._waiting: deque[str] = deque()
        self._busy = False

    def add(self, id: str) -> None:
        """This id is a dead letter now."""
        if not self._functions:
            return
        if len(self._waiting) < _MOST:
            self._waiting.append(id)
            self.wake()
        else:
            _log.warning("on_failure is too slow: %s is a dead letter, and nobody is told", id)

    def step(self) -> float | None:
        if not self._waiting:
            return None
        self._busy = True
        try:
            ids = [self._waiting[at] for at in range(min(_AT_ONCE, len(self._waiting)))]
            found = self._read(ids)
            for _ in ids:  # not before: the server may be away
                self._waiting.popleft()
            for letter in found:
                self._tell(letter)
        finally:
            self._busy = False
        return 0.0

    def flush(self, timeout: float, hurry: Event) -> None:
        """Wait until all are told, for at most `timeout` s, or half a second in a hurry."""
        began = time.monotonic()
        while (self._waiting or self._busy) and time.monotonic() - began < timeout:
            if hurry.is_set():
                timeout = min(timeout, _IN_A_HURRY)
            gevent.sleep(0.005)
        if self._waiting:
            _log.warning("%d dead letters were told to no on_failure", len(self._waiting))
            self._waiting.clear()

    def _read(self, ids: Sequence[str]) -> list[DeadLetter]:
        try:
            return list(self._letters.list(ids=ids))
        except BrokerUnavailable:
            raise
        except Exception as error:
            # Damage, say: those behind them are to be told all the same.
            _log.error("on_failure: %d dead letters cannot be read: %s", len(ids), error)
            return []

    def _tell(self, letter: DeadLetter) -> None:
        for function in self._functions:
            # In a greenlet of its own: who ignores its end keeps nobody waiting, and no stop.
            telling = gevent.spawn(_call, function, letter)
            try:
                telling.join(_PATIENCE)
                if not telling.dead:
                    _log.error(
                        "on_failure, of %s[%s]: takes more than %g s",
                        letter.task,
                        letter.id,
                        _PATIENCE,
                    )
            finally:
                telling.kill(block=False)


def _call(function: Callable[[DeadLetter], object], letter: DeadLetter) -> None:
    try:
        function(letter)
    except gevent.GreenletExit:
        raise
    except BaseException as error:
        _log.error(
            "on_failure, of %s[%s]: failed: %s",
            letter.task, letter.id, told(None, error), exc_info=error,
        )  # fmt: skip
