"""Run the examples as their first lines say."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.process import ROOT, Command


def copy_to(folder: Path) -> Path:
    """A copy of the examples: what they write does not end up in the checkout."""
    ignore = shutil.ignore_patterns("__pycache__", ".greenworker")
    return shutil.copytree(ROOT / "examples", folder / "examples", ignore=ignore)


@contextmanager
def worker(module: str, *options: str, cwd: Path, url: str | None = None) -> Iterator[Command]:
    """Run `greenworker module …`; it is ready inside, and must end well."""
    with Command(module, *options, cwd=cwd, env=environ(url)) as command:
        command.wait_for("ready")
        yield command
        stop(command)


def script(name: str, cwd: Path, url: str) -> dict[str, Any]:
    """What Command needs to run `python name`."""
    return {"program": (name,), "cwd": cwd, "env": environ(url)}


def environ(url: str | None) -> dict[str, str]:
    return {"no_proxy": "127.0.0.1", **({} if url is None else {"GREENWORKER_URL": url})}


def stop(command: Command) -> None:
    command.signal(signal.SIGTERM)
    assert command.wait() == 0, command.output
