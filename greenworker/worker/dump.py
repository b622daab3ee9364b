"""What runs right now, with stacks, for people who ask (TTIN) and for the watchdog."""

from __future__ import annotations

import traceback
from types import FrameType

from greenworker.message import Message
from greenworker.worker.executor import Executor
from greenworker.worker.pool import SoloPool, TaskPool


def describe_running(pool: TaskPool | SoloPool) -> str:
    """Each running task with its stack."""
    greenlets = list(pool) if isinstance(pool, TaskPool) else []
    parts = [f"{len(greenlets)} running"]
    for greenlet in greenlets:
        frame = greenlet.gr_frame
        if frame is not None:
            parts.append(f"{running_task(frame)}:\n{stack_text(frame)}")
    return "\n".join(parts)


def running_task(frame: FrameType | None) -> str:
    """The task whose run this stack belongs to: the executor's frame knows it."""
    while frame is not None:
        if frame.f_code is Executor.run.__code__:
            message = frame.f_locals.get("message")
            if isinstance(message, Message):
                return f"{message.task}[{message.id}]"
        frame = frame.f_back
    return "something that is no task"


def stack_text(frame: FrameType | None) -> str:
    """The last calls of a stack, the innermost at the end."""
    return (
        "".join(traceback.format_stack(frame)[-8:]).rstrip() if frame is not None else "(no stack)"
    )
