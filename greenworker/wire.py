"""Wire: one open connection to one server, bytes out and replies in; the only module that imports redis.

redis-py gives the sockets, TLS and the two parsers. Left out of it: its handshake (Connection
has its own, in one round trip), its retries (they turn a lost reply into a second enqueue),
and its reading of errors, which drops their codes.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.connection import (
    Connection,
    DefaultParser,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.retry import Retry

from greenworker.endpoint import Address

Command = Sequence[bytes | str | int]


class WireLost(Exception):
    """No connection, no reply in time, or bytes that are none; the wire is closed."""


class ErrorReply(Exception):
    """The server answered with an error: its text, whose first word is the code."""


class Wire:
    """Open from the start; whoever gets an exception other than ErrorReply closes it."""

    def __init__(
        self,
        address: Address,
        tls: dict[str, str | bool] | None,
        connect_timeout: float,
        read_timeout: float,
        keep_alive: float = 15.0,
    ) -> None:
        """Connect: each of TCP and TLS within its timeout (s); names are resolved before.

        A server that is gone without a word is noticed after three times `keep_alive` s of
        silence, and one that is back and remembers nothing after once.
        """
        options: dict[str, Any] = {
            "socket_connect_timeout": connect_timeout,
            "socket_timeout": read_timeout,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "parser_class": _Parser,
            "redis_connect_func": _begin,
        }
        cls: Any = UnixDomainSocketConnection
        if isinstance(address, str):
            options |= {"path": address}
        else:
            cls = Connection if tls is None else SSLConnection
            options |= {"host": address[0], "port": address[1], "socket_keepalive": True}
            options["socket_keepalive_options"] = _keep_alive(round(keep_alive))
            options |= tls or {}
        self._redis: Any = cls(**options)
        try:
            self._redis.connect()
        except (redis_errors.RedisError, OSError) as error:
            raise WireLost(_text(error)) from error

    def send(self, packed: bytes, timeout: float | None = None) -> None:
        """Send within `timeout` s; None leaves the timeout to whoever reads meanwhile."""
        try:
            if timeout is not None:
                self._redis._sock.settimeout(timeout)
            self._redis.send_packed_command([packed], check_health=False)
        except (redis_errors.RedisError, OSError, AttributeError) as error:
            raise WireLost(_text(error)) from error

    def read(self, timeout: float) -> Any:
        """The next reply, the whole of it within `timeout` s; raises ErrorReply."""
        try:
            self._redis._sock.settimeout(timeout)
            return self._redis.read_response()
        except redis_errors.ResponseError as error:
            raise ErrorReply(_text(error)) from None
        except (redis_errors.RedisError, OSError, AttributeError) as error:
            raise WireLost(_text(error)) from error

    def can_read(self, timeout: float) -> bool:
        """Whether a reply begins within `timeout` s."""
        try:
            return bool(self._redis.can_read(timeout=timeout))
        except (redis_errors.RedisError, OSError, AttributeError) as error:
            raise WireLost(_text(error)) from error

    def has_ended(self) -> bool:
        """Whether the server has closed the connection, or said what nobody asked for."""
        try:
            return bool(self._redis._sock.has_ended())
        except AttributeError:
            return True

    def close(self) -> None:
        self._redis.disconnect()


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]  # one of two, by what is installed
    """Keeps the code of an error, whatever it is, and makes none of them an error of the link."""

    @classmethod
    def parse_error(cls, response: str) -> redis_errors.ResponseError:
        return redis_errors.ResponseError(response)


class _Timed:
    """A socket whose timeout is for all that a step reads, in however many pieces it comes."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._until = 0.0
        self._begun = False

    def settimeout(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._begun = False
        self._sock.settimeout(max(seconds, 0.001))

    def recv(self, *args: Any) -> Any:
        self._go_on()
        return self._sock.recv(*args)

    def recv_into(self, *args: Any) -> Any:
        self._go_on()
        return self._sock.recv_into(*args)

    def has_ended(self) -> bool:
        try:
            self._sock.settimeout(0)
            if isinstance(self._sock, ssl.SSLSocket):
                # What waits there may be TLS' own; only the end says something.
                return socket.socket.recv(self._sock, 1, socket.MSG_PEEK) == b""
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _go_on(self) -> None:
        if self._begun:
            self._sock.settimeout(max(self._until - time.monotonic(), 0.001))
        self._begun = True


class _TimedTls(_Timed):
    """As _Timed, for a thread that reads and others that send: OpenSSL bears only one at a time."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self._lock = threading.Lock()
        self._seconds = 0.0

    def settimeout(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def recv(self, *args: Any) -> Any:
        return self._read(self._sock.recv, *args)

    def recv_into(self, *args: Any) -> Any:
        return self._read(self._sock.recv_into, *args)

    def sendall(self, data: bytes) -> None:
        with self._lock:
            self._sock.settimeout(max(self._seconds, 0.001))
            self._sock.sendall(data)

    def _read(self, recv: Callable[..., Any], *args: Any) -> Any:
        while True:
            with self._lock:
                self._sock.settimeout(0)
                try:
                    return recv(*args)
                except ssl.SSLWantReadError:
                    pass
            # Without the lock: this may take a while.
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            if not poll.poll(max(0.0, self._until - time.monotonic()) * 1000):
                raise TimeoutError("timed out")


def _keep_alive(every: int) -> dict[int, int]:
    """Socket options, where the platform has them."""
    wanted = {
        "TCP_KEEPIDLE": every,
        "TCP_KEEPINTVL": every,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 3000 * every,  # ms; what was sent and nobody has acknowledged
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def _begin(connection: Any) -> None:
    """In place of redis-py's handshake."""
    sock = connection._sock
    connection._sock = (_TimedTls if isinstance(sock, ssl.SSLSocket) else _Timed)(sock)
    connection._parser.on_connect(connection)


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
