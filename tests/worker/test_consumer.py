"""Consumer: claims for the free slots and no more, and loses nothing on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from greenworker.broker import Broker, Claim
from greenworker.connection import Connection
from greenworker.control import Control
from greenworker.endpoint import Endpoint
from greenworker.message import RELEASE, Delivery, Outcome
from greenworker.scripts import load
from greenworker.worker.consumer import Consumer
from greenworker.worker.incarnation import Membership
from tests.support.eventually import eventually
from tests.support.state import Space
from tests.support.tcp_proxy import TcpProxy


class Slots:
    """A pool in which a run lasts until the test ends it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.begun: list[Delivery] = []
        self.given_back: list[str] = []
        self.running = 0

    @property
    def ids(self) -> list[str]:
        return [delivery.id for delivery in self.begun]

    def begin(self, delivery: Delivery) -> None:
        self.begun.append(delivery)
        self.running += 1
        assert self.running <= self.size

    def give_back(self, delivery: Delivery) -> None:
        self.given_back.append(delivery.id)

    def free_count(self) -> int:
        return self.size - self.running


class Bench:
    """A consumer with its slots and its membership."""

    def __init__(
        self, space: Space, url: str = "", size: int = 3, burst: bool = False, lease: float = 60.0
    ) -> None:
        self.space = space
        self.slots = Slots(size)
        self.renewals = 0
        self.expected: list[float] = []
        self.membership = Membership(on_renew=self._count)
        self._broker = Broker(
            Connection(Endpoint(url or space.url), "test-consumer"), space.broker.namespace
        )
        self.consumer = Consumer(
            self._broker,
            self.membership,
            self.slots,  # type: ignore[arg-type]
            ["default"],
            lease=lease,
            about={"name": "test"},
            expect=self.expected.append,
            burst=burst,
        )

    @property
    def id(self) -> str:
        return self.membership.current.id

    def _count(self) -> None:
        self.renewals += 1

    def start_waiting(self) -> None:
        """Start, and return once it waits for a wake token."""
        self.consumer.start()
        self.until_waiting()

    def until_waiting(self) -> None:
        """Nothing it has asked for is still under way."""
        eventually(lambda: self.consumer._waiting)

    def finish(self, *deliveries: Delivery) -> None:
        """These runs have ended and are settled."""
        self.space.done(self.id, *deliveries)
        self.slots.running -= len(deliveries)
        self.membership.settled(deliveries)

    def leave(self) -> None:
        """As a worker stops."""
        self.consumer.stop(timeout=2.0)
        self.space.broker.release(self.id)
        self._broker.close()


@pytest.fixture
def open_bench(space: Space) -> Iterator[Callable[..., Bench]]:
    """A bench with these options; at the end each of them leaves, however the test has ended."""
    benches: list[Bench] = []

    def open_bench(url: str = "", **options: Any) -> Bench:
        benches.append(Bench(space, url, **options))
        return benches[-1]

    yield open_bench
    for bench in benches:
        bench.leave()


@pytest.fixture
def bench(open_bench: Callable[..., Bench]) -> Bench:
    return open_bench()


def waits_of(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long it waits for a wake token, each time from now on."""
    waits: list[float] = []
    wait = bench._broker.wait

    def noted(queues: Any, timeout: float) -> bool:
        waits.append(timeout)
        return wait(queues, timeout)

    monkeypatch.setattr(bench._broker, "wait", noted)
    return waits


def test_it_registers_first_and_says_when_it_is_ready(bench: Bench) -> None:
    assert not bench.consumer.ready.is_set()
    bench.consumer.start()
    assert bench.consumer.ready.wait(10)
    assert list(bench.space.state()["workers"]) == [bench.id]


def test_a_slot_is_filled_while_its_outcome_is_on_its_way(bench: Bench) -> None:
    bench.space.push("m1", "m2", "m3", "m4", "m5")
    bench.consumer.start()
    eventually(lambda: bench.slots.free_count() == 0)
    first, second, _ = bench.slots.begun
    # The server knows of the first one's end, and we not yet; the second one's has not arrived there.
    bench.space.done(bench.id, first)
    bench.slots.running -= 2
    bench.membership.leave(2)
    eventually(lambda: bench.slots.ids == ["m1", "m2", "m3", "m4"])
    eventually(lambda: not bench.membership.room.is_set())  # it waits for more of them
    assert bench.space.redis.hlen(bench.space.key(f"processing:{bench.id}")) == 3
    bench.space.done(bench.id, second)
    bench.membership.leaving = 0
    bench.membership.settled([first, second])
    eventually(lambda: bench.slots.ids == ["m1", "m2", "m3", "m4", "m5"])


def test_what_the_server_alone_believes_held_keeps_no_slot_empty(
    open_bench: Callable[..., Bench],
) -> None:
    """It was settled on another server: until that is noticed, it neither costs a slot nor has us ask again and again."""
    bench = open_bench(size=1)
    bench.start_waiting()
    bench.space.redis.hset(bench.space.key(f"processing:{bench.id}"), "settled", 1)
    bench.space.push("m1")
    eventually(lambda: bench.slots.ids == ["m1"])


def test_a_burst_ends_as_soon_as_its_last_outcome_has_arrived(
    open_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = open_bench(size=1, burst=True)
    waits = waits_of(bench, monkeypatch)
    monkeypatch.setattr("greenworker.worker.consumer._BURST_WAIT", 60.0)
    bench.space.push("m1")
    bench.consumer.start()
    eventually(lambda: bench.slots.ids == ["m1"])
    (one,) = bench.slots.begun
    bench.slots.running = 0
    bench.membership.leave(1)
    eventually(lambda: bench.membership.current.known > 1)  # it has asked for the next one
    bench.space.done(bench.id, one)
    bench.membership.leaving = 0
    bench.membership.settled([one])
    assert bench.consumer.over.wait(10)
    assert not waits


def test_a_suspect_is_run_when_an_outcome_arrives_later_than_the_claim(
    open_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = open_bench(size=1)
    waits = waits_of(bench, monkeypatch)
    bench.space.push("m1")
    bench.consumer.start()
    eventually(lambda: bench.slots.ids == ["m1"])
    (one,) = bench.slots.begun
    bench.space.push_suspect("s")
    bench.slots.running = 0
    bench.membership.leave(1)
    eventually(lambda: bench.membership.current.known > 1)
    bench.space.done(bench.id, one)
    bench.membership.leaving = 0
    bench.membership.settled([one])
    eventually(lambda: bench.slots.ids == ["m1", "s"])
    assert not waits


def test_never_more_than_there_are_slots(bench: Bench) -> None:
    ids = [f"m{n}" for n in range(8)]
    bench.space.push(*ids)
    bench.consumer.start()
    for n in range(3, 8):
        eventually(lambda: bench.slots.free_count() == 0)
        assert bench.slots.ids == ids[:n]
        assert bench.space.redis.hlen(bench.space.key(f"processing:{bench.id}")) == 3
        bench.finish(bench.slots.begun[n - 3])
    bench.finish(*bench.slots.begun[5:])
    eventually(lambda: bench.consumer._waiting)
    assert bench.slots.ids == ids
    bench.space.check()


def test_a_paused_queue_keeps_what_it_has_and_wakes_nobody(bench: Bench) -> None:
    control = Control(bench.space.broker._link, bench.space.broker.namespace)
    bench.start_waiting()
    control.pause("default")
    for n in range(20):
        bench.space.push(f"m{n}")
    # No token, so nothing but the end of its own wait makes it claim: in vain.
    assert not bench.space.redis.exists(bench.space.key("wake:default"))
    before = bench.membership.current.used
    eventually(lambda: bench.membership.current.used > before and bench.consumer._waiting)
    assert bench.slots.ids == []
    control.resume("default")
    eventually(lambda: bench.slots.ids == ["m0", "m1", "m2"])
    bench.space.check()


def test_a_slot_without_a_settled_outcome_is_no_room(bench: Bench) -> None:
    """What ended while the server was away is still ours: others must not be claimed for it."""
    bench.space.push("m1", "m2", "m3", "m4")
    bench.consumer.start()
    eventually(lambda: len(bench.slots.begun) == 3)
    bench.slots.running = 0
    bench.membership.room.set()
    gevent.sleep(0.05)
    assert bench.slots.ids == ["m1", "m2", "m3"]
    bench.slots.running = 3
    bench.finish(bench.slots.begun[0])
    eventually(lambda: bench.slots.ids == ["m1", "m2", "m3", "m4"])


def test_what_the_server_has_forgotten_to_be_settled_runs_again(
    space: Space, proxy: TcpProxy, open_bench: Callable[..., Bench]
) -> None:
    """A replica that becomes master lags behind: our outcomes are gone, and who else would run it?"""
    bench = open_bench(proxy.url)
    space.push("settled", "retried", "running")
    bench.consumer.start()
    eventually(lambda: bench.slots.ids == ["settled", "retried", "running"])
    before = {key: space.redis.dump(key) for key in space.redis.keys(f"{space.root}*")}
    settled, retried, _ = bench.slots.begun
    bench.finish(settled)
    retry = Outcome("retry", envelope=retried.envelope)
    assert space.settle(bench.id, (retried, retry)) == [True]
    bench.slots.running -= 1
    bench.membership.settled([retried])
    space.make_due()
    space.broker.promote()
    eventually(lambda: bench.slots.ids[3:] == ["retried"])

    proxy.refuse()
    proxy.cut()
    space.redis.delete(*space.redis.keys(f"{space.root}*"))
    for key, value in before.items():
        space.redis.restore(key, 0, value)
    proxy.accept()

    # The second run of `retried` is under way, and its outcome is void: it runs a third time.
    eventually(lambda: bench.slots.ids[4:] == ["settled"] or bench.slots.ids[4:] == ["retried"])
    bench.slots.running -= 1
    bench.membership.settled([bench.slots.begun[3]])
    eventually(lambda: sorted(bench.slots.ids[4:]) == ["retried", "settled"])
    held = space.redis.hkeys(space.key(f"processing:{bench.id}"))
    assert sorted(held) == ["retried", "running", "settled"]
    space.check()


def test_what_another_lane_has_settled_elsewhere_runs_again_once_that_is_in_doubt(
    bench: Bench,
) -> None:
    bench.space.push("elsewhere", "running")
    bench.consumer.start()
    eventually(lambda: bench.slots.ids == ["elsewhere", "running"])
    eventually(lambda: bench.consumer._waiting)
    bench.slots.running -= 1
    bench.membership.settled(bench.slots.begun[:1])
    bench.membership.doubt()
    eventually(lambda: bench.slots.ids == ["elsewhere", "running", "elsewhere"])
    bench.space.check()


def test_what_nobody_doubts_is_compared_once_a_lease(
    space: Space, open_bench: Callable[..., Bench]
) -> None:
    bench = open_bench(lease=1.0)
    space.push("elsewhere", "running")
    bench.consumer.start()
    eventually(lambda: bench.slots.ids == ["elsewhere", "running"])
    bench.slots.running -= 1
    bench.membership.settled(bench.slots.begun[:1])
    eventually(lambda: bench.slots.ids == ["elsewhere", "running", "elsewhere"])
    space.check()


def test_one_that_waits_is_woken_by_a_push(bench: Bench) -> None:
    bench.start_waiting()
    bench.space.push("m1")
    eventually(lambda: bench.slots.ids == ["m1"])


def test_the_scheduler_is_told_what_is_due_next(bench: Bench) -> None:
    bench.space.push("m1", due=30.0)
    bench.start_waiting()
    assert 29.0 < bench.expected[0] <= 30.0


def test_who_is_full_tells_as_well_when_more_is_due(
    space: Space, open_bench: Callable[..., Bench]
) -> None:
    """Others wait to be woken, and have been told by nobody."""
    space.push("late", due=30.0)
    space.push("m1")
    bench = open_bench(size=1)
    bench.consumer.step()
    assert bench.slots.ids == ["m1"]
    assert 29.0 < bench.expected[0] <= 30.0


# Lost replies


@pytest.mark.parametrize("at", [0, 40])
def test_a_claim_whose_reply_was_lost_is_adopted_once(
    space: Space,
    proxy: TcpProxy,
    caplog: pytest.LogCaptureFixture,
    at: int,
    open_bench: Callable[..., Bench],
) -> None:
    caplog.set_level("INFO", "greenworker")
    bench = open_bench(proxy.url)
    bench.start_waiting()
    trap = proxy.truncate_next_reply(load("claim").sha, at)
    space.push("m1", "m2")
    eventually(lambda: len(bench.slots.begun) == 2)
    assert trap.sprung
    assert "adopted 2 messages" in caplog.text
    assert bench.slots.ids == ["m1", "m2"]

    # What it knows is never adopted again
    bench.until_waiting()
    trap = proxy.truncate_next_reply(load("claim").sha, at)
    space.push("m3")
    eventually(lambda: bench.slots.ids == ["m1", "m2", "m3"])
    assert trap.sprung
    assert "adopted 1 messages" in caplog.text
    assert bench.renewals == 0
    space.check()


def test_a_claim_that_never_arrived_is_made_again(
    space: Space, proxy: TcpProxy, open_bench: Callable[..., Bench]
) -> None:
    bench = open_bench(proxy.url)
    bench.start_waiting()
    proxy.cut()
    proxy.refuse()
    space.push("m1")
    proxy.accept()
    eventually(lambda: bench.slots.ids == ["m1"])


def test_a_registration_whose_reply_was_lost_is_made_again(
    space: Space, proxy: TcpProxy, open_bench: Callable[..., Bench]
) -> None:
    space.register("somebody")  # the server knows the script
    bench = open_bench(proxy.url)
    trap = proxy.drop_next_reply(load("register").sha)
    bench.start_waiting()
    assert trap.sprung
    assert set(space.state()["workers"]) == {"somebody", bench.id}


# The end


def test_a_stop_does_not_wait_for_the_wait_to_end(bench: Bench) -> None:
    bench.start_waiting()
    with gevent.Timeout(1.5):  # it waits for a token for 2 s
        bench.consumer.stop()
    bench.space.push("m1")
    assert bench.space.waiting() == ["m1"]
    assert bench.slots.ids == []


def test_a_stop_in_a_claim_loses_nothing(
    space: Space, proxy: TcpProxy, open_bench: Callable[..., Bench]
) -> None:
    bench = open_bench(proxy.url)
    bench.start_waiting()
    proxy.delay(0.1)
    space.push("m1")
    eventually(lambda: space.redis.hlen(space.key(f"processing:{bench.id}")) == 1)
    with gevent.Timeout(1.5):  # it waits for no token afterwards
        bench.consumer.stop()
    assert bench.slots.ids == ["m1"]
    bench.leave()
    assert space.waiting() == ["m1"]
    space.check()


def test_whoever_stops_takes_no_message_and_no_wake_up_along(
    space: Space, open_bench: Callable[..., Bench]
) -> None:
    """Stops that race with pushes: the one who stays gets all."""
    stays = open_bench(size=100)
    stays.start_waiting()
    for n in range(25):
        leaves = open_bench(size=100)
        leaves.start_waiting()
        space.push(f"m{n}")
        leaves.leave()
    eventually(lambda: len(stays.slots.begun) == 25)
    space.check()


# Quiet


def test_quiet_claims_nothing_until_resumed(bench: Bench) -> None:
    bench.consumer.quiet = True
    bench.space.push("m1")
    bench.consumer.start()
    assert bench.consumer.ready.wait(10)
    gevent.sleep(0.05)
    assert bench.space.waiting() == ["m1"]
    bench.consumer.quiet = False
    bench.membership.room.set()
    eventually(lambda: bench.slots.ids == ["m1"])


def test_one_that_is_quiet_passes_the_wake_token_on(bench: Bench) -> None:
    bench.start_waiting()
    bench.consumer.quiet = True
    bench.space.push("m1")
    eventually(lambda: not bench.consumer._waiting)
    eventually(lambda: bench.space.redis.llen(bench.space.key("wake:default")) == 1)
    assert bench.space.waiting() == ["m1"]
    assert bench.slots.ids == []


# A burst


def test_a_burst_is_over_when_nothing_waits_or_runs(
    space: Space, open_bench: Callable[..., Bench]
) -> None:
    bench = open_bench(size=1, burst=True)
    space.push("m1", "m2")
    bench.consumer.start()
    for _ in range(2):
        eventually(lambda: bench.slots.running == 1)
        assert not bench.consumer.over.is_set()
        bench.finish(bench.slots.begun[-1])
    assert bench.consumer.over.wait(10)


def test_a_burst_stays_for_what_is_due_soon_and_not_for_what_is_not(
    space: Space, open_bench: Callable[..., Bench]
) -> None:
    bench = open_bench(burst=True)
    space.push("soon", due=50.0)
    space.push("late", due=3600.0)
    bench.start_waiting()
    assert not bench.consumer.over.is_set()
    space.redis.zadd(space.key("scheduled"), {"soon": 1})
    space.broker.promote()
    eventually(lambda: bench.slots.ids == ["soon"])
    bench.finish(bench.slots.begun[0])
    assert bench.consumer.over.wait(10)
    assert list(space.state()["scheduled"]) == ["late"]


def test_a_retry_that_a_claim_did_not_see_keeps_a_burst(
    space: Space, monkeypatch: pytest.MonkeyPatch, open_bench: Callable[..., Bench]
) -> None:
    """Its settle overtook the claim's reply: nothing is held, and nothing seems to be due."""
    bench = open_bench(burst=True)
    space.push("m1")
    claim = bench._broker.claim

    def overtaken(*args: Any, **kwargs: Any) -> Claim:
        reply = claim(*args, **kwargs)
        if bench.slots.running:
            (one,) = bench.slots.begun
            retry = Outcome("retry", envelope=one.envelope, delay=30.0)
            assert space.settle(bench.id, (one, retry)) == [True]
            bench.slots.running -= 1
            bench.membership.settled([one])
        return reply

    monkeypatch.setattr(bench._broker, "claim", overtaken)
    bench.consumer.start()
    eventually(lambda: bench.expected)  # a later claim has seen it
    assert not bench.consumer.over.is_set()


# A new incarnation


@pytest.mark.parametrize("when", ["waiting", "full"])
def test_one_that_was_reaped_goes_on_as_somebody_new(bench: Bench, when: str) -> None:
    if when == "full":
        bench.space.push("m1", "m2", "m3")
        bench.consumer.start()
        eventually(lambda: len(bench.slots.begun) == 3)
    else:
        bench.start_waiting()
    past = bench.id
    bench.space.crash(past)
    bench.space.reap()
    if when == "full":
        bench.slots.running = 0
        bench.membership.renew(past)  # the watchdog notices first
    bench.space.push("new")
    eventually(lambda: "new" in bench.slots.ids)
    assert bench.id != past
    assert bench.renewals == 1
    assert list(bench.space.state()["workers"]) == [bench.id]


def test_an_id_that_has_died_is_not_used_again(bench: Bench) -> None:
    past = bench.id
    bench.space.redis.sadd(bench.space.key("corpses"), past)
    bench.start_waiting()
    assert bench.id != past
    assert list(bench.space.state()["workers"]) == [bench.id]


def test_a_fresh_start_claims_again(bench: Bench) -> None:
    bench.start_waiting()
    bench.leave()
    bench.membership.fresh()
    bench.consumer.fresh()
    assert not bench.consumer.ready.is_set()
    bench.space.push("m1")
    bench.consumer.start()
    eventually(lambda: bench.slots.ids == ["m1"])


# What may happen to it


def test_what_cannot_be_begun_is_given_back_and_the_rest_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = bench.slots.begin

    def fail_once(delivery: Delivery) -> None:
        if delivery.id == "m2" and not bench.slots.given_back:
            raise MemoryError
        begin(delivery)

    monkeypatch.setattr(bench.slots, "begin", fail_once)
    bench.space.push("m1", "m2", "m3")
    bench.consumer.start()
    eventually(lambda: bench.slots.given_back == ["m2", "m3"])
    assert bench.slots.ids == ["m1"]
    # As the settler does it, then they come back
    bench.space.broker.settle(
        bench.id, [(bench.membership.current.held[id], RELEASE) for id in ("m2", "m3")]
    )
    bench.membership.settled([bench.membership.current.held[id] for id in ("m2", "m3")])
    eventually(lambda: bench.slots.free_count() == 0)
    assert sorted(bench.slots.ids) == ["m1", "m2", "m3"]


def test_a_claim_that_is_answered_after_it_was_reaped_is_not_begun(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, past = bench._broker.claim, bench.id

    def reaped_meanwhile(worker: str, *args: Any, **kwargs: Any) -> Claim:
        reply = claim(worker, *args, **kwargs)
        if worker == past:
            bench.membership.renew(past)
            bench.space.crash(past)
            bench.space.reap()
            reaped.set()
        return reply

    reaped = Event()
    monkeypatch.setattr(bench._broker, "claim", reaped_meanwhile)
    bench.space.push("m1", "m2")
    bench.consumer.start()
    assert reaped.wait(10)
    eventually(lambda: bench.space.broker.promote() and len(bench.slots.begun) == 2)
    gevent.sleep(0.05)
    assert {delivery.worker for delivery in bench.slots.begun} == {bench.id} != {past}


def test_one_that_is_killed_lives_on_and_adopts_what_its_claim_brought(
    space: Space, proxy: TcpProxy, open_bench: Callable[..., Bench]
) -> None:
    bench = open_bench(proxy.url)
    bench.start_waiting()
    for n in range(1, 4):
        # Given a claim whose reply is under way when somebody kills all the greenlets there are
        proxy.delay(0.2)
        space.push(f"m{n}")
        eventually(lambda n=n: space.redis.hlen(space.key(f"processing:{bench.id}")) == n)
        assert bench.consumer._greenlet is not None
        bench.consumer._greenlet.kill(block=False)
        proxy.delay(0)
        eventually(lambda n=n: len(bench.slots.begun) == n)
    assert bench.slots.ids == ["m1", "m2", "m3"]


def test_it_beats_when_nobody_else_does(space: Space, open_bench: Callable[..., Bench]) -> None:
    """Its connection may work where the watchdog's does not."""
    bench = open_bench()
    bench.consumer._lease = 3.0
    bench.start_waiting()
    assert bench.renewals == 0
    for n in range(3):
        gevent.sleep(1.3)
        space.push(f"m{n}")  # what has it look
        eventually(lambda n=n: len(bench.slots.begun) > n)
        space.pulse_was(0.0)
        assert space.reap().corpses == 0
    assert bench.renewals == 0
