"""A journal of what was sent, run, settled and broken; `judge` checks it afterwards."""

from __future__ import annotations

import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

Event = dict[str, Any]
Token = tuple[str, int]  # incarnation, claim sequence

NOTICES = 5.0  # seconds, and a lease, after a fault in which a worker may still notice what it did: a read timeout

ENDS = ("done", "dead", "cancelled")  # the outcomes after which a message is gone
_BLOCKS = ("block", "block_once")  # the tasks that block their worker's loop
_GRACE = 25.0  # the worker's default


class Journal:
    """An append-only file of events, a JSON line each; any number of processes write to it.

    An event has `what`, `t` (the monotonic clock, which all processes of a machine share),
    `at` (the wall clock), `pid`, and its own fields:

        send      ids, `expires` when they may, tags, only (what it is unique by)   before the call
        sent      ids, verdict: ok, refused, unknown    after it
        revive    ids                                   dead letters, before they are sent again
        revived   ids, verdict                          after it
        cancel    ids, or tag                           before it is asked for
        cancelled the same                              after it, if it was heard
        start     id, worker, seq, task, attempt, delivery, keys   a task's first line
        limit     pattern, most, heard                  a limit, before somebody sets it, and after it
        end       id, worker, seq, how                  its last one: returned, Release, HardTimeout, or an error
        settled   worker, outcomes: [id, seq, kind, ours], …   the server's answer
        renewed   worker                                an incarnation was given up
        left      worker                                … was released, at a stop
        says      text                                  a worker's log line
        up, down  of (a pid); args, failpoint; code     a worker's process
        announced id, payload                           on the channel of results
        fault     name, of, …                           what we broke; see Arena.fault
        mended    name
        mark      name                                  a moment that times are counted from
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        # One write() a line: appends to a local file do not interleave.
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, what: str, **fields: Any) -> float:
        """Append an event; returns its time."""
        now = time.monotonic()
        event = {"what": what, "t": now, "at": time.time(), "pid": os.getpid(), **fields}
        os.write(self._fd, orjson.dumps(event) + b"\n")
        return now

    def close(self) -> None:
        os.close(self._fd)


class Reader:
    """Reads a journal while it grows: all events, or those of some kinds."""

    def __init__(self, path: Path, *kinds: str) -> None:
        self._path = path
        self._begin = tuple(f'{{"what":"{kind}"'.encode() for kind in kinds if kind) or b"{"
        self._offset = 0
        self._events: list[Event] = []

    def new(self) -> Iterator[Event]:
        """The events since the last call; none of them is kept."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # somebody is writing it
                self._offset += len(line)
                if line.startswith(self._begin):
                    yield orjson.loads(line)

    def events(self) -> list[Event]:
        """The events so far, in the order of their writing."""
        self._events += self.new()
        return self._events


@dataclass(slots=True)
class Execution:
    """One run of a message, by one delivery."""

    id: str
    worker: str
    seq: int
    pid: int
    attempt: int
    started: float
    task: str = ""
    delivery: int = 1
    ended: float | None = None
    how: str = ""
    keys: tuple[str, ...] = ()

    @property
    def token(self) -> Token:
        return self.worker, self.seq


@dataclass(slots=True)
class Cancel:
    """Somebody cancelled some ids, or a tag."""

    ids: frozenset[str]
    tag: str
    asked: float
    heard: float | None = None  # when that was answered


class History:
    """The events, sorted by what they speak of; takes them one by one, however many there are."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.sends: Counter[str] = Counter()
        self.sent_at: dict[str, float] = {}
        self.acked_at: dict[str, float] = {}
        self.may_expire: set[str] = set()
        self.tagged: dict[str, set[str]] = defaultdict(set)  # ids by tag
        self.cancels: list[Cancel] = []
        self.only: dict[object, list[str]] = defaultdict(list)  # ids by what they are unique by
        # By pattern: asked for when, heard of when, how many of a key at once
        self.limits: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
        self.verdicts: dict[str, set[str]] = defaultdict(set)
        self.revivals: dict[str, list[float]] = defaultdict(list)  # when, but for those refused
        self.executions: dict[str, list[Execution]] = defaultdict(list)
        # The server's answers: kind, ours, when
        self.settled: dict[tuple[str, str, int], list[tuple[str, bool, float]]] = defaultdict(list)
        self.renewed: dict[str, tuple[int, float]] = {}  # incarnation → its pid, when
        self.left: set[str] = set()
        self.poisoned: set[int] = set()  # pids that a task of theirs has killed
        self.died: dict[int, tuple[int, float]] = {}  # pid → its code, when
        self.to_be_killed: set[int] = set()  # pids, by us or by their failpoint
        self.terms: dict[int, list[float]] = defaultdict(list)  # pid → when it was sent SIGTERM
        self.stops: dict[int, float] = {}  # pid → when it was told, or began, to end
        self.listened: set[int] = set()  # pids that had their signal handlers
        self.unsettled: set[int] = set()  # pids that said so at their end
        self.args: dict[int, list[str]] = {}  # pid → its command line
        self.failpoints: dict[int, str] = {}
        self.announced: dict[str, list[tuple[bytes, float]]] = defaultdict(list)
        self.ended: dict[str, float] = {}  # when a message ended, as far as anybody was told
        self.data_lost: list[float] = []
        self.faults: list[Event] = []
        self.last = 0.0  # when the last event was written
        self._blocks: dict[int, list[Execution]] = defaultdict(list)  # by pid
        self._runs: dict[tuple[str, str, int], Execution] = {}
        self._costly: list[Event] = []  # the faults that may cost somebody a lease
        self._open: dict[str, list[Event]] = defaultdict(list)  # faults by name
        for event in events:
            self.last = event["t"]
            getattr(self, f"_on_{event['what']}", _ignore)(event)

    def lives(self, id: str) -> int:
        """How often a message was sent, or revived, and so may end."""
        return max(1, self.sends[id] + len(self.revivals[id]))

    def cancels_of(self, id: str) -> list[Cancel]:
        """Those that may have hit a message: of its tag, if it was not sent after they were answered."""
        return [
            one
            for one in self.cancels
            if id in one.ids
            or (id in self.tagged[one.tag] and self.sent_at[id] < (one.heard or math.inf))
        ]

    def most_at_once(self, key: str, since: float, until: float) -> float:
        """How many of a key may have been allowed to run at once at some moment of that time."""
        said = self.limits.get(key.partition(":")[0] + ":*", [])
        largest = 0 if said else math.inf
        for n, (asked, _, most) in enumerate(said):
            # It held until the next one was heard of.
            over = said[n + 1][1] if n + 1 < len(said) else math.inf
            if asked <= until and over >= since:
                largest = max(largest, most)
        return largest

    def begun(self, id: str) -> float:
        """When the present life of a message began; what is older tells nothing of how that ends."""
        return max(self.revivals[id], default=0.0)

    def longest_lease(self) -> float:
        leases = [_option(args, "--lease", 0.0) for args in self.args.values()]
        return max(leases, default=0.0)

    def grace(self, pid: int) -> float:
        return _option(self.args.get(pid, []), "--grace", _GRACE)

    def frozen(self, pid: int, since: float, until: float) -> list[Event]:
        """The faults that stopped a process in that time."""
        return [
            fault
            for fault in self.faults
            if fault["name"].startswith("SIGSTOP")
            and fault.get("of") == pid
            and _overlaps(fault, since, until)
        ]

    def blocked(self, pid: int, since: float, until: float) -> bool:
        """Whether a task of this process blocked its loop in that time."""
        return any(
            run.started < until and (run.ended is None or run.ended > since)
            for run in self._blocks[pid]
        )

    def cost_lease(self, pid: int, since: float, until: float) -> bool:
        """Whether a fault, or what came of it, may have cost this process its lease in that time."""
        slack = self.longest_lease() + NOTICES
        return any(
            (of == "all" or pid in of) and _overlaps(fault, since - slack, until)
            for fault, of in ((fault, fault["costs_lease"]) for fault in self._costly)
        )

    def _on_send(self, event: Event) -> None:
        for id in event["ids"]:
            self.sends[id] += 1
            self.sent_at.setdefault(id, event["t"])
        if event.get("expires"):
            self.may_expire.update(event["ids"])
        if event.get("only") is not None:
            self.only[event["only"]] += event["ids"]
        for tag in event.get("tags", ()):
            self.tagged[tag].update(event["ids"])

    def _on_sent(self, event: Event) -> None:
        for id in event["ids"]:
            self.verdicts[id].add(event["verdict"])
            if event["verdict"] == "ok":
                self.acked_at.setdefault(id, event["t"])

    def _on_cancel(self, event: Event) -> None:
        self.cancels.append(
            Cancel(frozenset(event.get("ids", ())), event.get("tag", ""), event["t"])
        )

    def _on_cancelled(self, event: Event) -> None:
        ids, tag = frozenset(event.get("ids", ())), event.get("tag", "")
        cancel = next(it for it in reversed(self.cancels) if (it.ids, it.tag) == (ids, tag))
        cancel.heard = event["t"]

    def _on_limit(self, event: Event) -> None:
        said = self.limits[event["pattern"]]
        if event["heard"]:
            asked, _, most = said.pop()
            said.append((asked, event["t"], most))
        else:
            said.append((event["t"], math.inf, event["most"]))

    def _on_revive(self, event: Event) -> None:
        for id in event["ids"]:
            self.revivals[id].append(event["t"])

    def _on_revived(self, event: Event) -> None:
        if event["verdict"] == "refused":
            for id in event["ids"]:
                self.revivals[id].pop()

    def _on_start(self, event: Event) -> None:
        run = Execution(
            event["id"],
            event["worker"],
            event["seq"],
            event["pid"],
            event["attempt"],
            event["t"],
            event.get("task", ""),
            event["delivery"],
            keys=tuple(event.get("keys", ())),
        )
        self.executions[run.id].append(run)
        self._runs[run.id, *run.token] = run
        if run.task in _BLOCKS:
            self._blocks[run.pid].append(run)

    def _on_end(self, event: Event) -> None:
        run = self._runs.get((event["id"], event["worker"], event["seq"]))
        if run is not None:
            run.ended, run.how = event["t"], event["how"]

    def _on_settled(self, event: Event) -> None:
        for id, seq, kind, ours in event["outcomes"]:
            self.settled[id, event["worker"], seq].append((kind, ours, event["t"]))
            if ours and kind in ENDS:
                self.ended.setdefault(id, event["t"])

    def _on_registered(self, event: Event) -> None:
        self.listened.add(event["pid"])

    def _on_left(self, event: Event) -> None:
        self.left.add(event["worker"])

    def _on_renewed(self, event: Event) -> None:
        if event["worker"] in self.left:
            return  # a last beat, after the leave: nothing was held any more
        self.renewed[event["worker"]] = event["pid"], event["t"]

    def _on_says(self, event: Event) -> None:
        if event["text"].startswith(("stopping", "retiring")):
            self.stops.setdefault(event["pid"], event["t"])
            self.listened.add(event["pid"])
        if "could not be settled" in event["text"]:
            self.unsettled.add(event["pid"])

    def _on_up(self, event: Event) -> None:
        self.args[event["of"]] = event.get("args", [])
        self.failpoints[event["of"]] = event["failpoint"]
        if "=KILL" in event["failpoint"]:
            self.to_be_killed.add(event["of"])

    def _on_down(self, event: Event) -> None:
        self.died[event["of"]] = event["code"], event["t"]

    def _on_announced(self, event: Event) -> None:
        self.announced[event["id"]].append((event["payload"].encode(), event["t"]))
        self.ended.setdefault(event["id"], event["t"])

    def _on_fault(self, event: Event) -> None:
        fault = {**event, "ended": None}
        self.faults.append(fault)
        self._open[event["name"]].append(fault)
        if event.get("costs_lease"):
            self._costly.append(fault)
        if event["name"] == "poison":
            self.poisoned.add(event["of"])
            fault["ended"] = event["t"]
        if event["name"] == "SIGKILL":
            self.to_be_killed.add(event["of"])
        if event["name"] == "SIGTERM":
            self.terms[event["of"]].append(event["t"])
            self.stops.setdefault(event["of"], event["t"])
        if event.get("loses_data"):
            self.data_lost.append(event["t"])

    def _on_mended(self, event: Event) -> None:
        for fault in self._open.pop(event["name"], ()):
            fault["ended"] = event["t"]


def _overlaps(fault: Event, since: float, until: float) -> bool:
    return bool(fault["t"] < until and (fault["ended"] is None or fault["ended"] > since))


def _option(args: list[str], flag: str, default: float) -> float:
    """What a command line says by a flag; the last one counts."""
    values = [float(args[n + 1]) for n, word in enumerate(args[:-1]) if word == flag]
    return values[-1] if values else default


def _ignore(_: Event) -> None:
    """What only people read."""


def read(path: Path) -> Iterator[Event]:
    """The events of a journal that is complete, one by one."""
    with path.open("rb") as file:
        yield from (orjson.loads(line) for line in file)
