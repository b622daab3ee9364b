"""A TCP proxy in front of a test server, which misbehaves on request."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import gevent
from gevent.monkey import get_original

# A real thread with real sockets, even where gevent has patched this process: the proxy must
# go on while the event loop under test is blocked.
new_socket = get_original("socket", "socket")
new_poll = get_original("select", "poll")
start_native_thread = get_original("_thread", "start_new_thread")

TICK = 0.02  # seconds between two looks at what is due; commands wake the loop at once
READ = select.POLLIN | select.POLLHUP | select.POLLERR


@dataclass(eq=False)
class Trap:
    """Bites once: on the first request that holds `match`, after `at` bytes of its reply."""

    match: bytes
    at: int = 0  # -1: not even the request arrives; -2: it does, once `deliver` says so
    sprung: bool = False
    held: bytes = b""  # the request that waits
    answer: bytes = b""  # what the server said to it, which nobody heard


@dataclass(eq=False)
class Flow:
    """One direction of a connection: what was read and is not written yet."""

    chunks: deque[tuple[float, bytes]] = field(default_factory=deque)  # (due, bytes)
    ended: bool = False  # the reading side has seen the end
    next_at: float = 0.0  # while it trickles: when the next bytes may go


@dataclass(eq=False)
class Link:
    """A client's connection and the one made for it to the server."""

    client: Any
    server: Any
    requests: Flow = field(default_factory=Flow)
    replies: Flow = field(default_factory=Flow)
    seen: bytes = b""  # the tail of the requests: a match may lie across two reads
    trap: Trap | None = None
    reply_left: int = 0  # bytes of the reply that the trap lets through
    swallowed: bool = False  # half-open: what either side says is read and dropped


class TcpProxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to `upstream`.

    `upstream` is a URL (`redis://host:port`, `unix:///path`). Use it as a context manager, and
    give its `url` to what is tested. Every method has taken effect when it returns.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._links: set[Link] = set()
        self._traps: list[Trap] = []
        self._delay = 0.0
        self._delay_requests = 0.0
        self._trickle, self._every = 0, TICK
        self._frozen = False
        self._closed = False
        self._commands: deque[Callable[[], None]] = deque()
        self._listener: Any = None
        self.port = 0
        self.opened: list[float] = []  # when each connection was made, by the monotonic clock
        self._wake_read, self._wake_write = os.pipe()
        self._listen()
        start_native_thread(self._loop, ())

    @property
    def url(self) -> str:
        user = "".join(urlsplit(self._upstream).netloc.rpartition("@")[:2])
        return f"redis://{user}127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._do(self._cut)

    def refuse(self) -> None:
        """Refuse new connections; those that are there stay."""
        self._do(self._unlisten)

    def accept(self) -> None:
        """Welcome new connections again, on the same port."""
        self._do(self._listen)

    def freeze(self) -> None:
        """A black hole: connections stay open and new ones open, but no byte gets through."""
        self._do(lambda: setattr(self, "_frozen", True))

    def thaw(self) -> None:
        """Go on; what was sent meanwhile arrives now."""
        self._do(lambda: setattr(self, "_frozen", False))

    def delay(self, seconds: float, each_way: bool = False) -> None:
        """Let every reply (and every request) from now on arrive that much later; 0 ends it."""
        self._delay_requests = seconds if each_way else 0.0
        self._do(lambda: setattr(self, "_delay", seconds))

    def trickle(self, size: int, every: float = TICK) -> None:
        """Pass on at most `size` bytes in `every` seconds, each way of each connection; 0 ends it."""
        self._every = every
        self._do(lambda: setattr(self, "_trickle", size))

    def swallow(self) -> None:
        """Half-open: connections that are there stay open, and no byte gets through any more;
        new ones are fine."""
        self._do(self._swallow)

    def drop_next_request(self, match: bytes) -> Trap:
        """Reset the connection of the next request that holds `match`, before it is passed on.

        The server knows nothing of it. (If it came in pieces, the first may have been passed on:
        half a command, which a server drops with the connection.)
        """
        return self.truncate_next_reply(match, -1)

    def drop_next_reply(self, match: bytes) -> Trap:
        """Pass on the next request that holds `match`, drop its reply and reset that connection.

        The server has done the work and the client cannot know. `.sprung` tells that it happened.
        """
        return self.truncate_next_reply(match, 0)

    def truncate_next_reply(self, match: bytes, at: int) -> Trap:
        """As `drop_next_reply`, but the first `at` bytes of the reply arrive before the reset."""
        trap = Trap(match, at)
        self._do(lambda: self._traps.append(trap))
        return trap

    def hold_next_request(self, match: bytes) -> Trap:
        """Keep the next request that holds `match`; nothing more of that connection gets through.

        `deliver` lets it arrive, however late, whether its sender still waits or not.
        """
        return self.truncate_next_reply(match, -2)

    def deliver(self, trap: Trap) -> None:
        """Let a held request arrive now, over a connection of its own; its reply is `trap.answer`."""
        server = self._connect()
        with server:
            server.sendall(trap.held)
            trap.answer = server.recv(65536)

    def close(self) -> None:
        """Reset everything and end the thread; may be called twice."""
        if not self._closed:
            self._do(self._end)
            # Not in the loop: it may have ended before _do() has woken it.
            os.close(self._wake_read)
            os.close(self._wake_write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Everything below runs in the proxy's thread: nothing needs a lock.

    def _loop(self) -> None:
        while not self._closed:
            poll = new_poll()
            poll.register(self._wake_read, select.POLLIN)
            if self._listener is not None:
                poll.register(self._listener, select.POLLIN)
            if not self._frozen:
                self._register(poll)
            ready = dict(poll.poll(TICK * 1000))
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
            while self._commands:
                self._commands.popleft()()
            if not self._frozen:
                for link in list(self._links):
                    self._move(link, ready)
            if self._listener is not None and self._listener.fileno() in ready:
                self._open_link()

    def _register(self, poll: Any) -> None:
        now = time.monotonic()
        for link in self._links:
            for end, inward, outward in (
                (link.client, link.requests, link.replies),
                (link.server, link.replies, link.requests),
            ):
                interest = 0 if inward.ended else READ
                if outward.chunks and max(outward.chunks[0][0], outward.next_at) <= now:
                    interest |= select.POLLOUT
                if interest:
                    poll.register(end, interest)

    def _move(self, link: Link, ready: dict[int, int]) -> None:
        try:
            if ready.get(link.client.fileno(), 0) & READ and not link.requests.ended:
                self._read_request(link)
            if ready.get(link.server.fileno(), 0) & READ and not link.replies.ended:
                self._read_reply(link)
            self._write(link.server, link.requests)
            self._write(link.client, link.replies)
        except BlockingIOError:
            return  # a command has just reused a file descriptor that was ready
        except OSError:
            self._reset(link)
            return
        trap = link.trap
        if link.swallowed:
            if link.requests.ended:  # the client has given up; that the server has, it never hears
                self._drop(link)
        elif trap is not None and trap.sprung and not link.replies.chunks:
            self._reset(link)
        elif any(flow.ended and not flow.chunks for flow in (link.requests, link.replies)):
            self._drop(link)

    def _read_request(self, link: Link) -> None:
        data = link.client.recv(65536)
        if not data:
            link.requests.ended = True
            return
        if link.swallowed:
            return
        text = link.seen + data
        for trap in self._traps:
            if link.trap is None and trap.match in text:
                link.trap, link.reply_left = trap, trap.at
        if link.trap in self._traps:
            self._traps.remove(link.trap)
        if link.trap is not None and link.trap.at < 0:
            if link.trap.at == -1:
                link.trap.sprung = True
                raise ConnectionResetError
            link.trap.held = data
            link.trap.sprung = link.swallowed = True
            return
        link.requests.chunks.append((time.monotonic() + self._delay_requests, data))
        longest = max((len(trap.match) for trap in self._traps), default=1)
        link.seen = text[-(longest - 1) :] if longest > 1 else b""

    def _read_reply(self, link: Link) -> None:
        data = link.server.recv(65536)
        if not data:
            link.replies.ended = True
            return
        if link.swallowed:
            return
        if link.trap is not None:
            whole = len(data)
            data = data[: link.reply_left]
            link.reply_left -= len(data)
            link.trap.sprung = link.trap.sprung or whole > len(data) or link.reply_left == 0
        if data:
            link.replies.chunks.append((time.monotonic() + self._delay, data))

    def _write(self, end: Any, flow: Flow) -> None:
        now = time.monotonic()
        while flow.chunks and max(flow.chunks[0][0], flow.next_at) <= now:
            due, data = flow.chunks[0]
            try:
                sent = end.send(data[: self._trickle] if self._trickle else data)
            except BlockingIOError:
                return
            if self._trickle:
                flow.next_at = now + self._every
            if sent < len(data):
                flow.chunks[0] = (due, data[sent:])
                return
            flow.chunks.popleft()

    def _open_link(self) -> None:
        try:
            # Not accept(): in a patched process that would make one of gevent's sockets.
            fd, _ = self._listener._accept()
        except OSError:
            return
        client = new_socket(fileno=fd)
        try:
            server = self._connect()
        except OSError:
            _reset_socket(client)
            return
        for end in (client, server):
            end.setblocking(False)
            if end.family == socket.AF_INET:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.add(Link(client, server))
        self.opened.append(time.monotonic())

    def _connect(self) -> Any:
        address = urlsplit(self._upstream)
        family = socket.AF_UNIX if address.scheme == "unix" else socket.AF_INET
        server = new_socket(family, socket.SOCK_STREAM)
        try:
            server.settimeout(5)
            server.connect(
                address.path if address.scheme == "unix" else (address.hostname, address.port)
            )
        except OSError:
            server.close()
            raise
        return server

    def _listen(self) -> None:
        if self._listener is not None:
            return
        listener = new_socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listener = listener

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _cut(self) -> None:
        for link in list(self._links):
            self._reset(link)

    def _swallow(self) -> None:
        for link in self._links:
            link.swallowed = True
            link.requests.chunks.clear()
            link.replies.chunks.clear()

    def _end(self) -> None:
        self._unlisten()
        self._cut()
        self._closed = True

    def _reset(self, link: Link) -> None:
        _reset_socket(link.client)
        self._drop(link)

    def _drop(self, link: Link) -> None:
        self._links.discard(link)
        link.client.close()
        link.server.close()

    def _do(self, command: Callable[[], None]) -> None:
        """From any other thread: let the loop run `command`, and wait until it has."""
        assert not self._closed, "the proxy is closed"
        done: list[BaseException | None] = []

        def step() -> None:
            try:
                command()
            except BaseException as error:
                done.append(error)
            else:
                done.append(None)

        self._commands.append(step)
        os.write(self._wake_write, b"x")
        deadline = time.monotonic() + 10
        while not done:
            assert time.monotonic() < deadline, "the proxy's thread does not answer"
            gevent.sleep(0.001)
        if done[0] is not None:
            raise done[0]


def _reset_socket(end: Any) -> None:
    """Close with RST instead of FIN: the peer sees ConnectionResetError."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
