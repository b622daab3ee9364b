"""A server that answers as a test says: for replies that a real one gives only in rare states."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any, Self

from tests.support.listener import Listener

OK = b"+OK\r\n"
Command = list[bytes]


class FakeServer(Listener):
    """Greets every connection as a real one does, and gives the rest to `answer`.

    `answer` returns the reply's bytes, or None to say nothing; `commands` are all that it got,
    `ends` its connections.
    """

    def __init__(self, answer: Callable[[Command], bytes | None]) -> None:
        self.commands: list[Command] = []
        self._answer = answer
        super().__init__()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _serve(self, end: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), end.makefile("rb") as requests:
            while command := _read_command(requests):
                self.commands.append(command)
                reply = OK if command[0] in (b"CLIENT", b"SELECT") else self._answer(command)
                if reply is not None:
                    end.sendall(reply)


def _read_command(requests: Any) -> Command:
    head = requests.readline()
    command = []
    for _ in range(int(head[1:]) if head else 0):
        size = int(requests.readline()[1:])
        command.append(requests.read(size + 2)[:-2])
    return command


class DeafServer:
    """A port whose queue of new connections is full: nobody answers the first packet of another."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=0)
        self.port = self._listener.getsockname()[1]
        self._fillers = [socket.socket() for _ in range(4)]
        for filler in self._fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        for end in (*self._fillers, self._listener):
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
