"""proof: only what certainly is gone is called gone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from greenworker.worker import proof
from tests.support.eventually import eventually

TELL = """
import json
from greenworker.worker import proof
print(json.dumps(proof.mark()), flush=True)
input()
"""


@pytest.fixture
def here() -> dict[str, Any]:
    mark = proof.mark()
    assert mark is not None, "these tests need /proc"
    return mark


def test_this_process_is_here(here: dict[str, Any]) -> None:
    assert not proof.is_gone(here)


def test_a_process_is_gone_once_it_has_ended_and_even_before_its_parent_notices() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", TELL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        mark = json.loads(child.stdout.readline())
        assert mark["pid"] == child.pid
        assert not proof.is_gone(mark)
        child.kill()
        eventually(lambda: proof.is_gone(mark), message="a zombie is gone")
    assert proof.is_gone(mark)


def test_another_process_under_the_same_pid_is_no_alibi(here: dict[str, Any]) -> None:
    assert proof.is_gone({**here, "began": here["began"] - 1})


@pytest.mark.parametrize("where", ["host", "boot", "namespace"])
def test_nothing_is_known_of_processes_elsewhere(here: dict[str, Any], where: str) -> None:
    gone = {**here, "began": here["began"] - 1}
    assert proof.is_gone(gone)
    assert not proof.is_gone({**gone, where: "another"})
    del gone[where]
    assert not proof.is_gone(gone)


@pytest.mark.parametrize("mark", [None, {}, [], "x", 1, {"pid": 1}, {"pid": "1", "began": 1}])
def test_a_mark_that_says_too_little_proves_nothing(mark: Any) -> None:
    assert not proof.is_gone(mark)


def test_a_pid_that_is_no_number_proves_nothing(here: dict[str, Any]) -> None:
    assert not proof.is_gone({**here, "pid": "../1"})
    assert not proof.is_gone({**here, "pid": None})
