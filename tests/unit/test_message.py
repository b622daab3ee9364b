"""The envelope: what goes in comes out, and what is no envelope is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from greenworker.errors import MalformedMessage, NotEncodable, PayloadTooLarge
from greenworker.message import (
    Message,
    decode,
    encode_tail,
    next_attempt,
    result_ttl_of,
    with_option,
)


def sealed(message: Message, *, expires: int = 0) -> bytes:
    """The envelope as the push script writes it."""
    head = f"1 {message.deliveries} {message.attempt} {message.priority} 1700000000123 {expires} "
    return head.encode() + encode_tail(message)


def test_a_message_survives_the_way() -> None:
    message = Message(
        id="m",
        task="shop.mail",
        args=["a", 1, None, {"b": [2.5, True]}],
        kwargs={"to": "ä@b"},
        headers={"trace": "x"},
        queue="slow",
        priority=9,
        result_ttl=60.5,
        options={"unique": "a=b c", "empty": ""},
        attempt=2,
        deliveries=1,
        sent=1700000000.123,
    )
    assert decode("m", sealed(message)) == message


def test_an_envelope_is_one_ascii_line_and_a_body() -> None:
    message = Message("m", "shop.mail", [1], {"x": "\n"}, result_ttl=60, options={"tag": "ü 1"})
    assert encode_tail(message) == b'60000 default shop.mail tag=%C3%BC%201\n[[1],{"x":"\\n"}]'


@pytest.mark.parametrize("name", ["a b", "ä.ö", "a%20b", "a\nb", "a=b", "<locals>.f", "%", "\x00"])
def test_any_name_of_a_task_and_any_option_survives(name: str) -> None:
    message = Message("m", name, [], {}, options={"o": name})
    envelope = sealed(message)
    head = envelope.partition(b"\n")[0]
    assert head.isascii()
    assert head.count(b" ") == 9
    decoded = decode("m", envelope)
    assert (decoded.task, decoded.options) == (name, {"o": name})


def test_expires_comes_back_as_a_moment() -> None:
    message = decode("m", sealed(Message("m", "t"), expires=1700000000500))
    assert message.expires == datetime.fromtimestamp(1700000000.5, UTC)
    assert decode("m", sealed(Message("m", "t"))).expires is None


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Message("m", "t").queue = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"\n",
        b"garbage",
        b"\xff\xfe\x00\n[[],{}]",
        b"1 0 0 5 0 0 0 default t",  # no body
        b"1 0 0 5 0 0 0 default\n[[],{}]",  # no task
        b"2 0 0 5 0 0 0 default t\n[[],{}]",
        b" 0 0 5 0 0 0 default t\n[[],{}]",
        b"1 x 0 5 0 0 0 default t\n[[],{}]",
        b"1 0 0 5 0 0 1e3 default t\n[[],{}]",
        b"1 0 0 5 0 99999999999999999999 0 default t\n[[],{}]",
        b"1 0 0 5 0 0 0 default t\n",
        b"1 0 0 5 0 0 0 default t\n[[],{}",
        b"1 0 0 5 0 0 0 default t\n5",
        b"1 0 0 5 0 0 0 default t\nnull",
        b"1 0 0 5 0 0 0 default t\n[[]]",
        b"1 0 0 5 0 0 0 default t\n[{},[]]",
        b'1 0 0 5 0 0 0 default t\n"ab"',
        b"1 0 0 5 0 0 0 default t\n[[],{},5]",  # headers are a mapping
        b"1 0 0 5 0 0 0 default t\n" + b"[" * 100_000,
        b"1 0 0 5 0 0 0 default t\n[[\"" + b"x" * 2_000_000 + b'"],{}]',
    ],
)  # fmt: skip
def test_what_is_no_envelope_is_malformed(envelope: bytes) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode("m", envelope)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_another_version_is_named() -> None:
    with pytest.raises(MalformedMessage, match="version '2'"):
        decode("m", b"2 0 0 5 0 0 0 default t\n[[],{}]")


def test_next_attempt_changes_the_attempt_alone() -> None:
    message = Message("m", "t", ["1 2 3\n"], {}, options={"a": "b"}, attempt=9, deliveries=1)
    retried = decode("m", next_attempt(sealed(message)))
    first = decode("m", sealed(message))
    assert retried.attempt == 10
    assert (retried.args, retried.options, retried.sent, retried.deliveries) == (
        first.args,
        first.options,
        first.sent,
        first.deliveries,
    )


def test_with_option_sets_and_replaces() -> None:
    envelope = sealed(Message("m", "t", ["unknown=0"], {}, options={"tag": "a"}))
    once = with_option(envelope, "unknown", "1.5")
    twice = with_option(once, "unknown", "ü 2")
    assert decode("m", once).options == {"tag": "a", "unknown": "1.5"}
    assert decode("m", twice).options == {"tag": "a", "unknown": "ü 2"}
    assert decode("m", twice).args == ["unknown=0"]


def test_the_time_to_live_of_a_result_is_an_hour_when_it_cannot_be_read() -> None:
    assert result_ttl_of(sealed(Message("m", "t", result_ttl=1.5))) == 1.5
    assert result_ttl_of(b"garbage") == 3600
    assert result_ttl_of(b"1 2 3 4 5 6 x q t\n") == 3600


@pytest.mark.parametrize(
    ("args", "error"), [([object()], NotEncodable), (["x" * 1_000_001], PayloadTooLarge)]
)
def test_what_cannot_travel_is_refused_with_the_name_of_the_task(
    args: list[Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"arguments of shop\.mail"):
        encode_tail(Message("m", "shop.mail", args))
