"""The public face: what it promises is there, lazily, and typed alike."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import greenworker

STUB = Path(greenworker.__file__).with_suffix(".pyi")


@pytest.mark.parametrize("name", greenworker.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(greenworker, name) is not None
    assert name in dir(greenworker)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Job'"):
        greenworker.Job  # noqa: B018


def test_all_is_what_can_be_resolved() -> None:
    assert set(greenworker.__all__) == {*greenworker._HOME, "__version__"}
    assert len(greenworker.__all__) == len(set(greenworker.__all__))


def test_the_stub_names_the_same_and_from_where_they_come() -> None:
    homes = {"__version__": "greenworker"}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            homes |= {alias.asname or "": node.module or "" for alias in node.names}
    assert set(homes) == set(greenworker.__all__)
    for name, home in homes.items():
        thing = getattr(greenworker, name)
        assert thing is getattr(sys.modules[home], name), name


def test_a_star_import_brings_all() -> None:
    names: dict[str, object] = {}
    exec("from greenworker import *", names)  # noqa: S102  # the only way to write it in a test
    assert set(greenworker.__all__) <= set(names)


def test_importing_loads_nothing_and_sending_loads_no_worker() -> None:
    script = """
import sys
import greenworker
assert not any(name.startswith("greenworker.") for name in sys.modules), "eager"
assert not {"gevent", "redis", "orjson"} & set(sys.modules), "dependencies"
greenworker.App("redis://127.0.0.1:1").client
assert not any(name.startswith("greenworker.worker") for name in sys.modules), "worker"
assert not {"gevent", "docopt"} & set(sys.modules), "gevent or docopt"
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
