"""The oracle of liveness: it must see a worker that could go on and does not."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenworker import keys
from tests.chaos import progress
from tests.chaos.arena import Arena
from tests.chaos.workers import Worker
from tests.support.eventually import eventually


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    with Arena(tmp_path, bound=1.5) as arena:
        yield arena


def test_a_worker_that_claims_nothing_is_seen(arena: Arena) -> None:
    # Given a worker that is up and has free slots, and claims nothing (TSTP, of which nobody told)
    _quiet(arena.worker())
    # When work waits
    arena.send_many("nap", [[0.0]] * 3)
    # Then that is a finding, and a drain says it at once
    eventually(lambda: arena.progress.stalls)
    with pytest.raises(AssertionError, match=r"nothing claimed or settled.*'default': 3"):
        arena.drain()


def test_it_is_seen_while_sends_go_on(arena: Arena) -> None:
    _quiet(arena.worker())
    eventually(lambda: [arena.send("nap", 0.0), arena.progress.stalls][1])
    assert "nothing claimed or settled" in arena.progress.stalls[0]


def test_one_that_claims_nothing_is_seen_though_the_others_go_on(arena: Arena) -> None:
    lazy, busy = arena.worker(), arena.worker(concurrency=2)
    _quiet(lazy)
    arena.send_many("nap", [[0.1]] * 200)
    (stall,) = eventually(lambda: arena.progress.stalls)
    assert stall.startswith(f"{lazy.name} ({lazy.pid}) claimed nothing for 3 s, holds 0 of 20")
    assert busy.running


def test_outages_neither_count_nor_end_a_stall(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that hangs, and a server that is away so often that it is never there for long."""
    monkeypatch.setattr(progress, "RETURN", 0.0)
    _quiet(arena.worker())
    arena.send("nap", 0.0)

    def away() -> None:
        with arena.progress.excused():
            time.sleep(0.5)
        time.sleep(0.5)

    eventually(lambda: [away(), arena.progress.stalls][1])
    assert arena.progress.longest < 2.5, "what was excused was not counted"


@pytest.mark.parametrize("why", ["runs a suspect alone", "makes room"])
def test_who_makes_room_for_a_suspect_claims_nothing(arena: Arena, why: str) -> None:
    worker = arena.worker()
    wid = arena.incarnation(worker)
    id = arena.send("wait_for", "go")
    eventually(lambda: arena.running())
    _quiet(worker)
    now = int(arena.redis.time()[0])
    key, mark = {
        "runs a suspect alone": (keys.solitary(arena.root, wid), id),
        "makes room": (keys.room(arena.root, "default"), str(now * 1000)),
    }[why]
    with arena.redis.pipeline(transaction=True) as both:
        both.set(key, mark)
        # Without a wake token, at which it would look again
        both.lpush(keys.ready(arena.root, "default", 5), "nobody")
        both.execute()
    with pytest.raises(AssertionError, match="messages are left"):
        arena.drain(within=4)
    assert arena.progress.stalls == []


def test_a_worker_that_never_registers_is_seen(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "STARTING", 0.0)
    arena.proxy.freeze()
    arena.worker(ready=False)
    arena.send("nap", 0.0)
    eventually(lambda: arena.progress.stalls)


def test_what_is_overdue_waits_as_well(arena: Arena) -> None:
    """A scheduler that promotes nothing."""
    worker = arena.worker()
    _quiet(worker)
    worker.signal(signal.SIGSTOP)  # not by the arena, which would excuse it
    arena.send("nap", 0.0, countdown=0.1)
    eventually(lambda: arena.progress.stalls)
    assert "overdue True" in arena.progress.stalls[0]


def test_who_is_full_frozen_or_listens_elsewhere_need_not_go_on(arena: Arena) -> None:
    worker = arena.worker(concurrency=1)
    arena.send("wait_for", "go")
    eventually(lambda: len(arena.running()) == 1)
    arena.send("nap", 0.0)  # waits, and no slot is free
    other = arena.worker(concurrency=1)
    eventually(lambda: arena.present() == 1)
    arena.freeze(other)
    later = arena.worker("-Q", "elsewhere")
    arena.terminate(later)
    assert later.wait() == 0
    with pytest.raises(AssertionError, match="1 messages are left"):
        arena.drain(within=4)
    assert arena.progress.stalls == []
    arena.thaw(other)
    arena.allow("go")
    arena.drain()
    assert worker.running
    arena.verify()


def _quiet(worker: Worker) -> None:
    """Have it claim nothing, which nobody but us knows."""
    worker.signal(signal.SIGTSTP)
    worker.command.wait_for("quiet")
