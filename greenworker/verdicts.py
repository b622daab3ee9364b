"""Verdicts: what a task raises to say itself how its run ends. None of them is an error.

raise Reject("no such customer")     a dead letter now, whatever its retries
raise Ignore                         done, and no result is kept
raise Snooze(60)                     again in a minute; costs no attempt
current_task().retry(countdown=5)    again in 5 s, as another attempt (raises Retry)
"""

from __future__ import annotations

from greenworker.backoff import is_delay
from greenworker.errors import BadArguments


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


def _seconds(what: str, name: str, value: float) -> float:
    if not is_delay(value):
        raise BadArguments(f"{what}: {name}={value!r:.80}: give seconds from 0 on")
    return float(value)
