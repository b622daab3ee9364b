"""One peer on one server: filled, worked, watched from outside."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import harness
from harness import OTHER_CPU, WORKER_CPU, Server, Venv
from peers.peer import Peer

POLL = 0.005  # seconds between two looks at the number of results
GIVE_UP = 120.0  # seconds without one more result


@dataclass(frozen=True)
class Workload:
    """`run` gives one row of figures, or one for each of its cases, which is named in the row."""

    name: str
    run: Callable[[Peer, Options], Iterator[dict[str, Any]]]
    # Those for the table: field → its heading. The first one is also told as a ratio.
    figures: dict[str, str]
    yardstick: str  # the peer that the ratio is to; where it is not measured, the last one


@dataclass(frozen=True)
class Options:
    binary: Path  # of the server
    venvs: dict[str, Venv] = field(repr=False)
    tasks: int | None = None  # instead of what a workload would take
    naps: Sequence[int] = (1000, 5000, 10_000)  # tasks at once
    idle: float = 60.0  # seconds before the second part of latency

    def count(self, peer: Peer, many: int, few: int) -> int:
        """How many tasks: fewer for those that need longer for each."""
        return self.tasks or (many if peer.fast else few)


class Moment(NamedTuple):
    done: int
    seconds: float
    worker_cpu: float
    server_cpu: float


class Trial:
    """A private server with a peer's tasks and worker; all is gone at the end of the block."""

    def __init__(
        self,
        peer: Peer,
        options: Options,
        *,
        workload: str,
        concurrency: int = 100,
        slots: int = 1,
        client: str = "",
    ) -> None:
        self.peer, self.concurrency = peer, concurrency
        self.server = Server(options.binary)
        self._bin = options.venvs[peer.venv].bin
        self._workload, self._size, self._client = workload, slots * 8, client
        self._worker: subprocess.Popen[bytes] | None = None
        self.before = 0  # keys that are no results

    def __enter__(self) -> Self:
        self.server.__enter__()
        # In memory where there is such a folder: nothing waits for a disk.
        where = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._file = tempfile.NamedTemporaryFile(dir=where, prefix="greenworker-benchmark-")
        self._file.truncate(max(self._size, mmap.PAGESIZE))
        self.slots = memoryview(mmap.mmap(self._file.fileno(), 0)).cast("q")
        self._log = tempfile.TemporaryFile("w+")
        self.env = {
            "PYTHONPATH": str(harness.HERE),
            **self.peer.env(),
            "BENCH_URL": self.server.url(),
            "BENCH_RESULTS_URL": self.server.url(self.peer.database),
            "BENCH_SLOTS": self._file.name,
            "BENCH_CONCURRENCY": str(self.concurrency),
            "BENCH_WORKLOAD": self._workload,
            "BENCH_CLIENT": self._client,
        }
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        if error[0] is not None:
            self._log.seek(0)
            sys.stderr.write(self._log.read()[-2000:])
        self._log.close()
        self._file.close()
        self.server.__exit__(*error)

    def send(self, *words: object, cpu: int = OTHER_CPU) -> Any:
        """What peers/inside.py does for these words; returns what it prints, if that is JSON."""
        command = self._command(self.peer.sender(*words))
        sender = harness.start(command, cpu, self.env, stdout=subprocess.PIPE)
        try:
            output, _ = sender.communicate(timeout=1800)
        finally:
            harness.kill(sender)
        if sender.returncode != 0:
            raise RuntimeError(f"{self.peer.name}: {words[0]} failed")
        self.server.command("SELECT", self.peer.database)
        self.before = self.peer.ended(self.server)
        try:
            return json.loads(output)
        except json.JSONDecodeError:
            return None

    def work(self) -> subprocess.Popen[bytes]:
        """Start the worker."""
        command = self._command(self.peer.worker(self.concurrency))
        self._worker = harness.start(
            command, WORKER_CPU, self.env, stdout=subprocess.DEVNULL, stderr=self._log
        )
        return self._worker

    def kill(self) -> None:
        """End the worker at once, with all its children, by signal 9."""
        if self._worker is not None:
            harness.kill(self._worker)
            self._worker = None

    def ended(self) -> int:
        return self.peer.ended(self.server) - self.before

    def slot_sum(self) -> int:
        """What tasks have left behind in all slots."""
        return sum(self.slots)

    def pids(self) -> list[int]:
        assert self._worker is not None
        return harness.family(self._worker)

    def now(self, done: int = 0) -> Moment:
        cpu = harness.cpu_seconds(*self.pids())
        return Moment(done, time.monotonic(), cpu, self.server.cpu_seconds())

    def watch(self, marks: Sequence[float], poll: float = POLL, earlier: int = 0) -> list[Moment]:
        """The moments when so many results could be read (more than `earlier`)."""
        assert self._worker is not None
        left, seen, done, moved = list(marks), [], -1, time.monotonic()
        while left:
            results = self.ended() - earlier
            if results > done:
                done, moved = results, time.monotonic()
            while left and done >= left[0]:
                del left[0]
                seen.append(self.now(done))
            if not left:
                break
            # Keys that are no results come and go with the work: the last few are counted one by one.
            stalled = len(left) == 1 and time.monotonic() - moved > 0.5
            if stalled and self.peer.exactly(self.server) - earlier >= left[0]:
                seen.append(self.now(done)._replace(seconds=moved))
                break
            if self._worker.poll() is not None or time.monotonic() - moved > GIVE_UP:
                raise RuntimeError(f"{self.peer.name}: no progress at {done} of {marks[-1]}")
            time.sleep(poll)
        return seen

    def check(self, results: int) -> None:
        """One result for each task, none lost and none too many."""
        deadline = time.monotonic() + 5
        while (found := self.peer.exactly(self.server)) != results:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.peer.name}: {found} results of {results} tasks")
            time.sleep(0.1)

    def _command(self, words: Sequence[object]) -> list[object]:
        return [self._bin / str(words[0]), *words[1:]]


def rate(first: Moment, last: Moment) -> dict[str, float]:
    """What happened in between, for each task."""
    count, seconds = last.done - first.done, last.seconds - first.seconds
    return {
        "per_second": round(count / seconds, 1),
        "worker_cpu_us": round((last.worker_cpu - first.worker_cpu) / count * 1e6, 1),
        "server_cpu_us": round((last.server_cpu - first.server_cpu) / count * 1e6, 1),
    }
