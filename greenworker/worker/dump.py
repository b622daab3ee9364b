"""What runs right now, with stacks, for people who ask (TTIN)."""

from __future__ import annotations

import traceback
from types import FrameType

from greenworker.family import parent_of
from greenworker.worker.executor import run_of
from greenworker.worker.pool import SoloPool, TaskPool
from greenworker.worker.threads import Threads, frame_in_thread


def describe_running(pool: TaskPool | SoloPool, threads: Threads) -> str:
    """Each running task with its stack."""
    greenlets, stuck, calls = list(pool), list(pool.stuck), list(threads.stuck)
    parts = [f"{pool.size - pool.free_count()} running"]
    if stuck or calls:
        parts[0] += f", and {len(stuck) + len(calls)} that ignore their timeout"
    for greenlet in (*greenlets, *stuck):
        frame = greenlet.gr_frame
        if frame is not None:
            what = run_of(frame) or "waiting for a thread"
            parts.append(f"{what}:\n{stack_text(frame_in_thread(frame) or frame)}")
    parts += [f"{call}:\n{stack_text(call.frame)}" for call in calls]
    return "\n".join(parts)


def who_of(frame: FrameType | None) -> str:
    """The run that a stack belongs to, or whose child; empty for what is no task."""
    run, parent = run_of(frame), parent_of(frame)
    if run is None and parent is not None:
        return f"a child of {parent.name}[{parent.id}]"
    return "" if run is None else str(run)


def stack_text(frame: FrameType | None) -> str:
    """The last calls of a stack, the innermost at the end."""
    if frame is None:
        return "(no stack)"
    try:
        return "".join(traceback.format_stack(frame)[-8:]).rstrip()
    except Exception as error:  # noqa: BLE001  # a loader of somebody's, that has no source
        code = frame.f_code
        where = f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}'
        return f"{where}\n  (its stack cannot be had: {type(error).__name__})"
