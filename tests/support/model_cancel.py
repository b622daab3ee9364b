"""Cancellations, as the model of tests/support/model.py has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.support.model_parts import CANCELLED, Letter, State

if TYPE_CHECKING:
    from tests.support.model import Model

MINE_FOR = 1000  # ms for which a pass is whose it is


def is_hit(letter: Letter, marks: Mapping[str, tuple[int, int]], held: bool = False) -> bool:
    """Whether a mark hits it, that came after it and before it expired, unless it is held by then."""
    if letter.expires == 1:
        return False  # it was cancelled before
    task, *options = letter.rest.partition("\n")[0].split(" ")
    names = [f"task:{task}"]
    for option in options:
        if option.startswith("tags="):
            names += [f"tag:{tag}" for tag in option[5:].split("%2C")]
    moments = [marks[name][0] for name in names if name in marks]
    until = math.inf if held else letter.expires or math.inf
    return any(letter.sent <= at < until for at in moments)


class Cancels:
    """What people cancel in a model, and what workers learn of it."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def cancel(self, ids: Iterable[str], dry_run: bool) -> str:
        model, fates, seen = self.model, "", set[str]()
        for id in ids:
            letter = None if id in seen else model.msg.get(id)
            if letter is None:
                ended = id in seen or id in model.results or id in model.records
                fates += "e" if ended else "u"
            elif model.is_held(id):
                fates += "r"
            elif model.is_cancelled(letter) or 0 < letter.expires <= model.now:
                fates += "e"
            else:
                fates += "c"
            seen.add(id)
            if not dry_run and letter is not None and fates[-1] in "cr":
                self._call_off(id, letter)
        return fates

    def mark(self, mark: str, most: int) -> bool:
        model = self.model
        if mark not in model.marks and len(model.marks) >= most:
            return False
        number = int(model.passing.split(" ")[0]) if model.passing else 0
        model.marks[mark] = (model.now, number + 1)
        return True

    def comb(self, who: str, seen: State) -> tuple[int, bool]:
        """How many it cancelled, and whether there is more; which messages it looked at is the server's choice."""
        model = self.model
        number, cursor, _, at, by, _ = (model.passing or "0 0 4 0 - -").split(" ")
        if by not in ("-", who) and abs(model.now - int(at)) < MINE_FOR:
            return 0, False
        if not model.marks:
            return 0, False
        now_number = int(number) + (cursor == "0")
        cancelled = 0
        for id, letter in list(model.msg.items()):
            held = model.is_held(id)
            gone = 0 < letter.expires <= model.now and not held
            if gone or not is_hit(letter, model.marks, held):
                continue
            left = seen.get("msg", {}).get(id)
            if left is None or Letter.read(left).expires == 1:
                cancelled += 1
                self._call_off(id, letter)
        passing = seen.get("marks", {}).get("pass", "")
        if not passing or passing.split(" ")[1] == "0":
            over = {mark: of for mark, of in model.marks.items() if of[1] <= now_number}
            for id, letter in model.msg.items():
                held = model.is_held(id)
                gone = 0 < letter.expires <= model.now and not held
                assert gone or not is_hit(letter, over, held), (
                    "a mark leaves when nothing it hits is left"
                )
            for mark in over:
                del model.marks[mark]
        assert bool(passing) == bool(model.marks)
        if passing:
            assert passing.split(" ")[0] == str(now_number)
            assert passing.split(" ")[3:5] == [str(model.now), who]
        model.passing = passing
        return cancelled, bool(passing)

    def count(self, mark: str) -> tuple[int, int]:
        """How many of those that wait, and that run, a mark would hit."""
        model, marks = self.model, {mark: (self.model.now, 0)}
        hit = [id for id, letter in model.msg.items() if is_hit(letter, marks, model.is_held(id))]
        runs = sum(model.is_held(id) for id in hit)
        return len(hit) - runs, runs

    def told(self, worker: str, known: Sequence[tuple[str, int]]) -> dict[str, int]:
        """What this worker is told when it promotes."""
        cancels, held = self.model.cancels[worker], self.model.processing[worker]
        for id, seq in known:
            if cancels.get(id) == seq:
                del cancels[id]
        for id in [id for id, seq in cancels.items() if held.get(id) != seq]:
            del cancels[id]
        return dict(cancels)

    def _call_off(self, id: str, letter: Letter) -> None:
        model = self.model
        if id in model.scheduled:
            del model.scheduled[id]
            model.finish(id, "cancelled", letter.ttl, CANCELLED)
            return
        model.msg[id] = replace(letter, expires=1)
        for worker, held in model.processing.items():
            if id in held and worker in model.workers:
                model.cancels[worker][id] = held[id]
