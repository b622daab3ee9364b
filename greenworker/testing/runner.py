"""Runner: runs deliveries where it is called, as a worker's executor does, and tells what came of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context, ContextVar
from typing import Any

import gevent

from greenworker.context import IN_THREAD
from greenworker.dead import DeadLetter
from greenworker.errors import GreenworkerError, MalformedMessage, UnknownTask
from greenworker.message import RELEASE, Delivery, Message, Outcome, decode, task_name_of
from greenworker.middleware import Middleware
from greenworker.signing import Signer
from greenworker.task import Task
from greenworker.testing.record import Ran
from greenworker.worker.executor import Executor
from greenworker.worker.report import user_frames
from greenworker.worker.run import Run
from greenworker.worker.stats import Stats

_log = logging.getLogger("greenworker.worker")

_TIMEOUT = 300.0  # seconds: a worker's default, see WorkerConfig

# What a task may end with that is its failure, in a worker. All else that is no Exception (Ctrl-C, pytest.fail())
# is meant for whoever runs the tests.
_A_TASKS = (Exception, SystemExit, gevent.GreenletExit, gevent.Timeout)


class Runner:
    """One run at a time, or one within another.

    Each has a context of its own and nothing in it, as in a worker: what the caller has in context variables a
    task that runs elsewhere would not find.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        middleware: Sequence[Middleware],
        verifier: Signer | None,
        failure_functions: Sequence[Callable[[DeadLetter], object]],
        unknown_is_dead: bool,
    ) -> None:
        """`unknown_is_dead`: nobody will bring a task that is missing, as a deploy might."""
        self._tasks = tasks
        self._functions = failure_functions
        self._executor = _Executor(tasks, middleware, verifier, unknown_is_dead)

    def run(
        self, delivery: Delivery, variables: Iterable[tuple[ContextVar[Any], Any]] = ()
    ) -> tuple[Outcome, Ran]:
        """Run it here; `variables` are what its context has."""
        context = _context(variables)
        task = self._tasks.get(task_name_of(delivery.envelope))
        if task is not None and task.options.thread:
            context.run(IN_THREAD.set, True)
        executor = self._executor
        outcome = context.run(executor.run, delivery)
        # It was written off, and has ended after all.
        outcome = executor.stuck.pop(delivery.id, outcome)
        error = executor.errors.pop(delivery.id, None)
        if _is_interrupt(error):
            outcome = RELEASE
        return outcome, _ran(delivery, outcome, error)

    def tell(
        self, letter: DeadLetter, variables: Iterable[tuple[ContextVar[Any], Any]] = ()
    ) -> list[Exception]:
        """Call the app's on_failure functions; what they have raised."""
        raised = []
        for function in self._functions:
            try:
                _context(variables).run(function, letter)
            except Exception as error:
                _log.error("on_failure, of %s[%s], failed: %r", letter.task, letter.id, error)
                raised.append(error)
        return raised


def end_if_interrupted(ran: Ran) -> None:
    """Raise what is no task's to end with; the message is where it was."""
    if ran.error is not None and _is_interrupt(ran.error):
        raise ran.error


def raise_first(failed: Sequence[Ran], told: Sequence[Exception], keep: str) -> None:
    """Raise what the first of these runs has failed of, else the first of `told`; `keep`: how to have errors
    kept instead."""
    __tracebackhide__ = True
    for ran in failed:
        error = ran.error or GreenworkerError(f"{ran.task}[{ran.id}] is dead: {ran.reason}")
        tries = f", after {ran.attempt} retries" if ran.attempt else ""
        others = f"; {len(failed)} tasks have failed, this is the first" if len(failed) > 1 else ""
        error.add_note(f"{ran.task}[{ran.id}] has failed for good{tries}{others}; {keep}")
        raise error.with_traceback(user_frames(error))
    for error in told:
        raise error


class _Executor(Executor):
    """Keeps the errors themselves: of an Outcome only their text can be read."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        middleware: Sequence[Middleware],
        verifier: Signer | None,
        unknown_is_dead: bool,
    ) -> None:
        self.errors: dict[str, BaseException] = {}
        self.stuck: dict[str, Outcome] = {}
        self._unknown_is_dead = unknown_is_dead
        super().__init__(
            tasks,
            Stats(),
            timeout=_TIMEOUT,
            log_values=False,
            on_stuck=lambda delivery, outcome: self.stuck.__setitem__(delivery.id, outcome),
            verifier=verifier,
            middleware=middleware,
        )

    def _again(self, run: Run, error: BaseException, countdown: float | None = None) -> Outcome:
        self.errors[run.delivery.id] = error
        return super()._again(run, error, countdown)

    def _dead(
        self, delivery: Delivery, reason: str, error: BaseException, started: float | None = None
    ) -> Outcome:
        self.errors[delivery.id] = error
        return super()._dead(delivery, reason, error, started)

    def _unknown(self, delivery: Delivery, message: Message) -> Outcome:
        if self._unknown_is_dead:
            return self._unfit(delivery, "unknown", UnknownTask(message.task, self._tasks))
        return super()._unknown(delivery, message)


def _is_interrupt(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, _A_TASKS)


def _context(variables: Iterable[tuple[ContextVar[Any], Any]]) -> Context:
    context = Context()
    for variable, value in variables:
        context.run(variable.set, value)
    return context


def _ran(delivery: Delivery, outcome: Outcome, error: BaseException | None) -> Ran:
    try:
        message = decode(delivery.id, delivery.envelope)
    except MalformedMessage:
        message = Message(delivery.id, task_name_of(delivery.envelope), queue="?")
    return Ran(
        id=delivery.id,
        task=message.task,
        args=tuple(message.args),
        kwargs=message.kwargs,
        queue=message.queue,
        attempt=message.attempt,
        outcome=outcome.kind,
        delay=outcome.delay if outcome.kind in ("retry", "later", "throttled") else 0.0,
        reason=outcome.reason if outcome.kind == "dead" else "",
        error=error,
    )
