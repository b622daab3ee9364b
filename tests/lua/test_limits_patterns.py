"""Which limit counts for a key; and that thousands of limits are little work."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.limits import Limited
from tests.support.state import Space


@pytest.fixture
def limited(space: Space) -> Limited:
    limited = Limited(space)
    limited.space.register("w")
    return limited


def pattern_for(limited: Limited, key: str) -> str:
    """By a message of that key: of what nobody knows nothing is told."""
    limited.push(key, key=key)
    return limited.state_of(key).pattern


def fitting(patterns: list[str], key: str) -> str:
    """What should count, by regular expressions."""
    if key in patterns:
        return key
    wild = [one for one in patterns if "*" in one]
    wild.sort(key=lambda one: (-len(one.replace("*", "")), one))
    for one in wild:
        if re.fullmatch(re.escape(one).replace(r"\*", ".*"), key):
            return one
    return ""


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        ("*", "a", True),
        ("a*", "a", True),
        ("*a", "a", True),
        ("a*a", "a", False),
        ("ab*ba", "aba", False),
        ("ab*ba", "abba", True),
        ("*b*", "abc", True),
        ("*b*", "b", True),
        ("*b*", "ac", False),
        ("a*b*b", "ab", False),
        ("a*b*b", "abb", True),
        ("a*bb*b", "abb", False),
        ("*.x.*", "a.xyx.b", False),
        ("*.x.*", "a.x.b", True),
        ("a.c*", "abc", False),
        ("a-*", "a-b", True),
    ],
)
def test_a_star_is_for_whatever_is_there(
    limited: Limited, pattern: str, key: str, fits: bool
) -> None:
    limited.limit(pattern, delay=1.0)
    assert pattern_for(limited, key) == (pattern if fits else "")


_few = st.text("ab.", min_size=1, max_size=5)
_patterns = st.lists(
    st.lists(st.text("ab.", max_size=3), min_size=1, max_size=3).map("*".join).filter(
        lambda text: text and "**" not in text
    ),
    max_size=8,
    unique=True,
)  # fmt: skip


def test_the_most_specific_that_fits(limited: Limited) -> None:
    @given(_patterns, _few)
    def one_at_a_time(patterns: list[str], key: str) -> None:
        limited.limit("z", delay=1.0)
        for name in limited.space.redis.hkeys(limited.space.key("limits")):
            if name not in ("#", "?"):
                limited.drop(name)
        for pattern in patterns:
            limited.limit(pattern, delay=1.0)
        assert pattern_for(limited, key) == fitting(patterns, key)

    one_at_a_time()


def test_thousands_of_patterns(limited: Limited) -> None:
    """More than Lua puts on its stack."""
    some = [text for n in range(9000) for text in (f"host:h{n}-*", "delay=1000")]
    limited._set("s", "", *some)
    limited.limit("host:h8999-x", concurrency=1)
    assert pattern_for(limited, "host:h8999-y") == "host:h8999-*"
    assert pattern_for(limited, "host:h8999-x") == "host:h8999-x"
    limited.check()


def test_what_one_worker_declares_and_another_as_well_stays(limited: Limited) -> None:
    for name in ("u", "v"):
        limited.space.register(name)
    limited._set("d", "u", "host:*", "delay=1000", "tenant:1", "delay=1000")
    limited._set("d", "v", "host:*", "delay=1000")
    limited.space.broker.release("u")
    assert pattern_for(limited, "host:a") == "host:*"
    assert pattern_for(limited, "tenant:1") == ""
    limited.space.broker.release("v")
    assert pattern_for(limited, "host:b") == ""
