"""Options: flags, and the environment behind them, as checked values."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from greenworker.errors import ConfigError

# What counts by its flag alone. What chooses dead letters, says how one call is sent or what is allowed, or shows what is
# private: no setting of the environment may take a slip for a choice, or narrow a choice unseen. And
# GREENWORKER_VERSION=0.1.0 is what a Dockerfile may well say.
BY_FLAG_ALONE = frozenset(
    (
        *(
            "task",
            "tag",
            "error",
            "reason",
            "text",
            "older",
            "newer",
            "limit",
            "all",
            "values",
            "version",
        ),
        *("yes", "countdown", "queue", "priority", "id", "wait"),
        *("burst-size", "delay", "adaptive", "floor", "ceiling", "none", "for"),
    )
)


class Options:
    """What the user said. A flag goes before GREENWORKER_<OPTION>, where that counts at all
    (BY_FLAG_ALONE); None: nothing was said."""

    def __init__(self, parsed: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> None:
        self._parsed = parsed
        self._environ = os.environ if environ is None else environ

    @property
    def modules(self) -> list[str]:
        """The modules that were named, by position or by -A."""
        return self.modules_of(list(self._parsed["<module>"]))

    def modules_of(self, named: list[str]) -> list[str]:
        """The same for a command with other words in their place."""
        if named and self.said_by_flag("app"):
            raise ConfigError(f"name the modules once: {' '.join(named)}, or -A {self.text('app')}")
        app = self.text("app")
        return named or ([app] if app else [])

    @property
    def verb(self) -> str:
        """What a command of several is to do; empty if that was not said."""
        return str(self._parsed["<verb>"] or "")

    @property
    def ids(self) -> list[str]:
        """The ids that were named."""
        return [id for id in self._parsed["<id>"] if id != "--"]

    @property
    def queues(self) -> list[str]:
        """The queues that were named."""
        return [queue for queue in self._parsed["<queue>"] if queue != "--"]

    def named(self, what: str) -> str | None:
        """What stands where the manual says <task>, <arguments> or <shell>."""
        value = self._parsed[f"<{what}>"]
        return None if value is None else str(value)

    def flag(self, name: str, command: bool = False) -> bool:
        """Whether a flag, or a command, was given."""
        if command:
            return bool(self._parsed[name])
        if self._parsed[f"--{name}"]:
            return True
        value = (self._setting(name) or "").lower()
        if value not in ("", "0", "1", "no", "yes", "false", "true"):
            raise ConfigError(f"{_variable(name)}={value!r}: give 1 or 0")
        return value in ("1", "yes", "true")

    def refuse_others(self, command: str, usable: Collection[str]) -> None:
        """Raise ConfigError for a flag that this command has no use for."""
        for option, value in self._parsed.items():
            name = option.removeprefix("--")
            if option.startswith("--") and value not in (None, False) and name not in usable:
                raise ConfigError(f"{option} is not for {command}; see greenworker --help")

    def said_by_flag(self, name: str) -> bool:
        """Whether the flag itself was given, not its variable."""
        return self._parsed[f"--{name}"] not in (None, False)

    def by_flag(self, name: str) -> str | None:
        """What the flag says, not its variable."""
        given = self._parsed[f"--{name}"]
        return None if given is None else str(given)

    def text(self, name: str) -> str | None:
        return self._said(name)[1]

    def seconds(self, name: str) -> float | None:
        """A number of seconds; raises ConfigError."""
        where, value = self._said(name)
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < 1e9:
            raise ConfigError(f"{where} {value}: give seconds, 0 or more")
        return seconds

    def age(self, name: str) -> float | None:
        """Seconds, from 30s, 15m, 2h or 7d; raises ConfigError."""
        where, value = self._said(name)
        if value is None:
            return None
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])", value)
        if match is None:
            raise ConfigError(f"{where} {value}: give an age such as 30s, 15m, 2h or 7d")
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]

    def count(self, name: str, least: int = 1) -> int | None:
        """A whole number, `least` to a million; raises ConfigError."""
        where, value = self._said(name)
        if value is None:
            return None
        if not re.fullmatch("[0-9]{1,7}", value) or not least <= int(value) <= 1_000_000:
            raise ConfigError(f"{where} {value}: give a whole number, {least} to 1,000,000")
        return int(value)

    def size(self, name: str) -> int | None:
        """A number of bytes, as in 500M or 2G; raises ConfigError."""
        where, value = self._said(name)
        if value is None:
            return None
        match = re.fullmatch("([0-9]{1,12})([KMGT]?)(?:i?B)?", value, re.IGNORECASE | re.ASCII)
        if match is None or not int(match[1]):
            raise ConfigError(f"{where} {value}: give a size, as in 500M or 2G")
        return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")

    def _said(self, name: str) -> tuple[str, str | None]:
        given = self._parsed[f"--{name}"]
        if given is not None:
            return f"--{name}", str(given)
        return _variable(name), self._setting(name)

    def _setting(self, name: str) -> str | None:
        """What the environment says, where that counts."""
        return None if name in BY_FLAG_ALONE else self._environ.get(_variable(name)) or None


def _variable(name: str) -> str:
    return f"GREENWORKER_{name.replace('-', '_').upper()}"
