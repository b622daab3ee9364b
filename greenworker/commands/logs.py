"""What a worker writes: log lines, and the task's name and id before lines of its own code."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

import orjson
from gevent import monkey

from greenworker.commands.options import Options
from greenworker.context import CURRENT, IN_THREAD
from greenworker.errors import ConfigError

_BEGAN = time.time()
_get_ident = monkey.get_original("_thread", "get_ident")

_OURS = ("", "greenworker")

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


def level_of(options: Options) -> int:
    """The log level that was asked for, by a flag or else by the environment; raises ConfigError."""
    by_flag = any(options.said_by_flag(name) for name in ("verbose", "quiet", "loglevel"))
    said = options.said_by_flag if by_flag else options.flag
    if said("verbose"):
        return logging.DEBUG
    if said("quiet"):
        return logging.WARNING
    name = (options.text("loglevel") or "info").lower()
    if name not in _LEVELS:
        raise ConfigError(f"log level {name!r}: give {', '.join(_LEVELS)}")
    return _LEVELS[name]


def set_up(level: int, as_json: bool, bare_output: bool) -> None:
    """Log to stderr from `level` on; print() in tasks carries the task's name and id, unless
    stdout is to stay bare, as a debugger's dialogue must."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonLines() if as_json else _Lines("%(asctime)s %(levelname)-7s %(message)s")
    )
    handler.addFilter(_is_new)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    if not bare_output:
        sys.stdout = cast(TextIO, _TaskOutput(sys.stdout))


def after_the_apps() -> None:
    """The app may have set up logging as well: no line of ours is to vanish, or to come twice."""
    # To ask for it leaves a link at the greenlet, which is then used once; and all are the main thread.
    logging.logThreads = not all(map(_asks_for_no_thread, _handlers()))
    for name, logger in [("", logging.getLogger()), *logging.root.manager.loggerDict.items()]:
        if not isinstance(logger, logging.Logger) or name.partition(".")[0] not in _OURS:
            continue
        logger.disabled = False  # dictConfig disables what it does not know
        for handler in logger.handlers:
            if getattr(handler, "stream", None) is sys.stderr:
                handler.addFilter(_is_new)


def show_now(level: int, logger: str, text: str) -> None:
    """Write a line as `set_up` would have it, without a lock: for native threads."""
    # Its own __init__ asks for the thread, which takes a lock.
    record = logging.LogRecord.__new__(logging.LogRecord)
    now = time.time()
    # All that a formatter of the app's may ask for.
    record.__dict__ |= {
        "name": logger, "levelno": level, "levelname": logging.getLevelName(level), "msg": text,
        "args": (), "created": now, "msecs": now % 1 * 1000, "exc_info": None, "exc_text": None,
        "stack_info": None, "relativeCreated": (now - _BEGAN) * 1000, "process": os.getpid(),
        "processName": "MainProcess", "thread": _get_ident(), "threadName": "greenworker-watchdog",
        "taskName": None, "pathname": __file__, "filename": os.path.basename(__file__),
        "module": "logs", "lineno": 0, "funcName": "show_now", "message": text,
    }  # fmt: skip
    handlers = logging.getLogger().handlers
    try:
        line = handlers[0].format(record) if handlers else text
    except Exception:  # noqa: BLE001  # it may ask for what only a filter of theirs adds
        line = f"{record.levelname} {text}"
    os.write(2, f"{line}\n".encode(errors="backslashreplace"))


def _is_new(record: logging.LogRecord) -> bool:
    """False for what `show_now` has written already."""
    return not getattr(record, "shown", False)


def _prefix() -> str:
    running = CURRENT.get()
    return "" if running is None else f"{running.current.name}[{running.current.id}] "


class _Lines(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        # Our own lines name the task where they speak of it.
        if not record.name.startswith("greenworker"):
            record.message = _prefix() + record.message
        return super().formatMessage(record)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _encodable(record.getMessage()),
        }
        running = CURRENT.get()
        if running is not None:
            line |= {"task": running.current.name, "id": running.current.id}
        if record.exc_info:
            line["traceback"] = _encodable(self.formatException(record.exc_info))
        return orjson.dumps(line, default=str).decode()


def _encodable(text: str) -> str:
    # The name of a file may hold surrogates, which JSON cannot carry.
    return text.encode("utf-8", "backslashreplace").decode()


def _handlers() -> Iterator[logging.Handler]:
    loggers = (logging.getLogger(), *logging.root.manager.loggerDict.values())
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            yield from logger.handlers


def _asks_for_no_thread(handler: logging.Handler) -> bool:
    """Whether that is certain: of the standard library's and our own."""
    formatter = handler.formatter
    if formatter is None or isinstance(formatter, (_Lines, _JsonLines)):
        return type(handler).__module__ == "logging"
    return type(formatter) is logging.Formatter and "thread" not in (formatter._fmt or "")


class _TaskOutput:
    """stdout, with the task's name and id before each line that a task prints.

    Greenlets take turns between their calls; native threads in the middle of a print(), whose text and
    line end are two: what those write goes out in whole lines.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._at_start = True
        self._begun: dict[int, str] = {}  # lines without an end, by native thread

    def write(self, text: str) -> int:
        if IN_THREAD.get():
            me = _get_ident()
            whole, end, rest = (self._begun.pop(me, "") + text).rpartition("\n")
            if rest:
                self._begun[me] = rest
            if end:
                prefix = _prefix()
                self._out.write("".join(f"{prefix}{line}\n" for line in whole.split("\n")))
            return len(text)
        for line in text.splitlines(keepends=True):
            self._out.write(_prefix() + line if self._at_start else line)
            self._at_start = line.endswith("\n")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if IN_THREAD.get() and (rest := self._begun.pop(_get_ident(), "")):
            self._out.write(f"{_prefix()}{rest}\n")
        self._out.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)  # encoding, buffer: all else as it was
