"""greenworker: a task worker for I/O-bound Python, on gevent and Redis.

This file imports nothing: `greenworker/__main__.py` must patch before anything
else is loaded, and a process that only sends never loads the worker.
"""

__version__ = "0.1.0"

_HOME = {
    "App": "app",
    "Backoff": "backoff",
    "Cancelled": "errors",
    "CurrentTask": "context",
    "DeadLetter": "dead",
    "Ignore": "verdicts",
    "Info": "result",
    "KeyState": "admission",
    "Limit": "limit",
    "Message": "message",
    "Middleware": "middleware",
    "Reject": "verdicts",
    "Result": "result",
    "Results": "result",
    "Retry": "verdicts",
    "ScheduleInfo": "schedule",
    "Seen": "seen",
    "Snooze": "verdicts",
    "SoftTimeout": "errors",
    "State": "message",
    "Task": "task",
    "Throttled": "verdicts",
    "Worker": "worker",
    "current_task": "context",
    "errors": "errors",
    "host": "hosts",
    "retry_after": "retry_header",
    "spawn": "children",
}

__all__ = [
    "App",
    "Backoff",
    "Cancelled",
    "CurrentTask",
    "DeadLetter",
    "Ignore",
    "Info",
    "KeyState",
    "Limit",
    "Message",
    "Middleware",
    "Reject",
    "Result",
    "Results",
    "Retry",
    "ScheduleInfo",
    "Seen",
    "Snooze",
    "SoftTimeout",
    "State",
    "Task",
    "Throttled",
    "Worker",
    "__version__",
    "current_task",
    "errors",
    "host",
    "retry_after",
    "spawn",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'greenworker' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"greenworker.{home}")
    return module if name == home else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
