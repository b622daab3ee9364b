"""spawn(): greenlets of a task's own, that know the task and die with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from greenworker.context import IN_THREAD, current_task

if TYPE_CHECKING:
    from greenworker.family import Child

P = ParamSpec("P")
R = TypeVar("R")


def spawn(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Child[R]:
    """Begin `function(*args, **kwargs)` in a greenlet of the task that this is part of.

    In it `current_task()` and all context variables are as they are here. When the run ends, however it
    ends, what still runs of its children is killed (gevent.GreenletExit), their own children too. An error is
    logged and ends the child alone; its `get()` raises it, and the task goes on. Raises RuntimeError outside of
    tasks, in the thread of a `thread=True` task, and in a child whose task has ended.
    """
    current = current_task()
    if IN_THREAD.get():
        raise RuntimeError(
            "spawn() is for tasks that run in greenlets; this one has thread=True, and blocks them all"
        )
    # Here: a program that only sends imports tasks as well, and needs no gevent.
    from greenworker.family import adopt

    return adopt(current, function, args, kwargs)
