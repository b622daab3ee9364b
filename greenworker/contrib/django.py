"""Django in a worker: set up before tasks import models, connections closed around runs, sends on commit.

from greenworker.contrib.django import DjangoMiddleware, delay_on_commit

app = App(middleware=[DjangoMiddleware("shop.settings")])  # first, then: from shop.models import …
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ParamSpec

import django
from django.apps import apps
from django.db import connections, transaction

from greenworker.message import Message
from greenworker.middleware import Middleware
from greenworker.task import Task

P = ParamSpec("P")


class DjangoMiddleware(Middleware):
    """Sets Django up when it is made, unless it is or somebody is about to; then looks after connections.

    `settings` names the settings where DJANGO_SETTINGS_MODULE does not. A task's greenlet has connections
    of its own: what it leaves open is closed when it ends, whatever CONN_MAX_AGE says, since nobody else can
    use it; in a thread (`thread=True`) they are kept for the next task, as CONN_MAX_AGE says. Those of
    a task's children (`spawn`) are theirs to close. None is touched within a transaction that began outside of the run, as in a test.
    """

    def __init__(self, settings: str | None = None) -> None:
        if settings is not None:
            os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings)
        # A web server imports its tasks while Django is being set up.
        if not (apps.ready or getattr(apps, "loading", False)):
            django.setup()

    def run(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
        import gevent  # here: a web server that only sends needs none

        self._close_connections(only_old=True)
        try:
            return call_next(message)
        finally:
            # A task's greenlet ends; a thread, or the main greenlet, runs the next task as well.
            self._close_connections(only_old=not isinstance(gevent.getcurrent(), gevent.Greenlet))

    def _close_connections(self, only_old: bool) -> None:
        """As Django's close_old_connections does, which would also close one within a transaction."""
        for connection in connections.all(initialized_only=True):
            if connection.in_atomic_block:
                continue
            if only_old:
                connection.close_if_unusable_or_obsolete()
            else:
                connection.close()


def delay_on_commit(task: Task[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
    """Send `task.delay(*args, **kwargs)` once the transaction is committed; never, if it is rolled back.

    At once where there is none, in the default database. So no worker looks for a row that is not there yet. The call is checked
    now. What the send raises, the commit raises: the data are kept then, and the message is not sent.
    """
    task.check_call(args, kwargs)
    transaction.on_commit(lambda: task.delay(*args, **kwargs))
