"""What is sent once, on a Space: messages with locks, windows and marks, and who holds what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from greenworker.broker import push_fields
from greenworker.connection import Connection
from greenworker.message import Message, Moment
from greenworker.once import Once
from tests.support.state import Space

KEEP, STARTED, REPLACE = "d", "s", "r"


def window(ms: int) -> str:
    return f"f{ms}."


@dataclass
class Sender:
    """Sends messages of a Space that are unique."""

    space: Space
    once: Once

    def send(
        self,
        id: str,
        lock: str = "",
        mode: str = KEEP,
        *,
        mark: int | None = None,
        seen: str = "",
        push_id: str = "",
        queue: str = "default",
        priority: int = 5,
        due: Moment | None = None,
        expires: Moment | None = None,
        result_ttl: float = 3600.0,
    ) -> tuple[str, str]:
        """The fate of one, and the id that stands for it or its own."""
        message = Message(
            id, "t", (), {}, {}, queue, priority, result_ttl, due, expires,
            {"unique": mode + lock} if lock else {}, mark=mark,
        )  # fmt: skip
        fates, firsts = self.many([message], seen, push_id)
        return fates, firsts[0] if firsts else id

    def many(
        self, messages: list[Message], seen: str = "", push_id: str = ""
    ) -> tuple[str, list[str]]:
        fields: list[bytes | str | int] = []
        for one in messages:
            fields += [*push_fields(one), "" if one.mark is None else one.mark]
        return self.once.push(push_id or uuid4().hex, seen, fields)

    @property
    def locks(self) -> dict[str, str]:
        """Who holds what."""
        held: dict[str, str] = self.space.redis.hgetall(self.space.key("unique"))
        return held


@contextmanager
def sending(space: Space) -> Iterator[Sender]:
    connection = Connection(space.endpoint)
    yield Sender(space, Once(connection, space.broker.namespace))
    connection.close()
