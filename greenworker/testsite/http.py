"""As much of HTTP/1.1 as a test site needs: requests read, answers written, connections kept.

By hand, because the site shares the machine with what it tests: a request on a new connection takes
less than half of what it takes with gevent.pywsgi (150 µs against 370, of which 60 are the kernel's), one
on a connection that was kept 60 µs. It leaves to a handler when and what to answer, so that an answer may be
late, slow, broken or none at all.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache

import gevent
from gevent.server import StreamServer

MAX_HEAD = 65536
BACKLOG = 2048
"""A crawler opens a thousand connections in one breath: none may be turned away."""


class Visit:
    """One request, from its arrival to the end of its answer."""

    __slots__ = ("arrived", "host", "keep", "method", "path", "query", "socket")

    def __init__(self, socket: socket.socket, host: int, head: bytes) -> None:
        self.arrived = time.monotonic()
        self.socket = socket
        self.host = host
        """Which of the site's hosts it came to."""
        line, _, fields = head.partition(b"\r\n")
        words = line.decode("latin-1").split(" ")
        if len(words) != 3:
            raise ValueError(f"no request line: {line[:80]!r}")
        self.method, target, version = words
        self.path, _, self.query = target.partition("?")
        wish = b"\r\n" + fields.lower() + b"\r\n"
        if version == "HTTP/1.1":
            self.keep = b"\r\nconnection: close\r\n" not in wish
        else:
            self.keep = b"\r\nconnection: keep-alive\r\n" in wish

    def answer(self, status: str, body: bytes, kind: str, *more: str) -> None:
        """Answer with a body of some media type; `more` are header lines."""
        head = self._head(status, kind, len(body), more)
        self.socket.sendall(head if self.method == "HEAD" else head + body)

    def trickle(self, status: str, body: bytes, kind: str, pieces: int, seconds: float) -> None:
        """The same, with the body in so many pieces over some seconds."""
        self.socket.sendall(self._head(status, kind, len(body), ()))
        if self.method == "HEAD":
            return
        size = max(1, -(-len(body) // pieces))
        for begin in range(0, len(body), size):
            gevent.sleep(seconds / pieces)
            self.socket.sendall(body[begin : begin + size])

    def reset(self) -> None:
        """Answer with a reset of the connection."""
        # Lingering for zero seconds makes the coming close a RST.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.keep = False

    def gone(self) -> bool:
        """Whether whoever asked has hung up."""
        self.socket.settimeout(0.0)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            if self.socket.fileno() >= 0:
                self.socket.settimeout(None)

    def _head(self, status: str, kind: str, size: int, more: tuple[str, ...]) -> bytes:
        lines = "".join(f"{line}\r\n" for line in more)
        end = "" if self.keep else "Connection: close\r\n"
        return (
            f"HTTP/1.1 {status}\r\nDate: {_date(int(time.time()))}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {size}\r\n{lines}{end}\r\n"
        ).encode("latin-1")


Handler = Callable[[Visit], None]


def bind(port: int) -> socket.socket:
    """A socket that listens on a port of 127.0.0.1; 0 picks a free one. Raises OSError if it is taken."""
    listener: socket.socket = StreamServer.get_listener(
        ("127.0.0.1", port), backlog=BACKLOG, family=socket.AF_INET
    )
    return listener


def answer_on(listener: socket.socket, host: int, handle: Handler) -> StreamServer:
    """Have `handle` answer what comes to a socket, as one of the hosts; returns the server, started."""

    def connected(connection: socket.socket, _: object) -> None:
        _serve(connection, host, handle)

    server = StreamServer(listener, connected, spawn=gevent.spawn_raw)
    server.max_accept = 1  # to look for a second one costs more than to be called again
    server.start()
    return server


def _serve(connection: socket.socket, host: int, handle: Handler) -> None:
    """Answer the requests of one connection until either side ends it."""
    rest = b""
    try:
        while True:
            end = rest.find(b"\r\n\r\n")
            while end < 0:
                if len(rest) > MAX_HEAD or not (more := connection.recv(65536)):
                    return
                rest += more
                end = rest.find(b"\r\n\r\n")
            head, rest = rest[:end], rest[end + 4 :]
            visit = Visit(connection, host, head)
            rest = _without_body(connection, head, rest)
            handle(visit)
            if not visit.keep:
                return
    except (OSError, ValueError):
        return  # it hung up, or does not speak HTTP


def _without_body(connection: socket.socket, head: bytes, rest: bytes) -> bytes:
    """Read a request's body, which nobody wants, and return what follows it."""
    if head.startswith((b"GET ", b"HEAD ")):
        return rest
    _, found, value = head.lower().partition(b"\r\ncontent-length:")
    left = int(value.partition(b"\r\n")[0]) if found else 0
    while left > len(rest):
        left -= len(rest)
        if not (rest := connection.recv(65536)):
            raise ConnectionResetError
    return rest[left:]


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
