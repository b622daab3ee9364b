"""Keys: those of a server, as a panel shows them."""

from __future__ import annotations

from collections.abc import Sequence

from greenworker.admission import Admission, KeyState
from greenworker.limit import Limit, Rate
from greenworker.top.sample import Key

_FOR_EVER = 10 * 365 * 86400.0  # seconds: what is held for longer is held until further notice


class ServerKeys:
    """Reads keys a chunk at a time."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def some(self, cursor: str, count: int) -> tuple[str, list[Key]]:
        after, found = self._admission.some_keys(cursor, count)
        return after, list(map(as_key, found))

    def these(self, names: Sequence[str]) -> list[Key]:
        return list(map(as_key, self._admission.keys(names))) if names else []


def as_key(state: KeyState) -> Key:
    limit, due_in = state.limit, state.due_in
    return Key(
        name=state.key,
        limit="" if limit is None else written(limit),
        running=state.running,
        waiting=state.waiting,
        state=state.state,
        until=None if due_in is None or due_in > _FOR_EVER else due_in,
        per_minute=state.per_minute,
        p50=state.p50,
        p95=state.p95,
        refused=state.refused,
        interval=state.interval or (None if limit is None else _interval(limit)),
        concurrency=None if limit is None else limit.concurrency,
    )


def written(limit: Limit) -> str:
    """A limit as people write it: `concurrency=2 delay=0.25 rate=100/min`."""
    said = {
        "concurrency": limit.concurrency,
        "delay": None if limit.delay is None else f"{limit.delay:g}",
        "rate": limit.rate,
        "burst": limit.burst,
        "adaptive": 1 if limit.adaptive else None,
        "floor": limit.floor,
        "ceiling": limit.ceiling,
    }
    return " ".join(f"{name}={value}" for name, value in said.items() if value is not None)


def _interval(limit: Limit) -> float | None:
    """Seconds between two starts, by what the limit says."""
    found = [limit.delay] if limit.delay else []
    found += [_between(limit.rate)] if limit.rate else []
    return max(found, default=None)


def _between(rate: Rate) -> float:
    return rate.seconds / rate.starts
