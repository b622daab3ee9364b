"""What gevent must have patched before a worker may start."""

from __future__ import annotations

from gevent import monkey

from greenworker.errors import NotPatched


def require_patched() -> None:
    """Raise NotPatched unless gevent has patched what a worker needs to be green."""
    missing = [
        name
        for name in ("socket", "time", "select", "threading")
        if not monkey.is_module_patched(name)
    ]
    if missing:
        raise NotPatched(
            f"gevent has not patched {', '.join(missing)}: put "
            "`from gevent import monkey; monkey.patch_all()` on the first line of the program, "
            "or start the worker with `greenworker MODULE`"
        )
