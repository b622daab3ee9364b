"""What is reported of a run: errors, calls and values as text, whatever they are made of."""

from __future__ import annotations

import traceback
from typing import Any

from greenworker import codec
from greenworker.message import Message
from greenworker.task import Task

_TRACEBACK_MOST = 20_000  # characters
_OURS = ("greenworker.worker.executor", "greenworker.worker.threads", "greenworker.middleware")


def call_of(message: Message) -> str:
    """A call's arguments for a log line."""
    values = [repr(value) for value in message.args]
    values += [f"{name}={value!r}" for name, value in message.kwargs.items()]
    return f" ({', '.join(values):.200})"


def value_of(value: object) -> str:
    """A value for a log line."""
    try:
        return repr(value)
    except Exception:  # somebody's __repr__
        return f"({type(value).__name__}: its repr cannot be had)"


def failure(error: BaseException) -> bytes:
    """A failure as results and dead letters keep it: JSON."""
    report = {
        "type": type(error).__name__,
        "message": _plain(error),
        "traceback": _traceback(error)[-_TRACEBACK_MOST:],
    }
    return codec.encode({"state": "FAILURE", "error": report}, "a failure")


def _traceback(error: BaseException) -> str:
    try:
        frames = user_frames(error)
        return _encodable("".join(traceback.format_exception(type(error), error, frames)))
    except Exception:  # somebody's attributes, or a chain of causes that is too long
        return "(its traceback cannot be had)"


def user_frames(error: BaseException) -> Any:
    """The traceback without the frames of what runs tasks."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__") in _OURS:
        frames = frames.tb_next
    return frames


def _plain(error: BaseException) -> str:
    try:
        return _encodable(str(error))[:2000]
    except Exception:  # somebody's __str__
        return "(its text cannot be had)"


def told(task: Task[..., Any] | None, error: BaseException) -> str:
    """An error for a log line: of a sensitive task its type alone, its text may hold anything."""
    if task is not None and task.options.sensitive:
        return type(error).__name__
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    text = " ".join(_plain(error).split())[:300]
    if not text.isprintable():
        # A page that was fetched, say, may have put a terminal's commands into it.
        text = "".join(char if char.isprintable() else f"{char!a}"[1:-1] for char in text)
    return f"{type(error).__name__}: {text}".rstrip(": ")


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
