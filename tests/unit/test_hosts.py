"""The two helpers of whoever asks others: which host a URL is of, and what a Retry-After header says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenworker.errors import BadArguments
from greenworker.hosts import host
from greenworker.limit import check_key
from greenworker.retry_header import retry_after

NOW = datetime(1994, 11, 6, 8, 49, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://example.com/", "example.com"),
        ("HTTPS://Example.COM:443/x?y#z", "example.com"),
        ("http://example.com:443", "example.com:443"),
        ("https://example.com:8080/", "example.com:8080"),
        ("http://example.com:/", "example.com"),
        ("http://user:secret@example.com/", "example.com"),
        ("http://example.com./", "example.com"),
        ("http://bücher.example/", "xn--bcher-kva.example"),
        ("http://BÜCHER.example/", "xn--bcher-kva.example"),
        ("http://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("http://日本。jp/", "xn--wgv71a.jp"),
        ("http://b%C3%BCcher.example/", "xn--bcher-kva.example"),
        ("http://[::1]:8000/", "[::1]:8000"),
        ("http://[0:0::0001]/", "[::1]"),
        ("http://127.0.0.1:80/", "127.0.0.1"),
        ("ws://a_b.example/", "a_b.example"),
        (" http://example.com/ ", "example.com"),
    ],
)
def test_the_host_of_a_url(url: str, wanted: str) -> None:
    assert host(url) == wanted
    assert check_key("key", "host:" + wanted)


@pytest.mark.parametrize(
    "url",
    ["", "example.com", "/path", "//example.com/", "http://", "http:///x", "mailto:a@b", "http://a b/", "http://a:99999/", "http://a:x/", "http://a,b/", "http://*/", "http://[::1/", "http://[no]/", "http://a..b/", f"http://{'x' * 64}ü.example/", None, b"http://a/"],
)  # fmt: skip
def test_what_has_no_host(url: object) -> None:
    with pytest.raises(BadArguments, match=r"^host\(.*\): give a"):
        host(url)  # type: ignore[arg-type]


@given(st.text(max_size=30))
def test_whatever_comes_is_a_host_or_refused(text: str) -> None:
    try:
        found = host(f"http://{text}/")
    except BadArguments:
        return
    assert check_key("key", found) == found


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        (" 30 ", 30.0),
        ("1.5", 1.5),
        (b"30", 30.0),
        (30, 30.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 30.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 30.0),
        ("Sun Nov  6 08:49:37 1994", 30.0),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 30.0),
        ("sun, 6 nov 1994 08:49:37 UTC", 30.0),
        ("Sun, 06 Nov 1994 08:49:60 GMT", 53.0),  # a leap second
        ("Sun, 06 Nov 1994 08:49:00 GMT", 0.0),  # has passed
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        # More than fifty years from now is in the past, RFC 9110 says.
        ("Sunday, 06-Nov-45 08:49:37 GMT", 0.0),
        ("Sunday, 06-Nov-44 08:49:37 GMT", 366 * 86400.0),
        ("99999999999999999999", 366 * 86400.0),
        ("9" * 100, 366 * 86400.0),
        ("Fri, 31 Dec 9999 23:59:60 GMT", 366 * 86400.0),
        (-5, 0.0),
        (float("inf"), 366 * 86400.0),
        (10**400, 366 * 86400.0),
    ],
)  # fmt: skip
def test_what_retry_after_says(header: object, seconds: float) -> None:
    assert retry_after(header, NOW) == retry_after(header, NOW.timestamp()) == seconds


@pytest.mark.parametrize(
    "header",
    [None, "", " ", "-5", "+5", "5s", "soon", "1e3", "٣", "nan", "inf", float("nan"), True, "0x10", "5, 6", "9" * 101,
     "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 CET",
     "Sun, 06 Nov 1994 08:49:61 GMT", "Sun, 06 Nov 0000 08:49:37 GMT", "1994-11-06T08:49:37Z", "\xff".encode(), object()],
)  # fmt: skip
def test_what_cannot_be_read_says_nothing(header: object) -> None:
    assert retry_after(header, NOW) is None


@given(st.text(max_size=60) | st.binary(max_size=60) | st.floats() | st.integers())
def test_whatever_comes_is_seconds_or_nothing(header: object) -> None:
    found = retry_after(header, NOW)
    assert found is None or 0 <= found <= 366 * 86400


def test_a_date_is_compared_with_this_clock() -> None:
    text = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert retry_after(text) == 0.0
    assert retry_after("Fri, 31 Dec 9999 23:59:59 GMT") == 366 * 86400
