"""What a call is limited by: the task's own key, a call's, and what is refused; nothing here needs a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from greenworker.app import App
from greenworker.errors import BadArguments, DeclarationError
from greenworker.hosts import host
from greenworker.message import Delivery, Message, encode_tail
from greenworker.middleware import Middleware
from greenworker.task import Task


def declared(function: Callable[..., Any], **options: Any) -> Task[..., Any]:
    return App("redis://127.0.0.1:1").task(name="shop.fetch", **options)(function)


def fetch(url: str, depth: int = 1, *, force: bool = False) -> None: ...


def keys(task: Task[..., Any], *args: Any, **kwargs: Any) -> str | None:
    return task.message(args, kwargs).options.get("keys")


def test_a_plain_call_carries_nothing() -> None:
    task = declared(fetch)
    message = task.message(("u",))
    assert message.options == {}
    assert b"keys" not in encode_tail(message)
    # Not even a copy of it is made.
    assert task.message(("u",)).options is message.options


@pytest.mark.parametrize(
    "by",
    [
        pytest.param(lambda url, **_: "host:" + host(url), id="names, and the others as **_"),
        pytest.param(lambda *, url, **_: "host:" + host(url), id="only names"),
        pytest.param(lambda url, depth, force: "host:" + host(url), id="all names"),
        pytest.param(lambda u, *_, **__: "host:" + host(u), id="in their order"),
        pytest.param(lambda url, *_, **__: ["host:" + host(url)], id="a list"),
        pytest.param(lambda url, **_: ("host:" + host(url),) * 2, id="twice the same"),
    ],
)
def test_a_function_of_the_arguments(by: Callable[..., Any]) -> None:
    task = declared(fetch, key=by)
    assert keys(task, "http://A.example/x") == "host:a.example"
    assert keys(task, url="https://a.example:8443/", force=True, depth=3) == "host:a.example:8443"


def test_two_keys_in_their_order_or_none() -> None:
    task = declared(
        fetch, key=lambda url, depth, **_: None if depth == 0 else (url, f"depth:{depth}")
    )
    assert keys(task, "u") == "u,depth:1"
    assert keys(task, "u", 0) is None
    assert task.message(("u", 0)).options == {}


def test_a_task_that_takes_anything() -> None:
    def f(*names: str, **more: int) -> None: ...

    task = declared(f, key=lambda *names, **more: f"{names[0]}:{more['n']}")
    assert keys(task, "a", "b", n=5) == "a:5"

    def g(x: str, **more: int) -> None: ...

    assert keys(declared(g, key="x:{x}:{n}"), "a", n=5) == "x:a:5"
    with pytest.raises(
        BadArguments, match=r"shop.fetch: key='x:\{x\}:\{n\}': this call has no 'n'"
    ):
        keys(declared(g, key="x:{x}:{n}"), "a")


def test_a_bound_task_is_asked_of_what_is_sent() -> None:
    def f(run: Any, url: str) -> None: ...

    assert keys(declared(f, bind=True, key=lambda url: url), "a") == "a"


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("tenant:{url}", "tenant:u"),
        ("{url}/{depth}", "u/1"),
        ("{depth:03}", "001"),
        ("force:{force}", "force:False"),
        ("api", "api"),
        ("{{api}}", "{api}"),
    ],
)
def test_a_template_of_the_arguments(template: str, wanted: str) -> None:
    assert keys(declared(fetch, key=template), "u") == wanted


@pytest.mark.parametrize(
    ("by", "told"),
    [
        ("host:{host}", r"shop.fetch: key='host:\{host\}': there is no argument 'host'; there are url, depth, force"),
        ("{}", r"there is no argument ''"),
        ("{0}", r"there is no argument '0'"),
        ("{url.__class__}", r"there is no argument 'url.__class__'"),
        ("{url", r"shop.fetch: key='\{url': expected '\}' before end of string"),
        ("two words", r"shop.fetch: key 'two words': use 1 to 200 printable characters \(no blanks"),
        ("", r"shop.fetch: key '': use 1 to 200"),
        (5, r"shop.fetch: key=5: give a function of the arguments, or a template such as"),
        (("a", "b"), r"shop.fetch: key=\('a', 'b'\): give a function.*; for two keys, a function that returns a tuple"),
        ("host:{url},depth:{depth}", r"shop.fetch: key='host:\{url\},depth:\{depth\}': ',depth:' has what no key may have.*; for two keys, a function"),
        ("{url} x", r"key='\{url\} x': ' x' has what no key may have \(no blanks, no commas, no \*\)"),
        ("host:*{url}", r"'host:\*' has what no key may have"),
        ("x\n{url}", r"has what no key may have"),
        (lambda: "x", r"shop.fetch: key: its function takes \(\), and is called with all arguments of the task, \(.*let it take the others as \*\*_"),
        (lambda url: "x", r"its function takes \(url\)"),
    ],
)  # fmt: skip
def test_what_can_be_no_key_is_refused_where_it_is_declared(by: object, told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        declared(fetch, key=by)


def test_a_coroutine_is_no_key() -> None:
    async def by(url: str, **_: Any) -> str:
        return url

    with pytest.raises(DeclarationError, match=r"is async: give a plain function"):
        declared(fetch, key=by)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ("two words", r"shop.fetch: key 'two words': use 1 to 200 printable characters"),
        (5, r"shop.fetch: key 5: give a text, or a tuple of up to 2"),
        ("", r"shop.fetch: key '': use"),
        ("a,b", r"shop.fetch: key 'a,b': use"),
        ("host:*", r"shop.fetch: key 'host:\*': use"),
        (("a", "b", "c"), r"shop.fetch: key \('a', 'b', 'c'\): a message has at most 2"),
        (("a", None), r"shop.fetch: key None: use"),
        (b"a", r"shop.fetch: key b'a': give a text"),
        (False, r"shop.fetch: key False: give a text"),
        ("x" * 201, r"shop.fetch: key 'x+…: use"),
    ],
)
def test_junk_refuses_the_send(found: object, told: str) -> None:
    task = declared(fetch, key=lambda **_: found)
    with pytest.raises(BadArguments, match=told):
        task.message(("u",))
    with pytest.raises(BadArguments, match=told):
        declared(fetch).message(("u",), key=found)  # type: ignore[arg-type]


def test_a_function_that_raises_refuses_the_send() -> None:
    task = declared(fetch, key=lambda url, **_: "host:" + host(url))
    with pytest.raises(
        BadArguments,
        match=r"^shop.fetch: key: its function raised BadArguments: host\('nowhere'\): give an absolute URL",
    ) as caught:
        task.delay("nowhere")
    assert isinstance(caught.value.__cause__, BadArguments)
    with pytest.raises(BadArguments, match=r"shop.fetch: key='\{depth:d\}': ValueError: Unknown"):
        declared(fetch, key="{depth:d}").message(("u", "x"))


def test_a_call_has_its_own_instead() -> None:
    task = declared(fetch, key="host:{url}", tags=["t"])
    assert task.message(("u",)).options == {"tags": "t", "keys": "host:u"}
    assert task.message(("u",), key="x").options == {"tags": "t", "keys": "x"}
    assert task.message(("u",), key=("x", "y"), tags=["s"]).options == {"tags": "t,s", "keys": "x,y"}  # fmt: skip
    assert task.message(("u",), key=()).options == {"tags": "t"}
    # Its own is not asked: a call that it cannot name can be sent still.
    assert declared(fetch, key=lambda **_: 1 / 0).message(("u",), key="x").options == {"keys": "x"}


def test_a_unique_call_stays_unique_with_tags_and_a_key() -> None:
    task = declared(fetch, unique=True)
    note = task.message(("u",)).options["unique"]
    options = task.message(("u",), tags=["a"], key="k").options
    assert options == {"tags": "a", "keys": "k", "unique": note}


def test_many_have_each_their_own() -> None:
    app = App("redis://127.0.0.1:1")
    task = app.task(name="t", key="host:{url}")(fetch)
    with app.testing() as sent:
        task.delay_many([("a",), {"url": "b"}, ("a", 2)])
        task.apply_async(("c",), key=("x", "y"))
        task.apply_async(("c",), key=())
    assert [one.keys for one in sent] == [("host:a",), ("host:b",), ("host:a",), ("x", "y"), ()]


def test_of_many_the_one_that_has_none_is_told_and_how_many_were_sent() -> None:
    app = App("redis://127.0.0.1:1")
    task = app.task(name="t", key=lambda url, **_: "host:" + host(url))(fetch)
    items = [(f"http://h{n}/",) for n in range(1500)]
    with app.testing() as sent:
        with pytest.raises(BadArguments) as caught:
            task.delay_many([*items, ("mailto:ann",), *items])
        assert str(caught.value) == (
            "t.delay_many: item 1500: t: key: its function raised BadArguments: host('mailto:ann'): give an absolute URL, "
            "as in https://example.com/; for no key it returns None; 1,000 before it were sent, and no other: "
            "leave it out"
        )
        assert (caught.value.item, caught.value.sent, len(sent)) == (1500, 1000, 1000)
        assert isinstance(caught.value.__cause__, BadArguments)
    with app.testing() as sent:
        with pytest.raises(BadArguments, match=r"; none was sent: leave it out$"):
            task.delay_many([items[0], ("mailto:ann",)], results=False)
        with pytest.raises(BadArguments, match=r"t.delay_many: item 0: t\(url.*; none was sent"):
            task.delay_many([()])
        # Of the caller's own iterable nobody knows which one it was.
        with pytest.raises(BadArguments, match=r"^host\('mailto:ann'\): give") as caught:
            task.delay_many((url, host(url)) for url in ("http://a/", "mailto:ann"))
        assert caught.value.item is None
        assert not sent


def test_nor_what_a_filter_cannot_name() -> None:
    app = App("redis://127.0.0.1:1")
    task = app.task(name="t")(fetch)
    seen = app.seen("crawl", by=lambda url, *_, **__: host(url))
    with app.testing() as sent:
        with pytest.raises(BadArguments, match=r"^t.delay_many: item 1: .*host\('mailto:ann'\).*; none was sent") as caught:  # fmt: skip
            task.delay_many([("http://a/",), ("mailto:ann",)], seen=seen)
        assert caught.value.sent == len(sent) == 0
        assert task.delay_many([("http://a/",)], seen=seen, results=False) == 1, "nor was it marked"


def test_before_any_middleware() -> None:
    class Other(Middleware):
        def send(self, message: Message, call_next: Callable[[Message], None]) -> None:
            from dataclasses import replace

            call_next(replace(message, args=("other",)))

    app = App("redis://127.0.0.1:1", middleware=[Other()])
    task = app.task(name="t", key="host:{url}")(fetch)
    with app.testing() as sent:
        task.delay("a")
    assert [(one.args, one.keys) for one in sent] == [(("other",), ("host:a",))]


def test_a_schedules_ticks_have_their_tasks() -> None:
    app = App("redis://127.0.0.1:1")
    task = app.task(name="t", key="host:{url}")(fetch)
    app.every(60, task, args=("a",))
    with app.testing() as sent:
        sent.drain(minutes=1)
    assert [one.keys for one in sent] == [("host:a",)]
    with pytest.raises(DeclarationError, match=r"bad: t: key 'host:a b': use 1 to 200"):
        app.every(60, task, args=("a b",), name="bad")


def envelope_of(**options: str) -> bytes:
    return b"1 0 0 5 0 0 " + encode_tail(Message("m", "t", args=[" keys=no "], options=options))


@pytest.mark.parametrize(
    ("envelope", "raw"),
    [
        (envelope_of(), b""),
        (envelope_of(keys="a"), b"a"),
        (envelope_of(tags="x", keys="ä,b", unique="dX"), b"%C3%A4%2Cb"),
        (b"1 0 0 5 0 0 0 default t keys=\n[1]", b""),
        (b"1 0 0 5 0 0 0 default t keys=a", b""),
        (b"", b""),
    ],
)
def test_a_delivery_knows_them_as_they_stand_there(envelope: bytes, raw: bytes) -> None:
    assert Delivery("m", 1, "w", envelope, 0.0).keys == raw
