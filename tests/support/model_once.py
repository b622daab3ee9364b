"""Locks, windows and marks, as the model of tests/support/model.py has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from greenworker.message import Message
from tests.support.model_parts import Letter

if TYPE_CHECKING:
    from tests.support.model import Model


def lock_of(letter: Letter) -> tuple[str, str]:
    """How long it holds a lock, and the lock's name; both empty as a rule."""
    found = re.match(r"[^\n]* unique=([dsr])(\S+)", letter.rest)
    return (found[1], found[2]) if found else ("", "")


def was_replaced(letter: Letter) -> bool:
    return letter.expires == 1 and " replaced=" in letter.rest.partition("\n")[0]


class Locks:
    """Who holds what, and what was seen."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.held: dict[str, str] = {}
        self.windows: dict[str, tuple[str, int]] = {}  # the first one's id, and until when
        self.seen: dict[str, set[int]] = {}
        self.answers: dict[str, tuple[str, list[str]]] = {}  # by push id

    def free(self, id: str, letter: Letter, until: str = "dsr") -> None:
        """Give back what it holds, if it is held until then."""
        mode, name = lock_of(letter)
        if mode and mode in until and self.held.get(name) == id:
            del self.held[name]

    def holder(self, name: str) -> str | None:
        id = self.held.get(name, "")
        letter = self.model.msg.get(id)
        if letter is None or lock_of(letter)[1] != name:
            return None
        is_over = 0 < letter.expires <= self.model.now or self.model.is_cancelled(letter)
        return None if is_over and not self.model.is_held(id) else id

    def push(self, push_id: str, seen: str, messages: Sequence[Message]) -> tuple[str, list[str]]:
        model = self.model
        if push_id in model.pushes:
            return self.answers[push_id]
        model.pushes[push_id] = model.now + 300_000
        fates, firsts = "", []
        if seen:
            self.seen.setdefault(seen, set())
        for message in messages:
            if message.mark is not None and message.mark in self.seen[seen]:
                fates += "s"
                continue
            fate = self._send(message)
            if fate == "n" and message.mark is not None:
                self.seen[seen].add(message.mark)
            fates += fate[:1]
            firsts += [fate[2:]] if fate[:1] == "d" else []
        self.answers[push_id] = fates, firsts
        return fates, firsts

    def _send(self, message: Message) -> str:
        """The letter of its fate, and behind a blank what stands for it."""
        model, note = self.model, message.options.get("unique", "")
        place, lies_there = None, message.id in model.msg
        if lies_there and not model.makes_way(message.id):
            return "p"
        if note.startswith("f"):
            ms, _, name = note[1:].partition(".")
            if name in self.windows:
                return f"d {self.windows[name][0]}"
            self.windows[name] = (message.id, model.now + int(ms))
        elif note:
            mode, name = note[0], note[1:]
            holder = self.holder(name)
            if holder and mode != "r":
                return f"d {holder}"
            if holder and not (lock_of(model.msg[holder])[0] == "d" and model.is_held(holder)):
                place = self._replace(holder, message, not lies_there)
        model.send(message, place)
        if note and not note.startswith("f"):
            self.held[note[1:]] = message.id
        return "n"

    def _replace(self, id: str, by: Message, in_place: bool) -> int | None:
        """The place in line that `by` takes over, if it does."""
        model, letter = self.model, self.model.msg[id]
        if letter.ttl:
            told = f'{{"state":"CANCELLED","replaced_by":"{by.id}"}}'
            model.results[id] = told, model.now + letter.ttl
        place = None
        if model.scheduled.pop(id, None) is None:
            line = model.ready[letter.queue, letter.priority]
            is_same = (letter.queue, letter.priority) == (by.queue, by.priority)
            if not (in_place and is_same and id in line and model.due(by) <= model.now):
                model.msg[id] = replace(letter, expires=1, rest=f"t replaced={by.id}\n")
                return None
            place = line.index(id)
            line.remove(id)
        del model.msg[id]
        model.count("replaced")
        return place
