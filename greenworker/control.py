"""Control: what people do to a namespace while it runs: pause, resume, purge, and ask what runs.

A method for each of its scripts, through one link, as `broker.py` has them for the messages' own steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from greenworker import keys
from greenworker.broker import MAX_BYTES, MAX_COUNT, Link
from greenworker.errors import ConfigError
from greenworker.running import Running, read_answer, together
from greenworker.scripts import load
from greenworker.status import WorkerStatus, groups, worker_status

MOST_TASKS = 1000  # that one worker names
_KEPT = 10.0  # seconds: a question, at least, and an answer
_LOOK = 0.05  # seconds between the looks for answers


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
    that were no messages, now dead letters. `more`: of what was sent before `before` (ms) some is left."""

    purged: int = 0
    expired: int = 0
    foreign: int = 0
    before: int = 0
    more: bool = False

    @property
    def total(self) -> int:
        return self.purged + self.expired + self.foreign

    def plus(self, other: Purged) -> Purged:
        """Both together, as they stand after the other one."""
        return Purged(
            self.purged + other.purged,
            self.expired + other.expired,
            self.foreign + other.foreign,
            other.before,
            other.more,
        )


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
            step = self.purge_some(queue, step.before or None)
            yield step

    def purge_some(self, queue: str, before: int | None) -> Purged:
        """One call of it; `before`: ms of the server's clock, as the first one said."""
        purged, expired, foreign, began, more = self._purge(queue, before, "")
        return Purged(purged, expired, foreign, began, bool(more))

    def running(self, limit: int, timeout: float) -> Running:
        """Ask every worker what it runs; what those say that answer within `timeout` s."""
        deadline = time.monotonic() + timeout
        asked, workers = self._ask(limit, timeout)
        silent = {worker.id: worker for worker in workers}
        heard: list[Running] = []
        while silent:
            for worker, said in self._answers(asked, list(silent)):
                heard.append(read_answer(silent.pop(worker), said))
            # What many say is put together at once: each names as many as the limit allows.
            heard = [together(heard, limit)]
            if not silent or time.monotonic() >= deadline:
                break
            time.sleep(_LOOK)
        found = together(heard, limit)
        return Running(found.tasks, found.total, [worker.name for worker in silent.values()])

    def question(self) -> bytes:
        """What workers are asked now, as `promote` brings it; empty if nobody asks."""
        return bytes(self._link.execute("GET", self._asked) or b"")

    def answer(self, worker: str, question: bytes, said: bytes) -> bool:
        """Say, as a worker, what runs there, in answer to a `question()`; False when it is
        not registered."""
        moment = question.partition(b" ")[0]
        return bool(self._run("answer", worker, moment, said, round(_KEPT * 1000)))

    def _ask(self, limit: int, timeout: float = _KEPT) -> tuple[int, list[WorkerStatus]]:
        kept = round(max(timeout, _KEPT) * 1000)
        asked, *workers = self._run("ask", min(limit, MOST_TASKS), kept)
        return asked, [worker_status(asked, *group) for group in groups(workers, 4)]

    def _answers(self, asked: int, workers: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Who has answered, and what."""
        done = 0
        while some := workers[done : done + MAX_COUNT]:
            told = self._run("answers", asked, MAX_BYTES, *some)
            done += len(told)
            yield from ((worker, said) for worker, said in zip(some, told, strict=False) if said)

    def _switch(self, pauses: int, queues: Sequence[str]) -> list[Switched]:
        names = list(dict.fromkeys(keys.check_name("queue", queue) for queue in queues))
        if not names:
            raise ConfigError("which queues? Name one at least")
        told = groups(self._run("pause", pauses, *names), 2)
        return [
            Switched(queue, bool(changed), bool(known))
            for queue, (changed, known) in zip(names, told, strict=True)
        ]

    def _purge(self, queue: str, before: int | None, how: str) -> list[int]:
        name = keys.check_name("queue", queue)
        until = "" if before is None else before
        reply: list[int] = self._run("purge", name, MAX_COUNT, MAX_BYTES, until, how)
        return reply

    def _run(self, name: str, *args: bytes | str | int) -> Any:
        return self._link.run(load(name), self._nil, *args)
