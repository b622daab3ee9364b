"""Samples: where a namespace stands at one moment, and how fast it went since the one before. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from greenworker.running import Vitals
from greenworker.status import Status, WorkerStatus

OPEN, BUSY, LATER, STOPPED = "open", "busy", "later", "stopped"
HELD, THROTTLED, CIRCUIT = (
    "held",
    "throttled",
    "circuit",
)  # until somebody has it go on, at the latest


@dataclass(frozen=True, slots=True)
class Heard:
    """What a worker has said, and what follows from that and its answer before: `cpu`, the share of one core that
    its process uses; `per_second`, runs that end. `silent`: it has been asked for a while and does not answer.
    `blocks`: the task that blocks its loop now. What is unknown is None."""

    vitals: Vitals | None = None
    cpu: float | None = None
    per_second: float | None = None
    silent: bool = False
    blocks: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as the server knows it, and as it says itself that it is."""

    status: WorkerStatus
    heard: Heard = field(default_factory=Heard)

    @property
    def name(self) -> str:
        return self.status.name

    @property
    def free(self) -> int:
        """Slots in which nothing runs."""
        return max(0, self.status.concurrency - self.status.running)


@dataclass(frozen=True, slots=True)
class Key:
    """A key that limits count by. `limit`: what is in force, as people write it, empty for none; `interval`: the
    seconds between two starts, by what is in force now. `until`: seconds from now until it is held, or may start
    next. `per_minute`: starts. p50 and p95: of the runs' seconds. `refused`: times that it was throttled, in all."""

    name: str
    limit: str = ""
    running: int = 0
    waiting: int = 0
    state: str = OPEN
    until: float | None = None
    per_minute: float = 0.0
    p50: float | None = None
    p95: float | None = None
    refused: int = 0
    interval: float | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that were looked at, and whether these are all. `waiting`: how many messages wait by a key in
    all; None: that is unknown."""

    rows: tuple[Key, ...] = ()
    all: bool = True


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a namespace. `took`: seconds that the server needed to say it. `rates`: what each counter of
    the server gained a second since the look before; empty at the first one. `mute`: workers may not be asked,
    and why."""

    status: Status
    workers: tuple[Worker, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    keys: Keys = field(default_factory=Keys)
    took: float = 0.0
    mute: str = ""


def rates(before: Status, now: Status, seconds: float) -> dict[str, float]:
    """What each counter gained a second. (One that has lost was reset.)"""
    if seconds <= 0:
        return {}
    return {
        name: max(0, count - before.counters.get(name, 0)) / seconds
        for name, count in now.counters.items()
    }
