"""Family: the greenlets that a run has spawned, and their end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, copy_context
from types import FrameType
from typing import Any, Generic, TypeVar

import gevent

from greenworker.context import CurrentTask

R = TypeVar("R")

_log = logging.getLogger("greenworker.task")

_FAMILY: ContextVar[Family | None] = ContextVar("greenworker.family", default=None)
_END_AGAIN = (0.1, 1.0, 3.0)  # seconds after which who ignores its end is killed again

# By the identity of their run: whose run has children. The executor looks whether there is any.
FAMILIES: dict[int, Family] = {}


def adopt(
    current: CurrentTask,
    function: Callable[..., R],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Child[R]:
    """A child of this run, begun; raises RuntimeError when the run has ended."""
    family = _FAMILY.get()
    if family is None or family.current is not current:
        family = FAMILIES.setdefault(id(current), Family(current))
    return family.begin(function, args, kwargs)


def end_family(current: CurrentTask) -> None:
    """The run has ended: so do its children. Waits for none of them."""
    family = FAMILIES.pop(id(current), None)
    if family is not None:
        family.end()


def end_families_like(current: CurrentTask) -> None:
    """The run that looks like this is given up: as `end_family`."""
    for family in [one for one in FAMILIES.values() if one.current == current]:
        end_family(family.current)


class Family:
    """The children of one run; keeps the run itself, so that no other has its identity."""

    def __init__(self, current: CurrentTask) -> None:
        self.current = current
        self._living: set[Child[Any]] = set()
        self._has_ended = False

    def begin(
        self, function: Callable[..., R], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Child[R]:
        current = self.current
        if self._has_ended:
            raise RuntimeError(f"{current.name}[{current.id}] has ended: it gets no more children")
        context = copy_context()
        context.run(_FAMILY.set, self)
        child = Child(current, lambda: context.run(function, *args, **kwargs))
        self._living.add(child)
        child.rawlink(self._living.discard)
        child.start()
        return child

    def end(self) -> None:
        self._has_ended = True
        if self._living:
            for child in self._living:
                child.kill(block=False)
            gevent.spawn(self._see_to_it)

    def _see_to_it(self) -> None:
        for pause in _END_AGAIN:
            gevent.joinall(list(self._living), timeout=pause)
            for child in self._living:
                child.kill(block=False)
        if self._living:
            _log.error(
                "%s[%s] has ended, and %d of its children ignore that: they go on",
                self.current.name, self.current.id, len(self._living),
            )  # fmt: skip


def parent_of(frame: FrameType | None) -> CurrentTask | None:
    """Whose child a stack belongs to, if it is one's."""
    while frame is not None:
        if frame.f_code is Child._run.__code__:
            child = frame.f_locals.get("self")
            return child._current if isinstance(child, Child) else None
        frame = frame.f_back
    return None


class Child(gevent.Greenlet, Generic[R]):  # type: ignore[misc]  # gevent is untyped
    """A greenlet of a task; its error is logged with the task's name, and raised by `get()`."""

    def __init__(self, current: CurrentTask, function: Callable[[], R]) -> None:
        super().__init__()
        self._current = current
        self._function = function
        self._error: BaseException | None = None

    def get(self, block: bool = True, timeout: float | None = None) -> R:
        """What the function returned; raises what it raised. A child that was killed returns a GreenletExit."""
        if block:
            self.join(timeout)
        if self._error is not None:
            raise self._error
        value: R = super().get(block=False)
        return value

    @property
    def exception(self) -> BaseException | None:
        """What it has failed of, if it has."""
        return self._error

    @property
    def exc_info(self) -> Any:
        """The same as sys.exc_info() tells it: what gevent.joinall(children, raise_error=True) raises."""
        error = self._error
        return None if error is None else (type(error), error, error.__traceback__)

    def successful(self) -> bool:
        return bool(super().successful()) and self._error is None

    def _run(self) -> R | None:
        try:
            return self._function()
        except gevent.GreenletExit:
            raise
        except BaseException as error:
            # gevent would print all of it, and end the whole process by a SystemExit.
            self._error = error
            told = None if self._current.sensitive else error
            _log.error(
                "%s[%s]: its child failed: %s",
                self._current.name, self._current.id, type(error).__name__, exc_info=told,
            )  # fmt: skip
            return None
        finally:
            del self._function
