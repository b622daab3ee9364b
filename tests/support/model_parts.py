"""What the model of tests/support/model.py is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

State = dict[str, Any]

EXPIRED = '{"state":"EXPIRED"}'
CANCELLED = '{"state":"CANCELLED"}'


@dataclass(frozen=True)
class Bounds:
    """The numbers in the scripts and of the broker, small here so that tests reach them."""

    few: int = 3
    suspect_after: int = 2
    alone_after: int = 3
    solitary_after: int = 4
    patience: int = 60_000
    impatience: int = 600_000
    look: int = 1000
    chunk: int = 200
    passes: int = 500
    spread_over: int = 64
    dead_most: int = 100_000
    dead_for: int = 30 * 24 * 3600 * 1000
    full: int = 220
    count: int = 1000
    size: int = 4 * 1024 * 1024


@dataclass(frozen=True)
class Letter:
    """An envelope: the fields of its head that scripts know, and the rest."""

    deliveries: int
    attempt: int
    priority: int
    sent: int
    expires: int
    ttl: int
    queue: str
    rest: str

    @classmethod
    def read(cls, text: str) -> Self:
        found = re.fullmatch(r"1 (\d+) (\d+) (\d) (\d+) (\d+) (\d+) (\S+) (.*)", text, re.DOTALL)
        assert found, text
        *numbers, queue, rest = found.groups()
        return cls(*map(int, numbers), queue, rest)

    def __str__(self) -> str:
        return (
            f"1 {self.deliveries} {self.attempt} {self.priority} {self.sent} {self.expires} "
            f"{self.ttl} {self.queue} {self.rest}"
        )


def failure(kind: str, message: str) -> str:
    error = f'"error":{{"type":"{kind}","message":"{message}","traceback":""}}'
    return f'{{"state":"FAILURE",{error}}}'
