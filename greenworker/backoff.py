"""When to try again: pure arithmetic, exponential with full jitter and a cap; or as the task says.

Full jitter (a uniform draw from zero to the exponential bound) spreads a crowd of
retries best: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
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
        if not all(map(is_delay, values)) or self.factor < 1:
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


@dataclass(frozen=True, slots=True)
class Delays:
    """These delays, in seconds, one after the other; the last one from then on."""

    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds or not all(map(is_delay, self.seconds)):
            raise DeclarationError(
                f"backoff={list(self.seconds)!r}: give seconds from 0 on, at least one"
            )

    def delay(self, retry: int) -> float:
        return self.seconds[min(retry, len(self.seconds)) - 1]


@dataclass(frozen=True, slots=True)
class Computed:
    """What the user's function says of the n-th retry (n = 1, 2, …): seconds."""

    function: Callable[[int], float]

    def delay(self, retry: int) -> float:
        """Raises ValueError for what is no delay, and whatever the function raises."""
        seconds = self.function(retry)
        if not is_delay(seconds):
            raise ValueError(
                f"it answered {seconds!r:.100} for retry {retry}, not seconds from 0 on"
            )
        return seconds


def is_delay(value: object) -> bool:
    """Whether this is a number of seconds that can be waited for."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= sys.float_info.max  # type: ignore[operator]


def as_backoff(value: object) -> Backoff | Delays | Computed:
    """`backoff=2.0` is short for `Backoff(base=2.0)`; a list is one of delays, a function computes them."""
    if isinstance(value, (Backoff, Delays, Computed)):
        return value
    if is_delay(value):
        return Backoff(base=float(value))  # type: ignore[arg-type]
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return Delays(tuple(value))
    if callable(value) and not isinstance(value, type):
        return Computed(value)
    raise DeclarationError(
        f"backoff={value!r}: give seconds, a list of them, a function of the retry's number, "
        "or a greenworker.Backoff(...)"
    )
