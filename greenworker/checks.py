"""Checks: what the options of a task, and of one call of it, may be; each raises with the mend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from greenworker.errors import BadArguments, ConfigError, DeclarationError
from greenworker.keys import PRIORITIES, check_name
from greenworker.message import Moment

_MOST_TAGS = 16  # that one message has
_LATEST = 1e11  # epoch seconds, in the year 5138


def checked(what: str, value: Any, check: Callable[[str, Any], Any]) -> Any:
    try:
        return check(what, value)
    except ConfigError as error:
        raise BadArguments(str(error)) from None


def check_tags(what: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise DeclarationError(f"{what}={value!r:.60}: give several, as in [{value!r:.60}]")
    tags = tuple(dict.fromkeys(check_name("tag", tag) for tag in value))
    if len(tags) > _MOST_TAGS:
        raise DeclarationError(f"{what}: {len(tags)} of them, give at most {_MOST_TAGS}")
    return tags


def tagged(tags: Sequence[str]) -> dict[str, str]:
    return {"tags": ",".join(tags)} if tags else {}


def check_priority(what: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value in PRIORITIES:
        return value
    raise DeclarationError(f"{what} {value!r}: give 0 to 9, 9 goes first")


def check_seconds(what: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    raise DeclarationError(f"{what}={value!r:.80}: give seconds, 0 or more, and below 1e9")


def check_result_ttl(what: str, value: object) -> float:
    if check_seconds(what, value) > 0:
        return float(value)  # type: ignore[arg-type]  # it is a number
    raise DeclarationError(f"{what} must be above 0; to keep none: ignore_result=True")


def check_moment(what: str, value: object) -> Moment:
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise BadArguments(f"{what}={value!r} has no time zone: datetime.now(timezone.utc) + …")
        if value.timestamp() > _LATEST:
            raise BadArguments(f"{what}={value!r} is too far away")
        return value
    if what == "eta":
        raise BadArguments(
            f"eta={value!r}: give a datetime with a time zone; for seconds use countdown="
        )
    return check_seconds(what, value)
