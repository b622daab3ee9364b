"""Task: what a declaration and a call may be; nothing here needs a server."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from greenworker.app import App
from greenworker.backoff import Backoff
from greenworker.errors import (
    BadArguments,
    ConfigError,
    DeclarationError,
    GreenworkerError,
    NotEncodable,
    PayloadTooLarge,
)
from greenworker.message import Message, encode_body
from tests.support.process import environment


class FakeClient:
    """Keeps what would be sent, once it has been encoded as for the wire."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.ignored: list[str] = []

    def send(self, message: Message) -> str:
        encode_body(message)
        self.messages.append(message)
        return message.id

    def send_many(
        self, messages: Iterable[Message], note: Callable[[str], object], seen: str = ""
    ) -> int:
        before = len(self.messages)
        for message in messages:
            self.send(message)
            note(message.id)
        return len(self.messages) - before

    def result(self, id: str, ignored: str = "") -> str:
        self.ignored.append(ignored)
        return id

    def results(self, ids: list[str], ignored: str = "") -> list[str]:
        self.ignored.append(ignored)
        return ids


class Nowhere(tzinfo):
    """A time zone that says nothing: datetimes with it are naive (Python's own words)."""

    def utcoffset(self, _: datetime | None) -> None:
        return None


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def app(client: FakeClient) -> App:
    app = App("redis://nowhere:1")
    app._client = client  # type: ignore[assignment]
    return app


# Calling


def test_calling_a_task_runs_it_here(app: App, client: FakeClient) -> None:
    @app.task
    def double(n: int) -> int:
        """Twice as much."""
        return 2 * n

    assert double(4) == 8
    assert double.__doc__ == "Twice as much."
    assert double.__name__ == "double"
    assert client.messages == []


def test_delay_sends_the_call_with_the_options_of_the_task(app: App, client: FakeClient) -> None:
    @app.task(name="shop.mail", queue="slow", priority=7, expires=60, result_ttl=10)
    def mail(to: str, *, copy: bool = False) -> None: ...

    result = mail.delay("a@b", copy=True)
    (message,) = client.messages
    assert result == message.id
    assert message == Message(
        message.id, "shop.mail", ("a@b",), {"copy": True}, {}, "slow", 7, 10, None, 60
    )
    assert len(message.id) == 32


def test_apply_async_overrides_the_options(app: App, client: FakeClient) -> None:
    @app.task
    def mail(to: str) -> None: ...

    eta = datetime.now(UTC) + timedelta(hours=1)
    mail.apply_async(["a"], countdown=5, expires=eta, queue="q", priority=0, id="m", result_ttl=3)
    mail.apply_async((), {"to": "b"}, eta=eta)
    first, second = client.messages
    assert first == Message("m", mail.name, ("a",), {}, {}, "q", 0, 3, 5, eta)
    assert (second.kwargs, second.due) == ({"to": "b"}, eta)


def test_a_task_that_ignores_its_result_keeps_none(app: App, client: FakeClient) -> None:
    @app.task(name="t", ignore_result=True)
    def task() -> None: ...

    task.delay()
    assert client.messages[0].result_ttl == 0
    assert client.ignored == ["t"]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1,), {}), ((1, 2, 3, 4), {"c": 1}), ((1, 2), {"b": 1}), ((1, 2), {"x": 1})],
)
def test_a_call_that_does_not_fit_fails_where_it_is_made(
    app: App, client: FakeClient, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    @app.task(name="t")
    def task(a: int, b: int, c: int = 0) -> None: ...

    with pytest.raises(BadArguments, match=r"^t\(a: 'int', b: 'int', c: 'int' = 0\) -> 'None': "):
        task.delay(*args, **kwargs)
    with pytest.raises(TypeError):
        task.apply_async(args, kwargs)
    assert client.messages == []


def test_every_kind_of_parameter_is_checked(app: App, client: FakeClient) -> None:
    @app.task(name="t")
    def keyword(*, must: int) -> None: ...

    @app.task(name="u")
    def anything(first: int, /, *rest: int, **more: int) -> None: ...

    keyword.delay(must=1)
    anything.delay(1, 2, 3, x=4, first=5)
    for wrong in (lambda: keyword.delay(), lambda: keyword.delay(1), lambda: anything.delay()):
        with pytest.raises(BadArguments):
            wrong()
    assert len(client.messages) == 2


def test_bind_passes_the_run_so_a_caller_does_not(app: App, client: FakeClient) -> None:
    @app.task(bind=True, name="t")
    def task(run: Any, n: int) -> None: ...

    task.delay(1)
    assert client.messages[0].args == (1,)
    with pytest.raises(BadArguments):
        task.delay(1, 2)
    with pytest.raises(DeclarationError, match="take one"):

        @app.task(bind=True)
        def taker() -> None: ...


def test_an_argument_that_cannot_travel_is_named(app: App, client: FakeClient) -> None:
    @app.task(name="t")
    def task(a: Any, b: Any = None) -> None: ...

    with pytest.raises(NotEncodable, match=r"^argument 'b' of t cannot be encoded: .*set"):
        task.delay(1, {2})
    with pytest.raises(PayloadTooLarge, match="store the data elsewhere"):
        task.delay("x" * 1_000_001)
    deep: list[Any] = []
    for _ in range(198):
        deep = [deep]
    # 199 levels, and two more in the body: on its own it could travel.
    with pytest.raises(NotEncodable, match=r"^argument 'b' of t cannot be encoded: .*deeper"):
        task.delay(1, deep)
    assert client.messages == []


@pytest.mark.parametrize(
    ("options", "mend"),
    [
        ({"countdown": 1, "eta": datetime.now(UTC)}, "not both"),
        ({"countdown": -1}, "give seconds"),
        ({"countdown": "1"}, "give seconds"),
        ({"countdown": float("nan")}, "give seconds"),
        ({"countdown": float("inf")}, "give seconds"),
        ({"countdown": 1e9}, "0 or more, and below 1e9"),
        ({"countdown": 10**400}, "0 or more, and below 1e9"),
        ({"eta": 5}, "countdown="),
        ({"eta": datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001
        ({"expires": datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001
        ({"expires": -1}, "give seconds"),
        ({"priority": 10}, "0 to 9"),
        ({"priority": True}, "0 to 9"),
        ({"queue": "a b"}, "letters, digits"),
        ({"id": "a b"}, "letters, digits"),
        ({"id": ""}, "letters, digits"),
        ({"expires": datetime.max.replace(tzinfo=UTC)}, "too far away"),
        ({"eta": datetime(2026, 1, 1, tzinfo=Nowhere())}, "no time zone"),
        ({"eta": datetime.max.replace(tzinfo=UTC)}, "too far away"),
        ({"result_ttl": -1}, "give seconds"),
        ({"result_ttl": 0}, "ignore_result=True"),
    ],
)
def test_options_of_a_call_are_refused_with_the_mend(
    app: App, client: FakeClient, options: dict[str, Any], mend: str
) -> None:
    @app.task
    def task() -> None: ...

    with pytest.raises((BadArguments, ConfigError), match=mend):
        task.apply_async(**options)
    assert client.messages == []


# Many at once


def test_delay_many_takes_tuples_and_dicts(app: App, client: FakeClient) -> None:
    @app.task
    def task(a: int, b: int = 0) -> None: ...

    ids = task.delay_many([(1,), (1, 2), [3], {"a": 4}])
    assert [(message.args, message.kwargs) for message in client.messages] == [
        ((1,), {}),
        ((1, 2), {}),
        ((3,), {}),
        ((), {"a": 4}),
    ]
    assert ids == [message.id for message in client.messages]
    assert task.delay_many(((n,) for n in range(3)), results=False) == 3


@pytest.mark.parametrize("items", ["http://a/", b"ab", {"a": 1}])
def test_delay_many_refuses_what_is_one_item(app: App, client: FakeClient, items: Any) -> None:
    @app.task
    def task(a: str) -> None: ...

    with pytest.raises(BadArguments, match="takes an iterable of argument tuples"):
        task.delay_many(items)
    assert client.messages == []


@pytest.mark.parametrize("item", ["http://a/", 1, None])
def test_delay_many_refuses_an_item_that_is_no_call(
    app: App, client: FakeClient, item: Any
) -> None:
    @app.task
    def task(a: str) -> None: ...

    # Its type alone: an argument may be a secret, and errors are logged.
    with pytest.raises(BadArguments, match=r"for one argument write \(item,\)") as caught:
        task.delay_many([item])
    assert f"an item is a {type(item).__name__}" in str(caught.value)
    assert repr(item) not in str(caught.value).replace("NoneType", "")


# Declaring


@pytest.mark.parametrize(
    ("options", "mend"),
    [
        ({"retires": 3}, "no option 'retires'"),
        ({"retries": -1}, "a number from 0 on"),
        ({"retries": True}, "a number from 0 on"),
        ({"retries": 1.5}, "a number from 0 on"),
        ({"timeout": -1}, "give seconds"),
        ({"timeout": "5"}, "give seconds"),
        ({"timeout": float("nan")}, "give seconds"),
        ({"expires": -1}, "give seconds"),
        ({"result_ttl": 0}, "ignore_result=True"),
        ({"ignore_result": "no"}, "give True or False"),
        ({"bind": 1}, "give True or False"),
        ({"sensitive": 1}, "give True or False"),
        ({"name": 5}, "give up to 1,000 printable"),
        ({"name": "two\nlines"}, "give up to 1,000 printable"),
        ({"priority": 10}, "0 to 9"),
        ({"priority": "high"}, "0 to 9"),
        ({"queue": "a b"}, "letters, digits"),
        ({"backoff": "2"}, r"greenworker\.Backoff"),
        ({"retry_for": "IOError"}, "give exception types"),
        ({"retry_for": [1]}, "give exception types"),
        ({"retry_for": int}, "give exception types"),
        ({"retry_for": None}, "retry_for"),
        ({"no_retry_for": [OSError, 1]}, "no_retry_for=.*: give exception types"),
        ({"backoff": []}, "at least one"),
        ({"backoff": [1, -1]}, "seconds from 0 on"),
        ({"soft_timeout": 0}, "above 0"),
        ({"soft_timeout": "5"}, "give seconds"),
        ({"soft_timeout": 5, "timeout": 5}, "below its timeout"),
    ],
)
def test_options_of_a_task_are_refused_with_the_mend(
    app: App, options: dict[str, Any], mend: str
) -> None:
    with pytest.raises(ConfigError, match=mend):

        @app.task(**options)
        def task() -> None: ...

    assert app.tasks == {}


def test_short_forms_of_options(app: App) -> None:
    @app.task(backoff=2, retry_for=OSError)
    def one() -> None: ...

    @app.task(retry_for=[OSError, KeyError])
    def two() -> None: ...

    assert one.options.backoff == Backoff(base=2.0)
    assert one.options.retry_for == (OSError,)
    assert two.options.retry_for == (OSError, KeyError)


def test_what_is_no_plain_function_is_refused(app: App) -> None:
    async def coroutine() -> None: ...

    async def generator() -> Any:
        yield 1

    for function in (coroutine, generator):
        with pytest.raises(DeclarationError, match="is async: greenworker runs plain functions"):
            app.task(function)
    with pytest.raises(DeclarationError, match="options need names"):
        app.task("high")  # type: ignore[call-overload]


def test_what_has_no_name_or_no_signature_is_refused(app: App) -> None:
    nameless = functools.partial(sorted, reverse=True)
    with pytest.raises(DeclarationError, match="give it name="):
        app.task(nameless)
    with pytest.raises(DeclarationError, match=r"builtins\.type: no signature"):
        app.task(type)
    assert app.task(name="t")(nameless)([1, 2]) == [2, 1]


def test_two_tasks_of_one_name_are_refused(app: App) -> None:
    @app.task(name="t")
    def one() -> None: ...

    with pytest.raises(DeclarationError, match="two tasks are called t; give one of them"):

        @app.task(name="t")
        def two() -> int:
            return 1

    assert app.tasks["t"] is one


def test_a_module_that_is_imported_twice_declares_its_tasks_again(app: App) -> None:
    def declare() -> Any:
        @app.task(name="t")
        def task() -> None: ...

        return task

    declare()
    assert app.tasks["t"] is not None
    again = declare()
    assert app.tasks["t"] is again


@pytest.mark.parametrize("connections", [0, -1, 2.5, "4"])
def test_an_app_needs_a_connection(connections: Any) -> None:
    with pytest.raises(ConfigError, match="give a whole number from 1 on"):
        App("redis://nowhere:1", connections=connections)


@pytest.mark.parametrize("patience", [0, -1.0, float("nan"), float("inf"), 300, "5"])
def test_patience_ends_while_a_repeat_is_still_known_as_one(patience: Any) -> None:
    with pytest.raises(ConfigError, match="give seconds above 0 and below 300"):
        App("redis://nowhere:1", patience=patience)


def test_queues_are_those_of_the_tasks_and_the_default(app: App) -> None:
    @app.task(queue="slow")
    def task() -> None: ...

    assert app.queues() == ["default", "slow"]


# Names


def test_a_task_is_called_as_it_would_be_imported(app: App) -> None:
    @app.task
    def task() -> None: ...

    here = "tests.unit.test_task.test_a_task_is_called_as_it_would_be_imported.<locals>.task"
    assert task.name == here


@pytest.mark.parametrize(
    ("script", "call", "name"),
    [
        ("crawl.py", ["crawl.py"], "crawl.fetch"),
        ("shop/mail.py", ["shop/mail.py"], "shop.mail.fetch"),
        ("shop/mail.py", ["-m", "shop.mail"], "shop.mail.fetch"),
        ("shop/__main__.py", ["-m", "shop"], "shop.fetch"),
        ("not-a-name.py", ["not-a-name.py"], "__main__.fetch"),
    ],
)
def test_the_tasks_of_a_script_are_called_as_a_worker_would_import_them(
    tmp_path: Path, script: str, call: list[str], name: str
) -> None:
    path = tmp_path / script
    path.parent.mkdir(exist_ok=True)
    path.write_text("import greenworker\napp = greenworker.App()\n"
                    "@app.task\ndef fetch(): ...\nprint(fetch.name)\n")  # fmt: skip
    ended = subprocess.run(
        [sys.executable, *call],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == f"{name}\n", ended.stderr


def test_what_no_worker_can_import_is_not_sent(app: App, client: FakeClient) -> None:
    @app.task(name="__main__.fetch")
    def fetch(n: int) -> None: ...

    for send in (lambda: fetch.delay(1), lambda: fetch.delay_many([(1,)])):
        with pytest.raises(GreenworkerError, match="move the task into a module"):
            send()
    assert client.messages == []
