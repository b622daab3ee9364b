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
    snoozed: int = 0
    throttled: int = 0
    cancelled: int = 0
    stuck: int = 0
    not_run: int = 0  # of those received: no task of ours, or no call of one
    blocked: int = 0  # times that something blocked the loop for `block_warn`
    longest_block: float = 0.0  # seconds
    # Seconds by which the loop's latest looks at the clock were late, and when the next one is due.
    lags: deque[float] = field(default_factory=lambda: deque(maxlen=20))
    next_look: float = 0.0
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))

    @property
    def running(self) -> int:
        """Runs that have begun and not ended."""
        ended = self.succeeded + self.failed + self.retried + self.released
        return self.received - ended - self.snoozed - self.throttled - self.cancelled

    def look(self, now: float, every: float) -> None:
        """The loop looks at the clock (time.monotonic()), as it does every so many seconds, or later."""
        if self.next_look:
            self.lags.append(max(0.0, now - self.next_look))
        self.next_look = now + every

    def count_block(self, seconds: float, new: bool) -> None:
        """The loop was, or is, blocked for so long; `new`: this is not what was counted before."""
        self.blocked += new
        self.longest_block = max(self.longest_block, seconds)

    def describe_blocks(self) -> str:
        """How often the loop was blocked, and for how long at most; empty if it never was."""
        if not self.blocked:
            return ""
        times = "once" if self.blocked == 1 else f"{self.blocked} times"
        return f"the loop was blocked {times}, for {self.longest_block:.1f} s at most"
