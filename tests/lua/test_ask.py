"""ask, answer, answers: what people ask all workers, and what is kept of what they say."""

from __future__ import annotations

import pytest

from greenworker.control import Control
from greenworker.errors import BrokerError
from tests.support.state import Space


@pytest.fixture
def control(space: Space) -> Control:
    return Control(space.broker._link, space.broker.namespace)


def answers(control: Control, asked: int, *workers: str) -> dict[str, bytes]:
    return dict(control.answers(asked, workers))


def test_those_that_live_are_asked_and_answer_this_question(space: Space, control: Control) -> None:
    space.run("a", "m")
    space.register("b")
    space.register("dead")
    space.redis.zadd(space.key("workers"), {"dead": 1})
    assert control.question() == b""
    asked, workers = control.ask(5)
    assert {worker.id: worker.running for worker in workers} == {"a": 1, "b": 0}
    question = control.question()
    assert question == b"%d 5" % asked
    assert space.broker.promote().asked == question
    assert control.answer("a", question, b"{}")
    assert not control.answer("nobody", question, b"{}")
    assert answers(control, asked, "a", "b", "nobody") == {"a": b"{}"}
    # An answer to what was asked before is none
    assert answers(control, asked + 1, "a") == {}


def test_of_two_questions_the_later_one_stands_and_serves_both(control: Control) -> None:
    first, _ = control.ask(50)
    second, _ = control.ask(5)
    assert control.question() == b"%d 50" % second
    assert second >= first


def test_both_are_forgotten_soon(space: Space, control: Control) -> None:
    space.register("a")
    control.ask(5)
    control.answer("a", control.question(), b"{}")
    for key in ("asked", "running:a"):
        assert 0 < space.redis.pttl(space.key(key)) <= 10_000
    # Who waits for longer may be answered later
    control.ask(5, timeout=60)
    assert 10_000 < space.redis.pttl(space.key("asked")) <= 60_000
    space.check()


def test_many_large_answers_come_in_several_calls(space: Space, control: Control) -> None:
    workers = [f"w{n}" for n in range(6)]
    asked, _ = control.ask(5)
    for worker in workers:
        space.register(worker)
        control.answer(worker, control.question(), b"x" * 1_500_000)
    assert list(answers(control, asked, *workers)) == workers


def test_what_is_damaged_refuses_no_question(space: Space, control: Control) -> None:
    space.register("a", "b")
    space.redis.set(space.key("processing:a"), "x")
    assert len(control.ask(5)[1]) == 2
    for key in ("workers", "about", "asked"):
        space.redis.delete(space.key(key))
        space.redis.rpush(space.key(key), "x")
        before = space.redis.exists(space.key("asked"))
        with pytest.raises(BrokerError, match=f"{key} is a list"):
            control.ask(5)
        assert space.redis.exists(space.key("asked")) == before
        space.redis.delete(space.key(key))
