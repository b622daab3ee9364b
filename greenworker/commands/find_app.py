"""Finds the App that a module name means, and says what it found when that is not one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from greenworker.app import App
from greenworker.commands.options import Options
from greenworker.embedded import current_folder
from greenworker.errors import AppNotFound, ConfigError
from greenworker.task import Task


def find_app(names: Sequence[str], need_tasks: bool = True) -> App:
    """The one App of these modules, each written `module` or `module:attribute`.

    The current folder comes first on sys.path. Raises AppNotFound, or ConfigError for a module
    that cannot be imported.
    """
    _here_comes_first()
    apps = {name: _app_of(name) for name in names}
    first, *others = apps.values()
    if any(other is not first for other in others):
        raise ConfigError(
            f"{' and '.join(apps)} have an App each: start a worker for each, "
            "or let them share one App"
        )
    for name in first.include:
        _import(name)
    if need_tasks and not first.tasks:
        raise AppNotFound(
            f"no tasks: the App in {', '.join(names)} declares none; decorate functions with @app.task, "
            "and name the modules where that happens, here or in App(include=[...])"
        )
    return first


def find_task(name: str) -> tuple[App, Task[..., Any]]:
    """The task that `module:function` means, and its App; raises as `find_app`."""
    module_name, _, attribute = name.partition(":")
    _here_comes_first()
    module = _import(module_name)
    task = getattr(module, attribute, None)
    if not isinstance(task, Task):
        tasks = [key for key, value in vars(module).items() if isinstance(value, Task)]
        what = "there is none" if task is None else f"it is a {type(task).__name__}"
        there = f"; tasks there: {', '.join(tasks[:8])}" if tasks else ""
        raise ConfigError(f"{name} is no task: {what}{there}")
    # Where it was declared, and where it is named: one of them knows its App.
    homes = [module, sys.modules.get(task.__module__, module)]
    for app in (value for home in homes for value in vars(home).values()):
        if isinstance(app, App) and app.tasks.get(task.name) is task:
            return app, task
    raise AppNotFound(
        f"{name} is a task of an App that is not in {module_name}: give it by -A, "
        f"greenworker send -A MODULE:APP {task.name}"
    )


def _here_comes_first() -> None:
    here = str(current_folder())
    if sys.path[0] != here:
        sys.path.insert(0, here)


def app_or_url(options: Options, named: Sequence[str] = ()) -> App:
    """For commands that look at the data: the App of -A, or of `named`, or the namespace at -u.

    An App has a namespace of its own. So --namespace is refused beside one, unless that one is said
    by the environment alone, and -u by its flag.
    """
    modules = options.modules_of(list(named)) if named else options.modules
    namespace = options.text("namespace")
    # What the environment says comes after what the App says: it looks there by itself.
    url = options.text("url") if options.said_by_flag("url") else None
    if modules and options.said_by_flag("namespace"):
        if options.said_by_flag("app") or named or url is None:
            where = "-A" if options.said_by_flag("app") or named else "GREENWORKER_APP"
            raise ConfigError(
                f"--namespace {namespace}: the App of {where} {modules[0]} has a namespace of its own; "
                f"leave --namespace out, or give it with -u URL and without -A"
            )
        modules = []
    if modules:
        app = find_app(modules, need_tasks=False)
    else:
        app = App(namespace="default" if namespace is None else namespace)
    if url is not None:
        app.use(url, "--url")
    return app


def _app_of(name: str) -> App:
    module_name, _, attribute = name.partition(":")
    module = _import(module_name)
    if attribute:
        found = getattr(module, attribute, None)
        if isinstance(found, App):
            return found
        what = "there is none" if found is None else f"it is a {type(found).__name__}"
        raise AppNotFound(f"{name} is no App: {what}; {_apps_in(module)}")
    found = getattr(module, "app", None)
    if isinstance(found, App):
        return found
    apps = {key: value for key, value in vars(module).items() if isinstance(value, App)}
    if len({id(app) for app in apps.values()}) == 1:
        return next(iter(apps.values()))
    if apps:
        named = " or ".join(f"{module_name}:{key}" for key in apps)
        raise AppNotFound(f"{module_name} has several Apps: say {named}")
    raise AppNotFound(
        f"no App in {module_name} ({module.__file__}): looked for `app`, and for any App; "
        "write app = greenworker.App()"
    )


def _import(name: str) -> ModuleType:
    if name.endswith(".py") or name.startswith(".") or "/" in name:
        module = name.removesuffix(".py").replace("/", ".").strip(".")
        raise AppNotFound(f"no module {name!r}: it takes a module's name: {module}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(missing + "."):
            raise AppNotFound(
                f"no module {name!r}: looked in {Path.cwd()} and on sys.path{_hint()}"
            ) from None
        raise _mistake(name, error) from error
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:
        raise _mistake(name, error) from error


def _mistake(name: str, error: BaseException) -> ConfigError:
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}"
    else:
        where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "?"
    text = " ".join(str(error).split())
    return ConfigError(f"{name} cannot be imported: {type(error).__name__}: {text} ({where})")


def _hint() -> str:
    here = sorted(
        path.stem if path.suffix == ".py" else path.name
        for path in Path.cwd().iterdir()
        if (path.suffix == ".py" and path.stem.isidentifier()) or (path / "__init__.py").exists()
    )
    return f"; modules here: {', '.join(here[:8])}" if here else ""


def _apps_in(module: ModuleType) -> str:
    apps = [key for key, value in vars(module).items() if isinstance(value, App)]
    return f"Apps there: {', '.join(apps)}" if apps else "no App is there"
