"""The types that the package promises, checked by mypy over tests/typing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "typing"

_FOUND = re.compile(r"^(?P<file>.+?):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$")
_EXPECTED = re.compile(r"# E: (?P<codes>[a-z-]+(?:, [a-z-]+)*)$")


def expected() -> Counter[str]:
    found: Counter[str] = Counter()
    for path in sorted(FOLDER.glob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if match := _EXPECTED.search(line):
                found.update(f"{path.name}:{number}: {code}" for code in match["codes"].split(", "))
    return found


def test_mypy_finds_what_is_wrong_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}", str(FOLDER)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    errors = [line for line in ended.stdout.splitlines() if ": error: " in line]
    matches = [_FOUND.match(line) for line in errors]
    found = Counter(
        f"{Path(match['file']).name}:{match['line']}: {match['code']}" for match in matches if match
    )
    assert all(matches), ended.stdout
    assert found == expected(), ended.stdout + ended.stderr
