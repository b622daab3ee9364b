"""Ticker: sends what schedules have due."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator

from greenworker.broker import MAX_COUNT, PushFields
from greenworker.errors import BrokerError, BrokerUnavailable
from greenworker.message import Message
from greenworker.recurrence import last_until
from greenworker.schedule import Schedule
from greenworker.timetable import LEAVE, Tick, Timetable
from greenworker.worker.service import Service

_log = logging.getLogger("greenworker.worker")

LATE = 10.0  # seconds: what could not be sent for so long was missed


class Ticker(Service):
    """Looks when its schedules are due and sends their ticks; every worker does, for all.

    Each proposes the same ticks, under the same ids, and a script lets the first one of them through.
    Time is the server's. `fields` makes what is pushed of a message, signed if need be.
    """

    name = "ticker"

    def __init__(
        self,
        timetable: Timetable,
        schedules: Collection[Schedule],
        fields: Callable[[Message], PushFields],
        every: float = 2.0,
    ) -> None:
        super().__init__(every)
        self._timetable = timetable
        self._schedules = schedules
        self._fields = fields
        self._since: float | None = None

    def start(self) -> None:
        if self._schedules:
            super().start()

    def step(self) -> float | None:
        wait, refused = self.every or LATE, None
        schedules = list(self._schedules)
        for start in range(0, len(schedules), MAX_COUNT):
            try:
                wait = min(wait, self._look(schedules[start : start + MAX_COUNT]))
            except BrokerUnavailable:
                raise
            except BrokerError as error:
                refused = error  # no reason to keep the others back
        if refused is not None:
            raise refused
        # Not by a timer that ends a little early, again and again.
        return max(wait, 0.0) + 0.001

    def _look(self, schedules: list[Schedule]) -> float:
        """Send what is due; returns the seconds until more is."""
        plan = self._timetable.plan(self._since, [schedule.entry for schedule in schedules])
        if self._since is None:
            self._since = plan.now
        wait = self.every or LATE
        ticks: list[Tick] = []
        for schedule, due in zip(schedules, plan.due, strict=True):
            if due == LEAVE:
                continue
            if due is None or due <= plan.now:
                ticks += self._ticks(schedule, due, plan.now)
                due = ticks[-1].next_due
            wait = min(wait, due - plan.now)
        if ticks:
            self._tell(ticks, self._timetable.tick(ticks))
        return wait

    def _ticks(self, schedule: Schedule, due: float | None, now: float) -> Iterator[Tick]:
        after = schedule.recurrence.after
        if due is None:
            yield Tick(schedule.name, schedule.recurrence.text, None, after(now))
        elif due >= now - LATE:
            while due <= now:
                yield self._tick(schedule, due, after(due), due)
                due = after(due)
        elif schedule.misfire == "once":
            yield self._tick(schedule, due, after(now), last_until(schedule.recurrence, now, due))
        else:
            yield Tick(schedule.name, schedule.recurrence.text, due, after(now))

    def _tick(self, schedule: Schedule, due: float, next_due: float, at: float) -> Tick:
        fields = self._fields(schedule.tick(at))
        return Tick(schedule.name, schedule.recurrence.text, due, next_due, at, fields)

    def _tell(self, ticks: list[Tick], fates: str) -> None:
        for tick, fate in zip(ticks, fates, strict=True):
            if fate == "-" or tick.due is None:
                continue
            if tick.message is None:
                _log.warning("schedule %s: ticks were missed, and are skipped", tick.name)
            elif fate == "d":
                _log.debug("schedule %s: one like it is there, nothing is sent", tick.name)
            elif tick.at != tick.due:
                _log.warning("schedule %s: ticks were missed; one is sent for them", tick.name)
            else:
                _log.debug("schedule %s: sent %s", tick.name, tick.message[0])
