"""An arena: a server, a proxy, workers, producers and a journal, to break and then to judge."""

from __future__ import annotations

import importlib.util
import math
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any, Self
from uuid import uuid4

import orjson
import redis

from greenworker import App, keys
from tests.chaos.history import ENDS, Event, History, Journal, Reader, read
from tests.chaos.judge import Final, Verdict, judge
from tests.chaos.producer import Producer
from tests.chaos.progress import Progress
from tests.chaos.watchers import PAYLOAD, Announcements
from tests.chaos.workers import Worker
from tests.support import failpoints
from tests.support.eventually import eventually
from tests.support.process import Command, run
from tests.support.server import Server
from tests.support.state import check_whole
from tests.support.tcp_proxy import TcpProxy

SENDER = Path(__file__).parent / "producer.py"

MODULE = """\
import os, signal, sys, threading, time
from pathlib import Path
from greenworker import App, Backoff, current_task
from tests.chaos import probe
from tests.chaos.history import Journal
from tests.chaos.tasks import Failure, make_app, token

journal = Journal({journal!r})
app = make_app({url!r}, {namespace!r}, journal, patience={patience!r})
noted = probe.noted(journal)
if os.environ.get("CHAOS_WORKER"):
    probe.install(journal)

"""


class Arena:
    """Everything of one run. A context manager: at its end nothing of it is left but its folder.

    Workers reach the server through `proxy`, producers through `producers` (a proxy of their own),
    and whoever judges goes straight to it (`redis`). Workers are real commands.
    """

    def __init__(
        self,
        folder: Path,
        *,
        appendonly: bool = True,
        config: Mapping[str, str] | None = None,
        lease: float = 2.0,
        concurrency: int = 20,
        patience: float = 5.0,
        extra: str = "",
        bound: float = 6.0,
        short: bool = True,
        place: Callable[[str], Any] | None = None,
    ) -> None:
        """`place` makes more than one server, for keys with a given root: a context manager whose
        `url` is for workers and senders, who go there without a proxy, and whose `judge` is the
        server that has all in the end. `extra`: further tasks' source, each `@app.task(name="…")` over `@noted`. `bound`: seconds
        that nothing may go on for. `short`: a scenario does with few tasks, as CI asks for."""
        self.folder, self.lease, self.concurrency, self.short = folder, lease, concurrency, short
        self.namespace = f"c{uuid4().hex[:8]}"
        self.root = keys.root(self.namespace)
        self.workers: list[Worker] = []
        self._stack = ExitStack()
        try:
            self.journal = Journal(folder / "journal")
            self._stack.callback(self.journal.close)
            self.place: Any = self._enter(place(self.root)) if place else None
            if place:
                self.server: Server = self.place.judge
            else:
                self.server = self._enter(Server(appendonly=appendonly, config=config))
            self.proxy = self._enter(TcpProxy(self.server.url))
            self.producers = self._enter(TcpProxy(self.server.url))
            self.redis: Any = redis.Redis.from_url(
                self.server.url, decode_responses=True, encoding_errors="surrogateescape"
            )
            self._stack.callback(self.redis.close)
            failpoints.load_scripts(self.redis)
            self._readers: dict[str, Reader] = {}
            self.announcements = Announcements(self.server.url, self.root, self.journal)
            self._stack.callback(self.announcements.close)
            assert self.announcements.subscribed.wait(10)
            self.progress = Progress(
                self.server.url, self.root, lambda: self.workers, self.journal.path, bound
            )
            self._stack.callback(self.progress.close)
            self._stack.callback(self._end_workers)
            self.app = self._load(patience, extra)
            self.producer = Producer(self.app, self.journal)
            self._stack.callback(self.app.close)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stack.close()
        if kind is not None:
            print(self.story())

    # Workers

    def worker(
        self,
        *args: str,
        name: str = "",
        failpoint: str = "",
        env: Mapping[str, str] | None = None,
        supervised: bool = False,
        ready: bool = True,
        lease: float | None = None,
        concurrency: int | None = None,
        via: TcpProxy | None = None,
    ) -> Worker:
        """Start a worker command, and wait until it is registered; `via`: a proxy of its own."""
        worker = Worker(
            self.journal,
            self.folder,
            name or f"w{len(self.workers) + 1}",
            (
                "-q",
                *("-u", self.place.url if self.place else (via or self.proxy).url),
                *("-n", name or f"w{len(self.workers) + 1}"),
                *("--lease", f"{lease or self.lease:g}"),
                *("-c", str(concurrency or self.concurrency)),
                *args,
                "arena_tasks",
            ),
            failpoint=failpoint,
            env=env,
            supervised=supervised,
        )
        self.workers.append(worker)
        if ready:
            self.wait_registered(worker)
        return worker

    def wait_registered(self, worker: Worker, within: float = 20.0) -> str:
        """Wait until the present life of a worker is registered; returns its incarnation."""
        return eventually(
            lambda: self.incarnation(worker), within, f"{worker.name} does not register"
        )

    def incarnation(self, worker: Worker) -> str:
        """The latest incarnation of a worker's present life, '' when there is none."""
        mine = [e["worker"] for e in self.events("registered") if e["pid"] == worker.pid]
        return mine[-1] if mine else ""

    # Sending

    def send(self, task: str, *args: Any, **options: Any) -> str:
        """Send a task as apply_async does; returns its id, whatever came of it (see the journal)."""
        return self.producer.send(task, *args, **options)

    def send_many(self, task: str, calls: Iterable[Sequence[Any]]) -> list[str]:
        """Send many calls, a thousand in a request; returns the ids of all, in order."""
        return self.producer.send_many(task, calls)

    def sender(self, task: str, count: int, *args: Any, failpoint: str = "") -> Command:
        """Start a program that sends so many tasks one by one, with a failpoint perhaps."""
        words = [str(SENDER), task, str(count), *(orjson.dumps(arg).decode() for arg in args)]
        command = Command(
            program=("-m", "tests.support.failpoints", "--script", *words),
            cwd=self.folder,
            env={failpoints.VARIABLE: failpoint},
        )
        return self._enter(command)

    # Faults

    @contextmanager
    def fault(self, name: str, **about: Any) -> Iterator[None]:
        """Journal that something is broken for as long as the context lasts.

        `costs_lease`: pids of workers that may be reaped for it, or "all"; who gives its
        incarnation up without such a fault is a finding. `loses_data=True`: what the server had
        acknowledged may be gone. `stops_all=True`: nobody need make progress meanwhile.
        """
        stops_all = about.pop("stops_all", False)
        self.journal.write("fault", name=name, **about)
        if stops_all:
            self.progress.excuse()
        try:
            yield
        finally:
            if stops_all:
                self.progress.expect()
            self.journal.write("mended", name=name)

    def note_fault(self, name: str, **about: Any) -> float:
        """Journal a fault that is over at once; returns its time."""
        moment = self.journal.write("fault", name=name, **about)
        self.journal.write("mended", name=name)
        return moment

    def kill(self, worker: Worker) -> float:
        """SIGKILL a worker; returns the time of it."""
        return worker.signal(signal.SIGKILL)

    def freeze(self, worker: Worker) -> float:
        """SIGSTOP a worker; it may be reaped before `thaw`."""
        worker.stopped = True
        moment = self.journal.write(
            "fault", name=f"SIGSTOP {worker.name}", of=worker.pid, costs_lease=[worker.pid]
        )
        worker.signal(signal.SIGSTOP)
        return moment

    def thaw(self, worker: Worker) -> float:
        """SIGCONT a worker."""
        worker.signal(signal.SIGCONT)
        worker.stopped = False
        return self.journal.write("mended", name=f"SIGSTOP {worker.name}")

    def terminate(self, worker: Worker) -> float:
        """SIGTERM a worker."""
        worker.leaving = True
        return worker.signal(signal.SIGTERM)

    def allow(self, file: str) -> None:
        """Let the tasks end that `wait_for` this file."""
        (self.folder / file).touch()

    # Looking

    def events(self, what: str = "") -> list[Event]:
        """The journal so far, or its events of one kind."""
        reader = self._readers.setdefault(what, Reader(self.journal.path, what))
        return reader.events()

    def running(self, worker: Worker | None = None) -> list[str]:
        """Ids whose run has begun and not ended (of the present life of a worker)."""
        open_runs: dict[tuple[str, str, int], str] = {}
        for event in self.events():
            if worker is not None and event["pid"] != worker.pid:
                continue
            if event["what"] == "start":
                open_runs[event["id"], event["worker"], event["seq"]] = event["id"]
            elif event["what"] == "end":
                open_runs.pop((event["id"], event["worker"], event["seq"]), None)
        return list(open_runs.values())

    def held(self, incarnation: str) -> list[str]:
        """Ids that an incarnation has claimed and not settled, as the server sees it."""
        return list(self.redis.hkeys(keys.processing(self.root, incarnation)))

    def completed(self, since: float = 0.0) -> dict[str, float]:
        """When the messages ended of which the server, or its answer to a worker, told it."""
        times: dict[str, float] = {}
        for event in self.events("announced"):
            _earlier(times, event["id"], event["t"], since)
        for event in self.events("settled"):
            for id, _, kind, ours in event["outcomes"]:
                if ours and kind in ENDS:
                    _earlier(times, id, event["t"], since)
        return times

    def recovery(self, since: float, of: Iterable[str]) -> tuple[float, float]:
        """Seconds from `since` until the first of these ids ran again, and until all had.

        Ran again: its next run began, or it ended without one.
        """
        wanted = set(of)
        again: dict[str, float] = {}
        for event in self.events("start"):
            if event["t"] > since and event["id"] in wanted:
                again.setdefault(event["id"], event["t"])
        for id, moment in self.completed(since).items():
            if id in wanted:
                again.setdefault(id, moment)
        missing = wanted - set(again)
        assert not missing, f"{len(missing)} never ran again: {sorted(missing)[:5]}"
        times = sorted(moment - since for moment in again.values()) or [0.0]
        return times[0], times[-1]

    def resumption(self, since: float) -> float:
        """Seconds from `since` until the next message ended."""
        later = [moment for moment in self.completed(since).values() if moment > since]
        assert later, "nothing has ended since"
        return min(later) - since

    def present(self) -> int:
        """How many messages wait, run or are scheduled."""
        return int(self.redis.hlen(keys.messages(self.root)))

    def drain(self, within: float = 60.0) -> None:
        """Wait until no message is present."""
        deadline = time.monotonic() + within
        while True:
            try:
                left = self.present()
            except redis.RedisError:
                left = -1
            if not left:
                return
            self._check_progress()
            if time.monotonic() >= deadline:
                raise AssertionError(f"{left} messages are left after {within:g} s")
            time.sleep(0.05)

    # Judging

    def verify(
        self,
        causes: Iterable[str] | None = None,
        may_stay: Callable[[str], bool] | None = None,
        codes: Collection[int] = (),
    ) -> Verdict:
        """Judge all that happened; raises AssertionError with every problem.

        `causes`: the only ones for which something may have run twice; `codes`: with which a
        worker may have ended though the journal knows no reason.
        """
        self._check_progress()
        self.history = History(read(self.journal.path))
        verdict = judge(
            self.history, self._final(self.history.sends), may_stay or (lambda _: False), codes
        )
        self._check_structure(verdict)
        if causes is not None:
            for cause in sorted(set(verdict.twice) - set(causes)):
                verdict.problems.append(f"{verdict.twice[cause]} run twice: {cause}")
        assert not verdict.problems, "\n".join(verdict.problems)
        return verdict

    def story(self, last: int = 60) -> str:
        """For whoever reads a failure: the faults, and the end of each worker's output."""
        told = ("fault", "mended", "up", "down", "renewed", "says", "registered", "left", "mark")
        lines = [
            f"{event['t']:.3f} {event['pid']} {event['what']} "
            + " ".join(
                f"{k}={v}" for k, v in event.items() if k not in ("what", "t", "at", "pid", "args")
            )
            for event in read(self.journal.path)
            if event["what"] in told
        ]
        parts = [f"--- journal {self.journal.path}", *lines[-last:]]
        for worker in self.workers:
            parts += [f"--- {worker.name}", *worker.output.splitlines()[-20:]]
        return "\n".join(parts)

    def _check_progress(self) -> None:
        assert not self.progress.stalls, "\n".join(self.progress.stalls)

    def _check_structure(self, verdict: Verdict) -> None:
        try:
            check_whole(self.structure())
        except AssertionError as error:
            verdict.problems.append(f"the namespace is not whole: {error}")
        if importlib.util.find_spec("greenworker.commands.check") is not None:
            audit = run("check", "-u", self.server.url, "--namespace", self.namespace)
            if audit.returncode:
                verdict.problems.append(f"greenworker check: {audit.stdout}{audit.stderr}")

    def structure(self) -> dict[str, Any]:
        """The keys of the namespace but for results and pushes, as `check_whole` takes them."""
        ask = self.redis.pipeline(transaction=True)
        names = [
            key
            for key in self.redis.scan_iter(match=self.root + "*", count=5000)
            if not key.removeprefix(self.root).startswith(("result:", "push:"))
        ]
        for name in names:
            ask.type(name)
        readers = {
            "string": ask.get,
            "set": ask.smembers,
            "hash": ask.hgetall,
            "list": lambda key: ask.lrange(key, 0, -1),
            "zset": lambda key: ask.zrange(key, 0, -1),
        }
        kinds = ask.execute()
        there = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind in readers]
        for name, kind in there:
            readers[kind](name)
        values = ask.execute()
        return {
            name.removeprefix(self.root): value
            for (name, _), value in zip(there, values, strict=True)
        }

    def _final(self, ids: Iterable[str]) -> Final:
        raw = redis.Redis.from_url(self.server.url)
        try:
            results: dict[str, bytes] = {}
            wanted = sorted(ids)
            for start in range(0, len(wanted), 1000):
                chunk = wanted[start : start + 1000]
                values: Any = raw.mget([keys.result(self.root, id) for id in chunk])
                results |= {id: v[:PAYLOAD] for id, v in zip(chunk, values, strict=True) if v}
            present: Any = raw.hkeys(keys.messages(self.root))
            dead: Any = raw.hgetall(keys.dead_records(self.root))
        finally:
            raw.close()
        return Final(
            frozenset(id.decode() for id in present),
            results,
            {id.decode("utf-8", "surrogateescape"): record for id, record in dead.items()},
        )

    def _load(self, patience: float, extra: str) -> App:
        """Write the tasks' module, which workers load, and load it here to send."""
        path = self.folder / "arena_tasks.py"
        head = MODULE.format(
            journal=str(self.journal.path),
            url=self.place.url if self.place else self.producers.url,
            namespace=self.namespace,
            patience=patience,
        )
        path.write_text(head + dedent(extra))
        spec = importlib.util.spec_from_file_location(f"arena_{self.namespace}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._stack.callback(module.journal.close)
        app = module.app
        assert isinstance(app, App)
        return app

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.supervised = False
        for worker in self.workers:
            worker.end()

    def _enter(self, thing: Any) -> Any:
        return self._stack.enter_context(thing)


def _earlier(times: dict[str, float], id: str, moment: float, since: float) -> None:
    if moment >= since and moment < times.get(id, math.inf):
        times[id] = moment
