"""When something is due: every so many seconds, or by a cron line. Pure: the same answer for everybody.

A recurrence is a set of moments (epoch seconds, exact to the millisecond) that nothing but its own
text decides: who computes it, when, and how often plays no part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, Protocol

from greenworker.errors import DeclarationError

_LEAST, _MOST = 0.1, 1e9  # seconds between two moments
_FIELDS = "minute hour day-of-month month day-of-week, as in '*/5 * * * *'"


class Recurrence(Protocol):
    """Moments without an end."""

    @property
    def text(self) -> str:
        """All that decides, on one line: two of the same text are the same."""

    def after(self, moment: float) -> float:
        """The first moment after this one."""


@dataclass(frozen=True, slots=True)
class Every:
    """The multiples of so many seconds, counted from 1970 in UTC: 3600 is each full hour."""

    seconds: float

    def __post_init__(self) -> None:
        given = self.seconds
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not _fits(given):
            raise DeclarationError(f"every({given!r}): give seconds, {_LEAST} or more")

    @property
    def text(self) -> str:
        return f"every {self._step / 1000:.15g}"

    def after(self, moment: float) -> float:
        step = self._step
        return (round(moment * 1000) // step + 1) * step / 1000

    @property
    def _step(self) -> int:
        return round(self.seconds * 1000)


@dataclass(frozen=True, slots=True)
class Cron:
    """The moments of a cron line by the clocks of a time zone, as cronsim reads it.

    When clocks change, like Debian's cron: a line that names its minutes and hours (no field of them
    begins with *) runs once a day whatever the clocks do, right after the gap where its
    time is left out, and the first time where it comes twice. Others follow real time. So does a
    line of six fields, the first of them seconds: what its clocks leave out, it leaves out.
    """

    line: str
    tz: Any = "UTC"  # a zone's name, or a ZoneInfo
    _zone: tzinfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.line, str):
            raise DeclarationError(f"cron({self.line!r:.60}): give a line of text: {_FIELDS}")
        object.__setattr__(self, "line", " ".join(self.line.split()))
        object.__setattr__(self, "_zone", _zone_of(self.tz))
        object.__setattr__(self, "tz", str(self.tz))
        import cronsim  # only who declares a cron line needs it

        try:
            self.after(0.0)
        except cronsim.CronSimError as error:
            what = str(error)[:1].lower() + str(error)[1:]
            raise DeclarationError(f"cron({self.line!r:.200}): {what}; give {_FIELDS}") from None

    @property
    def text(self) -> str:
        return f"cron {self.line} {self.tz}"

    def after(self, moment: float) -> float:
        # A time that comes twice is the first of the two for cronsim, also where the second one is now.
        return next(found for found in self._from(moment) if found > moment)

    def _from(self, moment: float) -> Iterator[float]:
        from cronsim import CronSim

        for found in CronSim(self.line, datetime.fromtimestamp(math.floor(moment), self._zone)):
            yield found.timestamp()
        raise DeclarationError(f"cron({self.line!r:.200}): there is no such day in 50 years")


def last_until(recurrence: Recurrence, moment: float, least: float) -> float:
    """The last moment that is not after this one; `least` is one of them, maybe long ago.

    By bisection: a month of seconds would take minutes to walk through.
    """
    low, high = round(least * 1000), round(moment * 1000)
    while low < high:
        middle = (low + high) // 2
        found = round(recurrence.after(middle / 1000) * 1000)
        if found <= round(moment * 1000):
            low = found
        else:
            high = middle
    return low / 1000


def _fits(seconds: float) -> bool:
    return _LEAST <= seconds < _MOST


def _zone_of(tz: object) -> tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    if isinstance(tz, ZoneInfo) and tz.key:
        return tz
    if not isinstance(tz, str) or not tz:
        raise DeclarationError(f"tz={tz!r:.60}: give a time zone's name, as in 'Europe/Berlin'")
    if tz == "UTC":  # also where the system has no zones
        return UTC
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise DeclarationError(
            f"tz={tz!r:.60}: no such time zone here; give a name as in 'Europe/Berlin', and where "
            "the system has none at all: pip install tzdata"
        ) from None
