"""The gevent Pool that runs tasks: the only place that starts them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import copy_context
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

import gevent
import gevent.pool
import greenlet

from greenworker.message import RELEASE, Delivery, Outcome
from greenworker.worker.run import Release, call_off

Execute = Callable[[Delivery], Outcome]
Settle = Callable[[Delivery, Outcome], None]

_IDLE_MOST = 1000  # runners that are kept for what comes
_LOOP_AFTER = 0.02  # seconds of tasks that do not wait, after which the loop looks at its sockets

# Into which greenlet a switch goes: not Hub.switch, which is for those who wait.
_switch = greenlet.greenlet.switch


class Runner(gevent.Greenlet):  # type: ignore[misc]  # gevent is untyped
    """A greenlet that runs one delivery after the other, each as if it were the first.

    To make a greenlet was the largest cost of a task that does nothing (docs/performance.md), so it is
    used again; but only if nobody else knows it. What might reach it later has to hold a reference: a timeout
    that a task has left behind, a kill that is under way, a local of its own. See TaskPool._unknown.
    """

    # (As slots they take a third of the memory, and what else there is was set by somebody else.)
    __slots__ = (
        "_pool", "called_off", "deadline", "delivery", "is_last", "is_stuck", "released", "waits_for_thread",
    )  # fmt: skip
    spawning_stack_limit = 0  # all would tell the same

    def __init__(self, pool: TaskPool) -> None:
        super().__init__()
        self._pool = pool
        self.delivery: Delivery | None = None
        self.released = False  # whether a Release was thrown into it: the executor reads it
        self.called_off = False  # whether somebody has cancelled what runs
        self.deadline: Any = None  # its run's, see run.py
        self.waits_for_thread = False
        self.is_stuck = False  # what it runs is written off
        self.is_last = False  # a kill is under way: what runs here is the last thing that does

    def begin(self, delivery: Delivery, called_off: bool) -> None:
        """In the hub: run it, until it waits or has ended."""
        self.delivery, self.called_off, self.released = delivery, called_off, False
        self.spawn_tree_locals: dict[str, Any] = {}  # type: ignore[misc]  # gevent's
        self.switch()

    def leave(self) -> None:
        """End for good; call it in the hub, while nothing runs here."""
        self.switch()

    def throw(self, *error: Any) -> None:
        """What a kill comes to, when the loop gets to it."""
        if error and _is_release(error[0]):
            self.released = True
        super().throw(*error)

    def is_alone(self) -> bool:
        """Whether what has run here has left nothing behind that the next one would find."""
        return not (self.is_last or self.has_links() or self.spawn_tree_locals or vars(self))

    def _run(self) -> None:
        pool = self._pool
        while (delivery := self.delivery) is not None:
            try:
                outcome = pool.execute(delivery)
            except BaseException:  # noqa: BLE001  # thrown into it where no task was to be found: it goes back
                outcome = RELEASE
            self.delivery = None
            if not pool.ended(self, delivery, outcome):
                return
            # They may be large, and the next one may be long in coming.
            del delivery, outcome
            # Each begins with an empty one.
            self.gr_context = None  # type: ignore[misc]  # greenlet's
            try:
                _switch(self.parent)
            except BaseException:  # noqa: BLE001  # somebody means what ran here before
                return


class TaskPool(gevent.pool.Pool):  # type: ignore[misc]  # gevent's pools are untyped
    """At most `size` tasks at once, each with a greenlet and a context of its own.

    Whatever ends a run gives its slot back and reports an outcome.
    """

    def __init__(self, size: int, execute: Execute, settle: Settle) -> None:
        super().__init__(size, Runner)
        self.execute = execute
        self._settle = settle
        self.stuck: set[Runner] = set()  # what they run is written off, and has not ended
        self._waiting: deque[Delivery] = deque()  # begun, until the loop gets to them
        self._called_off: set[int] = set()  # of those, by identity
        self._is_feeding = False
        # Of tasks that do not wait the server settles one half while the other one runs.
        self._at_once = max(1, size // 2)
        self._fresh: list[Runner] = []  # have just ended a run: somebody may know them
        self._idle: list[Runner] = []  # nobody does
        self._is_looking = False
        self._references = _references_of_one_that_nobody_knows()

    def begin(self, delivery: Delivery) -> None:
        """Run a delivery; call it only with a slot free."""
        if not self._is_feeding:
            # First: what fails here has begun nothing.
            gevent.get_hub().loop.run_callback(self._feed)
            self._is_feeding = True
        self._waiting.append(delivery)
        self._empty_event.clear()

    def give_back(self, delivery: Delivery) -> None:
        """Release a delivery that could not be begun."""
        self._settle(delivery, RELEASE)

    def free_count(self) -> int:
        return int(self.size) - len(self)

    @property
    def waiting(self) -> Collection[Delivery]:
        """Those that have begun, and not got to their first line."""
        return tuple(self._waiting)

    def __len__(self) -> int:
        return len(self.greenlets) + len(self._waiting)

    def ended(self, runner: Runner, delivery: Delivery, outcome: Outcome) -> bool:
        """Report a run; False: its runner is not to be used again."""
        if runner.is_stuck:
            self.stuck.discard(runner)
            return False
        self._leave(runner)
        self._settle(delivery, outcome)
        if len(self._fresh) + len(self._idle) >= _IDLE_MOST or not runner.is_alone():
            return False
        if not self._is_looking:
            # Not when the next one comes: who knows it is to see at once that it has ended.
            gevent.get_hub().loop.run_callback(self._look)
            self._is_looking = True
        self._fresh.append(runner)
        return True

    def write_off(self, delivery: Delivery, outcome: Outcome) -> None:
        """Report what runs as ended, though its greenlet goes on: its slot is free, and no stop
        waits for it."""
        for runner in self.greenlets:
            if runner.delivery is delivery:
                runner.is_stuck = True
                self.stuck.add(runner)
                self._leave(runner)
                break
        self._settle(delivery, outcome)

    def call_off(self, deliveries: Mapping[str, Delivery], grace: float) -> None:
        """Have what runs of these (by id) end: Cancelled is thrown into it, and after the grace it is killed."""
        for delivery in self._waiting:
            if deliveries.get(delivery.id) is delivery:
                self._called_off.add(id(delivery))
        for runner in self.greenlets:
            delivery = runner.delivery
            if deliveries.get(delivery.id) is delivery:
                self._in_hub(runner, delivery, call_off, runner, grace)

    def kill(
        self,
        exception: type[BaseException] = gevent.GreenletExit,
        block: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Throw into all that runs; what is stuck gets another chance, and is not waited for."""
        while self._waiting:
            self._settle(self._waiting.popleft(), RELEASE)
        self._called_off.clear()
        # Who starts again may do so in another thread.
        for idle in (self._fresh, self._idle):
            while idle:
                gevent.get_hub().loop.run_callback(idle.pop().leave)
        for runner in (*self.stuck, *self.greenlets):
            runner.is_last = True
            self._in_hub(runner, runner.delivery, runner.throw, exception)
        self._note_empty()
        if block:
            self.join(timeout)

    def _in_hub(
        self, runner: Runner, meant: Delivery, step: Callable[..., object], *args: Any
    ) -> None:
        """Only if it still runs what is meant: it may have gone on to the next one by then."""

        def check() -> None:
            if runner.delivery is meant:
                step(*args)

        gevent.get_hub().loop.run_callback(check)

    def _feed(self) -> None:
        # In the hub, and all that runs here comes back as soon as it waits.
        until, left = time.monotonic() + _LOOP_AFTER, self._at_once
        try:
            while self._waiting and left > 0 and time.monotonic() < until:
                self._begin_next()
                left -= 1
        finally:
            self._is_feeding = bool(self._waiting)
            if self._is_feeding:
                # A callback would come before what the loop has to do.
                timer = gevent.get_hub().loop.timer(0.0)
                timer.start(self._feed_on, timer)

    def _feed_on(self, timer: Any) -> None:
        timer.close()
        self._feed()

    def _begin_next(self) -> None:
        try:
            runner = self._next()
        except BaseException:  # no memory, say
            delivery = self._waiting.popleft()
            self._called_off.discard(id(delivery))
            self.give_back(delivery)
            self._note_empty()
            raise
        delivery = self._waiting.popleft()
        self.greenlets.add(runner)
        called_off = bool(self._called_off) and id(delivery) in self._called_off
        if called_off:
            self._called_off.discard(id(delivery))
        runner.begin(delivery, called_off)

    def _next(self) -> Runner:
        """A runner whom nobody else knows: nothing can be thrown into it, and nothing is its own, but by us."""
        runner = self._unknown(self._fresh)
        if runner is None:
            runner = self._unknown(self._idle)
        return Runner(self) if runner is None else runner

    def _look(self) -> None:
        """In the hub: end those that somebody knows."""
        self._is_looking = False
        while (runner := self._unknown(self._fresh)) is not None:
            self._idle.append(runner)

    def _unknown(self, runners: list[Runner]) -> Runner | None:
        """Take one of these whom nobody else knows; whom somebody knows, ends."""
        while runners:
            runner = runners.pop()
            alone = _references(runner) <= self._references and not getweakrefcount(runner)
            # (Dead is one whom a late kill has found here.)
            if alone and not runner.dead:
                return runner
            runner.leave()
        return None

    def _leave(self, runner: Runner) -> None:
        self.greenlets.discard(runner)
        self._note_empty()

    def _note_empty(self) -> None:
        if not self.greenlets and not self._waiting:
            self._empty_event.set()


class SoloPool:
    """One task at a time, in the greenlet that calls `begin`: pdb can hold the process."""

    size = 1
    stuck: Collection[greenlet.greenlet] = ()  # nothing has a time limit here
    waiting: Collection[Delivery] = ()

    def __init__(self, execute: Execute, settle: Settle) -> None:
        self._execute = execute
        self._settle = settle
        self._running: Any = None  # a greenlet
        self._delivery: Delivery | None = None

    def __iter__(self) -> Iterator[greenlet.greenlet]:
        return iter(() if self._running is None else (self._running,))

    def begin(self, delivery: Delivery) -> None:
        self._running = greenlet.getcurrent()
        self._running.released = self._running.called_off = False
        self._delivery = delivery
        try:
            # What it sets is its own, as in a greenlet of its own.
            outcome = copy_context().run(self._execute, delivery)
        finally:
            self._running = self._delivery = None
        self._settle(delivery, outcome)

    def give_back(self, delivery: Delivery) -> None:
        self._settle(delivery, RELEASE)

    def write_off(self, delivery: Delivery, outcome: Outcome) -> None:
        raise AssertionError("nothing has a time limit here")

    def free_count(self) -> int:
        return 1 if self._running is None else 0

    def join(self, timeout: float | None = None) -> bool:
        return self._running is None

    def call_off(self, deliveries: Mapping[str, Delivery], grace: float) -> None:
        """Throw Cancelled into what runs, if it is one of these; nobody is killed here."""
        delivery = self._delivery
        if delivery is not None and deliveries.get(delivery.id) is delivery:
            gevent.get_hub().loop.run_callback(self._call_off, delivery)

    def _call_off(self, delivery: Delivery) -> None:
        if self._delivery is delivery:
            call_off(self._running, None)

    def kill(
        self, exception: type[BaseException], block: bool = True, timeout: float | None = None
    ) -> None:
        """Throw into what runs, as soon as the loop is reached; never waits."""
        gevent.get_hub().loop.run_callback(self._throw, exception)

    def _throw(self, exception: type[BaseException]) -> None:
        if self._running is not None:
            if _is_release(exception):
                self._running.released = True
            self._running.throw(exception)


def _references(runner: Runner) -> int:
    return getrefcount(runner)


def _references_of_one_that_nobody_knows() -> int:
    """Counted, since it depends on the interpreter: how often one is held that has run something, and waits for more."""

    class Nobody:
        def execute(self, _: Delivery) -> Outcome:
            return RELEASE

        def ended(self, *_: object) -> bool:
            return True

    some: list[Any] = [Runner(Nobody())]  # type: ignore[arg-type]
    some[0].parent = greenlet.getcurrent()
    some[0].begin(Delivery("", 0, "", b"", 0.0), called_off=False)
    runner = some.pop()
    references = _references(runner)
    runner.leave()
    return references


def _is_release(error: object) -> bool:
    return isinstance(error, Release) or (isinstance(error, type) and issubclass(error, Release))
