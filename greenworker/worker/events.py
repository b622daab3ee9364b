"""Events: how a worker begins and ends, as its app's middleware hears of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.event import Event

from greenworker.middleware import Middleware
from greenworker.worker.report import told

_log = logging.getLogger("greenworker.worker")

_LEAST = 1.0  # seconds that on_quiet and on_shutdown get, whatever the hurry


class Events:
    """Tells each middleware of a worker's start, quiet and shutdown: each at most once a start."""

    def __init__(self, worker: Any, middleware: Sequence[Middleware]) -> None:
        self._worker = worker
        self._all = middleware
        self._begun: list[Middleware] = []
        self._is_quiet = False
        self._telling = gevent.Greenlet()  # of on_quiet; ended, unless it is under way

    def start(self, asked: Event) -> bool:
        """Whether all have begun; False when `asked` was set before that: to stop.

        Raises what one of them raises. Those that had begun are shut down again, unless all have.
        """
        self._begun, self._is_quiet = [], False
        if not self._all:
            return True
        begun: list[Middleware] = []
        errors: list[BaseException] = []

        def begin() -> None:
            try:
                for one in self._all:
                    one.on_start(self._worker)
                    begun.append(one)
            except gevent.GreenletExit:
                raise
            except BaseException as error:
                errors.append(error)

        beginning = gevent.spawn(begin)
        all_begun = False
        try:
            gevent.wait([beginning, asked], count=1)
            all_begun = len(begun) == len(self._all)
        finally:
            # Who ignores that is left behind.
            beginning.kill(timeout=_LEAST)
            self._begun = begun.copy()
            if not all_begun:
                self.shutdown(_LEAST, asked)
        if errors:
            raise errors[0]
        return all_begun

    def quiet(self) -> None:
        """The worker claims nothing more; returns at once."""
        if self._begun and not self._is_quiet:
            self._is_quiet = True
            self._telling = gevent.spawn(self._tell, [one.on_quiet for one in self._begun])

    def resume(self) -> None:
        """It claims again: the next quiet is another one."""
        self._is_quiet = False

    def shutdown(self, timeout: float, hurry: Event) -> None:
        """The last task has ended; returns after `timeout` s, or a second in a hurry, at the latest."""
        if not self._begun:
            return
        ending = gevent.spawn(self._end)
        gevent.wait([ending, hurry], timeout=timeout, count=1)
        ending.join(min(_LEAST, timeout) if hurry.is_set() else 0.0)
        if not ending.dead:
            _log.warning("on_shutdown takes too long: not waiting for it")
            self._telling.kill(block=False)
            ending.kill(block=False)

    def _end(self) -> None:
        if self._is_quiet:
            self._telling.join()
        begun, self._begun = self._begun, []
        self._tell([one.on_shutdown for one in reversed(begun)])

    def _tell(self, those: Sequence[Callable[[Any], None]]) -> None:
        for on_event in those:
            try:
                on_event(self._worker)
            except gevent.GreenletExit:
                raise
            except BaseException as error:
                # What one middleware fails of is nothing to the others, or to the worker.
                _log.error(
                    "%s failed: %s", on_event.__qualname__, told(None, error), exc_info=error
                )
