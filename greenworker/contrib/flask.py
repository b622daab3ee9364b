"""Flask in a worker: each task runs in an application context.

from greenworker.contrib.flask import FlaskMiddleware

app = App(middleware=[FlaskMiddleware(web)])  # web: the Flask, or a function that makes one
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask

from greenworker.message import Message
from greenworker.middleware import Middleware


class FlaskMiddleware(Middleware):
    """`current_app` and `g` are there in tasks, and what extensions tear down with the context is.

    A function is called once, when the first worker of a process begins: where tasks are only sent, nothing is.
    """

    def __init__(self, web: Flask | Callable[[], Flask]) -> None:
        self._web = web

    def on_start(self, worker: Any) -> None:
        if not isinstance(self._web, Flask):
            self._web = self._web()

    def run(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
        if not isinstance(self._web, Flask):  # no worker has begun: a test, say
            self._web = self._web()
        with self._web.app_context():
            return call_next(message)
