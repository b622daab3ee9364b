"""The wheel holds everything that runs, and says the version that the changelog says."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built without a network and without a trace in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    # A build/ folder of the checkout could bring files that are long gone.
    shutil.copytree(
        ROOT / "greenworker", source / "greenworker", ignore=shutil.ignore_patterns("__pycache__")
    )
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*command, "--no-index", "-w", str(target), str(source)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = target.glob("greenworker-*-py3-none-any.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def version() -> str:
    source = (ROOT / "greenworker" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__.*= "(.+)"', source, re.MULTILINE)
    assert found, "greenworker/__init__.py has no __version__"
    return found.group(1)


def test_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "greenworker").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "greenworker/py.typed" in here
    assert any(name.endswith(".lua") for name in here)
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == here


def test_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    entries = configparser.ConfigParser()
    entries.read_string(metadata(wheel, "entry_points.txt"))
    assert dict(entries["console_scripts"]) == {"greenworker": "greenworker.__main__:main"}


def test_five_dependencies(wheel: zipfile.ZipFile) -> None:
    lines = metadata(wheel, "METADATA").splitlines()
    required = [line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist: " in line]
    names = {re.split(r"[^\w-]", text)[0] for text in required if "extra ==" not in text}
    assert names == {"gevent", "redis", "orjson", "docopt-ng", "cronsim"}


def test_wheel_says_our_version(wheel: zipfile.ZipFile) -> None:
    assert f"Version: {version()}" in metadata(wheel, "METADATA").splitlines()


def test_changelog_has_this_version_on_top() -> None:
    """The newest heading under Unreleased is the version that the package says."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == version()


def test_oldest_tests_the_lower_bounds() -> None:
    """tox -e oldest pins exactly what setup.py promises to work with."""
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', (ROOT / "setup.py").read_text()))
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    pins = dict(re.findall(r"([\w-]+)==([\d.]+)", tox["testenv:oldest"]["deps"]))
    assert {"gevent", "redis", "orjson", "docopt-ng", "cronsim"} <= pins.keys()
    assert pins == {name: bounds[name] for name in pins}


def test_readme_says_what_ci_runs() -> None:
    """One command passes everything, and it is the one that newcomers are told."""
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert last.removesuffix(' "$@"') in (ROOT / "README.md").read_text(encoding="utf-8")
