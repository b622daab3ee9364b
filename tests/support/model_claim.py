"""A claim, as the model of tests/support/model.py has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.support.model_parts import EXPIRED, failure

if TYPE_CHECKING:
    from tests.support.model import Model


class ClaimRun:
    """One claim: what it holds so far, and what it may still take."""

    def __init__(self, model: Model, worker: str, room: int) -> None:
        self.model, self.worker, self.room = model, worker, room
        self.held: list[str] = []
        self.size = self.looked = 0
        self.full = False

    def take_suspects(self, queue: str, beside: bool) -> None:
        """A few at once; one that must run without others only if there is no other. `beside`: also
        one that should run without anything else."""
        model, line = self.model, self.model.suspects[queue]
        mine = model.suspected[self.worker]
        while line and self._goes_on() and len(mine) < model.bounds.few:
            if mine and any(self._alone(id) for id in (*mine, line[0])):
                return
            id = line[0]
            if model.crashes_of(id) >= model.bounds.solitary_after and not beside:
                return
            if self._take(line):
                mine.add(id)

    def makes_room_for_one(self, queues: Sequence[str]) -> tuple[bool, bool]:
        """Whether nothing else is claimed, since one runs by itself or is to; and whether this worker
        has waited for that long enough."""
        model = self.model
        if self.worker in model.solitary:
            return True, False
        is_to = self._is_to_make_room(queues)
        if self.worker in model.solitary:
            model.room_since.pop(self.worker, None)
            return True, False
        if not is_to:
            model.room_since.pop(self.worker, None)
            return False, False
        since = model.room_since.setdefault(self.worker, model.now)
        patient = model.now - since < model.bounds.make_room_for
        return patient, not patient

    def _is_to_make_room(self, queues: Sequence[str]) -> bool:
        model, mine = self.model, self.model.suspected[self.worker]
        holds_any = bool(model.processing[self.worker])
        for queue in queues:
            line = model.suspects[queue]
            while line and self.looked < model.bounds.look:
                id = line[0]
                if model.crashes_of(id) < model.bounds.solitary_after:
                    break
                if holds_any:
                    if all(self.worker <= other for other in model.consumers[queue]):
                        return True
                    break
                if not self.room:
                    break
                if self._take(line):
                    mine.add(id)
                    model.solitary[self.worker] = id
                    return False
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
                        self._take(line)
        self.room += after

    def _goes_on(self) -> bool:
        return self.room > 0 and not self.full and self.looked < self.model.bounds.look

    def _alone(self, id: str) -> bool:
        return self.model.crashes_of(id) >= self.model.bounds.alone_after

    def _take(self, line: list[str]) -> bool:
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
        if letter.expires and letter.expires <= model.now:
            line.pop(0)
            model.finish(id, "expired", letter.ttl, EXPIRED)
            return False
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
