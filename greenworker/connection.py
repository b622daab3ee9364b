"""Connections to the server: the only module that imports redis.

A `Connection` is private to one greenlet or thread at a time; a `ConnectionPool`
lends a bounded number of them to many. Both run scripts and commands with `run` and
`execute`, and turn every error into one of ours:

    BrokerUnavailable   try again later (`maybe_done`: the request may have arrived)
    BrokerError         the server refuses (`code`: OOM, MISCONF, …)
    UnsuitableServer    a password or permission is wrong

Nothing here is silently sent twice: redis-py's own retries are switched off, since
they turn a lost reply into a second enqueue.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, parse_url
from redis.connection import Connection as TcpConnection
from redis.retry import Retry

from greenworker.errors import BrokerError, BrokerUnavailable, ConfigError, UnsuitableServer
from greenworker.scripts import Script

CONNECT_TIMEOUT = 3.0  # seconds
READ_TIMEOUT = 5.0  # seconds; no blocking command of ours waits for longer than 2

# Not to announce redis-py's version saves two round trips a connection; its newer versions
# ask for that in another way.
_UNNAMED: dict[str, None] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)

_URL_OPTIONS = ("connection_class", "host", "port", "path", "db", "username", "password")

# Codes after which the same server will serve us later, or another one does now.
_PASSING = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED", "BUSY ")
# A password may hold / ? # @ and end up in any part: only a URL that is plain in all of them is shown.
_SHOWN = re.compile(
    r"(?P<scheme>[a-z]+://)?"
    r"(?:(?P<user>[^:@/?#]*):[^/?#]*@|[^/?#]*@)?"
    r"(?P<place>(?:(?:[\w.-]+|\[[\w:.%]+\])(?::\d+)?)?(?:/[^?#@]*)?)"
    r"(?:[?#][^@]*)?"
).fullmatch
_CREDENTIALS = ("NOAUTH", "WRONGPASS", "NOPERM", "invalid username-password", "AUTH <password>")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server is, how we came to know, and what to do before connecting."""

    url: str = field(repr=False)  # it may hold a password
    source: str = "App(url)"
    prepare: Callable[[], None] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        wrong = _check_url(self.url)
        if wrong:
            raise ConfigError(f"bad server URL {self.redacted!r} (from {self.source}): {wrong}")

    @property
    def redacted(self) -> str:
        """The URL without its password."""
        return redact(self.url)


def redact(url: str) -> str:
    """A URL that may be shown: no password, no query; nothing of one that cannot be read for sure."""
    match = _SHOWN(url)
    if match is None:
        return "(unreadable URL)"
    user = f"{match['user']}:***@" if match["user"] is not None else ""
    return f"{match['scheme'] or ''}{user}{match['place']}"


class Connection:
    """One connection for one greenlet or thread at a time; reconnects at the next call."""

    def __init__(
        self, endpoint: Endpoint, name: str = "greenworker", timeout: float | None = None
    ) -> None:
        self._endpoint = endpoint
        self._name = name
        self._timeout = timeout  # seconds, to connect and to read; None: the usual ones
        self._wire: TcpConnection | None = None

    def run(
        self, script: Script, key: str, *args: bytes | str | int, patience: float | None = None
    ) -> Any:
        """A script's reply, tried once whatever the patience; the server learns the script when it does not know it."""
        try:
            return self.execute("EVALSHA", script.sha, 1, key, *args)
        except BrokerError as error:
            if error.code != "NOSCRIPT":
                raise
        return self.execute("EVAL", script.source, 1, key, *args)

    def execute(self, *command: bytes | str | int) -> Any:
        """The reply to one command."""
        self.send(*command)
        return self._guarded(lambda wire: wire.read_response())

    def send(self, *command: bytes | str | int) -> None:
        """Send without reading: for pub/sub."""
        if self._wire is None:
            self._connect()
        packed = [_pack(command)]
        self._guarded(lambda wire: wire.send_packed_command(packed))

    def read(self, timeout: float) -> Any:
        """The next reply, or None if none begins within `timeout` seconds."""
        if self._wire is None:
            self._connect()
        if not self._guarded(lambda wire: wire.can_read(timeout=timeout)):
            return None
        return self._guarded(lambda wire: wire.read_response())

    def close(self) -> None:
        """Forget the connection; the next call opens a new one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.disconnect()

    def _connect(self) -> None:
        try:
            if self._endpoint.prepare is not None:
                self._endpoint.prepare()
            wire = _wire_to(self._endpoint, self._name, self._timeout)
            wire.connect()
        except (redis_errors.RedisError, OSError) as error:
            raise _ours(error, self._endpoint, maybe_done=False) from error
        self._wire = wire

    def _guarded(self, step: Callable[[TcpConnection], Any]) -> Any:
        wire = self._wire
        if wire is None:
            raise BrokerUnavailable("the connection was closed")
        try:
            return step(wire)
        except redis_errors.ResponseError as error:
            raised = _ours(error, self._endpoint, maybe_done=False)
            if isinstance(raised, BrokerUnavailable):
                self.close()  # the next connection may reach another server
            raise raised from error
        except (redis_errors.RedisError, OSError) as error:
            self.close()
            raise _ours(error, self._endpoint, maybe_done=True) from error
        except BaseException:
            # Killed between sending and reading: the reply would be the next caller's.
            self.close()
            raise


def _pack(command: Sequence[bytes | str | int]) -> bytes:
    """A command on the wire (RESP2). One pass costs a third of redis-py's, whose argument may
    be anything; with six arguments a task that is 11 % of a no-op's CPU time (measured)."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


class ConnectionPool:
    """At most `size` connections, lent to any number of threads and greenlets.

    In a patched process they belong to one native thread; a call from another one (of gevent's
    threadpool, say) opens a connection for itself.

    A request that fails is repeated until `patience` seconds have passed: all that goes
    this way may be repeated (a push carries its push id, the rest reads).
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
        return self._patiently(lambda connection: connection.run(script, key, *args), patience)

    def execute(self, *command: bytes | str | int) -> Any:
        return self._patiently(lambda connection: connection.execute(*command))

    def close(self) -> None:
        """Close what is idle; the pool can be used again."""
        while self._idle:
            self._idle.pop().close()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._thread = threading.get_native_id()
        self._idle: list[Connection] = []
        self._permits = threading.Semaphore(self._size)
        self._answered = time.monotonic()

    def _patiently(self, step: Callable[[Connection], Any], patience: float | None = None) -> Any:
        patience = self.patience if patience is None else patience
        with self._borrow(patience) as connection:
            deadline = time.monotonic() + patience
            pause, maybe_done = 0.01, False
            while True:
                try:
                    reply = step(connection)
                except BrokerUnavailable as error:
                    error.maybe_done = maybe_done = maybe_done or error.maybe_done
                    if time.monotonic() + pause > deadline:
                        raise
                else:
                    self._answered = time.monotonic()
                    return reply
                time.sleep(pause)
                pause = min(pause * 2, 0.5)

    @contextmanager
    def _borrow(self, patience: float) -> Iterator[Connection]:
        if self._pid != os.getpid():
            self._open()
        if is_foreign_thread(self._thread):
            with closing(Connection(self.endpoint, self._name)) as connection:
                yield connection
            return
        permits, idle = self._permits, self._idle
        # A crowd may wait for longer than our patience, as long as the server answers others.
        began = time.monotonic()
        while not permits.acquire(timeout=patience):
            if time.monotonic() - max(began, self._answered) >= patience:
                raise BrokerUnavailable(
                    f"all {self._size} connections to {self.endpoint.redacted} are waiting"
                )
        try:
            connection = idle.pop() if idle else Connection(self.endpoint, self._name)
            try:
                yield connection
            finally:
                idle.append(connection)
        finally:
            permits.release()


def is_foreign_thread(owner: int) -> bool:
    """Whether green objects of the native thread `owner` are out of bounds here.

    In a patched process a socket belongs to the hub, and so to the native thread, that opened it;
    a lock that is held across threads may never be noticed to be free (seen: a hang).
    """
    monkey = sys.modules.get("gevent.monkey")
    green = monkey is not None and monkey.is_module_patched("socket")
    return bool(green) and threading.get_native_id() != owner


def _wire_to(endpoint: Endpoint, name: str, timeout: float | None) -> TcpConnection:
    """A connection as the URL describes it, not connected yet."""
    options = parse_url(endpoint.url)
    cls = options.pop("connection_class", TcpConnection)
    if "path" not in options:
        options["socket_keepalive"] = True
    # Ours last: no URL may unsettle what the rest relies on.
    options |= {
        "socket_connect_timeout": timeout or CONNECT_TIMEOUT,
        "socket_timeout": timeout or READ_TIMEOUT,
        "client_name": name,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        **_UNNAMED,
    }
    wire: TcpConnection = cls(**options)
    return wire


def _check_url(url: str) -> str:
    """What is wrong with a server URL, or nothing."""
    try:
        options = parse_url(url)
    except ValueError:
        return "use redis://host:port/db, rediss://… or unix:///path, and %2F %3F %23 %40 for / ? # @ in a password"
    for option in options:
        if option not in _URL_OPTIONS and not option.startswith("ssl_"):
            return f"no option {option!r}; there are db, username, password and ssl_…"
    path = urlsplit(url).path.strip("/")
    if not url.startswith("unix:") and path and not path.isdigit():
        return f"its database must be a number, not {path!r}"
    return ""


def _ours(error: Exception, endpoint: Endpoint, maybe_done: bool) -> Exception:
    text = " ".join(str(error).split()) or type(error).__name__
    where = endpoint.redacted
    if isinstance(error, (redis_errors.AuthenticationError, redis_errors.NoPermissionError)) or any(
        word in text for word in _CREDENTIALS
    ):
        return UnsuitableServer(f"{where} refuses us: {text}; check user and password in the URL")
    passing = (
        redis_errors.ReadOnlyError,
        redis_errors.ClusterDownError,
        redis_errors.TryAgainError,
        redis_errors.BusyLoadingError,
    )
    if not isinstance(error, redis_errors.ResponseError) or (
        isinstance(error, passing) or any(word in text for word in _PASSING)
    ):
        unavailable = BrokerUnavailable(f"{where} cannot be reached: {text}")
        unavailable.maybe_done = maybe_done
        return unavailable
    refused = BrokerError(f"{where} refuses: {text}")
    if isinstance(error, redis_errors.OutOfMemoryError) or "OOM" in text:
        refused.code = "OOM"
    elif isinstance(error, redis_errors.NoScriptError):
        refused.code = "NOSCRIPT"
    else:
        refused.code = text.split(" ", 1)[0]
    return refused
