"""Any bytes at all: decode() makes a Message of them or says MalformedMessage, and does so soon."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from greenworker import codec
from greenworker.errors import MalformedMessage, NotEncodable
from greenworker.message import Message, decode, encode_tail, result_ttl_of, shown, task_name_of

SMALLEST, LARGEST = -(2**63), 2**64 - 1

# Numbers that int() takes and others do not, or that only a part of the code can bear.
numbers = st.one_of(
    st.integers(),
    st.sampled_from([b"", b"-1", b"+1", b"1_0", b"1e3", b"0x1", b"nan", b"9" * 400, b"9" * 5000]),
)
words = st.one_of(
    numbers,
    st.sampled_from([b"1", b"2", b"default", b"t", b"%", b"%zz", b"%00%0a", b"a=b", b"=", b"sig="]),
    st.binary(max_size=8),
)
bodies = st.one_of(
    st.sampled_from(
        [b"[[],{}]", b"[[],{},{}]", b"[[],{},5]", b"[]", b"{}", b"5", b"null", b'"ab"']
    ),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda value: json.dumps(value).encode()),
    st.binary(),
)


def text(word: Any) -> bytes:
    return word if isinstance(word, bytes) else b"%d" % word


@st.composite
def envelopes(draw: st.DrawFn) -> bytes:
    """Almost an envelope: the fields are there, and some of them are of the right kind."""
    sound = [b"1", b"0", b"0", b"5", b"1700000000000", b"0", b"3600000", b"default", b"t"]
    fields = [text(draw(words)) if draw(st.integers(0, 3)) == 0 else field for field in sound]
    fields += map(text, draw(st.lists(words, max_size=3)))
    return b" ".join(fields) + draw(st.sampled_from([b"\n", b"", b"\r\n"])) + draw(bodies)


@given(st.one_of(st.binary(), envelopes()))
@example(b"1 0 0 5 0 0 %b default t\n[[],{}]" % (b"9" * 400))  # no float
@example(b"1 0 0 5 0 9%b 0 default t\n[[],{}]" % (b"9" * 5000))  # no int, to Python
@example(b"1 0 0 5 0 -62135596800001 0 default t\n[[],{}]")  # before the year 1
@example(b"1 0 0 5 0 0 0 default %FF%00\n[[],{}]")
def test_any_bytes_are_a_message_or_malformed(envelope: bytes) -> None:
    assert math.isfinite(result_ttl_of(envelope))
    assert shown(task_name_of(envelope)).isprintable()
    assert len(shown(task_name_of(envelope))) <= 2010
    try:
        message = decode("m", envelope)
    except MalformedMessage as error:
        refusal = str(error)
    else:
        assert isinstance(message, Message)
        assert isinstance(message.args, list)
        assert isinstance(message.kwargs, dict)
        assert isinstance(message.headers, dict)
        return
    assert "\n" not in refusal
    assert len(refusal) < 300


@given(st.data())
def test_a_message_with_some_of_its_bytes_changed(data: st.DataObject) -> None:
    tail = encode_tail(Message("m", "shop.mail", ["a", 2**63, {"b": [1.5]}], {"to": "x"}))
    envelope = bytearray(b"1 0 0 5 1700000000000 0 " + tail)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(envelope) - 1))
        envelope[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    test_any_bytes_are_a_message_or_malformed.hypothesis.inner_test(bytes(envelope))  # type: ignore[attr-defined]


# Integers: orjson makes a float of what needs more than 64 bits, and says nothing


def too_large(value: Any) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return not SMALLEST <= value <= LARGEST
    if isinstance(value, dict):
        return any(map(too_large, value.values()))
    return isinstance(value, list) and any(map(too_large, value))


edges = st.sampled_from([SMALLEST - 1, SMALLEST, LARGEST, LARGEST + 1, 10**18, 10**19, -(10**19)])
strings = st.text() | st.text('0123456789"\\-.e ', max_size=60)
values = st.recursive(
    st.one_of(
        st.none(), st.integers(-(2**65), 2**65), edges, strings,
        st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**40), 10**40),
    ),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(strings, inner, max_size=5),
)  # fmt: skip


@given(values, st.booleans())
def test_an_integer_arrives_exactly_or_not_at_all(value: Any, spaced: bool) -> None:
    separators = (" , ", " : ") if spaced else (",", ":")
    data = json.dumps(value, separators=separators).encode()
    if too_large(value):
        with pytest.raises(MalformedMessage, match="needs more than 64 bits"):
            codec.decode(data)
        with pytest.raises(NotEncodable):
            codec.encode(value, "x")
    else:
        assert codec.decode(data) == value
        assert codec.decode(codec.encode(value, "x")) == value


@pytest.mark.parametrize(
    "number",
    ["0." + "1" * 40, "1" * 25 + ".5", "1" * 25 + "e3", "1E" + "0" * 30 + "1", "1e+" + "0" * 30,
     "1.5e-" + "0" * 25 + "1", "-" + "1" * 25 + ".25", '"' + "1" * 40 + '"', '"\\"' + "1" * 40 + '"'],
)  # fmt: skip
def test_long_digits_that_are_no_integer(number: str) -> None:
    assert codec.decode(f"[{number}]".encode()) == json.loads(f"[{number}]")


@pytest.mark.parametrize(
    "bomb",
    [
        b"1" * 999_999,
        b"-" * 999_999,
        b"1." * 499_999,
        b"1" * 30 + b"." + b"1e" * 499_000,
        b"[" + b"1234567890123456789," * 49_000,
        b"[" + b"1234567890123456789.," * 47_000,
        b'["' + b"1" * 30 + b'\\"' * 490_000,
        b"1" * 30 + b'"' * 990_000,
        b"[" * 300 + b"1" * 30 + b'\\"' * 490_000,
    ],
)
@pytest.mark.timeout(10)  # what looks at a byte twice for each byte needs minutes
def test_bombs_of_digits_are_refused_without_a_bang(bomb: bytes) -> None:
    with pytest.raises(MalformedMessage):
        codec.decode(bomb)
