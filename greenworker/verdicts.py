"""Verdicts: what a task raises to say itself how its run ends. None of them is an error.

raise Reject("no such customer")     a dead letter now, whatever its retries
raise Ignore                         done, and no result is kept
raise Snooze(60)                     again in a minute; costs no attempt
raise Throttled(retry_after=30)      its key's calls have to wait for half a minute, all of them
current_task().retry(countdown=5)    again in 5 s, as another attempt (raises Retry)
"""

from __future__ import annotations

from greenworker.backoff import is_delay
from greenworker.errors import BadArguments, ConfigError
from greenworker.limit import check_key
from greenworker.retry_header import retry_after as read_header

UNTOLD = 30.0  # seconds that a run without keys waits where nobody says how long
LONGEST_HELD = 3600.0  # seconds: the server holds no key for longer


class Verdict(Exception):
    """What a task raises about its own run; code around it lets it pass."""


class Retry(Verdict):
    """Another attempt, if there is one left; after `countdown` s, or the task's backoff.

    Without any left the task has failed, with the error that this one was raised from or beside.
    """

    def __init__(self, countdown: float | None = None) -> None:
        self.countdown = None if countdown is None else _seconds("retry", "countdown", countdown)
        when = "" if countdown is None else f" in {self.countdown:g} s"
        super().__init__(f"asked for another attempt{when}")


class Reject(Verdict):
    """This message can never succeed: a dead letter, whatever its retries. `reason` is for people."""

    def __init__(self, reason: str = "the task rejected it") -> None:
        super().__init__(reason)


class Ignore(Verdict):
    """Nothing was to be done: done, and no result is kept."""


class Snooze(Verdict):
    """Not now: again in so many seconds, however often; the attempts are as before."""

    def __init__(self, seconds: float) -> None:
        self.seconds = _seconds("Snooze", "seconds", seconds)
        super().__init__(f"snoozed for {self.seconds:g} s")


class Throttled(Verdict):
    """The other side wants no more for now: nothing of the key is handed out until then, and this message comes again
    with the first; costs no attempt.

    `retry_after`: seconds, at most an hour counts; or a Retry-After header's text as it is, seconds or a date; None, 0 or what cannot be
    read: the server finds a time, a longer one each time in a row. `key`: which of the message's two keys, by default its
    first. Without any key it is a Snooze, of 30 s where no time is told.
    """

    def __init__(
        self, retry_after: float | str | bytes | None = None, *, key: str | None = None
    ) -> None:
        told = retry_after if isinstance(retry_after, (str, bytes)) else _told(retry_after)
        self.retry_after = read_header(told) or None
        try:
            self.key = None if key is None else check_key("Throttled: key", key)
        except ConfigError as error:
            raise BadArguments(str(error)) from None
        of = "" if key is None else f", key {key}"
        super().__init__(f"throttled {self.span}{of}")

    @property
    def span(self) -> str:
        """For how long, for people."""
        if self.retry_after is None:
            return "for as long as the back-off says"
        return f"for {min(self.retry_after, LONGEST_HELD):g} s"


def _told(seconds: object) -> float | None:
    if seconds is None:
        return None
    # What is left until a moment that has passed is below 0.
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds < 0:
        return 0.0
    return _seconds("Throttled", "retry_after", seconds)  # type: ignore[arg-type]  # it looks


def _seconds(what: str, name: str, value: float) -> float:
    if not is_delay(value):
        raise BadArguments(f"{what}: {name}={value!r:.80}: give seconds from 0 on")
    return float(value)
