"""Timetable: the scripts of schedules, a method each. Seconds become milliseconds here as in broker.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from greenworker import keys
from greenworker.broker import MAX_BYTES, MAX_COUNT, Link, PushFields
from greenworker.errors import BrokerError, BrokerUnavailable
from greenworker.message import shown
from greenworker.scripts import load
from greenworker.status import groups

LEAVE = -1.0  # what Plan says of a schedule that is not this worker's business: paused, say
_NO_MESSAGE: tuple[str, ...] = ("", "", "", "", "")


class Entry(NamedTuple):
    """What a worker tells of a schedule: `when` is the text of its recurrence."""

    name: str
    when: str
    task: str


class Tick(NamedTuple):
    """A schedule goes on from `due` (None: not planned yet) to `next_due`, epoch seconds.

    With a message it is sent; it stands for the moment `at`. It counts if nobody was faster.
    """

    name: str
    when: str
    due: float | None
    next_due: float
    at: float = 0.0
    message: PushFields | None = None


class Plan(NamedTuple):
    """Epoch seconds of the server's clock: now, and when each schedule is due. None: that is still to
    be told."""

    now: float
    due: list[float | None]


@dataclass(frozen=True, slots=True)
class Known:
    """What the server knows of a schedule; moments are epoch seconds, None where there is none.

    `when` is the text of its recurrence; `seen` is when a worker that declares it was last there, to some seconds.
    """

    name: str
    when: str
    task: str
    next: float | None
    last: float | None
    seen: float
    paused: float | None


class Timetable:
    """When schedules are due, in one namespace, through one link."""

    def __init__(self, link: Link, namespace: str = "default") -> None:
        self._link = link
        self._nil = keys.nil(keys.root(namespace))

    def plan(self, since: float | None, entries: Sequence[Entry]) -> Plan:
        """When these are due; notes that they are declared. `since`: when this worker asked first,
        None if it does now. For at most MAX_COUNT of them."""
        fields = (value for entry in entries for value in entry)
        began = "" if since is None else _ms(since)
        now, *due = self._link.run(load("schedule_plan"), self._nil, began, *fields)
        return Plan(now / 1000, [_told(ms) for ms in due])

    def tick(self, ticks: Sequence[Tick]) -> str:
        """Send what is due and go on; a letter for the fate of each: see schedule_tick.lua.

        Calls are bounded: an error may come after some of them, and what is repeated is carried out once.
        One that is refused keeps none of the others back.
        """
        fates, refused = "", None
        for batch in _bounded(ticks):
            fields = [value for tick in batch for value in _fields(tick)]
            try:
                fates += self._link.run(load("schedule_tick"), self._nil, *fields).decode()
            except BrokerUnavailable:
                raise
            except BrokerError as error:
                refused = error
        if refused is not None:
            raise refused
        return fates

    def pause(self, names: Mapping[str, bool]) -> list[bool]:
        """Have schedules send nothing; whether there is each. True for one that exists, whatever the
        server has heard of it."""
        return self._pause("pause", names)

    def resume(self, names: Mapping[str, bool]) -> list[bool]:
        """Have schedules go on with their next moment; whether there is each."""
        return self._pause("resume", names)

    def known(self) -> tuple[float, dict[str, Known]]:
        """The server's time, and all that it knows, by name."""
        found: dict[str, Known] = {}
        now, cursor = 0.0, b"0"
        while True:
            reply = self._link.run(load("schedule_list"), self._nil, cursor, 100)
            cursor, now = reply[0], reply[1] / 1000
            for name, due, last, seen, paused, when, task in groups(reply[2:], 7):
                key = name.decode("utf-8", "backslashreplace")
                found[key] = Known(
                    name=key,
                    when=_text(when),
                    task=_text(task),
                    next=None if paused else _moment(due),
                    last=_moment(last),
                    seen=seen / 1000,
                    paused=_moment(paused),
                )
            if cursor == b"0":
                return now, found

    def _pause(self, verb: str, names: Mapping[str, bool]) -> list[bool]:
        fields = [
            value
            for name, is_one in names.items()
            for value in (name, "declared" if is_one else "")
        ]
        script, fates = load("schedule_pause"), b""
        for start in range(0, len(fields), 2 * MAX_COUNT):
            fates += self._link.run(script, self._nil, verb, *fields[start : start + 2 * MAX_COUNT])
        return [fate == "y" for fate in fates.decode()]


def _bounded(ticks: Sequence[Tick]) -> Iterator[list[Tick]]:
    batch: list[Tick] = []
    size = 0
    for tick in ticks:
        weight = len(tick.message[-1]) if tick.message else 0
        if batch and (len(batch) >= MAX_COUNT or size + weight > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(tick)
        size += weight
    if batch:
        yield batch


def _fields(tick: Tick) -> list[bytes | str | int]:
    head: list[bytes | str | int] = [
        tick.name,
        tick.when,
        0 if tick.due is None else _ms(tick.due),
        _ms(tick.next_due),
    ]
    if tick.message is None:
        return [*head, "", *_NO_MESSAGE]
    id, queue, priority, _, expires, tail = tick.message
    return [*head, _ms(tick.at), id, queue, priority, expires, tail]


def _told(ms: int) -> float | None:
    return None if ms == 0 else LEAVE if ms < 0 else ms / 1000


def _moment(ms: int) -> float | None:
    return ms / 1000 if ms else None


def _text(raw: bytes) -> str:
    return shown(raw.decode("utf-8", "backslashreplace"))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
