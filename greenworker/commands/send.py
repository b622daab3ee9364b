"""`greenworker send`: one call of a task, from the shell."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from greenworker import codec
from greenworker.commands.find_app import find_app, find_task
from greenworker.commands.options import Options
from greenworker.errors import (
    BadArguments,
    ConfigError,
    MalformedMessage,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
)
from greenworker.message import State
from greenworker.result import Result
from greenworker.task import Task

# No URL in it: what an error says of those is redacted.
_FORM = "greenworker send app.tasks:add '[1, 2]'"


def run(options: Options) -> int:
    """Send it, and print its id, or wait and print its result; returns the exit code, 1 when it failed."""
    args, kwargs = _arguments(options.named("arguments"))
    app, task = _app_and_task(options)
    waits = options.said_by_flag("wait")
    if waits and task.options.ignore_result:
        raise ConfigError(f"--wait: {task.name} keeps no result (ignore_result)")
    if options.said_by_flag("url"):
        app.use(str(options.text("url")), "--url")
    with closing(app):
        try:
            result = task.apply_async(
                args,
                kwargs,
                countdown=options.seconds("countdown"),
                queue=options.text("queue"),
                priority=_priority(options),
                id=options.text("id"),
                tags=[tag] if (tag := options.text("tag")) is not None else None,
            )
        except BadArguments as error:
            raise ConfigError(str(error)) from None
        if waits:
            return _wait(result, options.flag("json"))
    print(json.dumps({"id": result.id}) if options.flag("json") else result.id)
    return 0


def _wait(result: Result[Any], as_json: bool) -> int:
    try:
        value = result.get()
    except TaskFailed as error:
        if not as_json:
            raise
        told = {"type": error.type, "message": error.message, "traceback": error.traceback}
        print(json.dumps({"id": result.id, "state": _state(error), "error": told}))
        return 1
    if as_json:
        print(json.dumps({"id": result.id, "state": "SUCCESS", "value": value}))
        return 0
    text = json.dumps(value, ensure_ascii=False)
    # What a terminal might obey is written as an escape.
    print(text if text.isprintable() else json.dumps(value))
    return 0


def _state(error: TaskFailed) -> State:
    match error:
        case TaskExpired():
            return State.EXPIRED
        case TaskCancelled():
            return State.CANCELLED
    return State.FAILURE


def _app_and_task(options: Options) -> tuple[Any, Task[..., Any]]:
    name = options.named("task") or ""
    if name.startswith(":") or name.endswith(":"):
        raise ConfigError(f"which task is {name!r}? {_FORM}")
    if ":" in name:
        if options.said_by_flag("app"):
            raise ConfigError(f"name the module once: {name}, or -A {options.text('app')}")
        return find_task(name)
    if not options.modules:
        raise ConfigError(f"which task is {name!r}? {_FORM}, or its name with -A MODULE")
    app = find_app(options.modules)
    task = app.tasks.get(name)
    if task is None:
        known = ", ".join(sorted(app.tasks)[:8])
        raise ConfigError(f"no task {name!r} in {options.modules[0]}; there are {known}")
    return app, task


def _arguments(text: str | None) -> tuple[list[Any], dict[str, Any]]:
    if text is None:
        return [], {}
    mend = "give a JSON list, or an object of named ones, in quotes of the shell"
    try:
        given = codec.decode(text.encode("utf-8", "surrogateescape"))
    except MalformedMessage as error:
        raise ConfigError(f"the arguments are {error}; {mend}: {_FORM}") from None
    if isinstance(given, list):
        return given, {}
    if isinstance(given, dict):
        return [], given
    raise ConfigError(f"the arguments are a single value; {mend}: {_FORM}")


def _priority(options: Options) -> int | None:
    text = options.text("priority")
    if text is not None and text not in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]:
        raise ConfigError(f"--priority {text}: give 0 to 9, 9 goes first")
    return None if text is None else int(text)
