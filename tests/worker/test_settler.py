"""Settler: every outcome counts once, for the delivery it belongs to, however often it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from greenworker.broker import Broker
from greenworker.connection import Connection
from greenworker.endpoint import Endpoint
from greenworker.errors import BrokerError, BrokerUnavailable
from greenworker.message import RELEASE, Delivery, Outcome
from greenworker.worker import settler
from greenworker.worker.incarnation import Incarnation, Membership
from greenworker.worker.settler import Settler
from tests.support.eventually import eventually
from tests.support.state import Space
from tests.support.tcp_proxy import TcpProxy

DONE = Outcome("done", b'{"state":"SUCCESS","value":1}', 3600.0)


class Bench:
    """A settler behind a proxy, for a registered incarnation; `batches` are the sizes it sent."""

    def __init__(self, space: Space, proxy: TcpProxy) -> None:
        self.space, self.proxy = space, proxy
        self.membership = Membership(on_renew=lambda: None)
        self.broker = Broker(Connection(Endpoint(proxy.url)), space.broker.namespace)
        self.batches: list[int] = []
        self.broker.settle = self._counted(self.broker.settle)  # type: ignore[method-assign]
        self.settler = Settler(self.broker, self.membership)

    @property
    def me(self) -> Incarnation:
        return self.membership.current

    def hold(self, *ids: str) -> list[Delivery]:
        deliveries = self.space.run(self.me.id, *ids)
        assert self.me.hold(deliveries) == deliveries
        return deliveries

    def add(self, deliveries: list[Delivery], outcome: Outcome = DONE) -> None:
        for delivery in deliveries:
            self.settler.add(delivery, outcome)

    def _counted(
        self, settle: Callable[..., list[bool]]
    ) -> Callable[[str, list[tuple[Delivery, Outcome]]], list[bool]]:
        def counted(worker: str, outcomes: list[tuple[Delivery, Outcome]]) -> list[bool]:
            self.batches.append(len(outcomes))
            return settle(worker, outcomes)

        return counted


@pytest.fixture
def bench(space: Space, proxy: TcpProxy) -> Iterator[Bench]:
    bench = Bench(space, proxy)
    yield bench
    bench.settler.stop(timeout=0.1)
    bench.broker.close()


def test_what_ends_together_is_settled_together(bench: Bench) -> None:
    deliveries = bench.hold("m1", "m2", "m3")
    bench.add(deliveries)
    bench.settler.start()
    assert bench.settler.flush(10) == 0
    assert bench.batches == [3]
    assert not bench.me.held
    assert bench.space.stats()["done"] == 3
    bench.space.check()


def test_what_ends_while_a_batch_is_on_the_wire_is_the_next_batch(bench: Bench) -> None:
    first, *others = bench.hold(*(f"m{n}" for n in range(51)))
    bench.settler.start()
    bench.proxy.freeze()
    bench.add([first])
    eventually(lambda: bench.batches == [1])
    for delivery in others:
        bench.add([delivery])
        gevent.sleep(0)
    bench.proxy.thaw()
    assert bench.settler.flush(10) == 0
    assert bench.batches == [1, 50]


def test_a_batch_is_bounded_by_count_and_by_bytes(bench: Bench) -> None:
    for n in range(2):
        bench.add(bench.hold(*(f"m{n}-{i}" for i in range(600))))
    bench.settler.start()
    assert bench.settler.flush(20) == 0
    bench.settler.stop()
    assert bench.batches == [1000, 200]

    bench.batches.clear()
    large = Outcome("done", b'{"state":"SUCCESS","value":"%b"}' % (b"x" * 1_000_000), 1.0)
    bench.add(bench.hold(*(f"large{n}" for n in range(6))), large)
    bench.settler.start()
    assert bench.settler.flush(20) == 0
    assert bench.batches == [4, 2]


def test_what_is_on_its_way_is_told_while_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries, settle = bench.hold("m1", "m2"), bench.broker.settle
    seen = []

    def settle_later(*args: Any) -> list[bool]:
        seen.append((bench.membership.leaving, bench.membership.room.is_set()))
        if len(seen) == 1:
            raise BrokerUnavailable("away")
        return settle(*args)

    monkeypatch.setattr(bench.broker, "settle", settle_later)
    bench.settler.start()
    bench.add(deliveries)
    eventually(lambda: seen)
    assert bench.membership.leaving == 0, "it has not arrived"
    eventually(lambda: not bench.me.held)
    assert seen == [(2, True), (2, True)]
    assert bench.membership.leaving == 0


def test_room_is_told_as_soon_as_it_is_there(bench: Bench) -> None:
    bench.add(bench.hold("m1"))
    bench.membership.room.clear()
    bench.settler.start()
    assert bench.membership.room.wait(10)


def test_outcomes_outlive_an_outage_and_count_once(bench: Bench) -> None:
    bench.settler.start()
    bench.proxy.refuse()
    bench.proxy.cut()
    bench.add(bench.hold("m1", "m2"))
    assert bench.settler.flush(0.3) == 2
    assert set(bench.me.held) == {"m1", "m2"}, "no room for others: they are still ours"

    bench.proxy.accept()
    assert bench.settler.flush(10) == 0
    assert bench.space.stats()["done"] == 2
    bench.space.check()


@pytest.mark.parametrize("at", [0, 3])
def test_a_lost_reply_is_asked_for_again_and_nothing_counts_twice(bench: Bench, at: int) -> None:
    deliveries = bench.hold("m1", "m2")
    bench.settler.start()
    bench.add(deliveries[:1])
    assert bench.settler.flush(10) == 0

    trap = bench.proxy.truncate_next_reply(b"m2", at)
    bench.add(deliveries[1:])
    assert bench.settler.flush(10) == 0
    assert trap.sprung
    assert not bench.me.held
    assert bench.space.stats()["done"] == 2
    bench.space.check()


def test_a_repeat_never_ends_a_new_run_of_the_same_message(bench: Bench) -> None:
    # Given a settle that arrived, but whose reply did not
    (old,) = bench.hold("m1")
    bench.broker.promote()  # connected
    trap = bench.proxy.drop_next_reply(b"m1")
    bench.proxy.refuse()
    bench.settler.start()
    bench.add([old], Outcome("retry", envelope=old.envelope))
    eventually(lambda: trap.sprung)
    # When the retry is claimed by the very same worker before the settle is repeated
    bench.space.broker.promote()
    (new,) = bench.space.claim(bench.me.id).deliveries
    assert bench.me.hold([new]) == [new], "it is a new delivery, and has to be run"
    bench.proxy.accept()
    assert bench.settler.flush(10) == 0
    # Then the new run goes on, and only its own outcome counts
    assert bench.me.held == {"m1": new}
    assert bench.space.state()[f"processing:{bench.me.id}"] == {"m1": "2"}
    bench.add([old])
    bench.add([new])
    assert bench.settler.flush(10) == 0
    assert bench.space.stats() == {"enqueued": 1, "retried": 1, "done": 1}
    bench.space.check()


def test_a_known_delivery_is_not_held_twice(bench: Bench) -> None:
    deliveries = bench.hold("m1", "m2")
    assert bench.me.hold(deliveries) == []


def test_a_second_outcome_of_a_delivery_is_dropped(bench: Bench) -> None:
    deliveries = bench.hold("m1")
    bench.settler.start()
    bench.add(deliveries)
    assert bench.settler.flush(10) == 0
    bench.add(deliveries, RELEASE)
    assert bench.settler.flush(10) == 0
    assert bench.batches == [1]


def test_outcomes_of_a_past_incarnation_are_dropped_unsent(bench: Bench) -> None:
    past = bench.hold("m1", "m2")
    bench.add(past[:1])  # pending when it is renewed
    bench.membership.renew(bench.me.id)
    bench.add(past[1:])  # ends when it is over
    bench.add(bench.hold("mine"))
    bench.settler.start()
    assert bench.settler.flush(10) == 0
    assert bench.batches == [1]
    assert bench.space.stats()["done"] == 1


def test_what_is_no_longer_ours_does_not_count(bench: Bench) -> None:
    deliveries = bench.hold("m1")
    bench.space.crash(bench.me.id)
    bench.space.reap()
    bench.settler.start()
    bench.add(deliveries)
    assert bench.settler.flush(10) == 0
    assert not bench.me.held
    assert "done" not in bench.space.stats()
    assert not bench.space.redis.exists(bench.space.key("result:m1"))
    bench.space.check()


@pytest.mark.parametrize("kind", ["done", "dead", "retry"])
def test_an_outcome_without_bounds_is_settled_with_the_others(bench: Bench, kind: str) -> None:
    """It would be refused here, before it is sent, and be kept for ever."""
    one, other = bench.hold("m1", "m2")
    bench.add([one], Outcome(kind, b"{}", 1e307, 1e307, one.envelope, "failed"))  # type: ignore[arg-type]
    bench.add([other])
    bench.settler.start()
    assert bench.settler.flush(10) == 0
    assert not bench.me.held
    bench.space.check()


def test_a_server_that_forgot_the_script_learns_it_again(bench: Bench) -> None:
    bench.settler.start()
    for n in range(3):
        bench.space.redis.script_flush()
        bench.add(bench.hold(f"m{n}"))
        assert bench.settler.flush(10) == 0
    assert bench.space.stats()["done"] == 3


def test_flush_says_how_many_are_left(bench: Bench) -> None:
    assert bench.settler.flush(0) == 0
    bench.add(bench.hold("m1", "m2"))
    assert bench.settler.flush(0.01) == 2


class Refusal:
    """A server that refuses every batch that holds m7, until it is `over`."""

    def __init__(self, bench: Bench) -> None:
        self.over = False
        self._settle = bench.broker.settle
        bench.broker.settle = self._refuse  # type: ignore[method-assign,assignment]
        self._batches = bench.batches

    def _refuse(self, worker: str, outcomes: list[tuple[Delivery, Outcome]]) -> list[bool]:
        if not self.over and any(delivery.id == "m7" for delivery, _ in outcomes):
            self._batches.append(-len(outcomes))
            raise BrokerError("refused")
        return self._settle(worker, outcomes)


def test_an_outcome_that_is_refused_does_not_hold_up_the_others(bench: Bench) -> None:
    refusal = Refusal(bench)
    bench.add(bench.hold(*(f"m{n}" for n in range(1000))))
    bench.settler.start()
    eventually(lambda: bench.space.stats().get("done") == 999, within=20)
    eventually(lambda: list(bench.me.held) == ["m7"])
    # It was found by halving, not one by one
    assert len(bench.batches) < 50
    assert bench.settler.flush(0.01) == 1, "it is still ours to settle"
    assert not refusal.over


def test_what_was_refused_is_tried_again_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "_TRY_AGAIN", 0.2)
    bench.settler.every = 0.2
    refusal = Refusal(bench)
    bench.add(bench.hold("m7"))
    bench.settler.start()
    eventually(lambda: bench.batches.count(-1) >= 2)
    refusal.over = True
    eventually(lambda: bench.space.stats().get("done") == 1)
    assert bench.settler.flush(10) == 0
    assert not bench.me.held
    bench.space.check()


def test_what_was_refused_is_tried_again_whatever_is_pending(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a server that refuses m7 once, and one batch after another
    monkeypatch.setattr(settler, "_TRY_AGAIN", 0.0)
    monkeypatch.setattr(settler, "MAX_COUNT", 1)
    bench.settler._most = 1
    settled: list[str] = []
    settle = bench.broker.settle

    def refuse_once(worker: str, outcomes: list[tuple[Delivery, Outcome]]) -> list[bool]:
        (id,) = (delivery.id for delivery, _ in outcomes)
        if id == "m7" and not refused:
            refused.append(id)
            raise BrokerError("refused")
        settled.append(id)
        return settle(worker, outcomes)

    refused: list[str] = []
    bench.broker.settle = refuse_once  # type: ignore[method-assign,assignment]
    bench.add(bench.hold("m7", *(f"other{n}" for n in range(20))))
    bench.settler.start()
    eventually(lambda: len(settled) == 21, within=20)
    assert refused == ["m7"]
    assert settled.index("m7") < 20, "not the last of all"
    bench.space.check()


def test_a_flush_tries_at_once_what_was_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "_TRY_AGAIN", 600.0)
    bench.settler.every = 600.0
    refusal = Refusal(bench)
    bench.add(bench.hold("m7"))
    bench.settler.start()
    eventually(lambda: bench.settler._refused)
    refusal.over = True
    assert bench.settler.flush(20) == 0
    assert bench.space.stats()["done"] == 1


def test_an_outcome_that_cannot_be_sent_holds_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries = bench.hold("m1", "m2", "m3")
    bench.add(deliveries[:1])
    no_number: Any = "soon"  # no server is even asked
    bench.add(deliveries[1:2], Outcome("later", delay=no_number))
    bench.add(deliveries[2:])
    bench.settler.start()
    # Not what the server has counted: that is known here only when its reply has come.
    eventually(lambda: list(bench.me.held) == ["m2"])
    assert bench.space.stats()["done"] == 2
