"""Seen: a filter of what was seen before, for tens of millions of things at some 10 bytes each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from greenworker import keys
from greenworker.broker import MAX_COUNT, PUSH_TTL, Link
from greenworker.errors import BadArguments
from greenworker.scripts import load
from greenworker.unique import By, encode_key

Place = tuple[Link, str]  # and a namespace


class Seen:
    """What was seen, by one name: `app.seen("crawl-7")`. Lives on the server until it is dropped.

    What counts is a thing's JSON: a URL, or a tuple of values. Of each a 63-bit hash is kept: with n of
    them, one that is new is taken for seen with a probability of n / 2^63; for 50 million that is once in
    180,000,000,000. `by` says what of a task's call is looked at in `delay_many(seen=…)`: the name of an argument, or a
    function of all of them; by default what makes the task unique, or its only argument.
    """

    def __init__(self, place: Callable[[], Place], name: str, by: By | None = None) -> None:
        """`place` is asked at each call: an app may be told another server, or be tested, later."""
        self.name = keys.check_name("filter", name)
        self.by = by
        self._place = place

    def __repr__(self) -> str:
        return f"<Seen {self.name}>"

    def add(self, *values: Any) -> int:
        """Have seen these; returns how many of them are new. An error may come after some of them."""
        new = 0
        for marks in _in_calls(values):
            push_id = os.urandom(12).hex()
            told = self._run("seen_add", push_id, round(PUSH_TTL * 1000), self.name, *marks)
            new += told.count(b"n")
        return new

    def contains(self, *values: Any) -> list[bool]:
        """Of each whether it was seen."""
        told = b""
        for marks in _in_calls(values):
            told += self._run("seen_look", self.name, *marks)[1]
        return [letter == ord("s") for letter in told]

    def __contains__(self, value: object) -> bool:
        return self.contains(value)[0]

    def count(self) -> int:
        """How many different ones were seen."""
        return int(self._run("seen_look", self.name)[0])

    def drop(self) -> int:
        """Have seen nothing, from now on; returns how many that were.

        It takes one short call, however many they are: workers remove them from the server with their
        sweeps, some 200,000 each time.
        """
        return int(self._run("seen_drop", self.name))

    def _run(self, name: str, *args: bytes | str | int) -> Any:
        link, namespace = self._place()
        return link.run(load(name), keys.nil(keys.root(namespace)), *args)


def mark_of(key: bytes) -> int:
    """What a filter keeps: 63 bits, which Redis holds as an integer of 8 bytes."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") >> 1


def _in_calls(values: Sequence[Any]) -> Iterator[list[int]]:
    marks = [mark_of(encode_key(_checked(value), "what was seen")) for value in values]
    for start in range(0, len(marks), MAX_COUNT):
        yield marks[start : start + MAX_COUNT]


def _checked(value: Any) -> Any:
    # A list of URLs would be one thing.
    if isinstance(value, (list, set, frozenset, dict, Iterator)):
        raise BadArguments(
            f"what was seen is a text, a number or a tuple of these, not a {type(value).__name__}: "
            "give several one by one, as in add(*urls)"
        )
    return value
