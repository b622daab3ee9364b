"""Threads: runs the functions of tasks that declare `thread=True` in native threads of gevent's."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import cache
from types import FrameType
from typing import Any

import gevent
from gevent import monkey
from gevent.event import AsyncResult
from gevent.lock import Semaphore
from gevent.threadpool import ThreadPool

from greenworker.context import CURRENT, IN_THREAD, CurrentTask
from greenworker.errors import Cancelled
from greenworker.worker.run import HardTimeout

_IDLE = 60.0  # seconds after which a thread that has nothing to do ends
_get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")


class Threads:
    """At most `size` functions at once, each in a native thread; a run waits for one before its time begins.

    No thread can be ended from outside. What is left behind by a run that has ended (its timeout, a
    release) goes on beside the others in a thread of its own: `abandoned`; `stuck` are those past their timeout.
    """

    def __init__(self, size: int, on_stuck: Callable[[], None]) -> None:
        self._size = size
        self._on_stuck = on_stuck
        self._free = Semaphore(size)
        self._pool: ThreadPool | None = None  # made when the first one is wanted
        self._records = _Records()
        self.abandoned: set[Call] = set()
        self.stuck: set[Call] = set()

    def acquire(self) -> bool:
        """Wait for a thread, for as long as it takes; False: the run was released or cancelled meanwhile."""
        me = gevent.getcurrent()
        me.waits_for_thread = True
        try:
            self._free.acquire()
        except (gevent.GreenletExit, Cancelled):
            return False
        finally:
            me.waits_for_thread = False
        return True

    def release(self) -> None:
        """The run that has waited for a thread has ended."""
        self._free.release()

    def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What the function returns or raises, in the thread that was waited for; with this context."""
        if self._pool is None:
            _carry_records()
            self._pool = ThreadPool(self._size, idle_task_timeout=_IDLE)
        call = Call(copy_context(), self._records, function, args, kwargs)
        result = self._pool.spawn(call)
        try:
            result.get()
        except BaseException as error:
            # Its own word: the loop may have been blocked, and hear of its end later.
            if not call.has_ended:
                self._abandon(call, result)
                if isinstance(error, HardTimeout):
                    self.stuck.add(call)
                    self._on_stuck()
            raise
        finally:
            self._records.flush()
        if call.error is not None:
            raise call.error
        return call.value

    def goes_on(self, current: CurrentTask) -> bool:
        """Whether this run has passed its timeout, and what it called goes on."""
        return any(call.current is current for call in self.stuck)

    def close(self) -> None:
        """Let go of the threads; those that still run end with their function."""
        pool, self._pool = self._pool, None
        if pool is not None and not self.abandoned:
            pool.kill()

    def _abandon(self, call: Call, result: AsyncResult) -> None:
        assert self._pool is not None
        pool = self._pool
        pool.maxsize += 1
        self.abandoned.add(call)

        def has_ended(result: AsyncResult) -> None:
            self.abandoned.discard(call)
            self.stuck.discard(call)
            pool.maxsize -= 1

        result.rawlink(has_ended)


def frame_in_thread(frame: FrameType | None) -> FrameType | None:
    """Where the thread stands that this stack waits for, if it waits for one."""
    while frame is not None:
        if frame.f_code is Threads.call.__code__:
            call = frame.f_locals.get("call")
            return call.frame if isinstance(call, Call) else None
        frame = frame.f_back
    return None


class Call:
    """One function in its thread: raises nothing, since gevent would print it."""

    def __init__(
        self,
        context: Context,
        records: _Records,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.has_ended = False
        self.began = time.monotonic()
        running = context.get(CURRENT)
        self.current = None if running is None else running.current  # whose call it is
        self._thread = 0  # the native one's id, while it runs
        self._context = context
        self._records = records
        self._function = function
        self._args = args
        self._kwargs = kwargs

    def __call__(self) -> None:
        self._thread = me = _get_ident()
        _RECORDS_OF[me] = self._records
        try:
            self._context.run(IN_THREAD.set, True)
            self.value = self._context.run(self._function, *self._args, **self._kwargs)
        except BaseException as error:
            self.error = error
        finally:
            self.has_ended, self._thread = True, 0
            del _RECORDS_OF[me]

    def __str__(self) -> str:
        return f"{self.current.name}[{self.current.id}]" if self.current else "?"

    @property
    def frame(self) -> FrameType | None:
        """Where its thread stands now, if it has one."""
        return sys._current_frames().get(self._thread)


class _Records:
    """Log records of native threads, on their way to the thread of the loop.

    The locks of logging's handlers are gevent's. A native thread and greenlets that contend for one
    can leave the greenlets waiting for ever (seen, within a second).
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Context, logging.Logger, logging.LogRecord]] = deque()
        self._loop = gevent.get_hub().loop

    def put(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        """In a native thread: have it handled, soon."""
        self._waiting.append((copy_context(), logger, record))
        self._loop.run_callback_threadsafe(gevent.spawn, self.flush)

    def flush(self) -> None:
        """Handle what there is; raises nothing: who calls this may have logged none of it."""
        while self._waiting:
            context, logger, record = self._waiting.popleft()
            try:
                context.run(logger.handle, record)
            except Exception:  # a filter of the app's; handlers print theirs
                if logging.raiseExceptions:
                    traceback.print_exc()


_RECORDS_OF: dict[int, _Records] = {}  # by native thread


@cache
def _carry_records() -> None:
    """Have the records of our threads handled by the loop's, and those of all others as ever; for good, since what
    is abandoned may log at any time."""
    as_ever = logging.Logger.handle

    def handle(self: logging.Logger, record: logging.LogRecord) -> None:
        records = _RECORDS_OF.get(_get_ident())
        if records is None:
            as_ever(self, record)
        else:
            records.put(self, record)

    logging.Logger.handle = handle  # type: ignore[method-assign]
    # The module's own, which getLogger() takes: nobody waits for anything who holds it, so that a native
    # lock serves greenlets as well. Taken first: whoever held it has given it back.
    with logging._lock:  # type: ignore[attr-defined]
        logging._lock = monkey.get_original("_thread", "RLock")()  # type: ignore[attr-defined]
