"""What a Retry-After header says: RFC 9110, section 10.2.3; its dates are of section 5.6.7."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

_MOST = 366 * 86400.0  # seconds: who says more means never, or nothing
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?").fullmatch
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH, _TIME = f"({'|'.join(_MONTHS)})", "([0-9]{2}):([0-9]{2}):([0-9]{2})"
# Sun, 06 Nov 1994 08:49:37 GMT; Sunday, 06-Nov-94 08:49:37 GMT; Sun Nov  6 08:49:37 1994
_FIXED = re.compile(
    rf"[a-z]{{3}}, ([0-9]{{1,2}}) {_MONTH} ([0-9]{{4}}) {_TIME} (?:gmt|utc)"
).fullmatch
_RFC_850 = re.compile(
    rf"[a-z]{{6,9}}, ([0-9]{{2}})-{_MONTH}-([0-9]{{2}}) {_TIME} (?:gmt|utc)"
).fullmatch
_ASCTIME = re.compile(rf"[a-z]{{3}} {_MONTH} ([0-9]{{1,2}}) {_TIME} ([0-9]{{4}})").fullmatch


def retry_after(header: object, now: datetime | float | None = None) -> float | None:
    """The seconds that a Retry-After header asks for, a number or any of its three forms of dates; None where there
    is none, or what it says cannot be read.

    0 for a date that has passed, a year for more than that. `now`, a datetime or epoch seconds, is what a date is compared
    with: by default this machine's clock.
    """
    if isinstance(header, bytes):
        header = header.decode("latin-1")
    if isinstance(header, (int, float)) and not isinstance(header, bool):
        return _bounded(header)
    if not isinstance(header, str) or len(header) > 100:
        return None
    text = " ".join(header.lower().split())
    if _SECONDS(text):
        return _bounded(float(text))
    here = time.time() if now is None else now
    if isinstance(here, datetime):
        here = here.timestamp()
    moment = _moment(text, here)
    return None if moment is None else _bounded(moment - here)


def _bounded(seconds: float) -> float | None:
    if seconds != seconds:  # nan
        return None
    return float(min(max(0, seconds), _MOST))


def _moment(text: str, now: float) -> float | None:
    """Epoch seconds of a date; None for what is none."""
    if match := _FIXED(text):
        day, month, year, *clock = match.groups()
    elif match := _RFC_850(text):
        day, month, year, *clock = match.groups()
        year = str(_in_full(int(year), datetime.fromtimestamp(now, UTC).year))
    elif match := _ASCTIME(text):
        month, day, *clock, year = match.groups()
    else:
        return None
    hours, minutes, seconds = map(int, clock)
    if hours > 23 or minutes > 59 or seconds > 60:  # 60: a leap second
        return None
    try:
        date = datetime(int(year), 1 + _MONTHS.index(month), int(day), hours, minutes, tzinfo=UTC)
        return date.timestamp() + seconds
    except ValueError:
        return None


def _in_full(year: int, this: int) -> int:
    """A year of two digits is at most fifty years from now, else in the past."""
    latest = this + 50
    return latest - (latest - year) % 100
