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
_NEAR = 2 * 86400  # seconds: more than any zone's clocks have ever been changed by
_LONGEST_LINE = 1000  # characters: it is kept on the server, and sent with each look
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
        if len(self.line) > _LONGEST_LINE:
            raise DeclarationError(
                f"cron({self.line!r:.60}): more than {_LONGEST_LINE:,} characters; give {_FIELDS}"
            )
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
        began = math.floor(moment)
        if self._names_its_time:
            # A time that comes twice is the first of the two for cronsim, also where the second one is now.
            walk = self._walk(datetime.fromtimestamp(began, self._zone))
            return next(found for found in walk if found > moment)
        return self._shown_after(began)

    def _shown_after(self, at: int) -> float:
        """The first moment after this one at which the zone's clocks show what the line says.

        cronsim is asked about clocks that never change. Those of a zone it follows by steps from full hour to
        full hour, and goes round in circles where they change by half an hour or at a quarter to three.
        """
        shown = at + self._offset(at)
        while True:
            walk = self._walk(datetime.fromtimestamp(shown, UTC))
            found = round(next(walk)) - self._offset(at)
            change = self._change(at, min(found, at + _NEAR))
            if change is not None:
                at, shown = change, change + self._offset(change) - 1  # at which it may be itself
            elif found <= at + _NEAR:
                return float(found)
            else:  # what clocks do on the way there changes nothing
                at = found - _NEAR
                shown = at + self._offset(at)

    def _walk(self, start: datetime) -> Iterator[float]:
        from cronsim import CronSim

        for found in CronSim(self.line, start):
            yield found.timestamp()
        raise DeclarationError(f"cron({self.line!r:.200}): there is no such day in 50 years")

    def _change(self, low: int, high: int) -> int | None:
        """When the clocks change between these moments, or None; they do so once at most."""
        before = self._offset(low)
        if self._offset(high) == before:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle) == before:
                low = middle
            else:
                high = middle
        return high

    def _offset(self, at: int) -> int:
        """Seconds by which the zone's clocks are ahead of UTC."""
        offset = datetime.fromtimestamp(at, self._zone).utcoffset()
        return 0 if offset is None else round(offset.total_seconds())

    @property
    def _names_its_time(self) -> bool:
        """Whether it runs once a day whatever the clocks do; cronsim sees to that."""
        fields = self.line.split()
        return len(fields) == 5 and not any(field.startswith("*") for field in fields[:2])


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
