"""A claim, as the model of tests/support/model.py has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.support.model_once import was_replaced
from tests.support.model_parts import CANCELLED, EXPIRED, failure

if TYPE_CHECKING:
    from tests.support.model import Model


class ClaimRun:
    """One claim: what it holds so far, and what it may still take."""

    def __init__(self, model: Model, worker: str, room: int, heeds_marks: bool = True) -> None:
        self.heeds_marks = heeds_marks
        self.model, self.worker, self.room = model, worker, room
        self.held: list[str] = []
        self.size = self.looked = 0
        self.full = False
        self.beside: set[str] = set()  # queues whose solitary ones have waited for long enough

    def take_suspects(self, queue: str) -> None:
        """A few at once; one that must run without others only if there is no other."""
        model, line = self.model, self.model.suspects[queue]
        mine = model.suspected[self.worker]
        while line and self._goes_on() and len(mine) < model.bounds.few:
            if mine and any(self._alone(id) for id in (*mine, line[0])):
                return
            id = line[0]
            solitary = model.crashes_of(id) >= model.bounds.solitary_after
            if solitary and queue not in self.beside:
                return
            if self.take(line):
                mine[id] = model.now

    def makes_room_for_one(self, queues: Sequence[str]) -> bool:
        """Whether nothing else is claimed: one runs by itself, or is to."""
        model, mine = self.model, self.model.suspected[self.worker]
        patience = model.bounds.patience
        for id in [id for id, since in mine.items() if since <= model.now - patience]:
            del mine[id]
            if model.solitary.get(self.worker) == id:
                del model.solitary[self.worker]
        if self.worker in model.solitary:
            return True
        holds_any = bool(model.processing[self.worker])
        for queue in queues:
            line = model.suspects[queue]
            while line and self.room > 0 and self.looked < model.bounds.look:
                id = line[0]
                if model.crashes_of(id) < model.bounds.solitary_after:
                    break
                if holds_any:
                    until = model.now + model.bounds.impatience
                    since, _ = model.room.setdefault(queue, (model.now, until))
                    listens = model.consumers[queue]
                    if model.now - since >= patience:
                        self.beside.add(queue)
                    elif self.worker in listens and self.worker == min(listens):
                        return True
                    break
                if self.take(line):
                    mine[id] = model.now
                    model.solitary[self.worker] = id
                    model.room.pop(queue, None)
                    return True
                if self.full:
                    break
        return False

    def take_ready(self, queue: str, share: int) -> None:
        after = self.room - min(self.room, share)
        self.room -= after
        for level in range(9, -1, -1):
            line = self.model.ready[queue, level]
            while line and self._goes_on():
                # It looks at a chunk, and only then whether it has looked at enough.
                for _ in range(min(self.room, self.model.bounds.chunk, len(line))):
                    if not self.full:
                        self.take(line)
        self.room += after

    def _goes_on(self) -> bool:
        return self.room > 0 and not self.full and self.looked < self.model.bounds.look

    def _alone(self, id: str) -> bool:
        return self.model.crashes_of(id) >= self.model.bounds.alone_after

    def take(self, line: list[str]) -> bool:
        model, id = self.model, line[0]
        self.looked += 1
        text = model.planted[id] if id in model.planted else str(model.msg[id])
        size = len((text or "").encode())
        if text is not None and self.size and self.size + size > model.bounds.size:
            self.full = True
            return False
        self.size += size
        if text is None and id in model.records:
            line.pop(0)
            del model.planted[id]
            return False
        if id in model.planted:
            line.pop(0)
            self._bury_foreign(id)
            return False
        letter = model.msg[id]
        if letter.expires == 1 or (self.heeds_marks and model.is_cancelled(letter)):
            line.pop(0)
            if was_replaced(letter):
                model.finish(id, "replaced", 0, "")
            else:
                model.finish(id, "cancelled", letter.ttl, CANCELLED)
            return False
        if letter.expires and letter.expires <= model.now:
            line.pop(0)
            model.finish(id, "expired", letter.ttl, EXPIRED)
            return False
        model.locks.free(id, letter, "sr")
        self.room -= 1
        self.held.append(line.pop(0))
        return True

    def _bury_foreign(self, id: str) -> None:
        envelope = self.model.planted.pop(id)
        self.model.count("foreign")
        if envelope is None:
            ttl, envelope, what = 0, id, "an entry that no push made"
        elif re.match(r"\d+ ", envelope):
            ttl, what = 3_600_000, "an envelope of an unknown version"
        else:
            ttl, what = 3_600_000, "not an envelope"
        error = failure("MalformedMessage", what)
        self.model.bury(id, ttl, error, "malformed", self.worker, envelope)
