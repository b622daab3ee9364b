"""What must hold for any value: envelopes, names, delays, URLs, depth (hypothesis)."""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from greenworker import codec, keys
from greenworker.backoff import Backoff
from greenworker.endpoint import Endpoint, redact
from greenworker.errors import ConfigError
from greenworker.message import Message, decode, encode_tail, next_attempt, with_option

# Messages

safe = string.ascii_letters + string.digits + "_.:/@-"
names = st.text(safe, min_size=1, max_size=64)
texts = st.text(st.characters(exclude_categories=["Cs"]))  # UTF-8 has no lone surrogates
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
sent_messages = st.builds(
    Message,
    id=names,
    task=texts.filter(bool),
    args=st.lists(values, max_size=3),
    kwargs=st.dictionaries(texts, values, max_size=3),
    headers=st.dictionaries(texts, values, max_size=2),
    queue=names,
    priority=st.integers(0, 9),
    result_ttl=st.integers(0, 10**12).map(lambda ms: ms / 1000),
    options=st.dictionaries(st.text(string.ascii_lowercase, min_size=1), texts, max_size=3),
    attempt=st.integers(0, 1000),
    deliveries=st.integers(0, 9),
    sent=st.integers(0, 4 * 10**12).map(lambda ms: ms / 1000),
    expires=st.none()
    | st.integers(1, 4 * 10**12).map(lambda ms: datetime.fromtimestamp(ms / 1000, UTC)),
)


def envelope_of(message: Message) -> bytes:
    """As the scripts put it together."""
    expires = 0
    if message.expires is not None:
        assert isinstance(message.expires, datetime)
        expires = round(message.expires.timestamp() * 1000)
    head = (1, message.deliveries, message.attempt, message.priority, round(message.sent * 1000))
    return b"%b %d %b" % (" ".join(map(str, head)).encode(), expires, encode_tail(message))


@given(sent_messages)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert decode(message.id, envelope_of(message)) == message


@given(sent_messages)
def test_a_retry_is_one_attempt_more_and_nothing_else(message: Message) -> None:
    before, after = envelope_of(message), next_attempt(envelope_of(message))
    again = decode(message.id, after)
    assert again.attempt == message.attempt + 1
    assert decode(message.id, before) == message
    assert before.split(b" ")[3:] == after.split(b" ")[3:]


@given(sent_messages, st.text(string.ascii_lowercase, min_size=1), texts)
def test_an_option_is_set_and_nothing_else(message: Message, name: str, value: str) -> None:
    changed = decode(message.id, with_option(envelope_of(message), name, value))
    assert changed.options == {**message.options, name: value}
    assert (changed.task, changed.args, changed.kwargs) == (
        message.task,
        message.args,
        message.kwargs,
    )


# Names


@given(st.text(max_size=70) | st.text(safe, max_size=70) | names.map(lambda name: name + "\n"))
def test_a_name_is_safe_or_refused(name: str) -> None:
    if 1 <= len(name) <= 64 and set(name) <= set(safe):
        assert keys.check_name("queue", name) == name
    else:
        with pytest.raises(ConfigError):
            keys.check_name("queue", name)


# Backoff

seconds = st.floats(0, 1e12)


@given(
    seconds,
    st.floats(1, 1e6),
    seconds,
    seconds,
    st.integers(1, 10**6),
    st.floats(0, 1, exclude_max=True),
)
def test_a_delay_keeps_its_bounds(
    base: float, factor: float, cap: float, least: float, retry: int, draw: float
) -> None:  # fmt: skip
    backoff = Backoff(base, factor, cap, least)
    assert 0 <= backoff.bound(retry) <= min(cap, backoff.bound(retry + 1))
    delay = backoff.delay(retry, lambda: draw)
    assert least <= delay <= max(least, backoff.bound(retry))


# URLs

CANARY = "s3cret"
junk = st.lists(st.sampled_from([*"ab0:/?#@[]%&=. \né", "://", "%40", "//"]), max_size=6).map(
    "".join
)
passwords = st.builds(lambda before, after: before + CANARY + after, junk, junk)
schemes = st.sampled_from(["redis://", "rediss://", "unix://", "unix:///", "", "x://"])


@given(schemes, junk, passwords, st.sampled_from(["host", "host:6379", "[::1]:1", "", "a,b"]), junk)
@example("redis://", "", CANARY + "/", "host", "/0")
@example("redis://", "u", "a@" + CANARY, "host", "")
@example("redis://", "u", "1/" + CANARY, "host", "")
def test_no_password_is_shown(scheme: str, user: str, password: str, host: str, rest: str) -> None:
    check_hidden(f"{scheme}{user}:{password}@{host}{rest}")


@given(
    schemes, st.sampled_from(["host", "host:1/0", "user@host", ":p@host/1"]), junk, passwords, junk
)
def test_no_password_in_a_query_is_shown(
    scheme: str, place: str, before: str, password: str, after: str
) -> None:  # fmt: skip
    check_hidden(f"{scheme}{place}?{before}password={password}{after}")


def check_hidden(url: str) -> None:
    told = redact(url)
    try:
        endpoint = Endpoint(url)
    except ConfigError as error:
        told += str(error)
    else:
        told += f"{endpoint!r} {endpoint.redacted}"
    assert CANARY not in told


# Depth

pieces = st.lists(
    st.sampled_from(
        [b"[", b"[" * 90, b"{", b"]", b"]" * 90, b"}", b'"', b"\\", b'\\"', b"a", b"\n"]
    )
)


@given(pieces)
def test_depth_is_counted_as_byte_by_byte(pieces: list[bytes]) -> None:  # fmt: skip
    data = b"".join(pieces)
    assert codec._too_deep(data) == (naive_depth(data) > codec.MAX_DEPTH)


@given(values, st.integers(0, 2 * codec.MAX_DEPTH))
def test_json_is_as_deep_as_it_is(value: Any, levels: int) -> None:
    for _ in range(levels):
        value = [value, '"[['] if levels % 2 else {"[": value}
    data = json.dumps(value).encode()
    assert codec._too_deep(data) == (naive_depth(data) > codec.MAX_DEPTH)


def naive_depth(data: bytes) -> int:
    depth = deepest = 0
    in_string = escaped = False
    for byte in data:
        if in_string:
            if escaped:
                escaped = False
            elif byte == ord("\\"):
                escaped = True
            elif byte == ord('"'):
                in_string = False
        elif byte == ord('"'):
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
