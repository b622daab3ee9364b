"""The site in a process of its own, for tests, examples and measurements."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

from greenworker.errors import ConfigError
from greenworker.testsite.counting import Limits, Seen
from greenworker.testsite.plan import Settings
from greenworker.testsite.site import Report

DEADLINE = 30.0


class RunningSite:
    """A site that runs: where it is, and what it saw."""

    def __init__(self, settings: Settings, root: str) -> None:
        self.root = root
        """The first host's first page, from which all pages of all hosts can be reached."""
        first = int(root.rstrip("/").rpartition(":")[2])
        self.roots = [f"http://127.0.0.1:{first + n}/" for n in range(settings.hosts)]
        """The first page of each host."""
        self.pages = settings.hosts * settings.pages
        """How many pages there are to be found, on all hosts together."""
        self.settings = settings
        # A proxy set in the environment has no business with 127.0.0.1.
        self._open = build_opener(ProxyHandler({})).open

    def stats(self, host: str = "", total: bool = False) -> Report:
        """What it saw: of all hosts, of one (its root, or as 127.0.0.1:20003), or only the sums."""
        asked = {"host": _name(host)} if host else {}
        found = self._ask("__stats", {**asked, **({"total": ""} if total else {})})
        found["total"] = Seen(**found["total"])
        found["hosts"] = {name: Seen(**seen) for name, seen in found["hosts"].items()}
        found["limits"] = {name: Limits(**limits) for name, limits in found["limits"].items()}
        return Report(**found)

    def set(self, host: str = "", **limits: float) -> None:
        """Hold visitors to other limits from now on: `rate=`, `burst=`, `concurrency=`, `delay=`.

        Raises ConfigError for what cannot be.
        """
        asked: dict[str, Any] = {"host": _name(host)} if host else {}
        self._ask("__set", {**asked, **limits})

    def reset(self) -> None:
        """Count from nothing, from now on."""
        self._ask("__reset", {})

    def _ask(self, what: str, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            with self._open(f"{self.root}{what}?{urlencode(asked)}", timeout=DEADLINE) as answer:
                found: dict[str, Any] = json.load(answer)
        except HTTPError as error:
            with error:
                raise ConfigError(error.read().decode().strip()) from None
        return found


@contextmanager
def running_site(
    *,
    rate: float = 0.0,
    burst: int = 1,
    concurrency: int = 0,
    delay: float = 0.0,
    **settings: Any,
) -> Iterator[RunningSite]:
    """Run a site in a process of its own, and yield it; for what it takes see `Settings`.

    It ends with the context, or with this process, however that ends. Ctrl-C does not reach it.
    Raises ConfigError for what it cannot be.
    """
    chosen = Settings(limits=Limits(rate, burst, concurrency, delay), **settings)
    command = ("-m", "greenworker", "testsite", "--until-eof", *_options(chosen))
    with running(command) as root:
        yield RunningSite(chosen, root)


@contextmanager
def running(program: Sequence[str]) -> Iterator[str]:
    """Run `python program…`, and yield the first line that it prints, its address.

    It is to end when its stdin does: that is with this process, however this one ends.
    """
    # In a session of its own it does not see Ctrl-C.
    with subprocess.Popen(
        [sys.executable, *program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            root = process.stdout.readline().strip()
            if not root:
                raise RuntimeError("the web site did not start; see what it wrote above")
            yield root
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=5.0)
            except subprocess.TimeoutExpired:
                process.kill()


def _options(settings: Settings) -> list[str]:
    """The command line that gives these settings."""
    limits = settings.limits
    values: dict[str, Any] = {
        name: getattr(settings, name)
        for name in ("hosts", "pages", "seed", "port", "latency", "tolerance")
    }
    values |= {name: getattr(limits, name) for name in ("rate", "burst", "concurrency", "delay")}
    values |= {
        name: getattr(settings, name)
        for name in ("bursts", "drip", "bombs", "loops", "broken", "private")
    }
    values["police"] = ",".join(settings.police) or "none"
    if settings.shift:
        values["shift"] = ",".join(f"{after}:{rate}" for after, rate in settings.shift)
    return [f"--{name}={value}" for name, value in values.items()]


def _name(host: str) -> str:
    return host.removeprefix("http://").rstrip("/")
