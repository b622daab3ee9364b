"""What makes a call unique, and what is refused of it; nothing here needs a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from greenworker.app import App
from greenworker.errors import (
    BadArguments,
    BadSignature,
    ConfigError,
    DeclarationError,
    NotEncodable,
)
from greenworker.message import Delivery, decode, encode_tail
from greenworker.seen import mark_of
from greenworker.signing import Signer
from greenworker.task import Task
from greenworker.unique import encode_key


def declared(function: Callable[..., Any], **options: Any) -> Task[..., Any]:
    return App("redis://127.0.0.1:1").task(name="shop.fetch", **options)(function)


def note(task: Task[..., Any], *args: Any, **kwargs: Any) -> str:
    return task.message(args, kwargs).options["unique"]


def fetch(url: str, depth: int = 1, *, force: bool = False) -> None: ...


def test_calls_that_say_the_same_are_alike() -> None:
    task = declared(fetch, unique=True)
    one = note(task, "a", 1)
    assert one == note(task, "a") == note(task, url="a", force=False) == note(task, "a", depth=1)
    others = [
        note(task, "b"),
        note(task, "a", 2),
        note(task, "a", force=True),
        note(task, "a", "1"),
    ]
    assert len({one, *others}) == 5


def test_members_of_dicts_have_no_order() -> None:
    def f(x: Any, **more: Any) -> None: ...

    task = declared(f, unique=True)
    assert note(task, {"a": 1, "b": [2]}) == note(task, {"b": [2], "a": 1})
    assert note(task, 1, a=1, b=2) == note(task, 1, b=2, a=1) != note(task, 1, a=2, b=1)


def test_one_argument_counts_and_the_others_do_not() -> None:
    task = declared(fetch, unique="url")
    assert note(task, "a", 7) == note(task, "a", force=True) != note(task, "b", 7)
    by_default = declared(fetch, unique="depth")
    assert note(by_default, "a") == note(by_default, "b", 1)


def test_a_function_of_the_arguments_is_called_as_the_task_is() -> None:
    calls: list[Any] = []

    def by(url: str, depth: int, *, force: bool) -> tuple[str, int]:
        calls.append((url, depth, force))
        return url.lower(), depth

    task = declared(fetch, unique=by)
    assert note(task, url="A") == note(task, "a", 1) != note(task, "a", 2)
    assert calls == [("A", 1, False), ("a", 1, False), ("a", 2, False)]


def test_a_bound_task_is_compared_by_what_is_sent() -> None:
    def f(run: Any, url: str) -> None: ...

    task = declared(f, bind=True, unique=True)
    assert note(task, "a") == note(task, url="a") != note(task, "b")


def test_two_tasks_have_nothing_in_common() -> None:
    app = App("redis://127.0.0.1:1")
    one, other = (app.task(name=name, unique="url")(fetch) for name in ("one", "other"))
    assert note(one, "a") != note(other, "a")


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({}, "d"),
        ({"unique_until": "done"}, "d"),
        ({"unique_until": "started"}, "s"),
        ({"on_conflict": "replace"}, "r"),
        ({"on_conflict": "replace", "unique_until": "started"}, "r"),
        ({"unique_for": 1.5}, "f1500."),
        ({"unique_for": 0.0012}, "f2."),
    ],
)
def test_how_long_it_is_unique_is_told_in_the_head(options: dict[str, Any], mode: str) -> None:
    plain = note(declared(fetch, unique=True), "a")[1:]
    assert note(declared(fetch, unique=True, **options), "a") == mode + plain
    assert len(plain) == 22


def test_a_plain_task_says_nothing_of_it() -> None:
    message = declared(fetch).message(("a",))
    assert (message.options, message.mark) == ({}, None)


def test_what_is_noted_is_signed_and_found_again() -> None:
    message = replace(declared(fetch, unique="url").message(("a",)), id="m")
    signer = Signer(["a key of sixteen"], "shop")
    envelope = b"1 0 0 5 1700000000000 0 " + signer.sign("m", encode_tail(message))
    signer.verify("m", envelope)
    assert Delivery("m", 1, "w", envelope, 0.0).lock.decode() == message.options["unique"][1:]
    assert decode("m", envelope).options["unique"] == message.options["unique"]
    with pytest.raises(BadSignature):
        signer.verify("m", envelope.replace(b"unique=d", b"unique=s"))


@pytest.mark.parametrize(
    "envelope",
    [b"", b"x", b"1 0 0 5 1 0 0 q t\n unique=dx", b"1 0 0 5 1 0 0 q t unique=sx\n", b" unique=d"],
)
def test_an_envelope_that_notes_no_lock_until_done(envelope: bytes) -> None:
    assert Delivery("m", 1, "w", envelope, 0.0).lock == b""


# Refused


async def later(url: str, depth: int, *, force: bool) -> str:
    return url


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"unique": "uri"}, "unique='uri': there is no such argument; there are url, depth, force"),
        ({"unique": 1}, "give True, the name of an argument, or a function"),
        ({"unique": None}, "give True, the name of an argument, or a function"),
        ({"unique": ["url"]}, "give True, the name of an argument, or a function"),
        ({"unique": later}, "is async: give a plain function"),
        ({"unique": lambda url: url}, "takes (url), and is called with all arguments"),
        ({"unique": True, "unique_until": "end"}, "unique_until='end': give 'done' or 'started'"),
        ({"unique": True, "unique_for": 0}, "unique_for=0: give seconds above 0"),
        ({"unique": True, "unique_for": -1.0}, "give seconds above 0"),
        ({"unique": True, "unique_for": True}, "give seconds above 0"),
        ({"unique": True, "unique_for": float("inf")}, "give seconds above 0"),
        ({"unique": True, "unique_for": float("nan")}, "give seconds above 0"),
        ({"unique": True, "unique_for": "60"}, "give seconds above 0"),
        ({"unique": True, "on_conflict": "drop"}, "on_conflict='drop': give 'keep' or 'replace'"),
        ({"unique": True, "unique_for": 5, "unique_until": "done"}, "not both"),
        ({"unique": True, "unique_for": 5, "on_conflict": "replace"}, "leave out unique_for"),
        (
            {"unique": True, "unique_until": "done", "on_conflict": "replace"},
            "what runs cannot be replaced",
        ),
        ({"unique_until": "done"}, "unique_until= says nothing without unique="),
        ({"unique_for": 5}, "unique_for= says nothing without unique="),
        ({"on_conflict": "replace"}, "on_conflict= says nothing without unique="),
    ],
)
def test_a_declaration_that_makes_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        declared(fetch, **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_without_arguments_has_none_to_name() -> None:
    with pytest.raises(DeclarationError, match="there is no such argument; it takes none"):
        declared(lambda: None, unique="url")
    assert note(declared(lambda: None, unique=True))


@pytest.mark.parametrize(
    "junk", [None, "", float("nan"), object(), {"a": 1}, b"x", (), ("a", None)]
)
def test_a_function_that_returns_junk(junk: Any) -> None:
    task = declared(fetch, unique=lambda *_, **__: junk)
    with pytest.raises(
        BadArguments, match=r"unique returned .*: return a text, a number, or a tuple"
    ):
        task.message(("a",))


def test_a_function_that_raises() -> None:
    def by(*_: Any, **__: Any) -> str:
        raise LookupError("no such page")

    with pytest.raises(BadArguments, match="unique raised LookupError: no such page") as caught:
        declared(fetch, unique=by).message(("a",))
    assert isinstance(caught.value.__cause__, LookupError)


def test_what_json_cannot_carry_is_told_by_its_name() -> None:
    with pytest.raises(NotEncodable, match=r"argument 'depth' of shop\.fetch"):
        declared(fetch, unique=True).message(("a", object()))


# What was seen


@pytest.mark.parametrize(
    ("function", "unique", "by", "key"),
    [
        (lambda url: None, False, None, "a"),
        (fetch, "url", None, "a"),
        (fetch, lambda url, depth, force: (url, depth), None, ("a", 1)),
        (fetch, False, "url", "a"),
        (fetch, "url", lambda url, depth, force: url * 2, "aa"),
    ],
)
def test_what_of_a_call_a_filter_looks_at(
    function: Callable[..., Any], unique: Any, by: Any, key: Any
) -> None:
    task = declared(function, unique=unique)
    rule = task._seen_rule(App("redis://127.0.0.1:1").seen("crawl", by))
    assert mark_of(rule.key(("a",), {})) == mark_of(encode_key(key, ""))


@pytest.mark.parametrize("unique", [False, True])
def test_which_argument_must_be_said(unique: bool) -> None:
    task, app = declared(fetch, unique=unique), App("redis://127.0.0.1:1")
    for seen, says in (
        (app.seen("crawl"), "of which argument? Say it, as in app.seen"),
        (app.seen("crawl", "uri"), "there is no such argument"),
        ("crawl", r"seen='crawl': give app.seen\(name\)"),
    ):
        with pytest.raises(BadArguments, match=says.replace("?", r"\?")):
            task.delay_many([("a",)], seen=seen)  # type: ignore[call-overload]


def test_a_filter_needs_a_name_and_things_one_by_one() -> None:
    app = App("redis://127.0.0.1:1")
    for name in ("", "a b", "#", "x" * 65):
        with pytest.raises(ConfigError, match="use 1 to 64 letters"):
            app.seen(name)
    seen = app.seen("crawl")
    for value in (["a", "b"], {"a"}, {"a": 1}, iter("a")):
        with pytest.raises(BadArguments, match=r"as in add\(\*urls\)"):
            seen.add(value)
    with pytest.raises(BadArguments, match="what was seen"):
        seen.add(object())


def test_marks_are_63_bits_and_spread() -> None:
    marks = sorted(mark_of(encode_key(f"https://example.org/{n}", "")) for n in range(10_000))
    assert marks[0] >= 0
    assert marks[-1] < 2**63
    assert all(one < other for one, other in pairwise(marks))
    assert 4_700 < sum(mark < 2**62 for mark in marks) < 5_300
