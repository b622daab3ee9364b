"""What limits allow of keys, in plain Python: who may have started when."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

BURST_WITHIN = 100  # ms, as limits.lua has it


@dataclass(frozen=True)
class Allowed:
    """A limit as numbers, ms; None where it says nothing."""

    concurrency: int | None = None
    delay: int = 0
    interval: float | None = None
    burst: int = 1

    @classmethod
    def read(cls, spec: str) -> Allowed:
        said = dict(part.split("=") for part in spec.split() if "=" in part)
        interval, burst = None, 1
        if "rate" in said:
            starts, ms = said["rate"].split("/")
            interval = int(ms) / int(starts)
            burst = int(said.get("burst", max(1, int(BURST_WITHIN / interval))))
        concurrency = int(said["concurrency"]) if "concurrency" in said else None
        return cls(concurrency, int(said.get("delay", 0)), interval, burst)


@dataclass
class Key:
    """What has happened to one key."""

    spec: str = ""
    since: int = 0  # which of the starts was the first under this limit
    starts: list[int] = field(default_factory=list)
    held_until: float = 0  # nothing may be handed out before; never: inf


class Limits:
    """The limits that there are, and a judge of starts."""

    def __init__(self) -> None:
        self.said: dict[str, tuple[str, str]] = {}  # pattern → d or s, spec
        self.by: dict[str, set[str]] = {}  # worker → what its code declares
        self._keys: dict[str, Key] = {}

    def key(self, name: str) -> Key:
        return self._keys.setdefault(name, Key(self.in_force(name)))

    def set(self, pattern: str, spec: str) -> None:
        if spec:
            self.said[pattern] = "s", spec
        else:
            self.said.pop(pattern, None)
        self._changed()

    def declare(self, worker: str, specs: dict[str, str]) -> None:
        for pattern, spec in specs.items():
            if self.said.get(pattern, "d")[0] != "s":
                self.said[pattern] = "d", spec
        self._forget(self.by.get(worker, ()), {**self.by, worker: set(specs)})
        self.by[worker] = set(specs)

    def depart(self, worker: str) -> None:
        mine = self.by.pop(worker, set[str]())
        self._forget(mine, self.by)

    def _forget(self, patterns: Iterable[str], by: dict[str, set[str]]) -> None:
        for pattern in patterns:
            still = any(pattern in some for some in by.values())
            if not still and self.said.get(pattern, "s")[0] == "d":
                del self.said[pattern]
        self._changed()

    def _changed(self) -> None:
        for name, key in self._keys.items():
            if key.spec != self.in_force(name):
                key.spec, key.since = self.in_force(name), len(key.starts)

    def in_force(self, name: str) -> str:
        """The most specific one counts alone."""
        if name in self.said:
            return self.said[name][1]
        fitting = [pattern for pattern in self.said if "*" in pattern and _fits(pattern, name)]
        if not fitting:
            return ""
        first = min(fitting, key=lambda one: (-len(one.replace("*", "")), one))
        return self.said[first][1]

    def started(self, name: str, now: int, running: int) -> None:
        """One more was handed out, and by then so many run; I12."""
        key = self.key(name)
        allowed = Allowed.read(key.spec)
        told = f"{name} by {key.spec!r}"
        assert key.held_until <= now, f"{told} is held"
        if allowed.concurrency is not None:
            assert running <= allowed.concurrency, f"{told}: {running} at once"
        if allowed.delay and key.starts:
            assert now - key.starts[-1] >= allowed.delay, f"{told}: too soon"
        key.starts.append(now)
        if allowed.interval:
            for n, began in enumerate(key.starts[key.since :], key.since):
                count = len(key.starts) - n
                most = allowed.burst + (now - began) / allowed.interval
                assert count <= most + 1e-6, f"{told}: {count} in {now - began} ms"


def _fits(pattern: str, name: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
