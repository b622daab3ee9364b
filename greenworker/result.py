"""Result: the caller's handle on a message it sent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import orjson

from greenworker.broker import Broker, Sighting
from greenworker.context import CURRENT
from greenworker.errors import (
    BrokerUnavailable,
    GreenworkerError,
    MalformedMessage,
    ResultGone,
    ResultTimeout,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
)
from greenworker.message import State
from greenworker.subscriber import Subscriber

R = TypeVar("R", covariant=True)


@dataclass(frozen=True, slots=True)
class Info:
    """A message at one moment: its state, the retries so far (None once it has ended: its dead letter
    knows), the seconds until it is due (None: it is not waiting for a moment), and what its last
    attempt failed of, in a line."""

    state: State
    attempt: int | None
    due_in: float | None
    last_error: str


_ENDED = (State.SUCCESS, State.FAILURE, State.CANCELLED, State.EXPIRED)

# Announcements are pushed; this is how long a lost one can stay unnoticed.
_RECHECK = 5.0
_AGAIN = 1.0  # seconds after a look that failed
_LOOK = 0.5  # seconds that the last look may take
_ERROR_MOST = 200  # characters: as much as travels with a retry
_TICK = 0.001  # seconds: what the server counts in


class Result(Generic[R]):
    """A handle on one message; cheap, and valid in any process: `app.result(id)`."""

    __slots__ = ("_broker", "_ignored", "_subscriber", "id")

    def __init__(self, id: str, broker: Broker, subscriber: Subscriber, ignored: str = "") -> None:
        self.id = id
        self._broker = broker
        self._subscriber = subscriber
        self._ignored = ignored

    def __repr__(self) -> str:
        return f"<Result {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def state(self) -> State:
        """Where the message is, or how it ended; raises ResultGone for an unknown id."""
        return self._see()[1]

    def info(self) -> Info:
        """The state, and what is known of its retries; raises ResultGone."""
        sighting, state = self._see()
        if sighting.result is not None:
            return Info(state, None, None, _error_line(sighting.result))
        return Info(state, sighting.attempt, sighting.due_in, sighting.last_error)

    def ready(self) -> bool:
        """True once it has ended, however it ended."""
        return self.state in _ENDED

    def successful(self) -> bool:
        """True once it has ended well."""
        return self.state is State.SUCCESS

    def failed(self) -> bool:
        """True once it has ended in failure."""
        return self.state is State.FAILURE

    def forget(self) -> None:
        """Drop the kept result now instead of at the end of its time to live."""
        self._broker.forget(self.id)

    def cancel(self) -> bool:
        """End it before it has ended by itself: what waits or is delayed never runs; in what runs Cancelled is
        raised, within a second as a rule, and after a grace it is killed.

        False if it had ended, or nothing is known of it. Whoever waits for it gets TaskCancelled; or its
        value, if it ends well before its worker learns of this, or in spite of it, within the grace.
        """
        return self._broker.cancel([self.id]) in ("c", "r")

    def get(self, timeout: float | None = None, *, allow_in_task: bool = False) -> R:
        """The task's value, as JSON carries it; waits for it, up to `timeout` seconds.

        Raises TaskFailed (TaskExpired, TaskCancelled) when it did not end well,
        ResultTimeout when it has not ended in time, BrokerUnavailable when the server is away at
        that moment (half a second later at the most), ResultGone when nothing is known of
        the id (any more). Inside a task it raises at once, since workers that are full of
        waiting tasks wait for ever; `allow_in_task=True` if that cannot happen.
        """
        if self._ignored:
            raise GreenworkerError(
                f"{self._ignored} keeps no result: declare it without ignore_result to .get() it"
            )
        if CURRENT.get() is not None and not allow_in_task:
            raise GreenworkerError(
                "Result.get() inside a task can fill the worker with tasks that wait; "
                "send a follow-up task instead, or pass allow_in_task=True"
            )
        deadline = None if timeout is None else time.monotonic() + timeout
        value: R = self._value(self._wait(deadline, timeout))
        return value

    def _wait(self, deadline: float | None, timeout: float | None) -> bytes:
        recheck = _RECHECK
        with self._subscriber.watch(self.id) as waiter:
            while True:
                wait = recheck if deadline is None else min(recheck, deadline - time.monotonic())
                payload = waiter.wait(wait) if wait > 0 else waiter.payload
                if payload is not None:
                    return payload
                recheck = _RECHECK
                # Whatever the timeout, there is time for one look.
                left = None if deadline is None else max(_LOOK, deadline - time.monotonic())
                try:
                    sighting, state = self._see(left)
                    recheck = _RECHECK
                except BrokerUnavailable:
                    if deadline is None or time.monotonic() >= deadline:
                        raise
                    recheck = min(_AGAIN, _RECHECK)
                    continue
                if sighting.result is not None:
                    return sighting.result
                if sighting.expires_in is not None:
                    # Nobody announces that: it happens where nobody claims, too.
                    recheck = min(recheck, sighting.expires_in + _TICK)
                if deadline is not None and time.monotonic() >= deadline:
                    raise ResultTimeout(self.id, timeout or 0.0, state)

    def _see(self, patience: float | None = None) -> tuple[Sighting, State]:
        sighting = self._broker.lookup(self.id, patience)
        if sighting.state is None:
            raise ResultGone(self.id)
        return sighting, sighting.state

    def _value(self, payload: bytes) -> Any:
        try:
            outcome = orjson.loads(payload)
            state = outcome["state"]
            if state == State.SUCCESS:
                return outcome["value"]
            error = {} if state in (State.EXPIRED, State.CANCELLED) else outcome["error"]
            told = [str(error.get(name, "")) for name in ("type", "message", "traceback")]
        except (ValueError, LookupError, TypeError, AttributeError):
            raise MalformedMessage(f"what is kept of {self.id} is no result of ours") from None
        if state == State.EXPIRED:
            raise TaskExpired(
                self.id, "Expired", "it was still waiting when its expires had passed"
            )
        if state == State.CANCELLED:
            by = outcome.get("replaced_by")
            how = f"it was replaced by {by}" if by else "it was cancelled"
            raise TaskCancelled(self.id, "Cancelled", how)
        raise TaskFailed(self.id, *told)


class Results(Sequence[Result[R]]):
    """The handles of one `delay_many`, in order; keeps the ids only."""

    def __init__(
        self, ids: Sequence[str], broker: Broker, subscriber: Subscriber, ignored: str = ""
    ) -> None:
        self._ids = ids
        self._rest = (broker, subscriber, ignored)

    def __repr__(self) -> str:
        return f"<{len(self)} Results>"

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> Result[R]: ...

    @overload
    def __getitem__(self, index: slice) -> Results[R]: ...

    def __getitem__(self, index: int | slice) -> Result[R] | Results[R]:
        if isinstance(index, slice):
            return Results(self._ids[index], *self._rest)
        return Result(self._ids[index], *self._rest)

    def __iter__(self) -> Iterator[Result[R]]:
        return (Result(id, *self._rest) for id in self._ids)


def _error_line(payload: bytes) -> str:
    """What a kept result says of its error, as a retry would; empty where it says nothing."""
    try:
        error = orjson.loads(payload)["error"]
        text = " ".join(f"{error['type']}: {error['message']}".split())
    except (ValueError, LookupError, TypeError):
        return ""
    return text[:_ERROR_MOST].rstrip(": ")
