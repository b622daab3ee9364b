"""docs/from-celery.md: what its tables call greenworker's is greenworker's.

Of each table the column `greenworker` is looked at, and in it what stands in backticks: command lines are parsed,
names looked up, and calls held against the signatures. Nothing is called, and no server is needed.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import greenworker
from greenworker import App, cli, errors
from greenworker.schedule import ScheduleOptions
from greenworker.task_options import TaskOptions

DOC = Path(__file__).resolve().parents[2] / "docs" / "from-celery.md"
PACKAGE = Path(greenworker.__file__).parent
MANUAL = " ".join((cli.__doc__ or "").split())

app = App("redis://127.0.0.1:1/0")  # it connects to nothing


@app.task(name="name")
def fn(one: int, two: int = 2) -> int:
    return one + two


# What the document calls things, besides what `greenworker` exports.
SCENE: dict[str, Any] = {
    "app": app,
    "fn": fn,
    "result": app.result("order-17"),
    "errors": errors,
    "current_task": greenworker.current_task,
}
# What `**options` may be.
OPTIONS = {
    "task": {field.name for field in dataclasses.fields(TaskOptions)},
    "every": set(ScheduleOptions.__annotations__),
    "cron": set(ScheduleOptions.__annotations__),
}


def columns(text: str) -> Iterator[str]:
    """The cells of all columns that are called greenworker."""
    ours: int | None = None
    for line in text.splitlines():
        if not line.startswith("|"):
            ours = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if ours is None:
            ours = cells.index("greenworker")
        elif not set(line) <= set("|- "):
            yield cells[ours]


def named(text: str) -> list[str]:
    return [span for cell in columns(text) for span in re.findall(r"`([^`]+)`", cell)]


def wrong_with(span: str) -> str:
    """Why this is nothing of greenworker's; empty if it is."""
    if span.startswith(("-", "greenworker ")):
        return wrong_with_command(shlex.split(span.removeprefix("greenworker ")))
    if span.startswith("GREENWORKER_"):
        option = "--" + span.removeprefix("GREENWORKER_").lower().replace("_", "-")
        return "" if option in MANUAL.split() else f"no option {option}"
    try:
        follow(ast.parse(span.removeprefix("@").replace("…", "..."), mode="eval").body)
    except (SyntaxError, LookupError, AttributeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def wrong_with_command(words: list[str]) -> str:
    # docopt takes the beginning of an option for the whole.
    unknown = [word for word in words if word.startswith("-") and word not in MANUAL.split()]
    if unknown:
        return f"no option {unknown[0]}"
    try:
        options = cli.parse(words)
        command = words[0]
        if command in cli.COMMANDS:
            options.refuse_others(command, cli.COMMANDS[command])
        elif not command.startswith("-") and "." not in command:
            return f"neither a command nor a module: {command}"  # docopt would take it for one
    except errors.ConfigError as error:
        return str(error)
    if command in ("dead", "schedule") and f"{command} {words[1]}" not in MANUAL:
        return f"{command} cannot {words[1]}"
    return ""


def follow(node: ast.expr) -> Any:
    """What this expression leads to, calling nothing but `current_task()`."""
    match node:
        case ast.Name(id=name):
            return SCENE[name] if name in SCENE else getattr(greenworker, name)
        case ast.Attribute() if (path := ast.unparse(node)).startswith("greenworker."):
            return defined(*path.split(".")[1:])
        case ast.Attribute(value=value, attr=name):
            found = inspect.getattr_static(follow(value), name)
            # What a property gives might be asked of the server.
            return get_type_hints(found.fget)["return"] if isinstance(found, property) else found
        case ast.Subscript(value=value, slice=ast.Constant(value=key)):
            return follow(value)[key]
        case ast.Call(func=function, args=args, keywords=keywords):
            target = follow(function)
            if target is greenworker.current_task:
                return greenworker.CurrentTask  # whose fields are attributes of the class as well
            check_call(target, args, [keyword.arg or "" for keyword in keywords])
            return None
    raise ValueError(f"cannot follow {ast.unparse(node)}")


def defined(*path: str) -> None:
    """`contrib.django.DjangoMiddleware`, looked up without importing Django."""
    room = PACKAGE.joinpath(*path[:-1])
    source = room / "__init__.py" if room.is_dir() else room.with_suffix(".py")
    if not source.is_file():
        raise LookupError(f"no module {'.'.join(path[:-1])}")
    names: set[str] = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                names.update(ast.literal_eval(value))
    if path[-1] not in names:
        raise LookupError(f"no {path[-1]} in {'.'.join(path[:-1])}")


def check_call(target: Any, args: list[ast.expr], keywords: list[str]) -> None:
    """Raise TypeError for a call that does not fit; `…` stands for any arguments."""
    options = OPTIONS.get(getattr(target, "__name__", ""))
    signature = inspect.signature(target)
    if any(isinstance(arg, ast.Constant) and arg.value is ... for arg in args):
        signature.bind_partial(**dict.fromkeys(keywords))
    else:
        is_method = inspect.isfunction(target) and "." in target.__qualname__  # with a `self`
        signature.bind(*([None] * (len(args) + is_method)), **dict.fromkeys(keywords))
    strange = set(keywords) - set(signature.parameters) - (options or set())
    if options is not None and strange:
        raise TypeError(f"no option {', '.join(sorted(strange))}")


def test_what_the_tables_call_greenworkers_is() -> None:
    spans = named(DOC.read_text(encoding="utf-8"))
    assert len(spans) > 100
    wrong = {span: why for span in spans if (why := wrong_with(span))}
    assert not wrong


@pytest.mark.parametrize(
    "span",
    [
        "--max-tasks-per-child N",
        "--max-ta N",
        "-P gevent",
        "-c",
        "greenworker inspect active",
        "greenworker dead resurrect",
        "greenworker status --threads 3",
        "GREENWORKER_AUTOSCALE",
        "fn.dealy(1, 2)",
        "fn.delay_many()",
        "fn.apply_async((1, 2), task_id=3)",
        "fn.apply_async(…, task_id=3)",
        "@app.task(acks_late=True)",
        "app.cron('* * * * *', fn, timezone='UTC')",
        "app.tasks['other'].delay(1)",
        "app.control",
        "result.revoke()",
        "current_task().retries",
        "current_task().retry(exc=1)",
        "Middleware.before_run",
        "errors.MaxRetriesExceededError",
        "greenworker.contrib.django.shared_task",
        "greenworker.contrib.pyramid.delay_on_commit",
        "greenworker.contrib.django",
        "Snooze()",
        "shared_task",
        "any words",
    ],
)
def test_what_is_none_is_found(span: str) -> None:
    table = f"| Celery | greenworker | why |\n|---|---|---|\n| `x` | `fn`, `{span}` | `y` |\n"
    assert named(table) == ["fn", span]
    assert wrong_with(span)
