"""Under which name a worker finds a function again, and whether two are the same one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from greenworker.errors import DeclarationError


def importable_name(function: Callable[..., Any]) -> str:
    """The name of a task that declares none; raises DeclarationError."""
    if not hasattr(function, "__qualname__"):
        raise DeclarationError(f"{function!r:.60} has no name of its own: give it name=")
    return f"{_importable_module(function)}.{function.__qualname__}"


def _importable_module(function: Callable[..., Any]) -> str:
    """The module's name as a worker would import it, also for a script that runs as __main__."""
    if function.__module__ != "__main__":
        return function.__module__
    main = sys.modules["__main__"]
    if main.__spec__ is not None:
        return main.__spec__.name.removesuffix(".__main__")
    try:
        path = Path(main.__file__ or "").resolve().relative_to(Path.cwd())
    except (AttributeError, TypeError, ValueError, OSError):
        return "__main__"
    parts = path.with_suffix("").parts
    return ".".join(parts) if parts and all(part.isidentifier() for part in parts) else "__main__"


def same_function(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether one was declared twice."""
    # A script that is run and imported again declares its own tasks twice.
    first, second = getattr(one, "__code__", one), getattr(other, "__code__", other)
    return bool(first == second)
