"""`greenworker` and `python -m greenworker`: patches first, then runs the command line."""

from __future__ import annotations

import sys

# A debugger or a tracer may have been here first: patching `ssl` late is unsafe.
_EARLY_SSL = sorted(
    name
    for name, module in list(sys.modules.items())
    if getattr(module, "ssl", None) is sys.modules.get("ssl", sys) and name != "ssl"
)

from gevent import monkey  # noqa: E402  # what comes before must not import anything

monkey.patch_all()

from greenworker import cli  # noqa: E402  # after the patch, as all the rest


def main() -> int:
    """The console script's entry; returns the exit code."""
    code = cli.main(sys.argv[1:], early_ssl=_EARLY_SSL)
    worker = sys.modules.get("greenworker.commands.worker")
    if worker is not None:
        worker.leave_threads(code)  # of the app: also when an error has ended the worker
    return code


if __name__ == "__main__":
    sys.exit(main())
