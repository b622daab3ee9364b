"""The oracle of liveness: a worker that could claim, and does not."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from greenworker import keys
from tests.chaos.history import Reader
from tests.chaos.workers import Worker

STARTING = 10.0  # seconds that a process may take until it is registered, on a slow machine
RETURN = 2.0  # seconds after which a worker is back whose server was away
MAKES_ROOM_FOR = 60.0  # seconds for which a worker claims nothing, so that a suspect can run alone
_EVERY, _AT_MOST = 0.25, 0.5  # seconds between two looks, and what they count for
_LINES = 2 * len(keys.PRIORITIES)


@dataclass(slots=True)
class _Clock:
    """Counts the seconds for which something stays as it is, though it could go on."""

    mark: Any = None
    seconds: float = 0.0
    told: bool = False

    def tick(self, mark: Any, step: float) -> None:
        """`mark`: what would change; None when nothing has to."""
        if mark is None or mark != self.mark:
            self.mark, self.seconds, self.told = mark, 0.0, False
        else:
            self.seconds += step

    def is_over(self, bound: float) -> bool:
        """Whether it has passed the bound; once."""
        if self.seconds <= bound or self.told:
            return False
        self.told = True
        return True


@dataclass(slots=True)
class _State:
    """A worker that is expected to work, and what it holds; `queues`: those it may claim from now."""

    name: str
    pid: int
    mark: Any  # what changes when it claims, or settles
    idle: bool  # it holds nothing at all
    free: bool  # a slot is free, and nothing keeps it from claiming
    queues: set[str]
    says: str


@dataclass(slots=True)
class _Sight:
    """What there is to do, and who could do it."""

    waiting: dict[str, int] = field(default_factory=dict)
    suspects: dict[str, int] = field(default_factory=dict)
    overdue: bool = False
    done: Any = None  # what changes when anybody claims or settles
    states: list[_State] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.waiting} waiting, {self.suspects} suspects, overdue {self.overdue}, {self.done}"
        )

    def must_go_on(self) -> bool:
        free = set[str]().union(*(state.queues for state in self.states if state.free))
        idle = set[str]().union(*(state.queues for state in self.states if state.idle))
        # A suspect may have to wait until a worker has no other.
        return bool(
            (self.overdue and free) or free & set(self.waiting) or idle & set(self.suspects)
        )


class Progress:
    """There is no state in which a worker is up and connected, work waits, slots are free, and
    nothing is claimed or settled for `bound` seconds; nor one in which a single worker claims
    nothing for twice as long, whatever the others do.

    An idle worker looks every 2 s whatever happens to its wake token, and one whose server was away
    is back within 2 s; so a bound of 6 s leaves time for a slow machine. A single one may lose a reply,
    which takes 5 s to notice, and what waits when it looks again. Time in which nobody has to go on
    counts for nothing, and ends nothing.
    """

    def __init__(
        self,
        url: str,
        root: str,
        workers: Callable[[], Sequence[Worker]],
        journal: Path,
        bound: float = 6.0,
    ) -> None:
        self.stalls: list[str] = []
        self.longest = 0.0  # seconds for which nothing happened though something could
        self.longest_alone = 0.0  # … for which one worker claimed nothing though it could
        self.watched = 0.0  # seconds in which somebody had to go on if there was work
        self._client = redis.Redis.from_url(
            url, socket_timeout=2, decode_responses=True, encoding_errors="surrogateescape"
        )
        self._root, self._workers, self._bound = root, workers, bound
        self._journal = Reader(journal, "registered", "renewed", "says", "start")
        self._incarnations: dict[int, str] = {}  # by pid
        self._starts: Counter[int] = Counter()  # runs, by pid
        self._retiring: set[int] = set()
        self._excused = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._thread.start()

    @contextmanager
    def excused(self) -> Iterator[None]:
        """While a fault stops all workers, nothing has to go on."""
        self.excuse()
        try:
            yield
        finally:
            self.expect()

    def excuse(self) -> None:
        with self._lock:
            self._excused += 1

    def expect(self) -> None:
        with self._lock:
            self._excused -= 1

    def close(self) -> None:
        self._closed.set()
        self._thread.join(5)
        self._client.close()

    def _watch(self) -> None:
        together, alone = _Clock(), dict[int, _Clock]()
        before = counts_from = time.monotonic()
        while not self._closed.wait(_EVERY):
            now = time.monotonic()
            # A monitor that was late has not seen what happened meanwhile.
            step, before = min(now - before, _AT_MOST), now
            try:
                sight = None if self._excused else self._look()
            except (redis.RedisError, OSError):
                sight = None
            if sight is None:
                counts_from = now + RETURN
                continue
            if now < counts_from:
                step = 0.0
            self.watched += step
            together.tick(sight.done if sight.must_go_on() else None, step)
            self.longest = max(self.longest, together.seconds)
            if together.is_over(self._bound):
                self.stalls.append(f"nothing claimed or settled for {self._bound:g} s: {sight}")
            alone = {state.pid: alone.get(state.pid, _Clock()) for state in sight.states}
            for state in sight.states:
                could = state.free and state.queues & set(sight.waiting)
                self._watch_one(alone[state.pid], state if could else None, sight, step)

    def _watch_one(self, clock: _Clock, state: _State | None, sight: _Sight, step: float) -> None:
        clock.tick(state and state.mark, step)
        self.longest_alone = max(self.longest_alone, clock.seconds)
        if state is not None and clock.is_over(2 * self._bound):
            self.stalls.append(
                f"{state.name} ({state.pid}) claimed nothing for {2 * self._bound:g} s, "
                f"{state.says}: {sight.waiting} waiting"
            )

    def _look(self) -> _Sight | None:
        """What there is to do, and who could do it; None when nobody is up."""
        self._read_journal()
        up = [
            (worker, worker.pid)
            for worker in self._workers()
            if worker.running and not worker.stopped and not worker.leaving
        ]
        if not up:
            return _Sight()
        root = self._root
        ask = self._client.pipeline(transaction=True)
        ask.time()
        ask.hgetall(keys.stats(root))
        ask.hgetall(keys.about(root))
        ask.smembers(keys.queues(root))
        ask.zrange(keys.scheduled(root), 0, 0, withscores=True)
        ask.zrange(keys.workers(root), 0, -1)
        (seconds, _), stats, about, queues, first_due, registered = ask.execute()
        queues = sorted(queues)
        for queue in queues:
            for priority in keys.PRIORITIES:
                ask.llen(keys.ready(root, queue, priority))
                ask.llen(
                    f"{root}turn:{queue}:{priority}"
                )  # a key has something there, and may start it
            ask.llen(keys.suspects(root, queue))
            ask.get(keys.room(root, queue))
        for wid in registered:
            ask.hgetall(keys.processing(root, wid))
            ask.get(keys.solitary(root, wid))
            ask.hget(keys.sequences(root), wid)
        replies, in_need = iter(ask.execute()), set[str]()
        sight = _Sight(overdue=bool(first_due) and first_due[0][1] < (seconds - 2) * 1000)
        for queue in queues:
            if count := sum(next(replies) for _ in range(_LINES)):
                sight.waiting[queue] = count
            if suspects := next(replies):
                sight.suspects[queue] = suspects
            # Somebody makes room for a suspect that runs without anything else.
            if float(seconds) - float(next(replies) or 0) / 1000 < MAKES_ROOM_FOR:
                in_need.add(queue)
        held, alone, asked = {}, {}, {}
        for wid in registered:
            held[wid], solitary, asked[wid] = next(replies), next(replies), next(replies)
            alone[wid] = solitary in held[wid]
        for worker, pid in up:
            wid = self._incarnations.get(pid, "")
            if wid in held and wid in about:
                told = json.loads(about[wid])
                excused = alone[wid] or pid in self._retiring or in_need & set(told["queues"])
                free = len(held[wid]) < told["concurrency"] and not excused
                mark = wid, held[wid], self._starts[pid]
                says = (
                    f"holds {len(held[wid])} of {told['concurrency']}, has asked {asked[wid]} times"
                )
                sight.states.append(
                    _State(worker.name, pid, mark, not held[wid], free, set(told["queues"]), says)
                )
            elif worker.age > STARTING:
                # Up for so long, and not even registered: whatever it listens to.
                says = "and is not registered"
                sight.states.append(_State(worker.name, pid, says, True, True, set(queues), says))
        # What senders and people move tells nothing.
        stats = {name: n for name, n in stats.items() if name not in ("enqueued", "revived")}
        sight.done = stats, held
        return sight

    def _read_journal(self) -> None:
        for event in self._journal.new():
            pid = event["pid"]
            if event["what"] == "start":
                self._starts[pid] += 1
            elif event["what"] == "renewed":
                self._incarnations.pop(pid, None)
            elif event["what"] == "says":
                if event["text"].startswith(("retiring", "stopping")):
                    self._retiring.add(pid)
            elif event["welcome"]:
                self._incarnations[pid] = event["worker"]
