"""The audit of a busy server: it is silent however much is going on, and finds what is wrong in the middle of it."""

from __future__ import annotations

import random

import pytest

from greenworker.admission import Admission
from greenworker.audit import Audit
from greenworker.limit import make_limit
from greenworker.message import Delivery, Outcome
from greenworker.probe import Probe
from tests.support.auditing import Watched, damage_of
from tests.support.limits import check_lines
from tests.support.state import Space

OUTCOMES = {
    "done": Outcome("done", b'{"state":"SUCCESS","value":1}', 60.0),
    "dead": Outcome("dead", b'{"state":"FAILURE"}', 60.0, reason="failed"),
    "release": Outcome("release"),
    "throttled": Outcome("throttled", delay=0.002),
}
KEYS = ("", "", "", "host:a", "host:b", "host:b,tenant:1", "host:c,tenant:1", "host:d,host:a")


class Traffic:
    """Senders, four workers that claim, settle, retry, release, die and come again, at random."""

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        self.random = random.Random(seed)
        self.held: dict[str, list[Delivery]] = {}
        self.sent = 0
        self.born = 0
        self.admission = Admission(space.broker._link, space.broker.namespace)
        self.limit()
        for _ in range(4):
            self.hire()
        for _ in range(40):
            self.push()

    def step(self) -> None:
        for _ in range(self.random.randrange(4)):
            self.random.choice(
                (self.push, self.push, self.claim, self.claim, self.settle, self.settle)
            )()
        if self.random.random() < 0.05:
            self.random.choice((self.leave, self.die, self.promote, self.promote, self.limit))()

    def hire(self) -> None:
        self.born += 1
        worker = f"w{self.born}"
        self.space.register(worker, queues=["a", "b"])
        self.held[worker] = []

    def limit(self) -> None:
        """Somebody changes his mind."""
        most, ms = self.random.randrange(30), self.random.randrange(5)
        limits = {"host:*": {"concurrency": 1 + most}, "tenant:1": {"delay": ms / 1000}}
        self.admission.set([make_limit(pattern, said) for pattern, said in limits.items()])

    def worker(self) -> str:
        return self.random.choice(list(self.held))

    def push(self) -> None:
        ids = [f"m{self.sent + n}" for n in range(self.random.randrange(1, 60))]
        self.sent += len(ids)
        due = self.random.choice((None, None, None, 0.001))
        queue, priority = self.random.choice("ab"), self.random.choice((1, 5))
        key = self.random.choice(KEYS)
        self.space.push(*ids, queue=queue, priority=priority, due=due, key=key)

    def claim(self) -> None:
        worker = self.worker()
        self.held[worker] += self.space.claim(
            worker, self.random.randrange(1, 90), ["a", "b"]
        ).deliveries

    def settle(self) -> None:
        worker = self.worker()
        self.random.shuffle(self.held[worker])
        count = self.random.randrange(90)
        ended, self.held[worker] = self.held[worker][:count], self.held[worker][count:]
        self.space.settle(worker, *((one, self.outcome(one)) for one in ended))

    def outcome(self, delivery: Delivery) -> Outcome:
        kind = self.random.choice(("done", "done", "done", "dead", "release", "retry", "throttled"))
        if kind == "retry":
            return Outcome(
                "retry", envelope=delivery.envelope, delay=self.random.choice((0.0, 0.01))
            )
        return OUTCOMES[kind]

    def leave(self) -> None:
        worker = self.worker()
        del self.held[worker]
        self.space.broker.release(worker)
        self.hire()

    def die(self) -> None:
        worker = self.worker()
        del self.held[worker]
        self.space.crash(worker)
        self.space.reap(max_deliveries=9)
        self.hire()

    def promote(self) -> None:
        self.space.broker.promote()


def test_what_senders_push_meanwhile_is_not_even_suspected(space: Space) -> None:
    """However long the line is: each suspicion costs a look at what is behind it."""
    pushed = iter(range(1_000_000))

    def push() -> None:
        space.push(*(f"m{next(pushed)}" for _ in range(90)))

    for _ in range(30):
        push()
    link = Watched(space, push)
    assert Audit(Probe(link, space.broker.namespace)).run().well
    assert link.confirmed == 0


def test_one_that_is_pushed_further_while_it_is_looked_at_is_there_once(space: Space) -> None:
    """First it is seen in the schedule, then twice in its list: by the time of the second look
    so many have come that the looks do not overlap."""
    space.push(*(f"late{n}" for n in range(300)), due=60)
    space.make_due()
    pushed = iter(range(1_000_000))

    def step() -> None:
        if link.scans["scheduled"] and not link.scans["ready:default:5"]:
            space.broker.promote()
        elif link.scans["ready:default:5"] == 1:
            space.push(*(f"m{next(pushed)}" for _ in range(1000)))

    link = Watched(space, step)
    report = Audit(Probe(link, space.broker.namespace)).run()
    assert [finding.text for finding in report.findings] == []
    assert link.confirmed >= 100, "they were suspected"


@pytest.mark.parametrize("number", range(4))
def test_no_false_alarm_whatever_happens_between_its_steps(space: Space, number: int) -> None:
    traffic = Traffic(space, number)
    link = Watched(space, traffic.step)
    for _ in range(4):
        report = Audit(Probe(link, space.broker.namespace)).run()
        assert [finding.text for finding in report.findings] == []
        assert report.more == 0
    assert link.calls > 150
    assert traffic.sent > 2000
    space.check()
    check_lines(space.state())


@pytest.mark.parametrize("number", range(2))
def test_what_is_wrong_is_found_in_the_middle_of_it(space: Space, number: int) -> None:
    traffic = Traffic(space, number)
    # Nobody claims these: they sit in a queue without workers
    space.push("lost", "double", "fine", queue="quiet")
    space.redis.lrem(space.key("ready:quiet:5"), 0, "lost")
    space.redis.rpush(space.key("ready:quiet:5"), "double")
    link = Watched(space, traffic.step)
    report = Audit(Probe(link, space.broker.namespace)).run()
    assert damage_of(report) == {("nowhere", "msg", "lost"), ("twice", "ready:quiet:5", "double")}
