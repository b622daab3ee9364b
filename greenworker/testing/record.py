"""What a test looks at: what was sent, what ran, and how much time is to pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from greenworker.errors import BadArguments, ConfigError

Errors = Literal["raise", "keep"]

LIMIT = 10_000  # runs at once: what sends itself for ever is to be found


class Span(TypedDict, total=False):
    """So much time, as `timedelta` takes it."""

    days: float
    hours: float
    minutes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message that was sent, as it left the middleware; `args` and `kwargs` are what JSON makes of them.

    `countdown` is the seconds from its send until it is due, 0 for at once; `expires` those until it expires,
    or None. `sender` is the id of the task that sent it; empty: the test did, or a schedule. `keys` are what it is limited by.
    """

    id: str
    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    headers: Mapping[str, Any]
    queue: str
    priority: int
    countdown: float
    expires: float | None
    sender: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ran:
    """One run and what came of it.

    `outcome`: done; retry, later (Snooze) or throttled, after `delay` s, -1 where it told none; dead, and then `reason` is as in a
    DeadLetter; cancelled; release. `attempt` counts retries, 0 is the first run. `error` is what the run raised, if that
    is why. `args` and `kwargs` are as the task got them; empty for what could not be read.
    """

    id: str
    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    queue: str
    attempt: int
    outcome: str
    delay: float = 0.0
    reason: str = ""
    error: BaseException | None = None


def check_errors(errors: object) -> None:
    """Raises ConfigError for what is none of Errors."""
    if errors not in ("raise", "keep"):
        raise ConfigError(f"errors={errors!r:.60}: give 'raise' or 'keep'")


def check_limit(limit: object) -> None:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigError(f"limit={limit!r:.60}: give a whole number from 1 on")


_LONGEST = 100 * 366 * 86400.0  # seconds
_UNITS = {"days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}


def seconds_of(span: Mapping[str, object]) -> float:
    """How long that is; raises BadArguments. Time goes forward only: schedules rely on it."""
    total = 0.0
    for unit, value in span.items():
        if unit not in _UNITS:
            raise BadArguments(f"{unit}={value!r:.60}: give {', '.join(_UNITS)}")
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not 0 <= value < math.inf:  # type: ignore[operator]  # it is a number
            raise BadArguments(f"{unit}={value!r:.60}: give a number from 0 on")
        total += _UNITS[unit] * value  # type: ignore[operator]
        if total > _LONGEST:
            raise BadArguments(f"{unit}={value!r:.60}: give a hundred years at most")
    return total


def is_name_of(task: object, name: str) -> bool:
    """Whether a message's task is this one, a Task or a name."""
    return name == getattr(task, "name", task)
