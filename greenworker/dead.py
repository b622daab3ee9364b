"""Dead letters: what failed for good, for people to read, retry and delete."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import unquote

import orjson

from greenworker.broker import MAX_COUNT, Broker
from greenworker.errors import ConfigError, GreenworkerError, MalformedMessage
from greenworker.message import Message, decode
from greenworker.outcomes import LONGEST

# As the prelude of the scripts reads it, and the task.
_HEAD = re.compile(rb"1 (\d{1,15}) (\d{1,15}) \d (\d{1,15}) \d+ \d+ (\S+) ([^ \n]*)").match
_FRONT = re.compile(rb"(\d{1,15}) (\S+) (\S+) (\d+)").fullmatch

T = TypeVar("T")

_FATES = {
    "r": "retried", "d": "deleted", "g": "gone", "p": "present", "u": "unreadable", "l": "locked",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that failed for good.

    `reason` is one word: failed, rejected, stuck, poison, malformed, signature, arguments,
    unknown, result, internal.
    `error`, `message` and `traceback` are the remote error's, as text. `sent` and `died` are epoch
    seconds of the server's clock. `attempt` counts the retries, `deliveries` the crashes it was
    present at; `worker` is the name of the worker that gave it up, `incarnation` the id of that
    worker's life. `args` and `kwargs` are None when they were not asked for or cannot be read; in the
    second case `raw` is what is kept of the message. What its head does not tell is "?" or 0.
    """

    id: str
    task: str
    queue: str
    reason: str
    error: str
    message: str
    traceback: str = field(repr=False)
    sent: float
    died: float
    deliveries: int
    attempt: int
    worker: str
    incarnation: str
    # Not in the repr: arguments are in no log line that did not ask for them.
    args: Sequence[Any] | None = field(default=None, repr=False)
    kwargs: dict[str, Any] | None = field(default=None, repr=False)
    raw: bytes | None = field(default=None, repr=False)


class DeadLetters:
    """The dead letters of a namespace: `app.dead`. The server keeps 100,000 of them, for 30 days."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def list(
        self,
        *,
        ids: Iterable[str] | None = None,
        task: str | None = None,
        error: str | None = None,
        reason: str | None = None,
        text: str | None = None,
        older: float | None = None,
        newer: float | None = None,
        limit: int | None = None,
        values: bool = True,
    ) -> Iterator[DeadLetter]:
        """The dead letters that fit all that is given; oldest first, or as `ids` names them.

        `text` is a part of the error's text or traceback; `older` and `newer` are seconds since
        the death; `values=False` leaves the arguments where they are. They are read in bounded calls
        while you iterate; what dies meanwhile is not among them. Raises ConfigError for what is no
        filter, an empty text too: it would fit all of them.
        """
        for name, given in (("task", task), ("error", error), ("reason", reason), ("text", text)):
            if given is not None and (given == "" or not isinstance(given, str)):
                raise ConfigError(f"{name}={given!r:.80}: give a text, or None for all")
        for name, age in (("older", older), ("newer", newer)):
            if age is not None and not _is_count(age, (int, float)):
                raise ConfigError(f"{name}={age!r:.80}: give seconds, 0 or more, or None for all")
        if limit is not None and not _is_count(limit, int):
            raise ConfigError(
                f"limit={limit!r:.80}: give a whole number, 0 or more, or None for all"
            )
        found = self._read(None if ids is None else _checked_ids(ids), older, newer, values)
        fitting = (
            letter
            for letter in found
            if (task is None or letter.task == task)
            and (error is None or letter.error == error)
            and (reason is None or letter.reason == reason)
            and (text is None or text in letter.message or text in letter.traceback)
        )
        return islice(fitting, None if limit is None else min(limit, sys.maxsize))

    def get(self, id: str) -> DeadLetter | None:
        """The dead letter of this id, or None."""
        return next(self.list(ids=[id]), None)

    def retry(self, *letters: DeadLetter | str, dry_run: bool = False) -> dict[str, str]:
        """Send dead letters again, with all their attempts before them; says what became of each id:

        retried; gone: there is no such dead letter; present: a message of this id is waiting or
        running; unreadable: it is no message that can run; locked: its task is unique, and another one
        like it is there. `dry_run` tells and changes nothing.
        A DeadLetter means that very death: if it has died again since, it is gone. An id means any.

        A message whose `expires` has passed may wait once more for as long as it might at first.
        More than a thousand are worked off in several calls: an error in the middle carries `.fates`,
        what had become of those before. Only of the next thousand at most nothing is known, and that
        only if its `.maybe_done` is set.
        """
        return self._work_off(letters, partial(self._broker.revive, dry_run=dry_run))

    def delete(self, *letters: DeadLetter | str) -> int:
        """Forget dead letters; returns how many there were. What a DeadLetter means, and an id, is as
        for `retry`, and so are the `.fates` of an error: deleted, or gone."""
        fates = self._work_off(letters, self._broker.dead_delete)
        return sum(fate == "deleted" for fate in fates.values())

    def _work_off(
        self, letters: Iterable[DeadLetter | str], step: Callable[..., object]
    ) -> dict[str, str]:
        died = _moments_of(letters)
        ids = [_encode(id) for id in died]
        told: list[str] = []

        def fates() -> dict[str, str]:
            return {id: _FATES[fate] for id, fate in zip(died, "".join(told), strict=False)}

        try:
            step(ids, died=_told(died), note=told.append)
        except GreenworkerError as error:
            error.fates = fates()
            error.add_note(f"{len(error.fates)} of {len(ids)} dead letters had been seen to before")
            raise
        return fates()

    def _read(
        self, ids: Iterable[str] | None, older: float | None, newer: float | None, values: bool
    ) -> Iterator[DeadLetter]:
        now = self._broker.time()
        since = None if newer is None else now - min(newer, LONGEST)
        until = now if older is None else now - min(older, LONGEST)
        if ids is None:
            pages = self._broker.dead_ids(since, until)
        else:
            pages = ([*map(_encode, some)] for some in in_batches(ids, MAX_COUNT))
        for page in pages:
            records = self._broker.dead_records(page, values)
            for id, record in zip(page, records, strict=True):
                if record is None:
                    continue  # it left after its id was read
                letter = _read_letter(id.decode("utf-8", "surrogateescape"), record, values)
                if ids is None or (since or 0.0) <= letter.died <= until:
                    yield letter


def _read_letter(id: str, record: bytes, values: bool) -> DeadLetter:
    """A record as the scripts write it (lua/finish.lua), whatever bytes were sent."""
    front, worker, report, envelope, *_ = [*record.split(b"\n", 3), b"", b"", b""]
    told = _FRONT(front)
    died, reason, incarnation, cut = told.groups() if told else (b"0", b"?", b"?", b"0")
    head = _HEAD(envelope)
    deliveries, attempt, sent, queue, task = (
        head.groups() if head else (b"0", b"0", b"0", b"?", b"?")
    )
    error = _error_of(report)
    args: Sequence[Any] | None = None
    kwargs: dict[str, Any] | None = None
    raw = None
    if values:
        message = _message(id, envelope) if cut == b"0" else None
        if message is None:
            raw = envelope
        else:
            args, kwargs = message.args, dict(message.kwargs)
    return DeadLetter(
        id=id,
        task=unquote(_text(task)),
        queue=_text(queue),
        reason=_text(reason),
        error=str(error.get("type", "?")),
        message=str(error.get("message", "")),
        traceback=str(error.get("traceback", "")),
        sent=int(sent) / 1000,
        died=int(died) / 1000,
        deliveries=int(deliveries),
        attempt=int(attempt),
        worker=_text(worker) or "?",
        incarnation=_text(incarnation),
        args=args,
        kwargs=kwargs,
        raw=raw,
    )


def in_batches(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """The items in order, so many at a time."""
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch


def _message(id: str, envelope: bytes) -> Message | None:
    try:
        return decode(id, envelope)
    except MalformedMessage:
        return None


def _error_of(report: bytes) -> dict[str, Any]:
    try:
        outcome = orjson.loads(report)
    except orjson.JSONDecodeError:
        return {}
    error = outcome.get("error") if isinstance(outcome, dict) else None
    return error if isinstance(error, dict) else {}


def _is_count(value: object, kind: type | tuple[type, ...]) -> bool:
    """Whether it is such a number, 0 or more, and an end to it."""
    return isinstance(value, kind) and not isinstance(value, bool) and 0 <= value < math.inf  # type: ignore[operator]


def _checked_ids(ids: Iterable[str]) -> dict[str, None]:
    """Each id once, in order; raises ConfigError."""
    # Of a single text the letters would be taken for ids.
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise ConfigError(f"ids={ids!r:.80}: give several, as in ids=['order-17']")
    listed = list(ids)
    for id in listed:
        if not isinstance(id, str):
            raise ConfigError(f"an id is a text, not {id!r:.80}")
        _encode(id)
    return dict.fromkeys(listed)


def _moments_of(letters: Iterable[DeadLetter | str]) -> dict[str, float | None]:
    """Each id once, in order, with its moment of death if that was given; raises ConfigError."""
    for one in letters:
        if not isinstance(one, (DeadLetter, str)):
            raise ConfigError(
                f"{one!r:.80} is neither a dead letter nor an id; give those of a list one by one: *letters"
            )
    return dict(
        (one.id, one.died) if isinstance(one, DeadLetter) else (one, None) for one in letters
    )


def _told(died: Mapping[str, float | None]) -> dict[bytes, float]:
    return {_encode(id): moment for id, moment in died.items() if moment is not None}


def _encode(id: str) -> bytes:
    # What was no text when it was read goes back as it came.
    try:
        return id.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ConfigError(
            f"{id!a:.80} can be no id; give one as app.dead.list() tells it"
        ) from None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
