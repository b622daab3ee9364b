"""Executor: runs one delivery under its timeout and says how it ended; never touches the server."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gevent
from gevent import GreenletExit

from greenworker import codec
from greenworker.context import CURRENT, CurrentTask
from greenworker.errors import (
    BadArguments,
    MalformedMessage,
    NotEncodable,
    PayloadTooLarge,
    TaskTimeout,
)
from greenworker.message import (
    RELEASE,
    Delivery,
    Message,
    Outcome,
    decode,
    next_attempt,
    result_ttl_of,
    with_option,
)
from greenworker.task import Task
from greenworker.worker.stats import Stats

_log = logging.getLogger("greenworker.task")

# A task may swallow its timeout: it is thrown again after these seconds, then written off.
_THROW_AGAIN = (0.01, 0.05, 0.25, 1.0)
_UNKNOWN_FOR = 600.0  # seconds for which an unknown task is put off: a deploy may bring it
_TRACEBACK_MOST = 20_000  # characters


class HardTimeout(BaseException):
    """Thrown into a task that runs longer than its timeout."""


class Release(GreenletExit):  # type: ignore[misc]  # gevent is untyped
    """Thrown into a task whose delivery goes back: a stop, or an incarnation that was reaped."""


class Executor:
    """Runs deliveries of the tasks it is given."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        stats: Stats,
        timeout: float | None,
        log_values: bool,
        on_stuck: Callable[[Delivery, Outcome], None],
    ) -> None:
        """`timeout` is for tasks that declare none; None: no task has one."""
        self._tasks = tasks
        self._stats = stats
        self._timeout = timeout
        self._log_values = log_values
        self._on_stuck = on_stuck

    def run(self, delivery: Delivery) -> Outcome:
        """Run a delivery in the current greenlet; every end of it is an Outcome."""
        self._stats.received += 1
        try:
            message = decode(delivery.id, delivery.envelope)
        except MalformedMessage as error:
            return self._dead(delivery, "malformed", error)
        task = self._tasks.get(message.task)
        if task is None:
            return self._unknown(delivery, message)
        try:
            task.check_call(message.args, message.kwargs)
        except BadArguments as error:
            return self._dead(delivery, "arguments", error)
        timeout = self._timeout
        if timeout is not None and task.options.timeout is not None:
            timeout = task.options.timeout
        started = time.monotonic()
        current = CurrentTask(
            id=message.id,
            name=message.task,
            queue=message.queue,
            attempt=message.attempt,
            delivery=message.deliveries + 1,
            deadline=started + timeout if timeout else None,
        )
        CURRENT.set(current)
        logs = _log.isEnabledFor(logging.INFO)
        if logs:
            shown = _shown(message.args, message.kwargs) if self._log_values else ""
            _log.info("%s[%s] received%s", message.task, message.id, shown)
        deadline = _Deadline(timeout, self._write_off, delivery, message, task) if timeout else None
        args = (current, *message.args) if task.options.bind else message.args
        try:
            value = task.function(*args, **message.kwargs)
        except HardTimeout:
            return self._failed(
                delivery, message, task, TaskTimeout(f"ran longer than {timeout:g} s")
            )
        except Release:
            self._stats.released += 1
            return RELEASE
        except BaseException as error:
            # SystemExit and KeyboardInterrupt, too, are this task's own.
            return self._failed(delivery, message, task, error)
        finally:
            if deadline is not None:
                deadline.cancel()
            CURRENT.set(None)
            took = time.monotonic() - started
            self._stats.durations.append(took)
        outcome = self._succeeded(delivery, message, task, value)
        if logs and outcome.kind == "done":
            shown = f": {value!r:.200}" if self._log_values else ""
            _log.info("%s[%s] succeeded in %.2f s%s", message.task, message.id, took, shown)
        return outcome

    def _succeeded(
        self, delivery: Delivery, message: Message, task: Task[..., Any], value: Any
    ) -> Outcome:
        if message.result_ttl == 0:
            self._stats.succeeded += 1
            return Outcome("done")
        try:
            data = codec.encode(value, f"the result of {task.name}")
        except (NotEncodable, PayloadTooLarge) as error:
            return self._dead(delivery, "result", error)
        self._stats.succeeded += 1
        return Outcome("done", b'{"state":"SUCCESS","value":%b}' % data, message.result_ttl)

    def _failed(
        self, delivery: Delivery, message: Message, task: Task[..., Any], error: BaseException
    ) -> Outcome:
        options = task.options
        if message.attempt >= options.retries or not isinstance(error, options.retry_for):
            return self._dead(delivery, "failed", error)
        self._stats.retried += 1
        delay = options.backoff.delay(message.attempt + 1)
        _log.info(
            "%s[%s] failed: %s; retry in %.1f s", message.task, message.id, _one_line(error), delay
        )
        return Outcome("retry", delay=delay, envelope=next_attempt(delivery.envelope))

    def _unknown(self, delivery: Delivery, message: Message) -> Outcome:
        first_seen = float(message.options.get("unknown", delivery.claimed_at))
        waited = delivery.claimed_at - first_seen
        if waited >= _UNKNOWN_FOR:
            known = ", ".join(sorted(self._tasks)) or "none"
            return self._dead(
                delivery, "unknown", LookupError(f"no task {message.task!r} here; known: {known}")
            )
        self._stats.released += 1
        delay = min(max(1.0, waited), 30.0)
        _log.warning(
            "%s[%s] is not a task of this worker; put off for %.0f s",
            message.task,
            message.id,
            delay,
        )
        envelope = with_option(delivery.envelope, "unknown", f"{first_seen:.3f}")
        return Outcome("later", delay=delay, envelope=envelope)

    def _dead(self, delivery: Delivery, reason: str, error: BaseException) -> Outcome:
        self._stats.failed += 1
        task = delivery.envelope.partition(b"\n")[0].split(b" ")[8:9]
        name = task[0].decode("ascii", "replace") if task else "?"
        _log.error("%s[%s] failed: %s", name, delivery.id, _one_line(error))
        return Outcome("dead", _failure(error), result_ttl_of(delivery.envelope), reason=reason)

    def _write_off(
        self, delivery: Delivery, message: Message, task: Task[..., Any], timeout: float
    ) -> None:
        self._stats.stuck += 1
        _log.critical(
            "%s[%s] ignores its timeout of %g s: its slot is lost until it ends",
            message.task, message.id, timeout,
        )  # fmt: skip
        error = TaskTimeout(f"ran longer than {timeout:g} s, and ignores it")
        self._on_stuck(
            delivery, Outcome("dead", _failure(error), message.result_ttl, reason="stuck")
        )


class _Deadline:
    """Throws HardTimeout into the current greenlet when the time is over, and again if it is swallowed.

    One raw timer of the loop (0.6 µs) instead of a gevent.Timeout (2.5 µs, measured).
    """

    __slots__ = ("_args", "_greenlet", "_thrown", "_timeout", "_timer", "_write_off")

    def __init__(self, timeout: float, write_off: Callable[..., None], *args: Any) -> None:
        self._timeout = timeout
        self._write_off = write_off
        self._args = args
        self._thrown = 0
        self._greenlet = gevent.getcurrent()
        self._timer = gevent.get_hub().loop.timer(timeout)
        self._timer.start(self._expire)

    def cancel(self) -> None:
        self._timer.stop()
        self._timer.close()
        self._greenlet = None

    def _expire(self) -> None:
        # In the hub; throw() comes back here when the task next waits, or ends.
        if self._thrown == len(_THROW_AGAIN) + 1:
            self._write_off(*self._args, self._timeout)
            return
        greenlet = self._greenlet
        self._thrown += 1
        greenlet.throw(HardTimeout())
        if self._greenlet is not None and not greenlet.dead:
            again = _THROW_AGAIN[min(self._thrown, len(_THROW_AGAIN)) - 1]
            self._timer.stop()
            self._timer.close()
            self._timer = gevent.get_hub().loop.timer(again)
            self._timer.start(self._expire)


def _shown(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A call's arguments for a log line."""
    values = [repr(value) for value in args] + [
        f"{name}={value!r}" for name, value in kwargs.items()
    ]
    return f" ({', '.join(values):.200})"


def _failure(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(type(error), error, _user_frames(error)))
    report = {
        "type": type(error).__name__,
        "message": _plain(error),
        "traceback": _encodable(text)[-_TRACEBACK_MOST:],
    }
    return codec.encode({"state": "FAILURE", "error": report}, "a failure")


def _user_frames(error: BaseException) -> Any:
    """The traceback without the executor's own frame."""
    return error.__traceback__.tb_next if error.__traceback__ is not None else None


def _plain(error: BaseException) -> str:
    try:
        return _encodable(str(error))[:2000]
    except Exception:  # somebody's __str__
        return "(its text cannot be had)"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(_plain(error).split())[:300]}".rstrip(": ")


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
