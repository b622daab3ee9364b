"""When to try again: pure arithmetic, exponential with full jitter and a cap.

Full jitter (a uniform draw from zero to the exponential bound) spreads a crowd of
retries best: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from greenworker.errors import DeclarationError


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays between attempts, in seconds.

    The n-th retry (n = 1, 2, …) waits for a random time between `least` and
    min(cap, base · factor^(n-1)).
    """

    base: float = 1.0
    factor: float = 2.0
    cap: float = 600.0
    least: float = 0.0

    def __post_init__(self) -> None:
        values = (self.base, self.factor, self.cap, self.least)
        if (
            not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
            or min(values) < 0
            or self.factor < 1
        ):
            raise DeclarationError(
                f"{self}: base, cap and least are seconds ≥ 0, and the factor is at least 1"
            )

    def bound(self, retry: int) -> float:
        """The longest that the given retry may wait."""
        try:
            return min(self.cap, self.base * self.factor ** (retry - 1))
        except OverflowError:
            return self.cap if self.base else 0.0

    def delay(self, retry: int, draw: Callable[[], float] = random.random) -> float:
        """A random delay before the given retry; `draw` answers a number in [0, 1)."""
        bound = max(self.least, self.bound(retry))
        return self.least + draw() * (bound - self.least)


def as_backoff(value: float | Backoff) -> Backoff:
    """`backoff=2.0` is short for `Backoff(base=2.0)`."""
    if isinstance(value, Backoff):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Backoff(base=float(value))
    raise DeclarationError(f"backoff={value!r}: give seconds, or a greenworker.Backoff(...)")
