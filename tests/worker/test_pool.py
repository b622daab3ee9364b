"""TaskPool: whatever ends a task's greenlet gives its slot back and reports an outcome."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, ContextVar
from sys import getrefcount
from typing import Any

import gevent
import gevent.local
import pytest
from gevent.event import Event

from greenworker.message import RELEASE, Delivery, Outcome
from greenworker.worker.pool import Runner, SoloPool, TaskPool
from greenworker.worker.run import Release
from tests.support.eventually import eventually
from tests.worker.builders import delivery_of

DONE = Outcome("done")

Settled = list[tuple[Delivery, Outcome]]


@pytest.fixture
def settled() -> Settled:
    return []


def pool_of(size: int, settled: Settled, wait: float = 0.0) -> TaskPool:
    """A pool whose tasks wait for so long and are done."""

    def execute(_: Delivery) -> Outcome:
        gevent.sleep(wait)
        return DONE

    return TaskPool(size, execute, lambda *it: settled.append(it))


def test_a_delivery_runs_and_its_outcome_is_reported_once(settled: Settled) -> None:
    pool = pool_of(2, settled)
    delivery = delivery_of("t")
    pool.begin(delivery)
    assert (pool.size, pool.free_count()) == (2, 1)
    assert pool.join(timeout=10)
    assert pool.free_count() == 2
    assert eventually(lambda: settled) == [(delivery, DONE)]


def test_a_task_killed_before_its_first_line_gives_its_slot_back(settled: Settled) -> None:
    pool = pool_of(2, settled)
    deliveries = [delivery_of("t"), delivery_of("t")]
    for delivery in deliveries:
        pool.begin(delivery)
    pool.kill(Release)
    assert eventually(lambda: len(settled) == 2)
    assert {one.id: outcome for one, outcome in settled} == {one.id: RELEASE for one in deliveries}
    assert pool.free_count() == 2


def test_a_task_killed_while_it_runs_gives_its_slot_back(settled: Settled) -> None:
    pool = pool_of(1, settled, wait=60)
    delivery = delivery_of("t")
    pool.begin(delivery)
    gevent.sleep(0)
    pool.kill(Release)
    assert eventually(lambda: settled) == [(delivery, RELEASE)]
    assert pool.free_count() == 1


def in_turn(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> int:
    """Run these, one after the other; returns how many greenlets that took."""
    made: list[int] = []
    settled: Settled = []
    left = deque(steps)

    def execute(_: Delivery) -> Outcome:
        left.popleft()()
        return DONE

    pool = TaskPool(3, execute, lambda *it: settled.append(it))
    make = Runner.__init__
    monkeypatch.setattr(Runner, "__init__", lambda *it: (made.append(1), make(*it))[1])
    for _ in steps:
        pool.begin(delivery_of("t"))
        assert pool.join(timeout=10)
    assert [outcome for _, outcome in settled] == [DONE] * len(steps)
    return len(made)


KEPT: list[Any] = []  # what a task leaves behind


class Local(gevent.local.local):
    pass


LOCAL, VARIABLE = Local(), ContextVar("VARIABLE", default=0)
HELD: ContextVar[object] = ContextVar("HELD", default=None)


def test_a_greenlet_is_used_again_where_nothing_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def waits() -> None:
        with gevent.Timeout(10):
            gevent.sleep(0.001)

    def fails() -> None:
        with suppress(ZeroDivisionError):
            print(1 / 0)

    def has_child() -> None:
        gevent.spawn(gevent.sleep, 0.001).join()

    steps = (waits, fails, waits, lambda: VARIABLE.set(1), has_child, waits)
    assert in_turn(monkeypatch, *steps) == 1


LEFT_BEHIND: dict[str, Callable[[], object]] = {
    "a timeout": lambda: gevent.Timeout(60).start(),
    "a timer": lambda: KEPT.append(gevent.spawn_later(60, gevent.getcurrent().kill)),
    "itself": lambda: KEPT.append(gevent.getcurrent()),
    "a weak reference": lambda: KEPT.append(weakref.ref(gevent.getcurrent())),
    "a local": lambda: setattr(LOCAL, "value", 1),
    "a thread's local": lambda: threading.current_thread(),
    "a link": lambda: gevent.getcurrent().rawlink(print),
    "an attribute": lambda: setattr(gevent.getcurrent(), "mine", 1),
    "what its children share": lambda: gevent.getcurrent().spawn_tree_locals.update(a=1),
    "a child": lambda: KEPT.append(gevent.spawn(gevent.sleep, 60)),
    "a kill under way": lambda: gevent.getcurrent().kill(block=False),
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_what_a_task_leaves_behind_is_no_other_ones(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = []

    def next_one() -> None:
        me = gevent.getcurrent()
        found.extend((me.has_links(), bool(me.spawn_tree_locals), hasattr(me, "mine")))
        gevent.sleep(0.001)  # what is thrown into it, is now
        found.append(hasattr(LOCAL, "value"))

    try:
        assert in_turn(monkeypatch, LEFT_BEHIND[what], next_one) == 2
    finally:
        KEPT.clear()
    assert found == [False, False, False, False]


def test_a_timeout_that_a_task_has_forgotten_hits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    in_turn(monkeypatch, lambda: gevent.Timeout(0.01).start(), lambda: gevent.sleep(0.05))


def test_who_is_meant_and_has_ended_is_not_the_one_that_runs_there_now(settled: Settled) -> None:
    go, thrown = Event(), []

    def execute(delivery: Delivery) -> Outcome:
        try:
            (go.wait if delivery is first else gevent.sleep)(0.05)
        except BaseException as error:
            thrown.append(error)
        return DONE

    pool = TaskPool(2, execute, lambda *it: settled.append(it))
    first, second = delivery_of("t"), delivery_of("t")
    pool.begin(first)
    gevent.sleep(0)
    go.set()
    pool.begin(second)
    pool.call_off({first.id: first}, 60.0)
    assert pool.join(timeout=10)
    assert (len(settled), thrown) == (2, [])


def test_who_is_known_has_ended_for_those_who_know_it(settled: Settled) -> None:
    # Given a task that others know, and one that nobody does and that ends after it
    known: list[Any] = []
    forgotten: list[object] = []

    def execute(delivery: Delivery) -> Outcome:
        if delivery is first:
            me = gevent.getcurrent()
            known.append(me)
            weakref.finalize(me, forgotten.append, delivery.id)
        gevent.sleep(0.001 if delivery is first else 0.01)
        return DONE

    pool = TaskPool(2, execute, lambda *it: settled.append(it))
    first = delivery_of("t")
    pool.begin(first)
    pool.begin(delivery_of("t"))
    assert pool.join(timeout=10)
    # Then they see its end, though no other task comes
    with gevent.Timeout(10):
        known[0].join()
    assert known.pop().dead
    eventually(lambda: forgotten == [first.id])


def test_who_waits_for_more_keeps_nothing_of_what_it_has_run() -> None:
    pool = TaskPool(1, lambda _: DONE, lambda *_: None)
    delivery = delivery_of("t")
    before = getrefcount(delivery)
    pool.begin(delivery)
    assert pool.join(timeout=10)
    gevent.sleep(0)
    assert getrefcount(delivery) == before


def test_what_was_killed_leaves_no_greenlet_that_waits_for_more(settled: Settled) -> None:
    # Given a pool that was killed, as at a stop
    begun = []

    def execute(_: Delivery) -> Outcome:
        begun.append(weakref.ref(gevent.getcurrent(), begun.append))
        with suppress(gevent.GreenletExit):
            gevent.sleep(60)
        return DONE

    pool = TaskPool(3, execute, lambda *it: settled.append(it))
    pool.begin(delivery_of("t"))
    gevent.sleep(0)
    pool.kill(timeout=10)
    # Then the greenlet ends with what it ran: who starts again may do so in another thread
    eventually(lambda: begun[0]() is None)
    assert [outcome for _, outcome in settled] == [DONE]


def test_who_was_called_off_and_never_ran_has_nothing_to_do_with_who_comes_later() -> None:
    # Given a delivery that was called off, and killed before its first line
    seen: list[bool] = []

    def execute(_: Delivery) -> Outcome:
        seen.append(gevent.getcurrent().called_off)
        return DONE

    pool = TaskPool(1, execute, lambda *_: None)
    delivery = delivery_of("t")
    pool.begin(delivery)
    pool.call_off({delivery.id: delivery}, 60.0)
    pool.kill(Release, block=False)
    assert pool.join(timeout=10)
    # When something comes that lies where it lay: itself, here
    pool.begin(delivery)
    assert pool.join(timeout=10)
    # Then it runs as nobody has cancelled it
    assert seen == [False]


def test_what_could_not_be_begun_is_not_begun_later(
    monkeypatch: pytest.MonkeyPatch, settled: Settled
) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    pool = pool_of(1, settled)
    delivery = delivery_of("t")
    with monkeypatch.context() as patch:
        patch.setattr(gevent, "get_hub", fails)
        with pytest.raises(MemoryError):
            pool.begin(delivery)
    pool.give_back(delivery)
    # Then its slot is free, and the next one runs
    assert pool.free_count() == 1
    pool.begin(delivery_of("t"))
    assert pool.join(timeout=10)
    assert [outcome for _, outcome in settled] == [RELEASE, DONE]


def test_context_variables_are_a_runs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def step() -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set(7)

    in_turn(monkeypatch, step, step, step)
    assert seen == [0, 0, 0]


def test_a_context_that_a_task_gives_to_its_greenlet_is_no_other_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    given = Context()
    given.run(VARIABLE.set, 7)

    def step() -> None:
        seen.append(VARIABLE.get())
        gevent.getcurrent().gr_context = given

    in_turn(monkeypatch, step, step)
    assert seen == [0, 0]


def test_what_a_context_holds_goes_with_its_run() -> None:
    class Large:
        pass

    kept: list[Any] = []

    def execute(_: Delivery) -> Outcome:
        large = Large()
        kept.append(weakref.ref(large))
        HELD.set(large)
        return DONE

    pool = TaskPool(1, execute, lambda *_: None)
    pool.begin(delivery_of("t"))
    assert pool.join(timeout=10)
    eventually(lambda: kept[0]() is None)


def test_many_that_do_not_wait_leave_the_loop_its_turns(settled: Settled) -> None:
    turns: list[int] = []

    def execute(_: Delivery) -> Outcome:
        end = time.monotonic() + 0.01
        while time.monotonic() < end:
            pass
        return DONE

    pool = TaskPool(30, execute, lambda *it: settled.append(it))
    for _ in range(30):
        pool.begin(delivery_of("t"))
    while len(pool):
        gevent.sleep(0.001)
        turns.append(len(settled))
    assert len(turns) > 5


def test_join_waits_for_so_long_and_says_whether_all_have_ended(settled: Settled) -> None:
    pool = pool_of(1, settled, wait=60)
    pool.begin(delivery_of("t"))
    assert not pool.join(timeout=0.02)
    pool.kill(Release)
    assert pool.join(timeout=0.02)


def test_a_kill_that_is_swallowed_blocks_nobody_and_keeps_the_slot(settled: Settled) -> None:
    end = Event()

    def execute(_: Delivery) -> Outcome:
        while not end.is_set():
            try:
                end.wait(60)
            except gevent.GreenletExit:
                continue
        return DONE

    pool = TaskPool(1, execute, lambda *it: settled.append(it))
    pool.begin(delivery_of("t"))
    gevent.sleep(0)
    pool.kill(Release, timeout=0.05)
    assert (pool.free_count(), settled) == (0, [])
    end.set()
    assert pool.join(timeout=10)
    assert [outcome for _, outcome in eventually(lambda: settled)] == [DONE]
    assert pool.free_count() == 1


def test_who_swallowed_an_earlier_kill_gets_another_one(settled: Settled) -> None:
    """An incarnation that was given up comes first, say, and then a stop."""
    thrown: list[BaseException] = []

    def execute(_: Delivery) -> Outcome:
        while len(thrown) < 2:
            try:
                gevent.sleep(60)
            except Release as error:
                thrown.append(error)
        return RELEASE

    pool = TaskPool(2, execute, lambda *it: settled.append(it))
    pool.begin(delivery_of("t"))
    gevent.sleep(0)
    pool.kill(Release, block=False)
    eventually(lambda: len(thrown) == 1)
    pool.kill(Release, timeout=10)
    assert (len(thrown), len(pool)) == (2, 0)


def test_solo_knows_what_was_released(settled: Settled) -> None:
    seen: list[bool] = []

    def execute(_: Delivery) -> Outcome:
        with suppress(Release):
            gevent.sleep(0.05)
        seen.append(gevent.getcurrent().released)
        return DONE

    pool = SoloPool(execute, lambda *it: settled.append(it))
    pool.kill(Release)
    pool.begin(delivery_of("t"))
    pool.begin(delivery_of("t"))
    assert seen == [True, False]


def test_solo_runs_where_begin_is_called(settled: Settled) -> None:
    seen: list[tuple[object, int, bool]] = []

    def execute(_: Delivery) -> Outcome:
        seen.append((gevent.getcurrent(), pool.free_count(), pool.join()))
        return DONE

    pool = SoloPool(execute, lambda *it: settled.append(it))
    delivery = delivery_of("t")
    pool.begin(delivery)
    assert seen == [(gevent.getcurrent(), 0, False)]
    assert settled == [(delivery, DONE)]
    assert (pool.size, pool.free_count(), pool.join()) == (1, 1, True)


def test_solo_is_free_again_whatever_the_task_does() -> None:
    def execute(_: Delivery) -> Outcome:
        raise KeyboardInterrupt  # pdb's `quit` ends so

    pool = SoloPool(execute, lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        pool.begin(delivery_of("t"))
    assert pool.free_count() == 1
    pool.kill(Release)
