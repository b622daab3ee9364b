"""Sending with a journal line before, and one that says what came of it; also as a program:

python …/producer.py TASK COUNT [ARG…]       in an arena's folder; an argument is JSON
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

import orjson

from greenworker import App
from greenworker.errors import BrokerError, SendUnknown
from greenworker.message import Message
from tests.chaos.history import Journal


class Producer:
    """Sends the tasks of an arena's app."""

    def __init__(self, app: App, journal: Journal) -> None:
        self.app, self._journal = app, journal

    def send(self, task: str, *args: Any, **options: Any) -> str:
        """Send a task as apply_async does; returns its id, whatever came of it."""
        id = uuid4().hex
        expires, tags = "expires" in options, list(options.get("tags", ()))
        only = args[0] if self.app.tasks[task].options.unique else None
        about = {"task": task, "expires": expires, "tags": tags, "only": only}
        self._journal.write("send", ids=[id], **about)
        try:
            result = self.app.tasks[task].apply_async(args, id=id, **options)
        except SendUnknown:
            verdict = "unknown"
        except BrokerError:
            verdict = "refused"
        else:
            # Else it is the handle on the one that is there.
            verdict = "ok" if result.id == id else "refused"
        self._journal.write("sent", ids=[id], verdict=verdict)
        return id

    def send_many(self, task: str, calls: Iterable[Sequence[Any]]) -> list[str]:
        """Send many calls, a thousand in a request; returns the ids of all, in order."""
        calls = [list(call) for call in calls]
        ids = [uuid4().hex for _ in calls]
        for start in range(0, len(ids), 1000):
            self._send_some(task, ids[start : start + 1000], calls[start : start + 1000])
        return ids

    def _send_some(self, task: str, ids: list[str], calls: list[list[Any]]) -> None:
        self._journal.write("send", ids=ids, task=task)
        messages = [
            Message(id, task, call, {}, {}, self.app.tasks[task].options.queue)
            for id, call in zip(ids, calls, strict=True)
        ]
        sent: list[str] = []
        unknown: list[str] = []
        try:
            self.app.client.send_many(messages, sent.append)
        except SendUnknown as error:
            unknown = error.ids
        except BrokerError:
            pass
        refused = sorted(set(ids) - set(sent) - set(unknown))
        for verdict, which in (("ok", sent), ("unknown", unknown), ("refused", refused)):
            if which:
                self._journal.write("sent", ids=which, verdict=verdict)


def main(task: str, count: str, *args: str) -> None:
    from arena_tasks import app, journal  # type: ignore[import-not-found]  # the arena's folder

    producer = Producer(app, journal)
    for _ in range(int(count)):
        producer.send(task, *(orjson.loads(arg) for arg in args))


if __name__ == "__main__":
    sys.path.insert(0, "")
    main(*sys.argv[1:])
