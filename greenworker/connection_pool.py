"""ConnectionPool: a few connections for many callers, and their patience."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from greenworker.connection import Connection, is_foreign_thread
from greenworker.endpoint import Endpoint
from greenworker.errors import BrokerError, BrokerUnavailable, ConfigError
from greenworker.scripts import Script

_FIRST_PAUSE, _LAST_PAUSE = 0.02, 0.5  # seconds between tries, less a random part


class ConnectionPool:
    """At most `size` connections, lent to any number of threads and greenlets.

    In a patched process they belong to the main native thread; a call from another one (of
    gevent's threadpool, say) opens a connection for itself.

    A request that fails is repeated until `patience` seconds have passed: all that goes this way
    may be repeated. A push and a revival carry an id by which the second is known; a sweep and a
    promotion move what is due then, once, and so does a tick; who deletes or purges again what is gone learns only that it is;
    the rest reads. Whatever the server
    does meanwhile, a call ends by then; only a crowd may wait for longer, as long as the server
    answers others.
    A forked child starts with none of its parent's connections.
    """

    def __init__(
        self, endpoint: Endpoint, size: int, patience: float = 5.0, name: str = "greenworker"
    ) -> None:
        self.endpoint = endpoint
        self._name = name
        self.patience = patience
        self._size = size
        self._open()

    def run(
        self, script: Script, key: str, *args: bytes | str | int, patience: float | None = None
    ) -> Any:
        """A script's reply; `patience` is for this call instead of the pool's."""
        return self._patiently(
            lambda connection, left: connection.run(script, key, *args, patience=left), patience
        )

    def execute(self, *command: bytes | str | int, patience: float | None = None) -> Any:
        return self._patiently(
            lambda connection, left: connection.execute(*command, patience=left), patience
        )

    def close(self) -> None:
        """Close what is idle; the pool can be used again."""
        while self._idle:
            self._idle.pop().close()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._idle: list[Connection] = []
        self._permits = threading.Semaphore(self._size)
        self._answered = time.monotonic()

    def _patiently(
        self, step: Callable[[Connection, float], Any], patience: float | None = None
    ) -> Any:
        patience = self.patience if patience is None else patience
        with self._borrow(patience) as (connection, deadline):
            pause, maybe_done = _FIRST_PAUSE, False
            while True:
                left = deadline - time.monotonic()
                # A connection that was open may be half open: leave time to try a new one.
                share = left / 2 if connection.is_open else left
                try:
                    reply = step(connection, share)
                except BrokerUnavailable as error:
                    error.maybe_done = maybe_done = maybe_done or error.maybe_done
                    if time.monotonic() + pause > deadline:
                        raise
                except (BrokerError, ConfigError) as error:
                    self._answered = time.monotonic()
                    if not maybe_done:
                        raise
                    # Refused now, and an earlier try may have been carried out: nobody knows.
                    unknown = BrokerUnavailable(f"after a lost reply: {error}")
                    unknown.maybe_done = True
                    raise unknown from error
                else:
                    self._answered = time.monotonic()
                    return reply
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, _LAST_PAUSE)

    @contextmanager
    def _borrow(self, patience: float) -> Iterator[tuple[Connection, float]]:
        """A connection, and the moment at which the borrower's patience ends."""
        if self._pid != os.getpid():
            self._open()
        began = time.monotonic()
        if is_foreign_thread():
            with closing(Connection(self.endpoint, self._name)) as connection:
                yield connection, began + patience
            return
        permits, idle = self._permits, self._idle
        wait = patience
        while not permits.acquire(timeout=max(0.0, wait)):
            # Patience is for a server that answers nobody.
            wait = max(began, self._answered) + patience - time.monotonic()
            if wait <= 0:
                raise BrokerUnavailable(
                    f"all {self._size} connections to {self.endpoint.redacted} are waiting"
                )
        try:
            connection = idle.pop() if idle else Connection(self.endpoint, self._name)
            try:
                yield connection, max(began, self._answered) + patience
            finally:
                idle.append(connection)
        finally:
            permits.release()
