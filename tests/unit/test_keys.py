"""Names that become parts of keys and envelopes are checked."""

from __future__ import annotations

from typing import Any

import pytest

from greenworker import keys
from greenworker.app import App
from greenworker.errors import ConfigError

UNSAFE = ["", " ", "a b", "a\n", "{a}", "a,b", "ü", "a*", "a%", "a=b", "x" * 65, None, 1, b"a"]


@pytest.mark.parametrize("name", ["a", "a.b:c/d@e-f_g", "0", "x" * 64])
def test_safe_names_pass(name: str) -> None:
    assert keys.check_name("queue", name) == name
    assert keys.root(name) == f"gw:{{{name}}}:"


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_names_are_refused_with_the_mend(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"^queue .*: use 1 to 64 letters, digits"):
        keys.check_name("queue", name)


@pytest.mark.parametrize("name", UNSAFE)
def test_an_app_refuses_an_unsafe_namespace_at_once(name: Any) -> None:
    with pytest.raises(ConfigError, match="namespace"):
        App(namespace=name)


def test_one_namespace_is_no_prefix_of_another() -> None:
    assert not keys.messages(keys.root("shop2")).startswith(keys.root("shop"))
