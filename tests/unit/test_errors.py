"""The tree that the docstring draws is the tree that there is, and every text is one line."""

from __future__ import annotations

import inspect
import re

import pytest

from greenworker import errors
from greenworker.errors import GreenworkerError

CLASSES = {
    name: cls
    for name, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, BaseException)
}

_BRANCH = re.compile(r"^    (?P<indent>[│ ]*)(?:[├└]── )?(?P<name>\w+)(?P<rest>.*)$")


def drawn() -> dict[str, tuple[str, list[str]]]:
    """Name → its parent, and the builtin classes that it is also, as the docstring has them."""
    tree: dict[str, tuple[str, list[str]]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = _BRANCH.match(line)
        if match is None:
            continue
        depth = 0 if "──" not in line else len(match["indent"]) // 4 + 1
        path = [*path[:depth], match["name"]]
        also = re.search(r"\(also (\w+)\)", match["rest"])
        tree[match["name"]] = (path[-2] if depth else "Exception", [also[1]] if also else [])
    return tree


def test_the_docstring_draws_the_tree_that_there_is() -> None:
    real = {
        name: (cls.__bases__[0].__name__, [base.__name__ for base in cls.__bases__[1:]])
        for name, cls in CLASSES.items()
    }
    assert drawn() == real


def test_one_root_catches_all() -> None:
    assert all(issubclass(cls, GreenworkerError) for cls in CLASSES.values())


def test_every_error_says_what_it_is() -> None:
    assert all(cls.__doc__ for cls in CLASSES.values())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            errors.NotEncodable("argument 'x' of t", "Type is not JSON serializable: set"),
            "argument 'x' of t cannot be encoded: Type is not JSON serializable: set",
        ),
        (
            errors.PayloadTooLarge("arguments of t", 1234567, 1000000),
            "arguments of t: 1,234,567 bytes, the limit is 1,000,000; "
            "store the data elsewhere and send its address",
        ),
        (errors.UnknownTask("t", ["b", "a"]), "no task 't' here; known: a, b"),
        (errors.UnknownTask("t", []), "no task 't' here; known: none"),
        (errors.SendUnknown(["m"], "reset"), "message m may or may not have been sent: reset"),
        (
            errors.SendUnknown(["m", "n"], "reset"),
            "2 messages may or may not have been sent: reset",
        ),
        (errors.ResultGone("m"), "nothing is known of m: never sent, or its result has expired"),
        (errors.ResultTimeout("m", 2.0, "STARTED"), "m is still STARTED after 2 s"),
        (errors.TaskFailed("m", "ValueError", "no"), "m failed: ValueError: no"),
        (errors.TaskFailed("m", "ValueError", ""), "m failed: ValueError"),
    ],
)
def test_texts_are_one_line_that_carries_the_data(error: Exception, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize(
    "error",
    [
        errors.TaskFailed("m", "ValueError", "two\nlines"),
        errors.NotEncodable("x", "two\nlines"),
        errors.SendUnknown(["m"], "two\nlines"),
        errors.UnknownTask("two\nlines", ["a"]),
    ],
)
def test_a_foreign_text_of_several_lines_makes_one_line(error: Exception) -> None:
    assert len(str(error).splitlines()) == 1


def test_errors_carry_their_data() -> None:
    unknown = errors.SendUnknown(["m"], "reset")
    assert (unknown.ids, unknown.maybe_done, unknown.sent, unknown.code) == (["m"], True, 0, "")
    failed = errors.TaskFailed("m", "ValueError", "no", "Traceback …")
    assert (failed.id, failed.type, failed.message, failed.traceback) == (
        "m",
        "ValueError",
        "no",
        "Traceback …",
    )
