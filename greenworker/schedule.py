"""Schedules: what an app declares to be sent again and again, and what the server knows of it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar

from greenworker.errors import (
    BadArguments,
    ConfigError,
    DeclarationError,
    NotEncodable,
    PayloadTooLarge,
)
from greenworker.message import Message, encode_body
from greenworker.recurrence import Recurrence
from greenworker.result import Result
from greenworker.task import Task
from greenworker.timetable import Entry, Timetable

P = ParamSpec("P")
R = TypeVar("R")

_AN_ID = re.compile(r"[A-Za-z0-9_.:/@-]{1,64}").fullmatch
_MISFIRES = ("once", "skip")


class ScheduleOptions(TypedDict, total=False):
    """What a schedule may be told besides when it is due.

    `args` and `kwargs` are those of the call; `name` is the schedule's, by default the task's; `misfire` says what
    becomes of ticks that were missed: "once" sends the last one of them, "skip" none. `queue`, `priority`, `expires`
    (seconds) and `result_ttl` are for the send, in place of the task's.
    """

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    name: str
    misfire: Literal["once", "skip"]
    queue: str
    priority: int
    expires: float
    result_ttl: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """A call of a task that is sent whenever it is due."""

    name: str
    recurrence: Recurrence
    task: Task[..., Any]
    misfire: str
    call: Message  # under an id that is never sent

    @property
    def entry(self) -> Entry:
        return Entry(self.name, self.recurrence.text, self.task.name)

    @property
    def queue(self) -> str:
        return self.call.queue

    def tick(self, at: float) -> Message:
        """The message for a moment: whoever makes it, it is the same, id and all."""
        return replace(self.call, id=tick_id(self.name, at))

    def same_as(self, other: Schedule) -> bool:
        # A script that is run and imported again declares its own schedules twice.
        mine = (self.entry, self.misfire, replace(self.call, id=""))
        return mine == (other.entry, other.misfire, replace(other.call, id=""))


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as it stands; moments are epoch seconds, None where there is none.

    `when` is the text of its recurrence. `next` is None while it is paused, or not planned yet. `seen` is when a worker that declares
    it was last there, to some seconds: None, none ever; `declared`: this app declares it.
    """

    name: str
    task: str
    when: str
    next: float | None
    last: float | None
    last_id: str
    paused: float | None
    seen: float | None
    declared: bool


class Schedules:
    """An app's schedules, by name: `app.schedule`."""

    def __init__(self, timetable: Callable[[], Timetable]) -> None:
        self.declared: dict[str, Schedule] = {}
        self._timetable = timetable

    def declare(
        self,
        recurrence: Recurrence,
        task: object,
        options: Mapping[str, Any],
        tasks: Mapping[str, Any],
    ) -> None:
        """Add a schedule of one of `tasks`; raises DeclarationError."""
        text = recurrence.text
        if not isinstance(task, Task):
            what = getattr(task, "__qualname__", f"{task!r:.60}")
            mend = f"; a time zone has its name, tz={task!r:.60}" if isinstance(task, str) else ""
            raise DeclarationError(
                f"{text}: {what} is no task{mend or ': put this above @app.task, not below'}"
            )
        if task.name not in tasks or tasks[task.name] is not task:
            raise DeclarationError(
                f"{text}: {task.name} is a task of another App: schedule it there"
            )
        given = dict(options)
        unknown = sorted(set(given) - set(ScheduleOptions.__annotations__))
        if unknown:
            known = ", ".join(ScheduleOptions.__annotations__)
            raise DeclarationError(f"{text}: no option {unknown[0]!r}; there are {known}")
        name, misfire = given.pop("name", task.name), given.pop("misfire", "once")
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 1000:
            raise DeclarationError(f"name={name!r:.60}: give up to 1,000 printable characters")
        if misfire not in _MISFIRES:
            raise DeclarationError(f"{name}: misfire={misfire!r:.60}: give 'once' or 'skip'")
        schedule = Schedule(name, recurrence, task, misfire, _call(name, task, given))
        known_one = self.declared.get(name)
        if known_one is not None and not known_one.same_as(schedule):
            raise DeclarationError(
                f"two schedules are called {name}; give one of them another name="
            )
        self.declared[name] = schedule

    def list(self) -> list[ScheduleInfo]:
        """All that this app declares or the server knows, by name; first those that are due first."""
        now, known = self._timetable().known()
        infos = [
            ScheduleInfo(
                name=one.name,
                task=one.task or self._told(one.name, "task"),
                when=one.when or self._told(one.name, "when"),
                next=one.next,
                last=one.last,
                last_id="" if one.last is None else tick_id(one.name, one.last),
                paused=one.paused,
                seen=one.seen if one.when else None,
                declared=one.name in self.declared,
            )
            for one in known.values()
        ]
        infos += [
            ScheduleInfo(
                name=name,
                task=one.task.name,
                when=one.recurrence.text,
                next=one.recurrence.after(now),
                last=None,
                last_id="",
                paused=None,
                seen=None,
                declared=True,
            )
            for name, one in self.declared.items()
            if name not in known
        ]
        return sorted(infos, key=lambda info: (info.next is None, info.next, info.name))

    def pause(self, *names: str) -> None:
        """Have these send nothing until `resume`; raises ConfigError for a name that is unknown."""
        self._require(names, self._timetable().pause(self._whether_declared(names)))

    def resume(self, *names: str) -> None:
        """Have these go on with their next moment; what came and went is not caught up with.

        Raises as `pause` does.
        """
        self._require(names, self._timetable().resume(self._whether_declared(names)))

    def run(self, name: str) -> Result[Any]:
        """Send one now, whether it is paused or not; what is due stays due. Raises ConfigError for a
        name that this app does not declare, and as `delay` does."""
        self._require((name,), [name in self.declared])
        schedule = self.declared[name]
        return schedule.task.send(replace(schedule.call, id=os.urandom(16).hex()))

    def _told(self, name: str, what: str) -> str:
        """What this app says of one that was paused before any worker told of it."""
        schedule = self.declared.get(name)
        return str(getattr(schedule.entry, what)) if schedule else "?"

    def _whether_declared(self, names: Iterable[str]) -> dict[str, bool]:
        return {name: name in self.declared for name in names}

    def _require(self, names: Sequence[str], found: Iterable[bool]) -> None:
        missing = [
            name for name, is_there in zip(dict.fromkeys(names), found, strict=True) if not is_there
        ]
        if missing:
            known = ", ".join(sorted(self.declared)) or "none"
            raise ConfigError(f"no schedule {', '.join(missing)}; this app declares: {known}")


def tick_id(name: str, at: float) -> str:
    """The id of the tick for a moment: report@2026-11-22T03:00:00Z."""
    precision = "seconds" if round(at * 1000) % 1000 == 0 else "milliseconds"
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec=precision).removesuffix("+00:00")
    id = f"{name}@{moment}Z"
    if _AN_ID(id):
        return id
    return f"{hashlib.sha256(name.encode()).hexdigest()[:32]}@{moment}Z"


def _call(name: str, task: Task[..., Any], options: dict[str, Any]) -> Message:
    args, kwargs = options.pop("args", ()), options.pop("kwargs", None)
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        raise DeclarationError(f"{name}: args={args!r:.60}: give a tuple, as in args=(1,)")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise DeclarationError(f"{name}: kwargs={kwargs!r:.60}: give a dict")
    if isinstance(options.get("expires"), datetime):
        raise DeclarationError(f"{name}: expires=: give seconds, counted from each tick")
    try:
        task.check_call(args, kwargs or {})
    except BadArguments as error:
        raise DeclarationError(f"{error}; a schedule takes them as args= and kwargs=") from None
    try:
        message = task.message(args, kwargs, **options)
        encode_body(message)
    except (BadArguments, NotEncodable, PayloadTooLarge) as error:
        raise DeclarationError(f"{name}: {error}") from None
    return message
