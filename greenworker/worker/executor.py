"""Executor: runs one delivery under its timeout and says how it ended; never touches the server."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import gevent

from greenworker import codec
from greenworker.backoff import Backoff
from greenworker.context import CURRENT
from greenworker.errors import (
    BadArguments,
    BadSignature,
    MalformedMessage,
    NotEncodable,
    PayloadTooLarge,
    TaskTimeout,
    UnknownTask,
)
from greenworker.family import FAMILIES, end_families_like, end_family
from greenworker.keys import escape
from greenworker.message import (
    CANCELLED,
    RELEASE,
    Delivery,
    Message,
    Outcome,
    decode,
    done,
    keys_of,
    next_attempt,
    result_ttl_of,
    shown,
    task_name_of,
    with_option,
)
from greenworker.middleware import Middleware, runs
from greenworker.signing import Signer
from greenworker.task import Task
from greenworker.verdicts import LONGEST_HELD, UNTOLD, Ignore, Retry, Snooze, Throttled, Verdict
from greenworker.worker.report import call_of, failure, told, value_of
from greenworker.worker.run import Deadline, Release, Run, timed_out
from greenworker.worker.stats import Stats
from greenworker.worker.threads import Threads

_log = logging.getLogger("greenworker.task")

_UNKNOWN_FOR = 600.0  # seconds for which an unknown task is put off: a deploy may bring it
_LAST_MOST = 200  # characters of an error that travel with its retry


class Executor:
    """Runs deliveries of the tasks it is given."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        stats: Stats,
        timeout: float | None,
        log_values: bool,
        on_stuck: Callable[[Delivery, Outcome], None],
        verifier: Signer | None = None,
        middleware: Sequence[Middleware] = (),
        threads: Threads | None = None,
    ) -> None:
        """`timeout` is for tasks that declare none; None: no task has one. `verifier`: run only what
        one of its keys has signed. `threads` are for tasks that want one; None: they run here, too."""
        self._tasks = tasks
        self._stats = stats
        self._timeout = timeout
        self._log_values = log_values
        self._on_stuck = on_stuck
        self._step = runs(middleware)
        self._threads = threads
        self._on_late = self._write_off  # (once, not for each run)
        self._decode = decode if verifier is None else _verified_decode(verifier)

    def run(self, delivery: Delivery) -> Outcome:
        """Run a delivery in the current greenlet; every end of it is an Outcome."""
        self._stats.received += 1
        try:
            return self._run(delivery)
        except Exception as error:
            # No task's error comes here, only a defect of ours: released, it would come back at once.
            return self._dead(delivery, "internal", error)
        finally:
            CURRENT.set(None)

    def _run(self, delivery: Delivery) -> Outcome:
        try:
            message = self._decode(delivery.id, delivery.envelope)
        except MalformedMessage as error:
            return self._unfit(delivery, "malformed", error)
        except BadSignature as error:
            return self._unfit(delivery, "signature", error)
        task = self._tasks.get(message.task)
        if task is None:
            return self._unknown(delivery, message)
        try:
            task.check_call(message.args, message.kwargs)
        except BadArguments as error:
            return self._unfit(delivery, "arguments", error)
        options, timeout = task.options, self._timeout
        if timeout is not None and options.timeout is not None:
            timeout = options.timeout
        soft = options.soft_timeout if self._timeout is not None else None
        threads = self._threads if options.thread else None
        if threads is not None and not threads.acquire():
            self._stats.released += 1
            # If it was cancelled, the server knows what to do with it.
            return RELEASE
        in_thread = threads is not None
        began = time.monotonic()
        run = Run(delivery, message, task, timeout or None, began, soft, in_thread)
        try:
            outcome = self._call(run)
            return _timed(run, outcome) if "keys" in message.options else outcome
        finally:
            if threads is not None:
                threads.release()

    def _call(self, run: Run) -> Outcome:
        CURRENT.set(run)
        self._log_received(run)
        args = (run.current, *run.message.args) if run.task.options.bind else run.message.args
        function = run.task.function
        if self._step is not None or run.task.options.thread:
            function = self._special(run)
        deadline = Deadline(run, self._on_late)
        if deadline.called_off:
            deadline.over()
            return self._cancelled(run)
        try:
            try:
                value = function(*args, **run.message.kwargs)
            finally:
                # Before anything else may wait: what comes now is no longer the task's time.
                deadline.over()
                self._stats.durations.append(time.monotonic() - run.started)
                if FAMILIES:
                    end_family(run.current)
        except BaseException as error:
            if deadline.given_up:
                return self._ended_after_all()
            # Whatever its clean-up made of it: it never runs again.
            if deadline.is_called_off():
                return self._cancelled(run)
            # Whatever its clean-up made of it: what goes back is charged nothing.
            if isinstance(error, Release) or getattr(gevent.getcurrent(), "released", False):
                self._stats.released += 1
                return RELEASE
            # SystemExit, KeyboardInterrupt and GreenletExit of its own are this task's failure.
            if not deadline.thrown:
                return self._failed(run, error)
            if self._threads is not None and self._threads.goes_on(run.current):
                # No retry: it would run beside what goes on.
                self._stats.stuck += 1
                late = timed_out(run, error, goes_on=True)
                return self._dead(run.delivery, "stuck", late, run.started)
            return self._failed(run, timed_out(run, error))
        if deadline.thrown:
            # It swallowed the timeout and went on: too late is too late.
            if deadline.given_up:
                return self._ended_after_all()
            if deadline.is_called_off():
                return self._cancelled(run)
            return self._failed(run, timed_out(run))
        # Also one that has swallowed its cancellation: what it has finished in time counts.
        return self._succeeded(run, value)

    def _special(self, run: Run) -> Callable[..., Any]:
        """A task's function with what stands around it, and in its thread if it wants one."""
        step, function = self._step, run.task.function
        if step is not None:
            first = (run.current,) if run.task.options.bind else ()

            def call_next(message: Message) -> Any:
                return run.task.function(*first, *message.args, **message.kwargs)

            def function(*_args: Any, **_kwargs: Any) -> Any:
                return step(run.message, call_next)

        if self._threads is not None and run.task.options.thread:
            return partial(self._threads.call, function)
        return function

    def _ended_after_all(self) -> Outcome:
        """What was written off has its outcome already: this one is the settler's to drop."""
        return RELEASE

    def _cancelled(self, run: Run) -> Outcome:
        self._stats.cancelled += 1
        took = time.monotonic() - run.started
        _log.info("%s[%s] cancelled after %.2f s", run.task.name, run.message.id, took)
        return Outcome("cancelled", CANCELLED, run.message.result_ttl)

    def _succeeded(self, run: Run, value: Any) -> Outcome:
        ttl = run.message.result_ttl
        result = b""
        if ttl:
            try:
                data = codec.encode(value, f"the result of {run.task.name}")
            except (NotEncodable, PayloadTooLarge) as error:
                return self._dead(run.delivery, "result", error)
            result = b'{"state":"SUCCESS","value":%b}' % data
        self._stats.succeeded += 1
        if _log.isEnabledFor(logging.INFO):
            said = f": {value_of(value):.200}" if self._may_tell(run.task) else ""
            took = time.monotonic() - run.started
            _log.info("%s[%s] succeeded in %.2f s%s", run.task.name, run.message.id, took, said)
        return done(result, ttl)

    def _failed(self, run: Run, error: BaseException) -> Outcome:
        if isinstance(error, Verdict):
            return self._judged(run, error)
        options = run.task.options
        if not isinstance(error, options.retry_for) or isinstance(error, options.no_retry_for):
            return self._dead(run.delivery, "failed", error, run.started)
        return self._again(run, error)

    def _judged(self, run: Run, verdict: Verdict) -> Outcome:
        """What the task says itself of its run."""
        match verdict:
            case Retry():
                # What it was raised from, or while it was handled: that is what people look for.
                error = verdict.__cause__ or verdict.__context__ or verdict
                return self._again(run, error, verdict.countdown)
            case Snooze():
                self._stats.snoozed += 1
                _log.info("%s[%s] %s", run.task.name, run.message.id, verdict)
                return Outcome("later", delay=verdict.seconds, envelope=_known(run))
            case Throttled():
                return self._throttled(run, verdict)
            case Ignore():
                self._stats.succeeded += 1
                _log.info("%s[%s] ignored", run.task.name, run.message.id)
                return Outcome("done")
        return self._dead(run.delivery, "rejected", verdict, run.started)

    def _throttled(self, run: Run, verdict: Throttled) -> Outcome:
        keys, key = keys_of(run.message.options), verdict.key
        if keys and key is not None and key not in keys:
            # Held by another key than its own it would come again at once.
            wrong = f"Throttled: key={key!r}: this message has {' and '.join(keys)}: name one of its own"
            return self._failed(run, BadArguments(wrong))
        self._stats.throttled += 1
        if not keys:
            delay = verdict.retry_after or UNTOLD
            _log.info("%s[%s] throttled: again in %g s", run.task.name, run.message.id, delay)
            return Outcome("later", delay=delay, envelope=_known(run))
        _log.info(
            "%s[%s] throttled: %s is held %s",
            run.task.name, run.message.id, key or keys[0], _span(verdict),
        )  # fmt: skip
        delay = -1.0 if verdict.retry_after is None else verdict.retry_after
        return Outcome("throttled", delay=delay, reason="" if key is None else escape(key))

    def _again(self, run: Run, error: BaseException, countdown: float | None = None) -> Outcome:
        """Another attempt, if there is one left."""
        attempt = run.message.attempt
        if attempt >= run.task.options.retries:
            return self._dead(run.delivery, "failed", error, run.started)
        self._stats.retried += 1
        delay = self._backoff(run, attempt + 1) if countdown is None else countdown
        text = told(run.task, error)
        _log.info("%s[%s] retry in %.1f s: %s", run.task.name, run.message.id, delay, text)
        envelope = with_option(next_attempt(_known(run)), "last", text[:_LAST_MOST])
        return Outcome("retry", delay=delay, envelope=envelope)

    def _backoff(self, run: Run, retry: int) -> float:
        try:
            return run.task.options.backoff.delay(retry)
        except BaseException as error:
            # A function of the user's: its mistake costs no attempt, and no exit of its own the worker.
            delay = Backoff().delay(retry)
            text = told(run.task, error)
            _log.error(
                "%s: its backoff failed: %s; it is as if none were declared", run.task.name, text
            )
            return delay

    def _unknown(self, delivery: Delivery, message: Message) -> Outcome:
        """Put off, since a deploy may bring the task; dead when none has for ten minutes."""
        # min: neither nan nor a time to come may put it off for ever.
        first_seen = min(delivery.claimed_at, float(message.options.get("unknown", "inf")))
        waited = delivery.claimed_at - first_seen
        if waited >= _UNKNOWN_FOR:
            return self._unfit(delivery, "unknown", UnknownTask(message.task, self._tasks))
        self._stats.not_run += 1
        self._stats.released += 1
        delay = min(max(1.0, waited), 30.0)
        _log.warning(
            "%s[%s] is no task of this worker; put off for %.0f s",
            shown(message.task), message.id, delay,
        )  # fmt: skip
        envelope = with_option(delivery.envelope, "unknown", f"{first_seen:.3f}")
        return Outcome("later", delay=delay, envelope=envelope)

    def _unfit(self, delivery: Delivery, reason: str, error: BaseException) -> Outcome:
        """Dead without a run."""
        self._stats.not_run += 1
        return self._dead(delivery, reason, error)

    def _dead(
        self, delivery: Delivery, reason: str, error: BaseException, started: float | None = None
    ) -> Outcome:
        self._stats.failed += 1
        name = task_name_of(delivery.envelope)
        took = "" if started is None else f" in {time.monotonic() - started:.2f} s"
        text = told(self._tasks.get(name), error)
        _log.error("%s[%s] failed%s: %s", shown(name), delivery.id, took, text)
        ttl = result_ttl_of(delivery.envelope)
        return Outcome("dead", failure(error), ttl, reason=reason)

    def _log_received(self, run: Run) -> None:
        if _log.isEnabledFor(logging.INFO):
            said = call_of(run.message) if self._may_tell(run.task) else ""
            _log.info("%s[%s] received%s", run.task.name, run.message.id, said)

    def _may_tell(self, task: Task[..., Any]) -> bool:
        """Whether arguments and results of this task may be in log lines."""
        return self._log_values and not task.options.sensitive

    def _write_off(self, run: Run, called_off: bool) -> None:
        self._stats.stuck += 1
        what = "its cancellation" if called_off else f"its timeout of {run.timeout:g} s"
        ttl = run.message.result_ttl
        if called_off:
            self._stats.cancelled += 1
            outcome = Outcome("cancelled", CANCELLED, ttl)
        else:
            self._stats.failed += 1
            # No retry: it would take another slot.
            error = TaskTimeout(f"ran longer than {run.timeout:g} s, and ignores it")
            outcome = Outcome("dead", failure(error), ttl, reason="stuck")
        self._on_stuck(run.delivery, _timed(run, outcome) if run.message.options else outcome)
        if FAMILIES:
            end_families_like(run.current)
        # Not here: the hub may not wait for a handler's lock, and the slot would be lost with the line.
        gevent.spawn(
            _log.critical,
            "%s[%s] ignores %s, and cannot be ended: written off, it goes on beside its slot",
            run.task.name, run.message.id, what,
        )  # fmt: skip


def _span(verdict: Throttled) -> str:
    """For how long a key is held: from the second time in a row on the server makes it longer."""
    told = verdict.retry_after
    return verdict.span if told is None or told >= LONGEST_HELD else f"{verdict.span} at least"


def _timed(run: Run, outcome: Outcome) -> Outcome:
    """With how long it took, if it has keys: what they may have depends on it. What goes back says nothing of that."""
    if outcome is RELEASE or "keys" not in run.message.options:
        return outcome
    return replace(outcome, took=time.monotonic() - run.started)


def _known(run: Run) -> bytes:
    """The envelope of what has run here: were it unknown elsewhere, the ten minutes begin anew."""
    envelope = run.delivery.envelope
    return with_option(envelope, "unknown", None) if "unknown" in run.message.options else envelope


def run_of(frame: FrameType | None) -> Run | None:
    """The run that a stack belongs to: the executor's frame knows it."""
    while frame is not None:
        if frame.f_code is Executor._call.__code__:
            run = frame.f_locals.get("run")
            return run if isinstance(run, Run) else None
        frame = frame.f_back
    return None


def _verified_decode(verifier: Signer) -> Callable[[str, bytes], Message]:
    def verified(id: str, envelope: bytes) -> Message:
        verifier.verify(id, envelope)  # first: nothing is parsed that a stranger wrote
        return decode(id, envelope)

    return verified
