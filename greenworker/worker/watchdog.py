"""Watchdog: a native thread that beats, and names what blocks the loop."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, TypeVar

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

from greenworker.broker import Broker
from greenworker.errors import BrokerError, ConfigError
from greenworker.worker import gil
from greenworker.worker.config import WorkerConfig
from greenworker.worker.dump import stack_text, who_of
from greenworker.worker.incarnation import Membership
from greenworker.worker.stats import Stats

BLOCKED = 3  # the exit code of a process whose loop was blocked for too long

_LATE = 0.5  # seconds: the thread itself ran so much later than it wanted to
_HELD = 0.25  # seconds: so long it waited for the GIL
_AT_A_STOP = 2.0  # seconds: an overdue stop whose loop is blocked for less may yet end by itself
_SILENT = 0.5  # seconds: a loop that is blocked for less answers by itself
_PATIENCE = 1.0  # seconds: an output that takes longer is left behind

T = TypeVar("T")

_log = logging.getLogger("greenworker.worker")

_allocate_lock = monkey.get_original("_thread", "allocate_lock")
_get_ident = monkey.get_original("_thread", "get_ident")
_start_new_thread = monkey.get_original("_thread", "start_new_thread")


class Watchdog:
    """Lengthens the lease from outside the loop: a blocked loop is not a dead worker.

    A loop that is blocked for `block_warn` s is reported with the task and the line that block
    it, and counted. After `max_block` s the beats end. Under the command line (`own_process`) the
    process then ends, too, and so it does when a stop that was asked for meanwhile is overdue.

    The thread never logs: a green lock that native threads contend for may hold up a greenlet for
    ever (seen: logging's, within seconds). What it has to tell, the loop logs when it runs again.

    Time in which the process was stopped (SIGSTOP, a host that sleeps) is nobody's fault, and counts
    for nothing here. It does for the alarm, whose clock runs on: under the command line a process that
    was stopped for longer than `max_block` may end by SIGALRM when it goes on, and one that was for
    three seconds may show a stack.
    """

    def __init__(
        self,
        broker: Broker,
        membership: Membership,
        config: WorkerConfig,
        stats: Stats,
        answer: Callable[[FrameType | None], object] = lambda _: None,
    ) -> None:
        """`answer` is called in the thread, again and again while the loop is blocked, with the stack of what
        blocks it: somebody may have asked what runs, and the loop cannot say it."""
        self.on_max_block: Callable[[], None] | None = None
        self.stop_by: Callable[[], float | None] = lambda: None  # on time.monotonic()'s clock
        self._broker = broker
        self._membership = membership
        self._config = config
        self._stats = stats
        self._answer = answer
        self._alarm: gil.GilAlarm | None = None
        self._show: Callable[[int, str, str], None] | None = None
        self._news: deque[tuple[int, str]] = deque()
        self._threads: ThreadPool | None = None
        self._ident = 0  # the thread's
        self._lost = ""  # the incarnation that was found reaped
        self._stopping = False
        self._given_up = False
        self._told = 0.0  # seconds of the present block when it was last reported
        self._telling = 0.0  # seconds of the present step that went into outputs
        self._last_seen = (float("-inf"), "")  # when a block was last told of, and whose it was

    def own_process(
        self, show: Callable[[int, str, str], None], stop_by: Callable[[], float | None]
    ) -> None:
        """For the command line, before the start: the process may be ended.

        `show(level, logger, text)` writes a line at once, from any native thread and without a lock; `stop_by` says
        when a stop that was asked for must be over (time.monotonic()), or None.
        """
        self._show, self.stop_by = show, stop_by
        self.on_max_block = end_process
        self._alarm = gil.GilAlarm(self._config.block_warn, self._config.max_block)

    def start(self) -> None:
        if self._threads is not None:
            return
        hub = gevent.get_hub()
        self._main = _get_ident()
        self._tick = min(0.25, max(self._config.block_warn / 2, 0.05))
        self._alive = time.monotonic()
        self._heart = hub.loop.timer(self._tick, self._tick, ref=False)
        self._heart.start(self._beat_heart)
        # How the thread tells the loop that the incarnation was reaped.
        self._reaped = hub.loop.async_(ref=False)
        self._reaped.start(lambda: gevent.spawn(self._membership.renew, self._lost))
        self._stop = _allocate_lock()
        self._stop.acquire()
        self._stopping = False
        self._threads = ThreadPool(1)
        self._ended = self._threads.spawn(self._watch)

    def ask_to_stop(self) -> None:
        """No further beat; one that is under way goes on, and `stop()` waits for it."""
        if self._threads is not None and not self._stopping:
            self._stopping = True
            self._stop.release()

    def stop(self) -> None:
        """End the beats; the lease is no longer lengthened."""
        if self._threads is None:
            return
        self.ask_to_stop()
        self._ended.wait(10.0)
        self._heart.stop()
        self._heart.close()
        self._reaped.stop()
        self._reaped.close()
        self._threads.kill()
        self._threads = None
        self._log_news()
        if self._alarm is not None:
            self._alarm.stop()
        # The thread still takes its hub down. An interpreter that ends meanwhile unwinds
        # greenlet's C++ frames in it, and Python 3.11 dies of that (seen: SIGSEGV, SIGABRT).
        deadline = time.monotonic() + 2.0
        while self._ident in sys._current_frames() and time.monotonic() < deadline:
            gevent.sleep(0.002)

    def _beat_heart(self) -> None:
        self._alive = time.monotonic()
        self._stats.look(self._alive, self._tick)
        if self._alarm is not None:
            # Here as well: the thread may wait for the server, and that holds no GIL.
            self._alarm.wind()
        if self._news:
            # Not here: the hub may not wait for a lock.
            gevent.spawn(self._log_news)

    def _log_news(self) -> None:
        while self._news:
            level, text = self._news.popleft()
            _log.log(level, "%s", text, extra={"shown": self._show is not None})

    def _tell(self, level: int, text: str) -> None:
        if _log.getEffectiveLevel() <= level:
            if self._show is not None:
                began = time.monotonic()
                _in_time(self._show, level, _log.name, text)
                # What was beyond its patience, it was stopped for.
                self._telling += min(time.monotonic() - began, _PATIENCE)
            self._news.append((level, text))

    def _watch(self) -> None:
        """The thread. What it waits for is native: it goes on while the loop is blocked."""
        self._ident, self._given_up = _get_ident(), False
        self._switches, self._looked = gil.switches(), time.monotonic()
        next_beat = 0.0
        while self._wait():
            now = time.monotonic()
            self._guarded(self._look, now)
            self._judge(0.0)
            if not self._given_up and now >= next_beat:
                ok = self._in_ticks(self._beat)
                next_beat = now + (
                    self._config.beat_every if ok else min(1.0, self._config.beat_every)
                )
            if now - self._alive - self._tick > _SILENT:
                frame = sys._current_frames().get(self._main)
                self._in_ticks(partial(self._guarded, self._answer, frame))
        self._broker.close()  # here: its socket belongs to this thread's hub

    def _guarded(self, step: Callable[..., object], *args: Any) -> None:
        """A thread that ended would have this worker reaped, and nobody would say what blocks it."""
        try:
            step(*args)
        except Exception:
            with suppress(Exception):
                self._tell(logging.ERROR, f"watchdog: {traceback.format_exc()}")

    def _look(self, now: float) -> None:
        """Tell of a loop that is blocked; give up when that is too long."""
        blocked = now - self._alive - self._tick
        why, before = self._why_give_up(now, blocked), self._given_up
        self._given_up = bool(why)
        if why and not before:
            self._give_up(blocked, why)
        if blocked < self._config.block_warn:
            self._told = 0.0
        elif self._config.block_warn:
            self._stats.count_block(blocked, new=not self._told)
            if blocked > 2 * self._told:
                self._told = blocked
                self._report(blocked)

    def _wait(self) -> bool:
        """Wait for a tick; False when it is time to stop."""
        if self._alarm is not None:
            self._alarm.wind()
        if self._stop.acquire(timeout=self._tick):
            return False
        self._judge(self._tick)
        return True

    def _in_ticks(self, step: Callable[[], T]) -> T:
        """A step may take as long as the network does; what waits for that is this thread's hub, so
        that a timer can tell a slow server from a process that does not run."""
        ticks = gevent.get_hub().loop.timer(self._tick, self._tick)
        ticks.start(self._tick_of_a_step)
        try:
            return step()
        finally:
            ticks.stop()
            ticks.close()
            self._judge(0.0)

    def _tick_of_a_step(self) -> None:
        self._judge(self._tick)
        self._guarded(self._look, time.monotonic())
        self._judge(0.0)
        if self._alarm is not None:
            self._alarm.wind()

    def _judge(self, expected: float) -> None:
        """Why a step that has just ended took longer than expected: a held GIL is told at once, and
        of what is left nobody is to blame but for the time that outputs took."""
        # First of all: who held the GIL may soon be gone.
        frame, alive = sys._current_frames().get(self._main), self._alive
        now, switches = time.monotonic(), gil.switches()
        late = now - self._looked - expected
        waited = gil.waited_for(switches - self._switches)
        told, self._telling = self._telling, 0.0
        self._switches, self._looked = switches, now
        # On a busy machine a thread that waits wakes up late: far from every time counts.
        if late > _HELD and waited > 0.1 + late / 50:
            self._guarded(self._report_gil, late, frame if now - alive > late / 2 else None)
        elif late - told > _LATE:
            # The process was stopped for so long, or the machine had no time for it.
            self._alive = min(now, self._alive + late - told)

    def _why_give_up(self, now: float, blocked: float) -> str:
        if 0 < self._config.max_block < blocked:
            return f"for more than {self._config.max_block:g} s"
        if blocked > _AT_A_STOP:
            stop_by = self.stop_by()
            if stop_by is not None and stop_by < now:
                return "and a stop is overdue"
        return ""

    def _beat(self) -> bool:
        me = self._membership.current
        if not me.registered:
            return False
        try:
            if not self._broker.beat(me.id, self._config.lease):
                self._lost = me.id
                self._reaped.send()
            me.beaten = time.monotonic()
            return True
        except (BrokerError, ConfigError) as error:
            self._tell(logging.DEBUG, f"beat: {error}")
        except Exception:
            # A thread that ends here would have this worker reaped.
            self._tell(logging.ERROR, f"beat: {traceback.format_exc()}")
        return False

    def _report(self, blocked: float) -> None:
        frame = sys._current_frames().get(self._main)
        who = who_of(frame) or "something that is no task"
        self._last_seen = time.monotonic(), who
        text = f"{who} blocks the loop for {blocked:.1f} s now:\n{stack_text(frame)}"
        self._tell(logging.WARNING, text)

    def _report_gil(self, held: float, frame: FrameType | None) -> None:
        """`frame`: the main thread's, if it is still where the GIL was held."""
        if not 0 < self._config.block_warn <= held:
            return
        self._stats.count_block(held, new=frame is None or not self._told)
        self._told = 0.0 if frame is None else time.monotonic() - self._alive
        who = who_of(frame)
        what = f"C code held the GIL for {held:.1f} s, and no Python ran"
        if not who:
            # While it was told who blocks the loop, the hold came and went.
            seen_at, seen = self._last_seen
            recent = time.monotonic() - seen_at < held + self._tick
            whose = f"{seen} ran just before" if recent else "whose it was cannot be told"
            self._tell(logging.WARNING, f"{what}; it is over, and {whose}")
        else:
            self._tell(logging.WARNING, f"{who}: {what}:\n{stack_text(frame)}")

    def _give_up(self, blocked: float, why: str) -> None:
        self._guarded(self._report, blocked)
        text = f"the loop is blocked {why}: no more beats, others take over its tasks"
        self._tell(logging.CRITICAL, text)
        if self.on_max_block is not None:
            self.on_max_block()


def end_process() -> None:
    """What the command line does at `max_block`: the loop will not run any clean-up."""
    _in_time(logging.shutdown)
    os._exit(BLOCKED)


def _in_time(step: Callable[..., None], *args: Any) -> None:
    """Run a step in a native thread of its own, and leave it there if it hangs."""
    over = _allocate_lock()
    over.acquire()

    def run() -> None:
        with suppress(Exception):
            step(*args)
        over.release()

    with suppress(RuntimeError):  # no more threads
        _start_new_thread(run, ())
        over.acquire(timeout=_PATIENCE)
