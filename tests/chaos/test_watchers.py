"""The oracle of liveness: it must see a worker that could go on and does not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import watchers
from tests.chaos.arena import Arena
from tests.support.eventually import eventually


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    with Arena(tmp_path, bound=1.5) as arena:
        yield arena


def test_a_worker_that_claims_nothing_is_seen(arena: Arena) -> None:
    # Given a worker that is up and has free slots, and claims nothing (TSTP, of which nobody told)
    worker = arena.worker()
    worker.signal(signal.SIGTSTP)
    worker.command.wait_for("quiet")
    # When work waits
    arena.send_many("nap", [[0.0]] * 3)
    # Then that is a finding, and a drain says it at once
    eventually(lambda: arena.progress.stalls)
    with pytest.raises(AssertionError, match=r"nothing claimed or settled.*'default': 3"):
        arena.drain()


def test_a_worker_that_never_registers_is_seen(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "STARTING", 0.0)
    arena.proxy.freeze()
    arena.worker(ready=False)
    arena.send("nap", 0.0)
    eventually(lambda: arena.progress.stalls)


def test_what_is_overdue_waits_as_well(arena: Arena) -> None:
    """A scheduler that promotes nothing."""
    worker = arena.worker()
    worker.signal(signal.SIGTSTP)
    worker.command.wait_for("quiet")
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
