"""What a worker can be told, and its defaults."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field

from greenworker.errors import ConfigError
from greenworker.keys import check_name

MOST_AT_ONCE = 1_000_000
_MOST_SECONDS = 1e9
_MOST_THREADS = 10_000


def default_name() -> str:
    """host.pid: a label for people; what identifies a worker is its incarnation."""
    return f"{socket.gethostname()}.{os.getpid()}"


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Seconds everywhere."""

    queues: tuple[str, ...] = ("default",)  # in this order; all of one before the next
    concurrency: int = 100  # tasks at once, and the most that is ever claimed
    threads: int = 10  # native ones, for the tasks that declare thread=True
    timeout: float = 300.0  # hard limit of one run, for tasks that declare none; 0 = none
    grace: float = 25.0  # to finish what runs at a stop; Kubernetes kills after 30
    cancel_grace: float = 10.0  # for a run that was cancelled, to tidy up; then it is killed
    lease: float = 30.0  # a worker that is silent for so long is dead
    block_warn: float = 0.5  # the loop is blocked for so long: say by which task
    max_block: float = 0.0  # … for so long: give up; 0 = never (the command line says 120)
    max_tasks: int = 0  # begin so many runs, then drain and stop; 0 = no limit
    max_memory: int = 0  # bytes in use, after which to drain and stop; 0 = no limit
    max_stuck: int | None = None  # tasks that cannot be ended, likewise; None: see stuck_limit
    max_deliveries: int = 3  # crashes a message may cause alone before it is buried
    burst: bool = False  # end when nothing is left to do
    solo: bool = False  # one task at a time, in the main greenlet: pdb works
    log_values: bool = False  # show arguments and results in log lines
    allow_eviction: bool = False  # run on a server that may drop tasks when memory is short
    name: str = field(default_factory=default_name)

    def __post_init__(self) -> None:
        most, name = self.concurrency, self.name
        if not _is_whole(most) or not 1 <= most <= MOST_AT_ONCE:
            raise ConfigError(f"concurrency {most!r}: give a whole number, 1 to {MOST_AT_ONCE:,}")
        if not _is_whole(self.threads) or not 1 <= self.threads <= _MOST_THREADS:
            raise ConfigError(
                f"threads {self.threads!r}: give a whole number, 1 to {_MOST_THREADS:,}"
            )
        if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
            raise ConfigError(f"name {name!r:.60}: give up to 200 printable characters")
        if not self.queues:
            raise ConfigError("no queues: name at least one")
        for queue in self.queues:
            check_name("queue", queue)
        for what in ("timeout", "grace", "cancel_grace", "block_warn", "max_block"):
            if not _is_seconds(getattr(self, what)):
                raise ConfigError(f"{what} {getattr(self, what)!r}: give seconds, 0 or more")
        for what in ("max_tasks", "max_memory", "max_stuck"):
            value = getattr(self, what)
            if (value is not None or what != "max_stuck") and (not _is_whole(value) or value < 0):
                raise ConfigError(f"{what} {value!r}: give a whole number, 0 or more")
        if not _is_whole(self.max_deliveries) or self.max_deliveries < 1:
            raise ConfigError(
                f"max_deliveries {self.max_deliveries!r}: give a whole number, 1 or more"
            )
        if not _is_seconds(self.lease) or self.lease < 1:
            raise ConfigError(f"lease {self.lease!r}: give at least 1 second")
        for what in ("burst", "solo", "log_values", "allow_eviction"):
            if not isinstance(getattr(self, what), bool):
                raise ConfigError(f"{what} {getattr(self, what)!r}: give True or False")

    @property
    def stuck_limit(self) -> int:
        """More tasks than these that ignore their timeout, and the worker is no longer fit."""
        return max(1, self.concurrency // 10) if self.max_stuck is None else self.max_stuck

    @property
    def beat_every(self) -> float:
        return self.lease / 6

    @property
    def sweep_every(self) -> float:
        return self.lease / 2

    @property
    def quiet(self) -> float:
        """The longest gap between sweeps after which leases still mean something.

        Longer than one sweep interval, and short enough that a living worker, whose last
        beat came at most lease/6 before the server went away, still has a beat's time left.
        """
        return self.lease * 2 / 3


def _is_seconds(value: object) -> bool:
    """Whether it is a number of seconds: finite, 0 or more, and few enough for every clock."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value < _MOST_SECONDS  # neither nan nor inf is
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
