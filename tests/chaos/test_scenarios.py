"""Every scenario once, in its short variant: nothing lost, nothing twice without a cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.report import load

SEED = 1


@pytest.mark.parametrize("name", load())
def test_scenario(name: str, tmp_path: Path) -> None:
    report = load()[name].run(tmp_path, SEED, short=True)
    assert not report.verdict.problems
    assert report.verdict.sent > 0
