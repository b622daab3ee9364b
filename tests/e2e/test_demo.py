"""greenworker demo: the main job on real input. The slowest test of all, some 20 seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.process import run


@pytest.mark.timeout(120)
def test_the_demo(tmp_path: Path) -> None:
    done = run("demo", cwd=tmp_path, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "5,000 of 5,000 pages in" in done.stdout
    for row in ("in flight", "latency     p50", "failures", "retries, 0 errors", "memory"):
        assert row in done.stdout
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind
