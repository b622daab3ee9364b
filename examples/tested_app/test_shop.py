"""How the shop's tasks are tested: shop.py says how to run it."""

import unittest
from datetime import UTC, datetime

import pytest
import shop


@pytest.fixture(autouse=True)
def mails(monkeypatch):
    monkeypatch.setattr(shop, "mails", mails := [])
    monkeypatch.setattr(shop, "bank", lambda order, cents: f"#{order}")
    return mails


def test_a_charge_runs_where_it_is_sent(greenworker_sent, mails):
    assert shop.charge.delay(17, 4200).get() == "#17"
    assert mails == ["17: paid: #17"]
    # What was sent, and by whom; what is delayed has not run.
    charge, receipt, question = greenworker_sent
    assert receipt.sender == question.sender == charge.id
    assert greenworker_sent.waiting == [question]
    assert question.countdown == 7 * 86400
    # Time passes when it is told to.
    greenworker_sent.drain(days=7)
    assert mails[-1] == "17: how was it?"


def test_a_bank_that_is_away(greenworker_sent, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ConnectionError, match="no bank here"):  # the task's own error
        shop.charge.delay(17, 4200)
    assert [ran.delay for ran in greenworker_sent.retries] == [10, 60, 600]
    assert not greenworker_sent.of(shop.mail)


@pytest.mark.greenworker(errors="keep")
def test_nothing_to_pay(greenworker_sent):
    assert shop.charge.delay(18, 0).failed()
    (letter,) = greenworker_sent.dead
    assert (letter.reason, letter.message) == ("rejected", "nothing to pay")


# The same on a real server, with the scripts that run in production.


def test_on_a_server(greenworker_drain, mails):
    result = shop.charge.delay(19, 100)
    assert (result.state, mails) == ("PENDING", [])
    assert [ran.task for ran in greenworker_drain()] == ["shop.charge", "shop.mail"]
    assert result.get() == "#19"
    assert greenworker_drain(days=6)[-1].task == "shop.report"
    greenworker_drain(days=1)
    assert "19: how was it?" in mails


@pytest.mark.greenworker(at=datetime(2026, 3, 23, 8, 30, tzinfo=UTC))
def test_mondays_at_nine_in_berlin(greenworker_drain, greenworker_clock):
    # The first Monday is over: it is half past nine there. Then clocks change.
    (ran,) = greenworker_drain(days=7)
    assert ran.id == "shop.report@2026-03-30T07:00:00Z"
    # A downtime of a month: one report for all that were missed.
    greenworker_clock.move(days=30)
    assert len(greenworker_drain()) == 1


class WithoutPytest(unittest.TestCase):
    def test_a_mail(self):
        with shop.app.testing() as sent:
            shop.mail.delay(20, "hello")
        assert sent[0].args == (20, "hello")
