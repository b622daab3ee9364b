"""The check of a history.

It is Jepsen's total-queue (https://github.com/jepsen-io/jepsen, `checker/total-queue`), for
at-least-once delivery with fencing tokens: whatever was acknowledged must have ended or be
present, nothing may run that nobody sent, of each message exactly one outcome may count, and
every further execution needs a recorded cause, at its time.
"""

from __future__ import annotations

import math
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice, pairwise

from tests.chaos.history import ENDS, NOTICES, Event, Execution, History, Token
from tests.chaos.politeness import too_many

_TOKEN = re.compile(r"\b([0-9a-f]{16}):(\d+)\b")
_TICK = re.compile(r"(.+)@(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z$")  # the id of a schedule's message
_MISFIRE = 10.0  # seconds: what is due for longer is not sent one by one
_CLAIMED = (
    20.0  # seconds that a run may begin after its claim: a worker may be frozen, or a reply held up
)
_JOURNALED = 0.5  # seconds that an event may be written down after what came of it
_STARTS = 1.0  # seconds that may lie between a claim and the run's start, on a slow machine
_RETURNS = 2.0  # … between a reaper's find and the next run of an idle worker
_STOPS = 4.0  # seconds that a stop may take after its grace
_SLOW = 3.0  # … and what a slow machine adds
_BLOCKED_STOPS = 3.0  # … and how much later a blocked loop is ended


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
    ended: Counter[str] = field(default_factory=Counter)  # done, dead, expired, cancelled
    lost: list[str] = field(default_factory=list)
    lost_by_server: list[str] = field(default_factory=list)  # it lost what it had acknowledged
    unexpected: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    uncaused: list[str] = field(default_factory=list)
    twice: Counter[str] = field(default_factory=Counter)  # further executions by cause
    retries: int = 0
    given_up: int = 0  # incarnations
    problems: list[str] = field(default_factory=list)


def check(
    events: Iterable[Event],
    final: Final,
    may_stay: Callable[[str], bool] = lambda _: False,
    codes: Collection[int] = (),
) -> Verdict:
    """Judge a history after its drain; `may_stay` says which ids may still be present, `codes`
    are exit codes of workers that have a cause of which the journal knows nothing."""
    return judge(History(events), final, may_stay, codes)


def judge(
    history: History,
    final: Final,
    may_stay: Callable[[str], bool] = lambda _: False,
    codes: Collection[int] = (),
) -> Verdict:
    """As `check`, of a history that is sorted."""
    verdict = Verdict()
    _check_sends(history, final, verdict, may_stay)
    for id, runs in history.executions.items():
        verdict.executions += len(runs)
        if id not in history.sends and not _TICK.match(id):
            verdict.unexpected.append(id)
        _check_runs(id, runs, history, final, verdict)
    _check_cancels(history, verdict)
    _check_unique(history, final, verdict)
    _check_ticks(history.executions, verdict)
    verdict.problems += islice(too_many(history), 5)
    _check_announcements(history, verdict)
    _check_incarnations(history, verdict)
    _check_deaths(history, verdict, codes)
    _check_stops(history, verdict)
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
        gone = not end and id not in final.present
        if end:
            verdict.ended[end] += 1
        if end == "expired" and id not in history.may_expire:
            verdict.problems.append(f"{id} expired, though it may not")
        if end == "cancelled" and not history.cancels_of(id):
            verdict.problems.append(f"{id} was cancelled by nobody")
        if id in final.present and not may_stay(id):
            verdict.problems.append(f"{id} is still present after the drain")
        if "ok" in said:
            verdict.sent += 1
        elif "unknown" in said:
            verdict.unknown += 1
            verdict.unknown_ran += ran
            gone = gone and ran  # what has run was sent
        else:
            verdict.refused += 1
            if ran or end or id in final.present:
                verdict.problems.append(f"{id} was refused, and yet it is there")
            continue
        if gone:
            by_server = any(history.sent_at[id] < moment for moment in history.data_lost)
            (verdict.lost_by_server if by_server else verdict.lost).append(id)


def _end_of(id: str, history: History, final: Final) -> str:
    """How a message ended as far as anything tells; '' when it has not."""
    if id in final.dead:
        return "dead"
    for payload in _payloads(id, history, final, since=history.begun(id)):
        if payload.startswith(b'{"state":"EXPIRED"'):
            return "expired"
        if payload.startswith(b'{"state":"CANCELLED"'):
            return "cancelled"
        return "dead" if payload.startswith(b'{"state":"FAILURE"') else "done"
    if id in final.present:
        return ""
    if any(run.how == "Ignore" for run in history.executions.get(id, ())):
        return "done"  # without a result, of which anybody could have heard
    for run in history.executions.get(id, ()):
        for kind, ours, when in history.settled.get((id, *run.token), ()):
            if ours and kind in ENDS and when > history.begun(id):
                return kind
    return ""


def _payloads(id: str, history: History, final: Final, since: float = 0.0) -> list[bytes]:
    """What was announced of a message since then, and what is stored in the end."""
    stored = final.results.get(id)
    told = [payload for payload, when in history.announced.get(id, ()) if when > since]
    return [*told, stored] if stored else told


def _check_runs(
    id: str, runs: list[Execution], history: History, final: Final, verdict: Verdict
) -> None:
    accepted = _accepted(id, runs, history, final)
    lives = history.lives(id)
    if len(accepted) > lives:
        accepted -= _forgotten([run for run in runs if run.token in accepted], history)
    if len(accepted) > lives:
        verdict.double.append(f"{id} by {sorted(accepted)}")
    causes = Counter(causes_of(runs, accepted, history).values())
    open_runs = causes.pop("", 0)
    if open_runs and _end_of(id, history, final) == "expired":
        verdict.uncaused.append(f"{id} ran, and expired")
    if open_runs and open_runs + len(accepted) > lives:
        verdict.uncaused.append(f"{id} by {[run.token for run in runs]}")
    if len({run.token for run in runs}) < len(runs):
        verdict.uncaused.append(f"{id}: one delivery was begun twice")
    retries = causes.pop("retry", 0)
    verdict.retries += retries
    further = len(runs) - 1 - retries
    # The last run of a message that never completed is no further one.
    for cause in sorted(causes):
        took = min(causes[cause], further)
        further -= took
        if took:
            verdict.twice[cause] += took


def _accepted(id: str, runs: list[Execution], history: History, final: Final) -> set[Token]:
    """The deliveries whose outcome ended the message: by the server's answers and by the results."""
    tokens = {
        run.token
        for run in runs
        for kind, ours, _ in history.settled.get((id, *run.token), ())
        if ours and kind in ENDS
    }
    for payload in _payloads(id, history, final):
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


def causes_of(
    runs: list[Execution], accepted: Collection[Token], history: History
) -> dict[Token, str]:
    """Of each run that does not count: why its message ran again; '' when nothing says so."""
    runs = sorted(runs, key=lambda run: run.started)
    causes: dict[Token, str] = {}
    for run, following in zip(runs, [*runs[1:], None], strict=True):
        if run.token in accepted:
            continue
        since, until = run.started - _STARTS, math.inf
        if following is not None:
            until = following.started + _JOURNALED
        elif any(other.token in accepted for other in runs) and history.lives(run.id) == 1:
            # It had ended elsewhere before this run began: this worker was late.
            since, until = runs[-2].started - _RETURNS, run.started + _JOURNALED
        elif run.id in history.announced:
            until = max(when for _, when in history.announced[run.id]) + _JOURNALED
        causes[run.token] = _cause_of(run, since, until, history)
    _excuse_retries(runs, accepted, causes, history)
    return causes


def _excuse_retries(
    runs: list[Execution], accepted: Collection[Token], causes: dict[Token, str], history: History
) -> None:
    """An attempt that another one follows was ended by one of its runs, if nobody heard of it."""
    last = max(run.attempt for run in runs)
    for attempt in {run.attempt for run in runs} - {last}:
        ones = [run for run in runs if run.attempt == attempt]
        left = history.lives(ones[0].id)
        left -= sum(run.token in accepted or causes[run.token] == "retry" for run in ones)
        those = [run for run in reversed(ones) if causes.get(run.token, "retry") != "retry"]
        for run in sorted(those, key=lambda run: bool(causes[run.token]))[: max(0, left)]:
            causes[run.token] = "retry"


def _cause_of(run: Execution, since: float, until: float, history: History) -> str:
    """Why another run of this message was begun by `until`, or why this one came too late."""
    if run.how in ("Snooze", "Throttled"):
        return "retry"
    data_lost = any(since < moment < until for moment in history.data_lost)
    for kind, ours, _ in history.settled.get((run.id, *run.token), ()):
        if ours and kind == "retry":
            return "retry"
        if ours and kind == "release" and run.how == "returned":
            return "server lost data" if data_lost else ""  # its worker has given it back
        if ours and kind in ("release", "later"):
            return "released at a stop"
    pid, given_up = history.renewed.get(run.worker, (run.pid, math.inf))
    if given_up < until:
        return "incarnation given up"
    code, died = history.died.get(run.pid, (0, 0.0))
    stopped = history.stops.get(run.pid, math.inf) < until and died > run.started
    if stopped and code >= 0 and run.how in ("Release", ""):
        return "released at a stop"
    if run.started < died < until:
        if run.pid in history.poisoned:
            return "a task killed its worker"
        return "worker killed" if code < 0 else "worker ended before it was settled"
    if (given_up < math.inf or died > run.started) and history.cost_lease(pid, since, until):
        return "incarnation given up"  # and it had not noticed yet
    return "server lost data" if data_lost else ""


def _check_cancels(history: History, verdict: Verdict) -> None:
    """What was there when it was cancelled never begins, but for what was claimed by then, however late
    its worker hears of that."""
    for id, runs in history.executions.items():
        acked = history.acked_at.get(id, math.inf)
        for cancel in history.cancels_of(id) if history.cancels else ():
            if cancel.heard is None or cancel.asked < acked or history.begun(id) > cancel.asked:
                continue
            if any(run.started > cancel.heard + _CLAIMED for run in runs):
                verdict.problems.append(f"{id} was begun long after it was cancelled")


def _check_unique(history: History, final: Final, verdict: Verdict) -> None:
    """Of those that are unique by the same, one at a time was there: no run that counts began before the
    one before it had ended."""
    for what, ids in history.only.items():
        counted: list[Execution] = []
        for id in ids:
            runs = history.executions.get(id, [])
            accepted = _accepted(id, runs, history, final)
            counted += [run for run in runs if run.token in accepted and run.ended is not None]
        counted.sort(key=lambda run: run.started)
        for one, following in pairwise(counted):
            if one.id != following.id and following.started < (one.ended or 0.0):
                verdict.problems.append(
                    f"{one.id} and {following.id}, unique by {what}, ran at once"
                )


def _check_ticks(executions: Iterable[str], verdict: Verdict) -> None:
    """Of each due time one message, but for those that nobody could send for ten seconds.

    Twice would be two runs of one id. How far a schedule's moments lie apart, its ids tell.
    """
    moments: dict[str, list[float]] = defaultdict(list)
    for match in filter(None, map(_TICK.match, executions)):
        moments[match[1]].append(datetime.fromisoformat(match[2] + "Z").timestamp())
    for name, times in moments.items():
        times.sort()
        gaps = [later - earlier for earlier, later in pairwise(times)]
        missed = [gap for gap in gaps if min(gaps) < gap <= _MISFIRE]
        if missed:
            verdict.problems.append(f"{len(missed)} ticks of {name} were left out")


def _check_announcements(history: History, verdict: Verdict) -> None:
    for id, payloads in history.announced.items():
        # What waits is told CANCELLED at once, and again by whoever meets it.
        cancelled = [payload.startswith(b'{"state":"CANCELLED"') for payload, _ in payloads]
        times = cancelled.count(False) + any(cancelled)
        if times > history.lives(id) and not history.data_lost:
            verdict.double.append(f"{id} was announced {times} times")


def _check_incarnations(history: History, verdict: Verdict) -> None:
    """A living worker gives its incarnation up only after a fault that may cost it the lease."""
    for worker, (pid, when) in history.renewed.items():
        verdict.given_up += 1
        if not history.cost_lease(pid, when, when):
            verdict.problems.append(
                f"incarnation {worker} of {pid} was given up, and no fault explains it"
            )


def _check_deaths(history: History, verdict: Verdict, codes: Collection[int]) -> None:
    """A worker ends as it is documented, or by what we did to it: of nothing else, such as SIGSEGV."""
    for pid, (code, when) in history.died.items():
        if code not in codes and not _may_end(pid, code, when, history):
            verdict.problems.append(f"worker {pid} ended with {code}, and nobody did that to it")


def _may_end(pid: int, code: int, when: float, history: History) -> bool:
    if code == 0:
        return _was_told(pid, history) or "--burst" in history.args.get(pid, ())
    if code == 1:
        return pid in history.unsettled
    if code == 9:
        return pid in history.poisoned
    if code in (3, -signal.SIGALRM):  # the ends at --max-block, or of a stop that is overdue
        lately = when - NOTICES, when
        return history.blocked(pid, *lately) or bool(history.frozen(pid, *lately))
    if code == -signal.SIGKILL:
        return pid in history.to_be_killed
    # TERM before anybody listens.
    return code == -signal.SIGTERM and _was_told(pid, history) and pid not in history.listened


def _was_told(pid: int, history: History) -> bool:
    return pid in history.stops or "=TERM" in history.failpoints.get(pid, "")


def _check_stops(history: History, verdict: Verdict) -> None:
    """A worker that is told to end has ended some seconds after its grace, or after a second word."""
    for pid, (first, *again) in history.terms.items():
        _, ended = history.died.get(pid, (0, math.inf))
        due = min([first + history.grace(pid), *again[:1]])
        for fault in history.frozen(pid, first, ended):
            due = max(due, math.inf if fault["ended"] is None else fault["ended"])
        if history.blocked(pid, first, ended):
            due += _BLOCKED_STOPS
        if "=STOP" in history.failpoints.get(pid, ""):
            continue
        if min(ended, history.last) > due + _STOPS + _SLOW:
            verdict.problems.append(
                f"worker {pid} was told to end, and was still there {min(ended, history.last) - first:.1f} s later"
            )
