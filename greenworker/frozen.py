"""Values that nobody can change, made quickly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, make_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def quickly(cls: type[T]) -> Callable[..., T]:
    """How to make one of a frozen dataclass with slots: all its fields, in order.

    What is frozen sets each field by a call of its own: with the fifteen of a Message 2.3 µs instead of 0.9 (measured), and a worker makes four
    such values for each task. So it is made as one that is not frozen, of the same layout, and becomes what it is to be.
    """
    of = [(one.name, one.type) for one in fields(cls)]  # type: ignore[arg-type]  # it is a dataclass
    open_one: Any = make_dataclass(cls.__name__, of, slots=True, eq=False)

    def make(*values: Any) -> T:
        one = open_one(*values)
        one.__class__ = cls
        return one  # type: ignore[no-any-return]

    return make
