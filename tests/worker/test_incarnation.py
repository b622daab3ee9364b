"""Membership: what the current incarnation holds, and what a past one has no say in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from greenworker.worker.incarnation import Membership
from tests.worker.builders import delivery_of


def test_a_late_settle_of_a_past_incarnation_drops_nothing_of_the_present_one() -> None:
    """Sequences begin at one again: the same id may come back under the same sequence."""
    membership = Membership(on_renew=lambda: None)
    past = delivery_of("t", worker=membership.current.id, seq=1)
    membership.current.hold([past])
    # Given a settle under way when the incarnation is reaped, and the message claimed anew
    membership.renew(membership.current.id)
    present = replace(past, worker=membership.current.id)
    assert membership.current.hold([present]) == [present]
    # When that settle is answered
    membership.settled([past])
    # Then what runs is still held, until its own end is settled
    assert membership.current.held == {present.id: present}
    membership.settled([present])
    assert membership.current.held == {}


def test_whoever_learns_of_the_end_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    membership = Membership(on_renew=lambda: None)
    past = membership.current.id
    membership.renew(past)  # as the watchdog does, whose beat was the first to hear of it
    membership.renew(past)  # as the consumer does
    assert caplog.text.count("going on as a new incarnation") == 1
    assert not membership.is_current(past)
