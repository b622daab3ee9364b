"""Wait for something to become true, instead of sleeping to be safe."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import gevent

T = TypeVar("T")


def eventually(check: Callable[[], T], within: float = 10.0, message: str = "") -> T:
    """Call `check` until its value is true, and return that value.

    Raises AssertionError with the message and the last value once `within` seconds have
    passed. What `check` raises goes through at once.
    """
    deadline = time.monotonic() + within
    pause = 0.002
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() >= deadline:
            what = message or f"{getattr(check, '__qualname__', check)} stayed false"
            raise AssertionError(f"{what} (waited {within:g} s; last value: {value!r})")
        # gevent's sleep, so that greenlets of this very process run meanwhile.
        gevent.sleep(pause)
        pause = min(pause * 1.5, 0.05)
