"""For tests: tasks that run where they are sent, or that are drained from a server whose clock you move.

with app.testing() as sent: …      no server; see inline.py
with clock(app) as clock: …        a server, and a clock that stands until it is moved
drain(app)                         runs what waits on it, here
server()                           a private server for as long as the context lasts

Imports nothing: a test run's plugins are loaded before gevent may have patched.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenworker.testing.draining import drain as drain
    from greenworker.testing.inline import Sent as Sent
    from greenworker.testing.moving import Clock as Clock
    from greenworker.testing.moving import clock as clock
    from greenworker.testing.private import server as server
    from greenworker.testing.record import Ran as Ran
    from greenworker.testing.record import SentMessage as SentMessage

_HOME = {
    "Clock": "moving",
    "Ran": "record",
    "Sent": "inline",
    "SentMessage": "record",
    "clock": "moving",
    "drain": "draining",
    "server": "private",
}

__all__ = ["Clock", "Ran", "Sent", "SentMessage", "clock", "drain", "server"]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'greenworker.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"greenworker.testing.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
