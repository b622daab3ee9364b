"""Service: a named loop with an interval, that never dies silently."""

from __future__ import annotations

import logging
import math
import random
import time

import gevent
from gevent.event import Event

from greenworker.errors import BrokerUnavailable

_log = logging.getLogger("greenworker.worker")

# After an error: doubling from the first to the last, counted from when the step began, each
# with jitter, so that a fleet whose server returns is back within two seconds and not all at once.
_FIRST_PAUSE, _LAST_PAUSE = 0.2, 1.5
_NEWS_AFTER = 600.0  # seconds: an error that has not come for so long is told again
_SEEN_MOST = 100  # errors that are remembered


class Service:
    """Runs `step()` in a greenlet of its own until stopped; safe to start and stop in any order."""

    name = "service"
    announces_outage = False  # one service tells the user that the server is away

    def __init__(self, every: float | None = None) -> None:
        self.every = every  # seconds between steps; None: only when woken
        self._greenlet: gevent.Greenlet | None = None
        self._stopping = False
        self._wake = Event()
        self._pause = 0.0
        self._seen: dict[str, float] = {}  # errors, and when each came last
        self._began = 0.0  # when the step under way did

    def step(self) -> float | None:
        """One round of work; returns the seconds until the next one, None for `every`."""
        raise NotImplementedError

    def start(self) -> None:
        if self._greenlet is None:
            self._stopping = False
            self._live(gevent.spawn(self.run))

    def stop(self, timeout: float | None = None) -> None:
        """Ask for the end and wait for it: the step under way is finished first.

        What has not ended after `timeout` seconds is killed.
        """
        self._stopping = True
        self.wake()
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None and greenlet is not gevent.getcurrent():
            greenlet.join(timeout)
            greenlet.kill()

    @property
    def failing(self) -> bool:
        """Whether the last step has failed."""
        return self._pause > 0

    def outage_is_told(self) -> None:
        """Somebody has said that the server is away: only its return is news."""
        self._pause = self._pause or _FIRST_PAUSE / 2

    def wake(self) -> None:
        """Run the next step now."""
        self._wake.set()

    def run(self) -> None:
        """The loop itself; returns when the service is stopped."""
        while not self._stopping:
            self._wake.clear()
            self._began = time.monotonic()
            try:
                wait = self.step()
                self._recovered()
            except Exception as error:
                wait = self._failed(error)
            if wait != 0 and not self._stopping:
                self._wake.wait(self.every if wait is None else wait)
            elif wait == 0:
                gevent.sleep(0)

    def _live(self, greenlet: gevent.Greenlet) -> None:
        greenlet.name = f"greenworker-{self.name}"
        greenlet.rawlink(self._has_ended)
        self._greenlet = greenlet

    def _has_ended(self, greenlet: gevent.Greenlet) -> None:
        # In the hub. Somebody killed it, or threw in what is no Exception (a gevent.Timeout).
        error = greenlet.exception
        if greenlet is self._greenlet and not self._stopping:
            self._live(gevent.spawn_later(_FIRST_PAUSE, self._run_again, error))

    def _run_again(self, error: BaseException | None) -> None:
        _log.error("%s: was ended by %r; goes on", self.name, error or "a kill")
        self.run()

    def _recovered(self) -> None:
        if self._pause:
            self._pause = 0.0
            level = logging.INFO if self.announces_outage else logging.DEBUG
            _log.log(level, "%s: goes on", self.name)

    def _failed(self, error: Exception) -> float:
        if isinstance(error, BrokerUnavailable):
            level = logging.WARNING if self.announces_outage and not self._pause else logging.DEBUG
            _log.log(level, "%s: %s; trying again", self.name, error)
        else:
            # Once, and not at each try.
            level = logging.ERROR if self._is_news(str(error)) else logging.DEBUG
            _log.log(
                level,
                "%s: %s; trying again",
                self.name,
                error,
                exc_info=_log.isEnabledFor(logging.DEBUG),
            )
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LAST_PAUSE)
        # Connecting to a server that does not answer took a part of the pause already.
        took = time.monotonic() - self._began
        jitter = random.uniform(0.25, 1.0)
        # Nothing that is woken meanwhile may shorten the pause into a hot loop.
        gevent.sleep(jitter * max(_FIRST_PAUSE, self._pause - took))
        return 0.0

    def _is_news(self, error: str) -> bool:
        """Whether it has not come for long. What is well in between is no news: a key of a wrong type
        is met now and then."""
        now = time.monotonic()
        last = self._seen.pop(error, -math.inf)
        self._seen[error] = now
        if len(self._seen) > _SEEN_MOST:
            del self._seen[next(iter(self._seen))]
        return now - last > _NEWS_AFTER
