"""Middleware around sends: its order, what it may change, and that there is nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from greenworker import App, Message, Middleware
from greenworker.errors import BadArguments, ConfigError, NotEncodable, ResultGone
from greenworker.message import State
from greenworker.middleware import compose, runs, sends

Next = Callable[[Message], Any]


class Noting(Middleware):
    """Notes when it is passed, on the way in and on the way out."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def send(self, message: Message, call_next: Next) -> None:
        self.notes.append(f"{self.name} in")
        call_next(message)
        self.notes.append(f"{self.name} out")


class Changing(Middleware):
    """Sends something else in a message's place."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def send(self, message: Message, call_next: Next) -> None:
        call_next(replace(message, **self.changes))


class Dropping(Middleware):
    def send(self, message: Message, call_next: Next) -> None:
        if message.args != (1,):
            call_next(message)


class OnlyRuns(Middleware):
    def run(self, message: Message, call_next: Next) -> Any:
        return call_next(message)


def app_with(url: str, namespace: str, *middleware: Middleware) -> Any:
    app = App(url, namespace=namespace, middleware=middleware)

    @app.task(name="t")
    def t(n: int = 0) -> None: ...

    return app


def test_the_first_is_the_outermost(url: str, namespace: str) -> None:
    notes: list[str] = []
    app = app_with(url, namespace, Noting("a", notes), Noting("b", notes))
    app.middleware(Noting("c", notes))
    sent = app.tasks["t"].delay(1)
    assert notes == ["a in", "b in", "c in", "c out", "b out", "a out"]
    assert sent.state is State.PENDING
    app.close()


def test_without_any_nothing_is_between_a_call_and_its_push(url: str, namespace: str) -> None:
    for middleware in ((), (OnlyRuns(),)):
        client = app_with(url, namespace, *middleware).client
        assert client.send == client._send
        assert client._step is None


def test_one_alone_is_called_directly() -> None:
    one, other = Dropping(), OnlyRuns()
    assert sends([one, other]) == one.send
    assert runs([one, other]) == other.run
    assert compose([]) is None


def test_headers_travel_and_arguments_are_what_was_made_of_them(url: str, namespace: str) -> None:
    app = app_with(
        url, namespace, Changing(headers={"trace": "1"}, args=(7,), queue="slow", priority=9)
    )
    app.tasks["t"].delay(1)
    app.tasks["t"].delay_many([(2,), (3,)])
    assert app.status().waiting == 3
    ids = app.client.pool.execute("LRANGE", f"gw:{{{namespace}}}:ready:slow:9", 0, -1)
    assert len(ids) == 3
    envelope = app.client.pool.execute("HGET", f"gw:{{{namespace}}}:msg", ids[0])
    assert envelope.endswith(b'[[7],{},{"trace":"1"}]')
    app.close()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"id": "other"}, "nothing else"),
        ({"task": "other"}, "nothing else"),
        ({"result_ttl": 1.0}, "nothing else"),
        ({"options": {"x": "y"}}, "nothing else"),
        ({"queue": "a b"}, "queue 'a b'"),
        ({"priority": 10}, "priority 10"),
        ({"priority": True}, "priority True"),
        # What a worker could only bury
        ({"args": None}, "args is a NoneType: give a list or a tuple"),
        ({"args": "ab"}, "args is a str"),
        ({"kwargs": [1]}, "kwargs is a list: give a dict"),
        ({"headers": None}, "headers is a NoneType: give a dict"),
    ],
)
def test_what_may_not_be_changed_refuses_the_send(
    url: str, namespace: str, change: dict[str, Any], told: str
) -> None:
    app = app_with(url, namespace, Changing(**change))
    with pytest.raises(ConfigError, match=told):
        app.tasks["t"].delay(1)
    with pytest.raises(ConfigError, match=told) as many:
        app.tasks["t"].delay_many([(1,)])
    assert many.value.sent == 0
    assert app.status().waiting == 0
    app.close()


def test_what_is_no_message_refuses_the_send(url: str, namespace: str) -> None:
    class Forgetful(Middleware):
        def send(self, message: Message, call_next: Next) -> None:
            call_next(None)  # type: ignore[arg-type]

    app = app_with(url, namespace, Forgetful())
    with pytest.raises(ConfigError, match="call_next with a NoneType: give it the message"):
        app.tasks["t"].delay(1)
    app.close()


def test_an_error_refuses_the_send_and_is_raised_there(url: str, namespace: str) -> None:
    class Refusing(Middleware):
        def send(self, message: Message, call_next: Next) -> None:
            if message.args == (3,):
                raise PermissionError("not for you")
            call_next(message)

    app = app_with(url, namespace, Refusing())
    with pytest.raises(PermissionError, match="not for you"):
        app.tasks["t"].delay(3)
    with pytest.raises(PermissionError) as many:
        app.tasks["t"].delay_many([(1,), (2,), (3,), (4,)])
    assert many.value.__notes__ == ["0 messages had been sent before"]
    assert app.status().waiting == 0
    # What cannot travel is still told by the argument's name, and what does not fit at the call
    with pytest.raises(NotEncodable, match="argument 'n' of t"):
        app.tasks["t"].delay(object())
    with pytest.raises(BadArguments):
        app.tasks["t"].delay(1, 2)
    app.close()


def test_without_call_next_nothing_is_sent(url: str, namespace: str) -> None:
    app = app_with(url, namespace, Dropping())
    with pytest.raises(ResultGone):
        app.tasks["t"].delay(1).get(timeout=5)
    many = app.tasks["t"].delay_many([(0,), (1,), (2,)])
    assert len(many) == 2
    assert app.tasks["t"].delay_many([(1,), (1,)], results=False) == 0
    assert app.status().waiting == 2
    app.close()


def test_a_send_may_be_put_off_and_one_of_many_may_not(url: str, namespace: str) -> None:
    later: list[Callable[[], None]] = []

    class PuttingOff(Middleware):
        def send(self, message: Message, call_next: Next) -> None:
            later.append(lambda: call_next(message))

    app = app_with(url, namespace, PuttingOff())
    sent = app.tasks["t"].delay(1)
    assert app.status().waiting == 0
    later.pop()()
    assert sent.state is State.PENDING
    assert app.tasks["t"].delay_many([(1,), (2,)], results=False) == 0
    for call in later:
        with pytest.raises(ConfigError, match="too late"):
            call()
    assert app.status().waiting == 1
    app.close()


def test_what_is_no_middleware_is_refused() -> None:
    class Empty(Middleware):
        pass

    class Misspelt(Middleware):
        def on_shut_down(self, worker: Any) -> None: ...

    with pytest.raises(ConfigError, match="make one, OnlyRuns"):
        App(middleware=[OnlyRuns])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="subclasses of Middleware"):
        App(middleware=[print])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="give a list of them"):
        App(middleware=OnlyRuns())  # type: ignore[arg-type]
    for kind in (Empty, Misspelt, Middleware):
        with pytest.raises(ConfigError, match="none of send, run, on_start, on_quiet, on_shutdown"):
            App().middleware(kind())


def test_it_comes_before_the_app_is_used(url: str, namespace: str) -> None:
    app = app_with(url, namespace)
    app.status()
    with pytest.raises(ConfigError, match="comes late"):
        app.middleware(OnlyRuns())
    app.close()
