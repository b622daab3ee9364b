"""What `greenworker top` says limits a namespace: each case by a sample made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from greenworker.running import Vitals
from greenworker.status import QueueStatus, Status, WorkerStatus
from greenworker.top.sample import Heard, Key, Keys, Sample, Worker
from greenworker.top.verdict import away, verdict

VITALS = Vitals(
    size=10, used=0, stuck=0, begun=0, succeeded=0, failed=0, retried=0, throttled=0,
    lag=0.001, worst_lag=0.002, memory=50 << 20, cpu=1.0, up=10.0,
)  # fmt: skip


def queue(name: str = "default", waiting: int = 0, workers: int = 1, **more: Any) -> QueueStatus:
    return QueueStatus(name, waiting, more.pop("suspects", 0), workers, **more)


def worker(
    name: str = "web-1", running: int = 0, size: int = 10, lease: float = 20.0, lag: float = 0.001, **heard: Any
) -> Worker:  # fmt: skip
    queues = heard.pop("queues", ["default", "mail"])
    vitals = replace(VITALS, lag=lag, worst_lag=lag)
    return Worker(
        WorkerStatus(name, name, queues, size, running, lease), Heard(vitals=vitals, **heard)
    )


def sample(*parts: QueueStatus | Worker | Key, **more: Any) -> Sample:
    queues = [part for part in parts if isinstance(part, QueueStatus)]
    by_key = sum(part.waiting for part in parts if isinstance(part, Key))
    if by_key:
        # All of them wait in the first queue, besides what is said to wait there.
        queues[0] = replace(queues[0], waiting=queues[0].waiting + by_key, keyed=by_key)
    workers = [part for part in parts if isinstance(part, Worker)]
    keys = tuple(part for part in parts if isinstance(part, Key))
    scheduled, due = more.pop("scheduled", 0), more.pop("due", None)
    status = Status(queues, [one.status for one in workers], scheduled, 0, due, {})
    return Sample(status, tuple(workers), keys=Keys(keys), **more)


def key(name: str, waiting: int, state: str, **more: Any) -> Key:
    return Key(name, waiting=waiting, state=state, **more)


CASES = {
    "nothing at all": (
        sample(),
        "empty",
        "empty queue: nothing waits, runs or is scheduled: send something",
    ),
    "all that came is being run": (
        sample(queue(), worker(running=3)),
        "empty",
        "empty queue: 3 run, and nothing waits: send more",
    ),
    "nothing is due yet": (
        sample(queue(), worker(), scheduled=1234, due=42.0),
        "empty",
        "empty queue: 1,234 scheduled, the next due in 42 s: nothing is due yet",
    ),
    "all that waits is paused": (
        sample(queue("a", 5, paused=True), queue("b", 70, paused=True), queue("c"), worker()),
        "paused",
        "paused: b (70 wait), a (5 wait): greenworker resume b, or p on it here",
    ),
    "no worker": (
        sample(queue(waiting=12_345, workers=0)),
        "workers",
        "no worker: 12,345 wait: start one: greenworker MODULE",
    ),
    "only a dead worker": (
        sample(queue(waiting=1, workers=0), worker(lease=-3.0)),
        "workers",
        "no worker: 1 wait: start one: greenworker MODULE",
    ),
    "a dead worker that nobody has swept yet": (
        sample(queue(waiting=2), worker(lease=-3.0)),
        "workers",
        "no worker: 2 wait: start one: greenworker MODULE",
    ),
    "workers of other queues": (
        sample(queue("mail", 7, workers=0), queue("default"), worker(queues=["default"])),
        "workers",
        "no worker listens to mail (7 wait): start one with -Q mail, or resume (CONT) one that is quiet",
    ),
    "all slots": (
        sample(queue(waiting=500), worker(running=10), worker("web-2", running=10)),
        "slots",
        "slots: 20 of 20 are busy, 500 wait: raise -c, or start another worker",
    ),
    "all slots but some, which are between two runs": (
        sample(queue(waiting=500), worker(running=75, size=100)),
        "slots",
        "slots: 75 of 100 are busy, 500 wait: raise -c, or start another worker",
    ),
    "all slots of those who listen there": (
        sample(queue("mail", 5), worker(running=10, queues=["mail"]), worker("x", queues=["default"])),
        "slots",
        "slots: 10 of 10 are busy, 5 wait: raise -c, or start another worker",
    ),
    "one core": (
        sample(queue(waiting=500), worker(running=10, cpu=0.97)),
        "cpu",
        "CPU: web-1 at 97% of a core: start another worker process; more slots would not help",
    ),
    "a loop that has too much to do": (
        sample(queue(waiting=500), worker(running=3, cpu=0.5, lag=0.4), worker("x", cpu=0.95)),
        "cpu",
        "CPU: web-1, x at 95% of a core: start another worker process; more slots would not help",
    ),
    "a loop that is late, whatever its process uses": (
        sample(queue(waiting=500), worker(running=3, lag=0.4)),
        "cpu",
        "CPU: web-1 at its loop 400 ms late: start another worker process; more slots would not help",
    ),
    "one hot worker, and one that has slots to give": (
        sample(queue(waiting=5), worker(running=3, cpu=0.99), worker("x", cpu=0.1)),
        "nothing",
        "nothing: 5 wait, 17 slots are free, and it flows",
    ),
    "a loop that a task blocks": (
        sample(queue(waiting=5), worker(running=3, blocks="tasks.parse", lag=12.0)),
        "cpu",
        "CPU: tasks.parse blocks the loop of web-1, 12 s late: have it yield, declare it thread=True, or start more workers",
    ),
    "nobody answers": (
        sample(queue(waiting=5), worker(silent=True), worker("x", silent=True)),
        "workers",
        "web-1, x do not answer: cut off, or C code holds the GIL there: look at its log",
    ),
    "keys whose permits are out": (
        sample(
            queue(waiting=0),
            worker(running=2),
            key("host:a.com", 812, "busy", concurrency=2, running=2),
            key("host:b.com", 30, "later", interval=0.6, until=0.2),
            key("host:c.com", 3, "busy", running=1),
        ),
        "keys",
        "keys: host:a.com (2 at once), host:b.com (one each 600 ms) and 1 more; 845 wait: they allow no more; l changes one",
    ),
    "keys that refuse": (
        sample(
            queue(waiting=0),
            worker(running=0),
            key("a", 9, "throttled", until=28.0),
            key("b", 8, "circuit", until=300.0),
        ),
        "keys",
        "keys: a (throttled for 28 s), b (circuit open for 5 min); 17 wait: they refuse; wait, or p resumes one",
    ),
    "keys that people hold": (
        sample(
            queue(waiting=0), worker(), key("a", 9, "held"), key("b", 8, "stopped", concurrency=0)
        ),
        "keys",
        "keys: a (held by hand), b (concurrency=0); 17 wait: p resumes one, l changes its limit",
    ),
    "keys of all sorts": (
        sample(queue(waiting=0), worker(), key("a", 9, "held"), key("b", 8, "throttled")),
        "keys",
        "keys: a (held by hand), b (throttled); 17 wait: p resumes one that is held, l changes a limit",
    ),
    "keys, while a few are on their way": (
        sample(queue(waiting=1), worker(running=5), key("a", 99, "busy", concurrency=5), key("b", 1, "open")),
        "keys",
        "keys: a (5 at once); 101 wait: they allow no more; l changes one",
    ),
    "keys that may run, and no slots": (
        sample(queue(waiting=0), worker(running=10), key("a", 99, "open"), key("b", 50, "busy")),
        "slots",
        "slots: 10 of 10 are busy, 149 wait: raise -c, or start another worker",
    ),
    "keys and no slots": (
        sample(queue(waiting=0), worker(running=10), key("a", 99, "busy")),
        "slots",
        "slots: 10 of 10 are busy, 99 wait: raise -c, or start another worker",
    ),
    "keys, and others that wait as well": (
        sample(queue(waiting=50), worker(running=1, cpu=0.99), key("a", 50, "busy")),
        "cpu",
        "CPU: web-1 at 99% of a core: start another worker process; more slots would not help",
    ),
    "a slow server": (
        sample(queue(waiting=50), worker(running=1), took=0.4),
        "server",
        "the server needs 400 ms for an answer: look at its load (redis-cli --latency, SLOWLOG), or at the network",
    ),
    "nothing": (
        sample(queue(waiting=50), worker(running=1)),
        "nothing",
        "nothing: 50 wait, 9 slots are free, and it flows",
    ),
    "a worker of an older version": (
        sample(queue(waiting=50), replace(worker(running=10), heard=Heard())),
        "slots",
        "slots: 10 of 10 are busy, 50 wait: raise -c, or start another worker",
    ),
    "what waits is under suspicion": (
        sample(queue(suspects=3), worker(running=1)),
        "nothing",
        "nothing: 3 wait, 9 slots are free, and it flows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_limits(case: str) -> None:
    seen, kind, says = CASES[case]
    found = verdict(seen)
    assert (found.kind, str(found)) == (kind, says)


def test_of_many_keys_some_stand_for_all() -> None:
    """What was looked at is a tenth of what waits by a key."""
    seen = sample(queue(), worker(), key("a", 99, "busy", concurrency=1), key("b", 1, "open"))
    (default,) = seen.status.queues
    many = replace(seen.status, queues=[replace(default, waiting=1000, keyed=1000)])
    found = verdict(replace(seen, status=many))
    assert str(found).startswith("keys: a (1 at once); 1,000 wait")
    few = replace(seen.status, queues=[replace(default, waiting=1000, keyed=100)])
    assert verdict(replace(seen, status=few)).kind == "nothing", "nine hundred wait by no key"


def test_the_server_does_not_answer() -> None:
    found = away("cannot reach redis://h: refused")
    assert found.kind == "server"
    assert str(found) == (
        "the server does not answer: cannot reach redis://h: refused: shown is what was there last"
    )


def test_every_kind_has_a_case() -> None:
    assert {kind for _, kind, _ in CASES.values()} == {
        *("empty", "paused", "workers", "cpu", "keys", "slots", "server", "nothing"),
    }
