"""TaskPool: whatever ends a task's greenlet gives its slot back and reports an outcome."""

from __future__ import annotations

from contextlib import suppress

import gevent
import pytest
from gevent.event import Event

from greenworker.message import RELEASE, Delivery, Outcome
from greenworker.worker.pool import SoloPool, TaskPool
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
