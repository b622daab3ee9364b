"""JSON in and out: limits on size and depth, and refusals that name the value."""

from __future__ import annotations

import dataclasses
import enum
import math
import uuid
from datetime import UTC, date, datetime
from typing import Any

import pytest

from greenworker.codec import MAX_DEPTH, MAX_PAYLOAD, decode, encode
from greenworker.errors import MalformedMessage, NotEncodable, PayloadTooLarge


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [None, True, 1, -1.5, 'ä\n"\\', [], {}, [1, [2]], {"a": {"b": None}}, 2**63, -(2**63)]
)
def test_json_survives(value: Any) -> None:
    assert decode(encode(value, "x")) == value


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ((1, 2), [1, 2]),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Point(1), {"x": 1}),
        # JSON has no such numbers: they arrive as null.
        (math.nan, None),
        (math.inf, None),
    ],
)
def test_more_travels_and_arrives_as_what_json_carries(value: Any, arrives: Any) -> None:
    assert decode(encode(value, "x")) == arrives


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        b"bytes",
        object(),
        1 + 2j,
        {1: "a key that is no string"},
        2**64,
        -(2**63) - 1,
        "\ud800",
        {"\udfff": 1},
        nested(300),
    ],
)
def test_what_json_cannot_carry_is_refused_by_name(value: Any) -> None:
    with pytest.raises(NotEncodable, match=r"^argument 'url' cannot be encoded: ") as caught:
        encode(value, "argument 'url'")
    assert "\n" not in str(caught.value)
    assert caught.value.where == "argument 'url'"


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotEncodable):
        encode(value, "x")


# Size


def test_the_limit_of_size_is_exact() -> None:
    fits = "x" * (MAX_PAYLOAD - 2)
    assert decode(encode(fits, "x")) == fits
    with pytest.raises(PayloadTooLarge, match=r"1,000,001 bytes, the limit is 1,000,000; store"):
        encode(fits + "x", "x")
    with pytest.raises(MalformedMessage, match="limit"):
        decode(b'"' + fits.encode() + b'x"')


def test_a_limit_can_be_given() -> None:
    with pytest.raises(PayloadTooLarge):
        encode("four", "x", limit=5)
    with pytest.raises(MalformedMessage):
        decode(b'"four"', limit=5)


# Depth


def test_the_limit_of_depth_is_exact() -> None:
    assert decode(encode(nested(MAX_DEPTH), "x")) == nested(MAX_DEPTH)
    with pytest.raises(NotEncodable, match="nested deeper than 200"):
        encode(nested(MAX_DEPTH + 1), "x")
    with pytest.raises(MalformedMessage, match="nested deeper than 200"):
        decode(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


@pytest.mark.parametrize("text", ["[" * 500, '"[' * 500, '\\"[' * 500, "\\", '\\"', "[\\" * 500])
def test_brackets_inside_strings_are_none(text: str) -> None:
    value = [text, {"[" * 500: text}, text]
    assert decode(encode(value, "x")) == value


@pytest.mark.parametrize("text", ["", "\\", '"', '\\"', '"\\', "\\\\"])
def test_no_string_hides_depth(text: str) -> None:
    hidden = [text, nested(MAX_DEPTH), text]
    data = b"[%b]" % b",".join(
        [encode(text, "x"), encode(nested(MAX_DEPTH), "x"), encode(text, "x")]
    )
    with pytest.raises(MalformedMessage, match="nested deeper"):
        decode(data)
    with pytest.raises(NotEncodable, match="nested deeper"):
        encode(hidden, "x")


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * 999_999,
        b'{"a":' * 190_000,
        b"[" * 300 + b'"\\' * 300_000,
        b"[" * 300 + b'\\"' * 300_000,
        b"[[]," * 240_000,
        b'["[",' * 190_000,
    ],
)
@pytest.mark.timeout(10)  # what looks at a byte twice for each byte needs minutes
def test_bombs_are_refused_without_a_bang(bomb: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(bomb)


@pytest.mark.parametrize(
    "data", [b"", b"nope", b"[1,]", b'{"a":1', b"\xff", b"NaN", b'"\xed\xa0\x80"']
)
def test_what_is_no_json_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage, match="not JSON"):
        decode(data)
