"""A journal of what was sent, run, settled and broken, and the check of it afterwards.

The check is Jepsen's total-queue (https://github.com/jepsen-io/jepsen, `checker/total-queue`),
for at-least-once delivery with fencing tokens: whatever was acknowledged must have ended or be
present, nothing may run that nobody sent, of each message exactly one outcome may count, and
every further execution needs a recorded cause.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

Event = dict[str, Any]
Token = tuple[str, int]  # incarnation, claim sequence

_TOKEN = re.compile(r"\b([0-9a-f]{16}):(\d+)\b")
# Exit codes that are documented, os._exit of a poison task (9), TERM before anybody listens, and
# the end at --max-block when nobody can say more.
_ENDS = (0, 1, 2, 3, 9, -signal.SIGTERM, -signal.SIGALRM)
_SLACK = 20.0  # seconds after the end of a fault in which a worker may still notice what it did


class Journal:
    """An append-only file of events, a JSON line each; any number of processes write to it.

    An event has `what`, `t` (the monotonic clock, which all processes of a machine share),
    `at` (the wall clock), `pid`, and its own fields:

        send      ids, and `expires` when they may      before the call
        sent      ids, verdict: ok, refused, unknown    after it
        start     id, worker, seq, attempt, delivery    a task's first line
        end       id, worker, seq, how                  its last one: returned, Release, HardTimeout, or an error
        settled   worker, outcomes: [id, seq, kind, ours], …   the server's answer
        renewed   worker                                an incarnation was given up
        left      worker                                … was released, at a stop
        up, down  of (a pid), code                      a worker's process
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
    """Reads a journal while it grows: all events, or those of one kind."""

    def __init__(self, path: Path, what: str = "") -> None:
        self._path = path
        self._begin = f'{{"what":"{what}"'.encode() if what else b"{"
        self._offset = 0
        self._events: list[Event] = []

    def events(self) -> list[Event]:
        """The events so far, in the order of their writing."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # somebody is writing it
                self._offset += len(line)
                if line.startswith(self._begin):
                    self._events.append(orjson.loads(line))
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
    ended: float | None = None
    how: str = ""

    @property
    def token(self) -> Token:
        return self.worker, self.seq


@dataclass(frozen=True, slots=True)
class Final:
    """What the server holds after the drain; results and dead letters as they are stored."""

    present: frozenset[str] = frozenset()
    results: Mapping[str, bytes] = field(default_factory=dict)
    dead: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Verdict:
    """What a history comes to. `problems` empty: it kept the promises."""

    sent: int = 0
    refused: int = 0
    unknown: int = 0
    unknown_ran: int = 0
    executions: int = 0
    ended: Counter[str] = field(default_factory=Counter)  # done, dead, expired
    lost: list[str] = field(default_factory=list)
    lost_by_server: list[str] = field(default_factory=list)  # it lost what it had acknowledged
    unexpected: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    uncaused: list[str] = field(default_factory=list)
    twice: Counter[str] = field(default_factory=Counter)  # further executions by cause
    retries: int = 0
    given_up: int = 0  # incarnations
    problems: list[str] = field(default_factory=list)


class History:
    """The events, sorted by what they speak of; takes them one by one, however many there are."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.sends: Counter[str] = Counter()
        self.sent_at: dict[str, float] = {}
        self.may_expire: set[str] = set()
        self.verdicts: dict[str, set[str]] = defaultdict(set)
        self.executions: dict[str, list[Execution]] = defaultdict(list)
        self.settled: dict[tuple[str, str, int], list[tuple[str, bool]]] = defaultdict(list)
        self.renewed: dict[str, tuple[int, float]] = {}  # incarnation → its pid, when
        self.left: set[str] = set()
        self.poisoned: set[int] = set()  # pids that a task of theirs has killed
        self.died: dict[int, tuple[int, float]] = {}  # pid → its code, when
        self.to_be_killed: set[int] = set()  # pids, by us or by their failpoint
        self.announced: dict[str, list[bytes]] = defaultdict(list)
        self.ended: dict[str, float] = {}  # when a message ended, as far as anybody was told
        self.data_lost: list[float] = []
        self.faults: list[Event] = []
        self._runs: dict[tuple[str, str, int], Execution] = {}
        for event in events:
            getattr(self, f"_on_{event['what']}", _ignore)(event)

    def _on_send(self, event: Event) -> None:
        for id in event["ids"]:
            self.sends[id] += 1
            self.sent_at.setdefault(id, event["t"])
        if event.get("expires"):
            self.may_expire.update(event["ids"])

    def _on_sent(self, event: Event) -> None:
        for id in event["ids"]:
            self.verdicts[id].add(event["verdict"])

    def _on_start(self, event: Event) -> None:
        run = Execution(
            event["id"], event["worker"], event["seq"], event["pid"], event["attempt"], event["t"]
        )
        self.executions[run.id].append(run)
        self._runs[run.id, *run.token] = run

    def _on_end(self, event: Event) -> None:
        run = self._runs.get((event["id"], event["worker"], event["seq"]))
        if run is not None:
            run.ended, run.how = event["t"], event["how"]

    def _on_settled(self, event: Event) -> None:
        for id, seq, kind, ours in event["outcomes"]:
            self.settled[id, event["worker"], seq].append((kind, ours))
            if ours and kind in ("done", "dead"):
                self.ended.setdefault(id, event["t"])

    def _on_left(self, event: Event) -> None:
        self.left.add(event["worker"])

    def _on_renewed(self, event: Event) -> None:
        if event["worker"] in self.left:
            return  # a last beat, after the leave: nothing was held any more
        self.renewed[event["worker"]] = event["pid"], event["t"]

    def _on_up(self, event: Event) -> None:
        if "=KILL" in event["failpoint"]:
            self.to_be_killed.add(event["of"])

    def _on_down(self, event: Event) -> None:
        self.died[event["of"]] = event["code"], event["t"]

    def _on_announced(self, event: Event) -> None:
        self.announced[event["id"]].append(event["payload"].encode())
        self.ended.setdefault(event["id"], event["t"])

    def _on_fault(self, event: Event) -> None:
        self.faults.append({**event, "ended": None})
        if event["name"] == "poison":
            self.poisoned.add(event["of"])
        if event["name"] == "SIGKILL":
            self.to_be_killed.add(event["of"])
        if event.get("loses_data"):
            self.data_lost.append(event["t"])

    def _on_mended(self, event: Event) -> None:
        for fault in self.faults:
            if fault["name"] == event["name"] and fault["ended"] is None:
                fault["ended"] = event["t"]


def check(
    events: Iterable[Event], final: Final, may_stay: Callable[[str], bool] = lambda _: False
) -> Verdict:
    """Judge a history after its drain; `may_stay` says which ids may still be present."""
    return judge(History(events), final, may_stay)


def judge(
    history: History, final: Final, may_stay: Callable[[str], bool] = lambda _: False
) -> Verdict:
    """As `check`, of a history that is sorted."""
    verdict = Verdict()
    _check_sends(history, final, verdict, may_stay)
    for id, runs in history.executions.items():
        verdict.executions += len(runs)
        if id not in history.sends:
            verdict.unexpected.append(id)
        _check_runs(id, runs, history, final, verdict)
    _check_announcements(history, verdict)
    _check_incarnations(history, verdict)
    _check_deaths(history, verdict)
    for what, ids in (
        ("lost", verdict.lost),
        ("unexpected: run, but never sent", verdict.unexpected),
        ("completed twice", verdict.double),
        ("run twice without a cause", verdict.uncaused),
    ):
        if ids:
            verdict.problems.append(f"{len(ids)} {what}: {', '.join(ids[:5])}")
    return verdict


def _check_sends(
    history: History, final: Final, verdict: Verdict, may_stay: Callable[[str], bool]
) -> None:
    for id in history.sends:
        said = history.verdicts.get(id, {"unknown"})  # the sender died before it could say
        ran = id in history.executions
        end = _end_of(id, history, final)
        if end:
            verdict.ended[end] += 1
        if end == "expired" and id not in history.may_expire:
            verdict.problems.append(f"{id} expired, though it may not")
        if id in final.present and not may_stay(id):
            verdict.problems.append(f"{id} is still present after the drain")
        if "ok" in said:
            verdict.sent += 1
            if not end and id not in final.present:
                gone = any(history.sent_at[id] < moment for moment in history.data_lost)
                (verdict.lost_by_server if gone else verdict.lost).append(id)
        elif "unknown" in said:
            verdict.unknown += 1
            verdict.unknown_ran += ran
        else:
            verdict.refused += 1
            if ran or end or id in final.present:
                verdict.problems.append(f"{id} was refused, and yet it is there")


def _end_of(id: str, history: History, final: Final) -> str:
    """How a message ended as far as anything tells; '' when it has not."""
    if id in final.dead:
        return "dead"
    payloads = [*history.announced.get(id, ()), *filter(None, [final.results.get(id)])]
    for payload in payloads:
        if payload.startswith(b'{"state":"EXPIRED"'):
            return "expired"
        return "dead" if payload.startswith(b'{"state":"FAILURE"') else "done"
    if id in final.present:
        return ""
    for run in history.executions.get(id, ()):
        for kind, ours in history.settled.get((id, *run.token), ()):
            if ours and kind in ("done", "dead"):
                return kind
    return ""


def _check_runs(
    id: str, runs: list[Execution], history: History, final: Final, verdict: Verdict
) -> None:
    accepted = _accepted(id, runs, history, final)
    if len(accepted) > max(1, history.sends[id]):
        accepted -= _forgotten([run for run in runs if run.token in accepted], history)
    if len(accepted) > max(1, history.sends[id]):
        verdict.double.append(f"{id} by {sorted(accepted)}")
    causes: Counter[str] = Counter()
    open_runs = 0
    for run in runs:
        if run.token in accepted:
            continue
        cause = cause_of(run, runs, history)
        causes[cause] += 1
        open_runs += not cause
    if open_runs and _end_of(id, history, final) == "expired":
        verdict.uncaused.append(f"{id} ran, and expired")
    if open_runs and open_runs + len(accepted) > max(1, history.sends[id]):
        verdict.uncaused.append(f"{id} by {[run.token for run in runs]}")
    if len({run.token for run in runs}) < len(runs):
        verdict.uncaused.append(f"{id}: one delivery was begun twice")
    retries = causes.pop("retry", 0)
    verdict.retries += retries
    further = len(runs) - 1 - retries
    # The last run of a message that never completed is no further one.
    for cause in sorted(filter(None, causes)):
        took = min(causes[cause], further)
        further -= took
        if took:
            verdict.twice[cause] += took


def _accepted(id: str, runs: list[Execution], history: History, final: Final) -> set[Token]:
    """The deliveries whose outcome ended the message: by the server's answers and by the results."""
    tokens = {
        run.token
        for run in runs
        for kind, ours in history.settled.get((id, *run.token), ())
        if ours and kind in ("done", "dead")
    }
    payloads = [*history.announced.get(id, ()), *filter(None, [final.results.get(id)])]
    for payload in payloads:
        match = _TOKEN.search(payload.decode("utf-8", "replace")[:2000])
        if match:
            tokens.add((match[1], int(match[2])))
    return tokens


def _forgotten(accepted: list[Execution], history: History) -> set[Token]:
    """Of several that were accepted, those but the last which the server lost afterwards."""
    return {
        run.token
        for run in sorted(accepted, key=lambda run: run.started)[:-1]
        if any(moment > run.started for moment in history.data_lost)
    }


def cause_of(run: Execution, runs: list[Execution], history: History) -> str:
    """Why this execution's outcome does not count; '' when nothing says so."""
    data_lost = any(moment > run.started for moment in history.data_lost)
    for kind, ours in history.settled.get((run.id, *run.token), ()):
        if ours and kind == "retry":
            return "retry"
        if ours and kind == "release" and data_lost and run.how == "returned":
            return "server lost data"  # a settle among it: its worker has given it back
        if ours and kind in ("release", "later"):
            return "released at a stop"
    if any(other.attempt > run.attempt for other in runs):
        return "retry"
    if run.worker in history.renewed:
        return "incarnation given up"
    code, when = history.died.get(run.pid, (0, 0.0))
    if when > run.started:
        if run.how == "Release" and code >= 0:
            return "released at a stop"
        if run.pid in history.poisoned:
            return "a task killed its worker"
        return "worker killed" if code < 0 else "worker ended before it was settled"
    return "server lost data" if data_lost else ""


def _check_announcements(history: History, verdict: Verdict) -> None:
    for id, payloads in history.announced.items():
        if len(payloads) > max(1, history.sends[id]) and not history.data_lost:
            verdict.double.append(f"{id} was announced {len(payloads)} times")


def _check_incarnations(history: History, verdict: Verdict) -> None:
    """A living worker gives its incarnation up only after a fault that may cost it the lease."""
    for worker, (pid, when) in history.renewed.items():
        verdict.given_up += 1
        if not any(_explains(fault, pid, when) for fault in history.faults):
            verdict.problems.append(
                f"incarnation {worker} of {pid} was given up, and no fault explains it"
            )


def _check_deaths(history: History, verdict: Verdict) -> None:
    """A worker ends as it is documented, or by what we did to it: of nothing else, such as SIGSEGV."""
    for pid, (code, _) in history.died.items():
        if code not in _ENDS and not (code == -signal.SIGKILL and pid in history.to_be_killed):
            verdict.problems.append(f"worker {pid} ended with {code}, and nobody did that to it")


def _explains(fault: Event, pid: int, when: float) -> bool:
    of = fault.get("costs_lease")
    if not of or (of != "all" and pid not in of):
        return False
    ended = fault["ended"]
    return bool(fault["t"] <= when and (ended is None or when <= ended + _SLACK))


def _ignore(_: Event) -> None:
    """What only people read."""


def read(path: Path) -> Iterator[Event]:
    """The events of a journal that is complete, one by one."""
    with path.open("rb") as file:
        yield from (orjson.loads(line) for line in file)
