"""One connection per process on which results are announced, for any number of waiters.

Waiters may be greenlets or threads. Only the reader reads; a waiter that is killed in the
middle of a send costs a reconnect, never another waiter's message.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from greenworker import keys
from greenworker.connection import Connection, is_foreign_thread
from greenworker.endpoint import Endpoint
from greenworker.errors import BrokerError, ConfigError

_log = logging.getLogger("greenworker.results")

_READ = 1.0  # seconds; how soon the reader notices that it may leave
_LOOK = 0.1  # seconds between the looks of who cannot listen
_IDLE = 10.0  # seconds without a waiter, after which the reader leaves
_TOLD_AT = 2  # failures in a row
_LAST_PAUSE = 1.5  # seconds between tries to connect, less a random part


class Waiter:
    """Waits for the announcement of one id."""

    __slots__ = ("_news", "payload")

    def __init__(self) -> None:
        self._news = threading.Event()
        self.payload: bytes | None = None

    def wait(self, timeout: float) -> bytes | None:
        """The announced result, or None after `timeout` s, or as soon as a look-up is due
        (the subscription has just begun, or began again after a lost connection)."""
        self._news.wait(timeout)
        self._news.clear()
        return self.payload

    def tell(self, payload: bytes | None) -> None:
        self.payload = payload or self.payload
        self._news.set()


class _Poller(Waiter):
    """For another native thread of a patched process: it looks instead of listening."""

    __slots__ = ()

    def __init__(self) -> None:
        self.payload = None

    def wait(self, timeout: float) -> bytes | None:
        time.sleep(min(timeout, _LOOK))
        return None


class Subscriber:
    """Tells waiters what is announced; reconnects by itself."""

    def __init__(self, endpoint: Endpoint, root: str) -> None:
        self._endpoint = endpoint
        self._channel = keys.done(root, "")
        self._thread: threading.Thread | None
        self._reset()
        _OURS.add(self)

    @contextmanager
    def watch(self, id: str) -> Iterator[Waiter]:
        """A Waiter for this id, subscribed for as long as the context lasts."""
        self._leave_the_parents()
        if is_foreign_thread():
            yield _Poller()
            return
        waiter = Waiter()
        with self._lock:
            self._waiters.setdefault(id, []).append(waiter)
            self._last_used = time.monotonic()
        try:
            with self._lock:
                self._see_to_a_reader()
                self._tell_server("SUBSCRIBE", id)
            yield waiter
        finally:
            self._leave_the_parents()
            with self._lock:
                others = self._waiters.get(id, [])
                if waiter in others:
                    others.remove(waiter)
                if not others:
                    self._waiters.pop(id, None)
                    self._tell_server("UNSUBSCRIBE", id)

    def close(self) -> None:
        """End the reader and its connection; waiters fall back to looking up."""
        self._leave_the_parents()
        with self._lock:
            self._closing, thread = True, self._thread
        if thread is not None:
            thread.join(2 * _READ)
        self._reset()

    def _leave_the_parents(self) -> None:
        # Of a forked child none of it is its own: neither the thread nor the connection, nor the
        # lock, which another thread of the parent may have held at that moment.
        if self._pid != os.getpid():
            parents = self._connection
            self._reset()
            # Only this process's descriptor: a reader that is a greenlet came along, and would
            # take from the parent what it reads.
            parents.close()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._waiters: dict[str, list[Waiter]] = {}
        self._connection = Connection(self._endpoint, "greenworker-results")
        self._thread = None
        self._online = self._closing = False
        self._last_used = time.monotonic()

    def _see_to_a_reader(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._online = False
            self._thread = threading.Thread(
                target=self._read_on,
                args=(self._connection,),
                name="greenworker-results",
                daemon=True,
            )
            self._thread.start()

    def _tell_server(self, command: str, id: str) -> None:
        # While offline nothing is said: the reader subscribes for everybody.
        if not self._online:
            return
        try:
            self._connection.send(command, self._channel + id)
        except BrokerError:
            self._online = False
        except BaseException:
            # A waiter that is killed in the middle of it has closed the connection of all.
            self._online = False
            raise

    def _read_on(self, connection: Connection) -> None:
        pause, failures = 0.05, 0
        while not self._may_leave(connection):
            try:
                if not self._online:
                    self._subscribe_all(connection)
                reply = connection.read(_READ)
                pause, failures = 0.05, 0
            except Exception as error:
                # Not only our errors: a waiter whose send failed has closed the connection under
                # this read, and the socket says so in its own words. Whatever it was, all wait
                # for this thread: it connects again.
                expected = isinstance(error, (BrokerError, ConfigError))
                failures += expected
                # Told once, and not of a connection that is lost and made again at once.
                level = logging.WARNING if expected and failures == _TOLD_AT else logging.DEBUG
                _log.log(level, "waiting for results: %s; trying again", error)
                if connection is self._connection:
                    self._online = False
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LAST_PAUSE)
                continue
            if reply is not None:
                self._deliver(*reply)

    def _subscribe_all(self, connection: Connection) -> None:
        # Not under the lock: who begins to wait meanwhile has a timeout of its own.
        connection.close()
        connection.connect()
        with self._lock:
            if connection is not self._connection:
                return
            # The first one is for all: many were cancelled at once.
            channels = [self._channel, *(self._channel + id for id in self._waiters)]
            connection.send("SUBSCRIBE", *channels)
            self._online = True

    def _deliver(self, kind: bytes, channel: bytes, payload: bytes | int) -> None:
        if kind == b"unsubscribe":
            return
        id = channel.decode()[len(self._channel) :]
        told = self._waiters.get(id, ())
        if kind == b"message" and not id:
            told = [waiter for waiters in list(self._waiters.values()) for waiter in waiters]
        for waiter in list(told):
            # A confirmed subscription says: look now, from here on nothing is missed.
            waiter.tell(payload if isinstance(payload, bytes) else None)

    def _may_leave(self, connection: Connection) -> bool:
        with self._lock:
            if connection is not self._connection:
                # Closed while this thread was connecting; another one may be at work by now.
                connection.close()
                return True
            idle = not self._waiters and time.monotonic() - self._last_used > _IDLE
            if not (idle or self._closing):
                return False
            self._online = False
            self._connection.close()
            self._thread = None
            return True


# A weak set, since a hook of fork stays for ever.
_OURS: weakref.WeakSet[Subscriber] = weakref.WeakSet()


def _leave_the_parents() -> None:
    for subscriber in list(_OURS):
        with suppress(Exception):
            subscriber._leave_the_parents()


os.register_at_fork(after_in_child=_leave_the_parents)
