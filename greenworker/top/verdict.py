"""Verdict: what limits a namespace now, in one line, and the mend. Pure: of a sample alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from greenworker.status import QueueStatus
from greenworker.top.sample import (
    BUSY,
    CIRCUIT,
    HELD,
    LATER,
    OPEN,
    STOPPED,
    THROTTLED,
    Key,
    Sample,
    Worker,
)
from greenworker.top.words import age, number

_HOT = 0.9  # of a core: what one process can compute at most is 1
_LATE = 0.1  # seconds by which a loop is late on average: it has more to do than it gets done
_SLOW = 0.25  # seconds: a server that needs so long for a look needs it for a claim as well
_FULL = 0.7  # of all slots: with work at hand the others are between two runs
_FEW = 0.1  # of what waits by key: so much may run at once, and is being claimed while we look
_NAMED = 2  # keys, queues, workers that a line names


@dataclass(frozen=True, slots=True)
class Verdict:
    """`kind` in a word; `what` limits, and the `mend`, which may be empty."""

    kind: str
    what: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.mend}" if self.mend else self.what


def away(error: str) -> Verdict:
    """There is no sample: the server does not answer."""
    return Verdict("server", f"the server does not answer: {error}", "shown is what was there last")


def verdict(sample: Sample) -> Verdict:
    """What limits now. The first that holds: nothing is there to do, nobody may or can do it, the loops, the
    limits by key, the slots, the server; or nothing."""
    status = sample.status
    waiting = [queue for queue in status.queues if _waits(queue)]
    if not waiting:
        return _empty(sample)
    open_queues = [queue for queue in waiting if not queue.paused]
    if not open_queues:
        return _paused(waiting)
    alive = [worker for worker in sample.workers if worker.status.lease >= 0]
    served = [queue for queue in open_queues if queue.workers]
    names = {queue.name for queue in served}
    working = [worker for worker in alive if names & set(worker.status.queues)]
    # Of a worker that has died its queues still know, until it is swept.
    if not working:
        return _unserved(open_queues, alive)
    return (
        _blocked(working)
        or _limits(sample, served, working)
        or _computing(working)
        or _slots(served, working)
        or _slow(sample)
        or _nothing(served, working)
    )


def _empty(sample: Sample) -> Verdict:
    status = sample.status
    if status.running:
        what = f"empty queue: {number(status.running)} run, and nothing waits"
        return Verdict("empty", what, "send more")
    if status.scheduled:
        due = "" if status.next_due is None else f", the next due in {age(status.next_due)}"
        return Verdict(
            "empty", f"empty queue: {number(status.scheduled)} scheduled{due}", "nothing is due yet"
        )
    return Verdict("empty", "empty queue: nothing waits, runs or is scheduled", "send something")


def _paused(queues: Sequence[QueueStatus]) -> Verdict:
    first = _largest(queues)[0]
    return Verdict(
        "paused",
        f"paused: {_queues(queues)}",
        f"greenworker resume {first.name}, or p on it here",
    )


def _unserved(queues: Sequence[QueueStatus], alive: Sequence[Worker]) -> Verdict:
    if not alive:
        count = sum(map(_waits, queues))
        return Verdict(
            "workers", f"no worker: {number(count)} wait", "start one: greenworker MODULE"
        )
    first = _largest(queues)[0]
    return Verdict(
        "workers",
        f"no worker listens to {_queues(queues)}",
        f"start one with -Q {first.name}, or resume (CONT) one that is quiet",
    )


def _blocked(working: Sequence[Worker]) -> Verdict | None:
    """All loops stand still, or do not answer."""
    blocked = [worker for worker in working if worker.heard.blocks]
    silent = [worker for worker in working if worker.heard.silent]
    if not working or len(blocked) + len(silent) < len(working):
        return None
    if blocked:
        worst = max(
            blocked, key=lambda one: one.heard.vitals.worst_lag if one.heard.vitals else 0.0
        )
        late = "" if worst.heard.vitals is None else f", {age(worst.heard.vitals.worst_lag)} late"
        return Verdict(
            "cpu",
            f"CPU: {worst.heard.blocks} blocks the loop of {_workers(blocked)}{late}",
            "have it yield, declare it thread=True, or start more workers",
        )
    return Verdict(
        "workers",
        f"{_workers(silent)} {'does' if len(silent) == 1 else 'do'} not answer",
        "cut off, or C code holds the GIL there: look at its log",
    )


def _computing(working: Sequence[Worker]) -> Verdict | None:
    hot = [worker for worker in working if _is_hot(worker)]
    # One that is busy beside idle ones limits only itself.
    if not hot or any(worker.free and not _is_hot(worker) for worker in working):
        return None
    one = max(hot, key=lambda worker: (worker.heard.cpu or 0.0, worker.name))
    told = [] if one.heard.cpu is None else [f"{one.heard.cpu:.0%} of a core"]
    if one.heard.vitals is not None and one.heard.vitals.lag >= _LATE:
        told.append(f"its loop {age(one.heard.vitals.lag)} late")
    return Verdict(
        "cpu",
        f"CPU: {_workers(hot)} at {', '.join(told)}",
        "start another worker process; more slots would not help",
    )


def _limits(
    sample: Sample, served: Sequence[QueueStatus], working: Sequence[Worker]
) -> Verdict | None:
    """Slots are free, and next to nothing of what waits may run."""
    keys = [key for key in sample.keys.rows if key.waiting]
    by_key = sum(queue.keyed for queue in served)
    seen = sum(key.waiting for key in keys)
    free = sum(worker.free for worker in working)
    if not free or not by_key or not seen:
        return None
    # Of many keys some were looked at: the others are taken to be like them.
    share = sum(key.waiting for key in keys if key.state == OPEN) / seen
    total = sum(map(_waits, served))
    if share * by_key + (total - by_key) > _FEW * total:
        return None
    shut = sorted(
        (key for key in keys if key.state != OPEN), key=lambda key: (-key.waiting, key.name)
    )
    named = ", ".join(f"{key.name} ({why(key)})" for key in shut[:_NAMED])
    more = f" and {number(len(shut) - _NAMED)} more" if len(shut) > _NAMED else ""
    return Verdict("keys", f"keys: {named}{more}; {number(total)} wait", _mend(shut))


def why(key: Key) -> str:
    """Why nothing more of a key may run now."""
    until = "" if not key.until else f" for {age(key.until)}"
    if key.state == THROTTLED:
        return f"throttled{until}"
    if key.state == CIRCUIT:
        return f"circuit open{until}"
    if key.state == HELD:
        return f"held by hand{until}"
    if key.state == STOPPED:
        return "concurrency=0"
    if key.state == LATER:
        return "delay" if not key.interval else f"one each {age(key.interval)}"
    if key.state == BUSY:
        most = key.running if key.concurrency is None else key.concurrency
        return f"{number(most)} at once"
    return key.state


def _mend(shut: Sequence[Key]) -> str:
    states = {key.state for key in shut[:_NAMED]}
    if states <= {BUSY, LATER}:
        return "they allow no more; l changes one"
    if states <= {HELD, STOPPED}:
        return "p resumes one, l changes its limit"
    if states <= {THROTTLED, CIRCUIT}:
        return "they refuse; wait, or p resumes one"
    return "p resumes one that is held, l changes a limit"


def _slots(served: Sequence[QueueStatus], working: Sequence[Worker]) -> Verdict | None:
    size = sum(worker.status.concurrency for worker in working)
    used = sum(min(worker.status.running, worker.status.concurrency) for worker in working)
    if not size or used < _FULL * size:
        return None
    waiting = sum(map(_waits, served))
    return Verdict(
        "slots",
        f"slots: {number(used)} of {number(size)} are busy, {number(waiting)} wait",
        "raise -c, or start another worker",
    )


def _slow(sample: Sample) -> Verdict | None:
    if sample.took < _SLOW:
        return None
    return Verdict(
        "server",
        f"the server needs {age(sample.took)} for an answer",
        "look at its load (redis-cli --latency, SLOWLOG), or at the network",
    )


def _nothing(served: Sequence[QueueStatus], working: Sequence[Worker]) -> Verdict:
    waiting = sum(map(_waits, served))
    free = sum(worker.free for worker in working)
    return Verdict(
        "nothing", f"nothing: {number(waiting)} wait, {number(free)} slots are free, and it flows"
    )


def _is_hot(worker: Worker) -> bool:
    heard = worker.heard
    late = heard.vitals is not None and heard.vitals.lag >= _LATE
    return (heard.cpu is not None and heard.cpu >= _HOT) or late or bool(heard.blocks)


def _waits(queue: QueueStatus) -> int:
    return queue.waiting + queue.suspects


def _largest(queues: Iterable[QueueStatus]) -> list[QueueStatus]:
    return sorted(queues, key=lambda queue: (-_waits(queue), queue.name))


def _queues(queues: Sequence[QueueStatus]) -> str:
    largest = _largest(queues)
    named = ", ".join(f"{queue.name} ({number(_waits(queue))} wait)" for queue in largest[:_NAMED])
    return f"{named}{_and_more(len(largest))}"


def _workers(workers: Sequence[Worker]) -> str:
    names = sorted(worker.name for worker in workers)
    return f"{', '.join(names[:_NAMED])}{_and_more(len(names))}"


def _and_more(count: int) -> str:
    return f" and {number(count - _NAMED)} more" if count > _NAMED else ""
