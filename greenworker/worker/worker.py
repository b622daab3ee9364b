"""Worker: starts and stops its parts, in their order."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from gevent.lock import RLock

from greenworker.errors import BrokerError, BrokerUnavailable, ConfigError, GreenworkerError
from greenworker.worker.config import WorkerConfig
from greenworker.worker.events import Events
from greenworker.worker.parts import Parts
from greenworker.worker.patched import require_patched
from greenworker.worker.run import Release
from greenworker.worker.settler import IN_A_HURRY

if TYPE_CHECKING:
    from greenworker.app import App

_log = logging.getLogger("greenworker.worker")

_LAST_TRY = 0.5  # seconds at a stop for what fails already


class Worker:
    """Runs an app's tasks in this process, which gevent must have patched.

        with Worker(app, concurrency=200):
            ...                                # a web server, say

    As a library it installs no signal handlers and patches nothing. Several may live in one
    process. Options are those of WorkerConfig; `queues` defaults to all that the app's tasks
    declare. Has three connections of its own, whatever its concurrency, and uses the app's.
    """

    def __init__(self, app: App, **options: Any) -> None:
        if app.is_tested:
            raise ConfigError(
                "this app is being tested, and a worker would go past that: greenworker.testing.drain(app) "
                "runs what waits"
            )
        app.load()
        queues = options.get("queues") or app.queues()
        if isinstance(queues, str):
            raise ConfigError(f"queues={queues!r}: give a list of names, [{queues!r}]")
        options["queues"] = tuple(queues)
        try:
            self.config = config = WorkerConfig(**options)
        except TypeError as error:
            raise ConfigError(f"Worker: {error}") from None
        self.app = app
        parts = Parts(app, config, self._retire)
        self.stats, self.pool, self.threads = parts.stats, parts.pool, parts.threads
        self.consumer, self.settler, self.failures = parts.consumer, parts.settler, parts.failures
        self.watchdog, self.retirement = parts.watchdog, parts.retirement
        self.scheduler, self.ticker = parts.scheduler, parts.ticker
        self._membership, self._lanes, self._chores = parts.membership, parts.lanes, parts.chores
        self.events = Events(self, app.middlewares)
        self.server = ""  # its name and version, once it has answered
        self._started = self._serving = False
        self._starting = False  # a start looks at the server, which may be silent
        self._looked = False  # at the server, for the next start
        self._left = 0  # outcomes that the last stop could not settle
        self._lifecycle = RLock()  # a start and a stop wait for each other
        self._hurry = Event()
        self._asked = Event()
        self._asked_at = 0.0
        self._release_later = gevent.Greenlet()  # in solo: what ends a task after the grace

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def ready(self) -> Event:
        """Set once the worker is registered and claims."""
        return self.consumer.ready

    def start(self) -> None:
        """Begin to work; returns when the server has answered, or after 5 s at most.

        Raises NotPatched, or UnsuitableServer for a server that is too old, evicts or refuses
        our password. One that cannot be reached is tried until it can: see `ready`; only
        a burst raises BrokerUnavailable.
        """
        if self.config.solo:
            raise ConfigError(
                "solo=True runs tasks in the greenlet that calls serve_forever(): call that"
            )
        self._start()

    def _start(self, unless_asked: bool = False) -> None:
        require_patched()
        with self._lifecycle:
            if self._started:
                return
            self.consumer.fresh()
            self.retirement.reason = ""
            self._starting = True
            try:
                if not self._looked:
                    self.check_server()
                if (unless_asked and self.stopping) or not self.events.start(self._asked):
                    return
                self._started = True
            finally:
                self._starting = self._looked = False
                if not self._started:
                    self._lanes["consumer"].close()  # which has looked at the server
            self._membership.fresh()
            self.failures.start()
            self.watchdog.start()
            self.settler.start()
            for service in self._chores:
                service.start()
            if not self.config.solo:
                self.consumer.start()

    def check_server(self) -> None:
        """Look at the server and note its version, unless a stop is asked for meanwhile; raises as
        `start()` does."""
        lane, errors = self._lanes["consumer"], []

        def look() -> None:
            try:
                self.server = lane.check_server(self.config.allow_eviction)
            except GreenworkerError as error:
                errors.append(error)

        looking = gevent.spawn(look)
        try:
            gevent.wait([looking, self._asked], count=1)
        finally:
            looking.kill()
        if not errors:
            self._looked = bool(self.server)
            return
        if isinstance(errors[0], BrokerUnavailable) and not self.config.burst:
            _log.warning("%s; trying until it can", errors[0])
            self._looked = True
            self.consumer.outage_is_told()
            return
        lane.close()
        raise errors[0]

    def quiet(self) -> None:
        """Claim nothing more, until `resume()` or a stop; what runs goes on."""
        self.consumer.quiet = True
        self.events.quiet()

    def resume(self) -> None:
        """Claim again."""
        self.consumer.quiet = False
        self.events.resume()
        self._membership.room.set()

    def stop(self, timeout: float | None = None) -> int:
        """Finish what runs within `timeout` s (default: the grace), release the rest, leave.

        Idempotent. Returns how many outcomes could not be settled because the server was away:
        their tasks will run again.
        """
        hurries = self._starting and not self.stopping
        if hurries:
            self._asked.set()  # a start under way waits no longer for the server
        with self._lifecycle:
            if not self._started:
                if hurries:
                    self._asked.clear()
                return self._left
            self._asked.set()
            self._left = self._stop(self.config.grace if timeout is None else timeout)
            # Not before: a stop that was interrupted, by a gevent.Timeout say, can be made again.
            self._started = False
            self.consumer.quiet = False
            # Not at the next start: whoever asks for a stop before or during that is heard.
            self._forget_stop()
            return self._left

    @property
    def stopping(self) -> bool:
        """Whether a stop has been asked for."""
        return bool(self._asked.is_set())

    @property
    def retired(self) -> str:
        """Why this worker has stopped, or is stopping, by itself (`max_tasks`, `max_memory`,
        `max_stuck`); empty if it has not."""
        return self.retirement.reason

    def is_me(self, id: str) -> bool:
        """Whether a registered worker's id is this one's."""
        return self._membership.is_current(id)

    def ask_to_stop(self, at: float | None = None) -> None:
        """Have `serve_forever` stop; returns at once. The grace counts from `at` (time.monotonic())."""
        self._asked_at = time.monotonic() if at is None else at
        self._asked.set()
        if self.config.solo:
            self.consumer.interrupt()
            # What runs is in the main greenlet: nobody joins it there.
            self._release_later.kill(block=False)
            self._release_later = gevent.spawn_later(self.config.grace, self.pool.kill, Release)

    def hurry(self) -> None:
        """Let a stop under way wait no longer for tasks: they are released now."""
        self._hurry.set()
        if self.config.solo:
            self.pool.kill(Release)

    def serve_forever(self) -> int:
        """Start if need be, and work until somebody asks for a stop, or a burst is over.

        Returns what `stop()` returns. Raises as `start()` does, also for a server that turns
        out to be unsuitable later, and BrokerUnavailable when it leaves a burst for 5 s.
        """
        self._start(unless_asked=True)
        if not self._started:
            self._forget_stop()
            return 0
        self.consumer.ends_on_error = self._serving = True
        try:
            if not self.config.solo:
                gevent.wait([self.consumer.over, self._asked], count=1)
            elif not self._asked.is_set():
                self.consumer.run()
            error = self.consumer.error
            spent = time.monotonic() - self._asked_at if self._asked.is_set() else 0.0
            left = self.stop(0.0 if error is not None else max(0.0, self.config.grace - spent))
        finally:
            # Whoever leaves this by a gevent.Timeout, say, may go on as a library.
            self.consumer.ends_on_error = self._serving = False
        if error is not None:
            raise error
        return left

    def _forget_stop(self) -> None:
        self._asked.clear()
        self._hurry.clear()
        self._release_later.kill(block=False)  # it would hit what the next start runs

    def _stop(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        self.events.quiet()
        self.consumer.stop(timeout=min(timeout, IN_A_HURRY))
        telling = gevent.spawn(self._stop_listening)
        self._join(deadline)
        self.pool.kill(Release, timeout=1.0)
        # A server that is away already is given no more time than the grace.
        least = _LAST_TRY if self.settler.failing else IN_A_HURRY
        left = self.settler.flush(max(least, deadline - time.monotonic()), self._hurry)
        # After all that is told of tasks, and before the lease ends: there may be a long grace left.
        self.failures.flush(max(_LAST_TRY, deadline - time.monotonic()), self._hurry)
        self.events.shutdown(max(1.0, deadline - time.monotonic()), self._hurry)
        # Leases must live until here. What follows takes no time, or the server is away: all at once.
        self.watchdog.ask_to_stop()
        self.threads.close()
        services = (self.settler, self.failures, *self._chores)
        ending = [gevent.spawn(service.stop, _LAST_TRY) for service in services]
        gevent.joinall([*ending, gevent.spawn(telling.join, _LAST_TRY)])
        telling.kill()
        if not left:
            self._leave()
        self.watchdog.stop()
        for lane in self._lanes.values():
            lane.close()
        return left

    def _stop_listening(self) -> None:
        """The others need not reckon with us for the whole grace; no matter if they are not told."""
        me = self._membership.current
        if me.registered:
            with suppress(BrokerError, ConfigError):
                self.app.client.broker.listen(me.id, False, self.config.queues)

    def _join(self, deadline: float) -> None:
        joiner = gevent.spawn(self.pool.join)
        gevent.wait([joiner, self._hurry], timeout=max(0.0, deadline - time.monotonic()), count=1)
        joiner.kill()

    def _leave(self) -> None:
        me = self._membership.current
        if not me.registered:
            return
        # First: a beat under way that hears of the leave is not to take it for a death.
        self._membership.fresh()
        failure: BaseException | None = None
        # The lane may have been dead since an outage; what was released stays so: again, on a new one.
        for _ in range(2):
            try:
                with gevent.Timeout(_LAST_TRY):
                    self._lanes["settler"].release(me.id)
                return
            except (BrokerError, ConfigError, gevent.Timeout) as error:
                failure = error
        _log.warning("could not take leave, the lease will run out: %s", failure)

    def _retire(self) -> None:
        self.consumer.retiring = True
        if self._serving:
            self.ask_to_stop()
        else:
            gevent.spawn(self.stop)
