"""What limits allow of keys, in plain Python: who may have started when."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

LATE, FAST = (
    10,
    200,
)  # ms: so much is caught up with, of one each so many ms, where no burst is told


@dataclass(frozen=True)
class Allowed:
    """A limit as numbers, ms; None where it says nothing."""

    concurrency: int | None = None
    delay: int = 0
    interval: float | None = None
    burst: float = 1  # as many at once, or of the next one a part

    @classmethod
    def read(cls, spec: str) -> Allowed:
        said = dict(part.split("=") for part in spec.split() if "=" in part)
        interval, burst = None, 1.0
        if "rate" in said:
            starts, ms = said["rate"].split("/")
            interval = int(ms) / int(starts)
            burst = float(said.get("burst", 1 + (LATE / interval if interval <= FAST else 0)))
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
        self.people: dict[str, str] = {}  # pattern → spec
        self.code: dict[str, str] = {}  # and what was declared last
        self.by: dict[str, set[str]] = {}  # worker → what its code declares
        self._keys: dict[str, Key] = {}

    @property
    def said(self) -> dict[str, str]:
        """People's stand above code's."""
        return {**self.code, **self.people}

    def key(self, name: str) -> Key:
        return self._keys.setdefault(name, Key(self.in_force(name)))

    def set(self, pattern: str, spec: str) -> None:
        """Without a spec what code declares counts again, which people cannot drop."""
        if spec:
            self.people[pattern] = spec
        else:
            self.people.pop(pattern, None)
        self._changed()

    def declare(self, worker: str, specs: dict[str, str]) -> None:
        self.code |= specs
        self.by[worker] = set(specs)
        self._forget()

    def depart(self, worker: str) -> None:
        self.by.pop(worker, None)
        self._forget()

    def _forget(self) -> None:
        still = set[str]().union(*self.by.values())
        self.code = {pattern: spec for pattern, spec in self.code.items() if pattern in still}
        self._changed()

    def _changed(self) -> None:
        for name, key in self._keys.items():
            if key.spec != self.in_force(name):
                key.spec, key.since = self.in_force(name), len(key.starts)

    def in_force(self, name: str) -> str:
        """The most specific one counts alone."""
        said = self.said
        if name in said:
            return said[name]
        fitting = [pattern for pattern in said if "*" in pattern and _fits(pattern, name)]
        if not fitting:
            return ""
        first = min(fitting, key=lambda one: (-len(one.replace("*", "")), one))
        return said[first]

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
