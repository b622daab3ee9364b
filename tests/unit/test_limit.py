"""Limits and keys as text: what is refused, and what becomes of it in Redis and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenworker import keys
from greenworker.errors import ConfigError
from greenworker.limit import (
    Limit,
    Rate,
    check_key,
    check_keys,
    check_pattern,
    escape_pattern,
    make_limit,
    read_limit,
    read_rate,
    read_spec,
)
from greenworker.message import Message, decode, encode_tail, keys_of


@pytest.mark.parametrize(
    ("text", "starts", "seconds"),
    [
        ("100/min", 100, 60.0),
        ("5/s", 5, 1.0),
        ("1000/hour", 1000, 3600.0),
        ("10/30s", 10, 30.0),
        ("0.5/s", 1, 2.0),
        ("2.5 / min", 5, 120.0),
        ("3/2 days", 3, None),
        ("3/2day", 3, 172800.0),
        ("1/1.5s", 1, 1.5),
        ("0.123457/day", 1, 699838.81),
        ("1000000/s", 1_000_000, 1.0),
    ],
)
def test_a_rate_is_starts_in_a_time(text: str, starts: int, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(ConfigError):
            read_rate("rate", text)
        return
    rate = read_rate("rate", text)
    assert (rate.text, rate.starts) == (text, starts)
    assert rate.seconds == pytest.approx(seconds, abs=0.01)


@pytest.mark.parametrize(
    "text",
    ["", "100", "100/", "/min", "-1/s", "1e3/s", "100/min/s", "٣/s", "100/x", "100/60", "100 per", "100m", 5, None, "1/-2s", b"5/s", "9" * 400 + "/s"],
)  # fmt: skip
def test_what_is_no_rate_is_told_what_one_is(text: object) -> None:
    with pytest.raises(ConfigError, match=r"^rate=.{1,62}: give starts in a time, such as 100/min"):
        read_rate("rate", text)


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("100/m", "write 100/min, if m is minutes"),
        ("100 / M", "write 100/min, if m is minutes"),
        ("100/hr", "write 100/hour"),
        ("100/hours", "write 100/hour"),
        ("100 per minute", "write 100/min"),
        ("100 per 2 minutes", "write 100/2min"),
        ("5 per s", "write 5/s"),
        ("5/S", "write 5/s"),
        ("0.5/ 30 secs", "write 0.5/30s"),
        ("3/2 days", "write 3/2day"),
    ],
)
def test_what_is_nearly_one_is_told_how_it_is_written(text: str, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_rate("rate", text)
    assert str(caught.value) == f"rate={text!r}: {mend}"
    read_rate("rate", mend.split(" ")[1].removesuffix(","))


@pytest.mark.parametrize("text", ["100/minute", "100/ 2minute", "5/sec", "1/h"])
def test_units_have_long_and_short_names(text: str) -> None:
    assert read_rate("rate", text).text == text


@pytest.mark.parametrize("text", ["0/s", "0.0/min", "5/0s"])
def test_a_rate_is_above_zero(text: str) -> None:
    with pytest.raises(ConfigError, match=r"for no starts at all, concurrency=0"):
        read_rate("rate", text)


@pytest.mark.parametrize("text", ["1000001/s", "1/367day", "1/0.0001s", "0.0001/day"])
def test_and_within_reason(text: str) -> None:
    with pytest.raises(ConfigError, match=r"between one start in a year and 1,000,000 in a second"):
        read_rate("rate", text)


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ({"concurrency": 2}, "concurrency=2"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"delay": 0.25}, "delay=250"),
        ({"delay": 0.0001}, "delay=1"),
        ({"rate": "100/min", "burst": 20}, "rate=100/60000 burst=20"),
        ({"rate": "0.5/s"}, "rate=1/2000"),
        (
            {"adaptive": True, "floor": "1/min", "ceiling": "50/s", "rate": "100/min", "burst": 20, "delay": 0.25, "concurrency": 2},
            "concurrency=2 delay=250 rate=100/60000 burst=20 adaptive=1 floor=1/60000 ceiling=50/1000",
        ),
        ({"floor": "1/s", "ceiling": "60/min", "adaptive": True}, "adaptive=1 floor=1/1000 ceiling=60/60000"),
        ({}, "none"),
        ({"delay": 0, "adaptive": False, "burst": None}, "none"),
    ],
)  # fmt: skip
def test_a_limit_is_a_line_and_comes_back(options: dict[str, Any], spec: str) -> None:
    limit = make_limit("host:*", options)
    assert limit.spec == spec
    again = read_limit("host:*", f"d 1234 {spec}")
    assert again is not None
    assert (again.declared, again.changed, again.spec) == (True, 1.234, spec)
    assert read_limit("host:*", f"s 0 {spec}") == limit
    assert limit.is_none is (spec == "none")


def test_and_is_shown_as_people_say_it() -> None:
    limit = read_limit("a", "s 0 concurrency=2 delay=250 rate=100/60000 burst=20 adaptive=1 floor=1/2000 ceiling=50/1000")  # fmt: skip
    assert str(limit) == (
        "concurrency 2, delay 0.25 s, rate 100/min, burst 20, adaptive from 1/2s to 50/s"
    )
    assert str(read_limit("a", "s 0 none")) == "no limit"
    assert str(read_spec("a:*", "adaptive=1")) == "adaptive"
    assert read_spec("", "") is None
    assert read_spec("a", "none") is None


@pytest.mark.parametrize(
    "line",
    [
        "", "d", "d 5", "d 5 ", "x 5 none", "d -5 none", "d five none", "d 5 delay=a", "d 5 delay", "d 5 colour=1",
        "d 5 rate=5/s", "d 5 rate=0/1000", "d 5 rate=5/0", "d 5 burst=5", "d 5  none", "d 5 concurrency=-1",
        "d 5 concurrency=2  delay=1", "d 5 adaptive=1 floor=2/1000 ceiling=1/1000", "d 5 concurrency=99999999",
    ],
)  # fmt: skip
def test_what_is_damaged_is_no_limit(line: str) -> None:
    assert read_limit("host:*", line) is None
    assert read_limit("a b", "d 5 none") is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"burst": 5}, r"limit h: burst= says nothing without rate=, as in rate='100/min'"),
        ({"delay": -1}, r"limit h: delay=-1: give seconds between two starts, from 0 to 86,400"),
        ({"delay": float("nan")}, r"delay=nan: give seconds"),
        ({"delay": "1"}, r"delay='1': give seconds"),
        ({"delay": True}, r"delay=True: give seconds"),
        ({"delay": 10**400}, r"delay=10{58,59}: give seconds"),
        ({"concurrency": -1}, r"limit h: concurrency=-1: give a whole number, 0 to 1,000,000"),
        ({"concurrency": 2.0}, r"concurrency=2.0: give a whole number"),
        ({"concurrency": True}, r"concurrency=True: give a whole number"),
        ({"rate": "5/s", "burst": 0}, r"burst=0: give a whole number, 1 to 1,000,000"),
        ({"rate": 5}, r"limit h: rate=5: give starts in a time, such as 100/min"),
        ({"floor": "1/s"}, r"limit h: floor= says nothing without adaptive=True"),
        ({"ceiling": "1/s"}, r"limit h: ceiling= says nothing without adaptive=True"),
        ({"adaptive": 1}, r"limit h: adaptive=1: give True or False"),
        (
            {"adaptive": True, "floor": "2/s", "ceiling": "100/min"},
            r"limit h: floor='2/s' is above ceiling='100/min': give the smaller rate as floor",
        ),
        ({"colour": 1}, r"limit h: no option 'colour'; there are concurrency, delay, rate, burst"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        make_limit("h", options)
    assert "\n" not in str(caught.value)


JUNK = [
    "",
    " ",
    "a b",
    "a,b",
    "a\n",
    "a\x00",
    "\ud800",
    "x" * 201,
    "日" * 67,
    "a\u00a0b",
    None,
    5,
    b"host",
]


@pytest.mark.parametrize("key", [*JUNK, "host:*"])
def test_what_can_be_no_key(key: object) -> None:
    with pytest.raises(ConfigError, match=r"^key .{1,62}: use 1 to 200 printable characters"):
        check_key("key", key)


@pytest.mark.parametrize("pattern", [*JUNK, "a**b", "*a*b*c"])
def test_what_can_be_no_pattern(pattern: object) -> None:
    with pytest.raises(ConfigError, match=r"^limit .{1,62}: a pattern is 1 to 200 printable"):
        check_pattern(pattern)


def test_what_can() -> None:
    for name in ("host:example.com", "#", "ä", "{x}", "100%", "~", "x" * 200, "日" * 66, "日本"):
        assert check_key("key", name) == check_pattern(name) == name
    for name in ("*", "host:*", "*.example.com", "a*b*"):
        assert check_pattern(name) == name


def test_a_message_has_two_at_most() -> None:
    assert check_keys("key", None) == check_keys("key", ()) == ()
    assert check_keys("key", "a") == check_keys("key", ["a", "a"]) == ("a",)
    assert check_keys("key", ("a", "b")) == ("a", "b")
    with pytest.raises(ConfigError, match=r"key \('a', 'b', 'c'\): a message has at most 2"):
        check_keys("key", ("a", "b", "c"))
    with pytest.raises(ConfigError, match=r"key \{'a'\}: give a text, or a tuple of up to 2"):
        check_keys("key", {"a"})
    with pytest.raises(ConfigError, match=r"key None: use 1 to 200"):
        check_keys("key", ("a", None))


def test_a_pattern_is_escaped_but_for_its_stars() -> None:
    assert escape_pattern("host:*") == "host:*"
    assert escape_pattern("#") == "%23"
    assert escape_pattern("ä*%*") == "%C3%A4*%25*"


def is_key(text: str) -> bool:
    return text.isprintable() and not set(" ,*") & set(text) and len(keys.escape(text)) <= 600


KEYS = st.text(min_size=1, max_size=200).filter(is_key)


@given(st.lists(KEYS, min_size=1, max_size=2, unique=True))
def test_a_head_has_each_key_escaped_once(given_keys: list[str]) -> None:
    """What scripts read there is what they call the key; and it reads back."""
    message = Message("m", "t", options={"tags": "x", "keys": ",".join(given_keys)})
    envelope = b"1 0 0 5 0 0 " + encode_tail(message)
    line = envelope.partition(b"\n")[0].decode()
    raw = "%2C".join(keys.escape(key) for key in given_keys)
    assert line.endswith(f" keys={raw}")
    assert keys_of(decode("m", envelope).options) == tuple(given_keys)


@given(KEYS)
def test_an_escaped_key_has_a_small_alphabet(key: str) -> None:
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~:/@%-")
    assert set(keys.escape(key)) <= allowed


def test_equal_limits_are_equal_however_their_rates_are_written() -> None:
    assert make_limit("a", {"rate": "1/2s"}) == make_limit("a", {"rate": "0.5/s"})
    assert Rate("x", 1, 2.0) == Rate("y", 1, 2.0)
    assert Limit("a") != Limit("b")
