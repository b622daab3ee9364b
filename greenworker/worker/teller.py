"""Teller: says what runs here, to people who ask (`greenworker running`)."""

from __future__ import annotations

import os
import sysconfig
import time
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from heapq import nsmallest
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

import orjson

from greenworker.control import MOST_TASKS, Control
from greenworker.errors import BrokerError, ConfigError
from greenworker.message import Delivery, task_name_of
from greenworker.worker.executor import Executor, run_of
from greenworker.worker.incarnation import Membership
from greenworker.worker.pool import SoloPool, TaskPool
from greenworker.worker.report import call_of
from greenworker.worker.run import Run
from greenworker.worker.threads import Call, Threads, frame_in_thread
from greenworker.worker.vitals import Pulse

_TEXT = 200  # characters that one field may have


class Teller:
    """Answers each question once: the runs that were claimed first, with the line at which each stands.

    Costs nothing while nobody asks; then 30 µs for each run that is named, and 20 ms to choose them
    among 10,000 (measured).
    """

    def __init__(
        self,
        control: Control,
        membership: Membership,
        pool: TaskPool | SoloPool,
        threads: Threads,
        log_values: bool,
        pulse: Pulse,
    ) -> None:
        self._control = control
        self._membership = membership
        self._pool = pool
        self._threads = threads
        self._log_values = log_values
        self._pulse = pulse
        self._answered = b""

    def tell(self, question: bytes) -> None:
        """Answer, unless this very question has been answered."""
        me = self._membership.current
        if question == self._answered or not me.registered:
            return
        said = orjson.dumps(self.describe(_most(question)))
        # Whoever carries questions here has more to do than to answer them.
        with suppress(BrokerError, ConfigError):
            if self._control.answer(me.id, question, said):
                self._answered = question

    def tell_blocked(self, control: Control, frame: FrameType | None) -> None:
        """The same from the watchdog's thread, through a link of its own, while the loop is blocked: by the task
        whose stack this is. (To look into all others meanwhile is not safe: they may go on at any time.)"""
        me, run = self._membership.current, run_of(frame)
        if run is None or not me.registered:
            return
        with suppress(BrokerError, ConfigError):
            question = control.question()
            if not question or question == self._answered:
                return
            used = self._pool.size - self._pool.free_count()
            total = used + len(self._pool.stuck) + len(self._threads.stuck)
            said = {
                "total": total,
                "tasks": [self._of_run(run, frame, blocks=True)],
                "vitals": asdict(self._pulse.take()),
            }
            if control.answer(me.id, question, orjson.dumps(said)):
                self._answered = question

    def describe(self, most: int) -> dict[str, Any]:
        """What runs, as an answer says it: at most so many runs, and how many there are; and the vitals."""
        running, stuck = [*self._pool, *self._pool.waiting], list(self._pool.stuck)
        left_behind = list(self._threads.stuck)
        tasks = [_in_thread(call) for call in left_behind[:most]]
        # By their claims: to look into every stack for when it began would take ten times as long.
        first = nsmallest(most - len(tasks), chain(running, stuck), key=_claim)
        late = set(stuck)
        tasks += [self._describe(one, one in late) for one in first]
        total = len(running) + len(stuck) + len(left_behind)
        return {"total": total, "tasks": tasks, "vitals": asdict(self._pulse.take())}

    def _describe(self, one: Any, is_stuck: bool) -> dict[str, Any]:
        """Of a greenlet, or a delivery that has none yet."""
        frame = getattr(one, "gr_frame", None)
        run = run_of(frame)
        if run is None:
            # Begun and not got to its first line, or past its last.
            delivery = _delivery(one)
            name = "?" if delivery is None else task_name_of(delivery.envelope)
            id = "?" if delivery is None else delivery.id
            return _entry(name, id, 0.0, "-", is_stuck)
        return self._of_run(run, frame_in_thread(frame) or frame, is_stuck)

    def _of_run(
        self, run: Run, frame: FrameType | None, stuck: bool = False, blocks: bool = False
    ) -> dict[str, Any]:
        tells = self._log_values and not run.task.options.sensitive
        call = call_of(run.message).strip() if tells else ""
        seconds = time.monotonic() - run.started
        entry = _entry(run.task.name, run.message.id, seconds, where(frame), stuck, call)
        return {**entry, "blocks": blocks}


def where(frame: FrameType | None) -> str:
    """The innermost line of a task's stack that is neither a library's nor ours; of a task that has
    none, its own first one."""
    first: FrameType | None = None
    while frame is not None and frame.f_code not in _BELOW:
        first = frame
        if not frame.f_code.co_filename.startswith(_libraries()):
            break
        frame = frame.f_back
    if first is None:
        return "-"
    code = first.f_code
    path = code.co_filename
    with suppress(OSError):  # a folder that was deleted
        path = path.removeprefix(f"{os.getcwd()}{os.sep}")
    return f"{path}:{first.f_lineno} in {code.co_name}"


# What calls a task's function, in the loop's thread and in others.
_BELOW = (Executor._call.__code__, Call.__call__.__code__)


@cache
def _libraries() -> tuple[str, ...]:
    """Where code lies that is nobody's task."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names} | {str(Path(__file__).parents[1])}
    return ("<frozen ", *(f"{folder}{os.sep}" for folder in folders))


def _in_thread(call: Call) -> dict[str, Any]:
    """What is left of a run whose thread goes on past its timeout."""
    name, id = ("?", "?") if call.current is None else (call.current.name, call.current.id)
    return _entry(name, id, time.monotonic() - call.began, where(call.frame), stuck=True)


def _delivery(one: Any) -> Delivery | None:
    return one if isinstance(one, Delivery) else getattr(one, "delivery", None)


def _claim(one: Any) -> int:
    delivery = _delivery(one)
    return 0 if delivery is None else int(delivery.seq)


def _most(question: bytes) -> int:
    """How many runs are to be named; anybody may have written it."""
    most = question.rpartition(b" ")[2]
    return min(int(most), MOST_TASKS) if most.isdigit() and len(most) < 10 else MOST_TASKS


def _entry(
    task: str, id: str, seconds: float, where: str, stuck: bool, call: str = ""
) -> dict[str, Any]:
    texts = {"task": task, "id": id, "where": where, "call": call}
    plain = {name: text.encode("utf-8", "replace").decode()[:_TEXT] for name, text in texts.items()}
    return {**plain, "seconds": round(seconds, 3), "stuck": stuck, "blocks": False}
