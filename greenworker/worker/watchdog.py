"""Watchdog: a native thread that beats, and names what blocks the loop."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

from greenworker.broker import Broker
from greenworker.errors import BrokerError, ConfigError
from greenworker.worker.config import WorkerConfig
from greenworker.worker.dump import stack_text
from greenworker.worker.executor import run_of
from greenworker.worker.incarnation import Membership

_log = logging.getLogger("greenworker.worker")

_allocate_lock = monkey.get_original("_thread", "allocate_lock")
_get_ident = monkey.get_original("_thread", "get_ident")


class Watchdog:
    """Lengthens the lease from outside the loop: a blocked loop is not a dead worker.

    A loop that is blocked for `block_warn` s is reported with the task and the line that block
    it. After `max_block` s the beats end; `on_max_block`, if given, ends the process.
    """

    def __init__(
        self,
        broker: Broker,
        membership: Membership,
        config: WorkerConfig,
        on_max_block: Callable[[], None] | None = None,
    ) -> None:
        self._broker = broker
        self._membership = membership
        self._config = config
        self._on_max_block = on_max_block
        self._threads: ThreadPool | None = None
        self._ident = 0  # the thread's
        self._lost = ""  # the incarnation that was found reaped

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
        self._threads = ThreadPool(1)
        self._ended = self._threads.spawn(self._watch)

    def stop(self) -> None:
        """End the beats; the lease is no longer lengthened."""
        if self._threads is None:
            return
        self._stop.release()
        self._ended.wait(10.0)
        self._heart.stop()
        self._heart.close()
        self._reaped.stop()
        self._reaped.close()
        self._threads.kill()
        self._threads = None
        # The thread still takes its hub down. An interpreter that ends meanwhile unwinds
        # greenlet's C++ frames in it, and Python 3.11 dies of that (seen: SIGSEGV, SIGABRT).
        deadline = time.monotonic() + 2.0
        while self._ident in sys._current_frames() and time.monotonic() < deadline:
            gevent.sleep(0.002)

    def _beat_heart(self) -> None:
        self._alive = time.monotonic()

    def _watch(self) -> None:
        """The thread. What it waits for is native: it goes on while the loop is blocked."""
        self._ident = _get_ident()
        next_beat, reported, given_up = 0.0, 0.0, False
        while not self._stop.acquire(timeout=self._tick):
            now = time.monotonic()
            blocked = now - self._alive - self._tick
            too_long = 0 < self._config.max_block < blocked
            if too_long and not given_up:
                self._give_up(blocked)
            given_up = too_long
            if not too_long and now >= next_beat:
                next_beat = now + (
                    self._config.beat_every if self._beat() else min(1.0, self._config.beat_every)
                )
            if blocked < self._config.block_warn:
                reported = 0.0
            elif self._config.block_warn and blocked > 2 * reported:
                reported = blocked
                self._report(blocked)
        self._broker.close()  # here: its socket belongs to this thread's hub

    def _beat(self) -> bool:
        me = self._membership.current
        if not me.registered:
            return False
        try:
            if not self._broker.beat(me.id, self._config.lease):
                self._lost = me.id
                self._reaped.send()
            return True
        except (BrokerError, ConfigError) as error:
            _log.debug("beat: %s", error)
        except Exception:
            # A thread that ends here would have this worker reaped.
            _log.exception("beat")
        return False

    def _report(self, blocked: float) -> None:
        frame = sys._current_frames().get(self._main)
        who = run_of(frame) or "something that is no task"
        _log.warning("%s blocks the loop for %.1f s now:\n%s", who, blocked, stack_text(frame))

    def _give_up(self, blocked: float) -> None:
        self._report(blocked)
        _log.critical("the loop is blocked for %.0f s: no more beats, others take over", blocked)
        if self._on_max_block is not None:
            self._on_max_block()


def end_process() -> None:
    """What the command line does at `max_block`: the loop will not run any clean-up."""
    logging.shutdown()
    os._exit(1)
