"""Control: what people do to a namespace while it runs: pause, resume, purge, cancel by a mark, ask what runs.

A method for each of its scripts, through one link, as `broker.py` has them for the messages' own steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from greenworker import keys
from greenworker.broker import MAX_BYTES, MAX_COUNT, Link
from greenworker.errors import ConfigError, GreenworkerError
from greenworker.running import Running, read_answer, together
from greenworker.scripts import load
from greenworker.status import WorkerStatus, groups, worker_status

MOST_TASKS = 1000  # that one worker names
MOST_MARKS = 100  # at a time
_KEPT = 10.0  # seconds: a question, at least, and an answer
_MOMENT = 1.0  # seconds: longer than a millisecond takes, whatever is between here and the server
_LOOK = 0.05  # seconds between the looks for answers
_FIRST, _CHUNK = 4, 500  # messages that a call reads: at first, not knowing their size; at most


@dataclass(frozen=True, slots=True)
class Switched:
    """A queue that was paused or resumed. `changed`: it was otherwise before; `known`: it has workers, or
    has been sent to lately."""

    queue: str
    changed: bool
    known: bool


@dataclass(frozen=True, slots=True)
class Purged:
    """What became of what waited in a queue: `purged` (CANCELLED), `expired` before, `foreign`: entries
    that were no messages, now dead letters; `cancelled` before. `more`: of what was sent before `before`
    (ms) some is left, and the next call goes on where this one has `reached`."""

    purged: int = 0
    expired: int = 0
    foreign: int = 0
    before: int = 0
    more: bool = False
    cancelled: int = 0
    reached: str = "0"

    @property
    def total(self) -> int:
        return self.purged + self.expired + self.foreign + self.cancelled

    def plus(self, other: Purged) -> Purged:
        """Both together, as they stand after the other one."""
        return Purged(
            self.purged + other.purged,
            self.expired + other.expired,
            self.foreign + other.foreign,
            other.before,
            other.more,
            self.cancelled + other.cancelled,
            other.reached,
        )


@dataclass(frozen=True, slots=True)
class Comb:
    """What one call of a pass did: messages looked at, how many it cancelled, and whether there is more
    to do here."""

    looked: int
    cancelled: int
    more: bool


@dataclass(frozen=True, slots=True)
class Marked:
    """What was cancelled by a mark: what was sent until `before` (epoch seconds of the server's clock). A
    dry run counts: how much of it waits or is delayed, and how much runs."""

    before: float
    waiting: int | None = None
    running: int | None = None


class Control:
    """A namespace in people's hands; raises ConfigError for a name that can be no queue's."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        root = keys.root(namespace)
        self._nil, self._asked = keys.nil(root), keys.asked(root)

    def pause(self, *queues: str) -> list[Switched]:
        """Have workers claim nothing from these queues, from the next claim on."""
        return self._switch(1, queues)

    def resume(self, *queues: str) -> list[Switched]:
        """Have workers claim from them again."""
        return self._switch(0, queues)

    def count(self, queue: str) -> int:
        """How many wait in a queue: what a purge would drop."""
        return int(self._purge(queue, None, "dry")[0])

    def purge(self, queue: str) -> Iterator[Purged]:
        """Drop what waits in a queue and was sent before now; says after each call what it did."""
        step = Purged(more=True)
        while step.more:
            step = self.purge_some(queue, step.before or None, step.reached)
            yield step

    def purge_all(self, queue: str) -> Purged:
        """Drop all of it; an error in the middle has a note that says how many were dropped before."""
        done = Purged()
        try:
            for step in self.purge(queue):
                done = done.plus(step)
        except GreenworkerError as error:
            error.add_note(f"{done.total} had been dropped before")
            raise
        return done

    def purge_some(self, queue: str, before: int | None, after: str = "0") -> Purged:
        """One call of it; `before` (ms of the server's clock) and `after`: as the one before said."""
        told = self._purge(queue, before, "", after)
        purged, expired, foreign, began, more, cancelled, reached = told
        return Purged(purged, expired, foreign, began, bool(more), cancelled, reached.decode())

    def mark(self, mark: str) -> Marked:
        """Cancel all that was sent until now and that a mark hits (`message.mark_of`), however much it is.

        Returns when what is sent from then on is certainly not hit. Raises ConfigError when there
        are too many marks.
        """
        before = self._run("cancel_mark", mark, MOST_MARKS)
        if before < 0:
            raise ConfigError(
                f"{MOST_MARKS} cancellations by task or tag are under way: each is over when a worker "
                "has been through all messages; start one, or wait a while"
            )
        # A moment is a millisecond: who sends after this call sends in a later one. (A clock that was set back
        # meanwhile, or another server's, is not waited for.)
        until = time.monotonic() + _MOMENT
        while self._now() <= before and time.monotonic() < until:
            time.sleep(0.001)
        return Marked(before / 1000)

    def count_marked(self, mark: str) -> Marked:
        """What `mark` would hit, counted; reads every message once, in bounded calls."""
        waiting = running = 0
        before, cursor, count = self._now(), b"0", _FIRST
        while True:
            told = self._run("cancel_count", mark, cursor, count)
            cursor, size, looked, waits, runs = told
            waiting, running = waiting + waits, running + runs
            if cursor == b"0":
                return Marked(before / 1000, waiting, running)
            # As many as would fill a call if all were like these.
            count = max(1, min(_CHUNK, count * 4, MAX_BYTES * looked // max(1, size)))

    def comb(self, who: str) -> Comb:
        """Go on with the pass that carries out marks, message by message; `who` asks, and one is at it
        at a time."""
        more, looked, cancelled = self._run("cancel_comb", who, MAX_BYTES)
        return Comb(looked, cancelled, bool(more))

    def running(self, limit: int, timeout: float) -> Running:
        """Ask every worker what it runs; what those say that answer within `timeout` s."""
        deadline = time.monotonic() + timeout
        asked, workers = self.ask(limit, timeout)
        silent = {worker.id: worker for worker in workers}
        heard: list[Running] = []
        while silent:
            for worker, said in self.answers(asked, list(silent)):
                heard.append(read_answer(silent.pop(worker), said))
            # What many say is put together at once: each names as many as the limit allows.
            heard = [together(heard, limit)]
            if not silent or time.monotonic() >= deadline:
                break
            time.sleep(_LOOK)
        found = together(heard, limit)
        return Running(found.tasks, found.total, [worker.name for worker in silent.values()])

    def ask(self, limit: int, timeout: float = _KEPT) -> tuple[int, list[WorkerStatus]]:
        """Ask every worker what it runs, at most `limit` runs to be named, and how it is; returns the moment
        of the question (ms), and who is there to answer it within `timeout` s."""
        kept = round(max(timeout, _KEPT) * 1000)
        asked, *workers = self._run("ask", min(limit, MOST_TASKS), kept)
        return asked, [worker_status(asked, *group) for group in groups(workers, 4)]

    def answers(self, asked: int, workers: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Who has answered that question or a later one, and what."""
        done = 0
        while some := workers[done : done + MAX_COUNT]:
            told = self._run("answers", asked, MAX_BYTES, *some)
            done += len(told)
            yield from ((worker, said) for worker, said in zip(some, told, strict=False) if said)

    def question(self) -> bytes:
        """What workers are asked now, as `promote` brings it; empty if nobody asks."""
        return bytes(self._link.execute("GET", self._asked) or b"")

    def answer(self, worker: str, question: bytes, said: bytes) -> bool:
        """Say, as a worker, what runs there, in answer to a `question()`; False when it is
        not registered."""
        moment = question.partition(b" ")[0]
        return bool(self._run("answer", worker, moment, said, round(_KEPT * 1000)))

    def _switch(self, pauses: int, queues: Sequence[str]) -> list[Switched]:
        names = list(dict.fromkeys(keys.check_name("queue", queue) for queue in queues))
        if not names:
            raise ConfigError("which queues? Name one at least")
        told = groups(self._run("pause", pauses, *names), 2)
        return [
            Switched(queue, bool(changed), bool(known))
            for queue, (changed, known) in zip(names, told, strict=True)
        ]

    def _purge(self, queue: str, before: int | None, how: str, after: str = "0") -> list[Any]:
        name = keys.check_name("queue", queue)
        until = "" if before is None else before
        reply: list[Any] = self._run("purge", name, MAX_COUNT, MAX_BYTES, until, how, after)
        return reply

    def _now(self) -> int:
        seconds, micros = self._link.execute("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def _run(self, name: str, *args: bytes | str | int) -> Any:
        return self._link.run(load(name), self._nil, *args)
