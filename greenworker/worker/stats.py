"""What a worker has done since it started."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """Counts of runs, and the seconds that the latest ones took."""

    received: int = 0
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    released: int = 0
    stuck: int = 0
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))

    @property
    def running(self) -> int:
        """Runs that have begun and not ended."""
        return self.received - self.succeeded - self.failed - self.retried - self.released
