"""Panel: what is shown live, and what keys do to it; of the terminal it knows nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from greenworker.top.frame import KEY, QUEUE, SORTS, Choice, Look, choices, frame
from greenworker.top.sample import CIRCUIT, HELD, THROTTLED, Sample
from greenworker.top.table import Line, cells, cut
from greenworker.top.verdict import Verdict, away, verdict

_SAID_FOR = 6.0  # seconds that a message stays
_CURSOR = "_"


class Acts(Protocol):
    """What people may do from here; each says in a line what became of it, and may raise an error."""

    def pause(self, queue: str) -> str: ...

    def resume(self, queue: str) -> str: ...

    def hold(self, key: str) -> str: ...

    def let_go(self, key: str) -> str: ...

    def limit(self, key: str, text: str) -> str:
        """`text`: the limit as people write it; `none`, or `drop`."""
        ...


Act = Callable[[], str]


@dataclass(slots=True)
class _Prompt:
    key: str
    text: str


class Panel:
    """Holds the latest sample and what somebody has chosen; `press` returns what a key asks for, to be carried
    out elsewhere: it may take a while."""

    def __init__(self, title: str, acts: Acts, clock: Callable[[], float] = time.monotonic) -> None:
        self.quits = False
        self._title = title
        self._acts = acts
        self._clock = clock
        self._sample: Sample | None = None
        self._verdict: Verdict | None = None
        self._chosen: Choice | None = None
        self._at = 0  # where the chosen row stood
        self._sort = next(iter(SORTS))
        self._prompt: _Prompt | None = None
        self._said, self._said_at = "", 0.0

    def see(self, sample: Sample) -> None:
        """A new look at the namespace."""
        self._sample, self._verdict = sample, verdict(sample)
        rows = choices(sample, self._sort)
        if self._chosen in rows:
            self._at = rows.index(self._chosen)

    def is_away(self, error: str) -> None:
        """The server says nothing: what was seen last stays."""
        self._verdict = away(error)

    def say(self, text: str) -> None:
        """Have the last line say something, for a while."""
        self._said, self._said_at = text, self._clock()

    def press(self, key: str) -> Act | None:
        """Take a key; returns what it asks for, if that is to be asked of the server."""
        if self._prompt is not None:
            return self._type(self._prompt, key)
        if key in ("q", "quit"):
            self.quits = True
        elif key in ("j", "down", "k", "up"):
            self._move(1 if key in ("j", "down") else -1)
        elif key == "s":
            words = list(SORTS)
            self._sort = words[(words.index(self._sort) + 1) % len(words)]
            self.say(f"keys by {self._sort}, the most of it first")
        elif key == "escape":
            self._chosen, self._said = None, ""
        elif key in ("p", "l"):
            return self._on_chosen(key)
        return None

    def draw(self, width: int, height: int) -> list[Line]:
        said = self._said if self._clock() - self._said_at < _SAID_FOR else ""
        footer = prompt_line(self._prompt.key, self._prompt.text, width) if self._prompt else said
        look = Look(self._title, width, height, self._chosen, self._sort, footer)
        return frame(self._sample, self._verdict or away("not yet"), look)

    def _move(self, by: int) -> None:
        rows = choices(self._sample, self._sort) if self._sample is not None else []
        if not rows:
            return
        if self._chosen is None:
            at = 0 if by > 0 else len(rows) - 1
        else:
            # A row that has gone leaves its place to the one that stands there now.
            at = rows.index(self._chosen) if self._chosen in rows else self._at - (by > 0)
            at = max(0, min(at + by, len(rows) - 1))
        self._chosen, self._at = rows[at], at

    def _on_chosen(self, pressed: str) -> Act | None:
        chosen, sample = self._chosen, self._sample
        if chosen is None or sample is None or chosen not in choices(sample, self._sort):
            self.say("choose a row first, with j and k")
            return None
        name = chosen.name
        if pressed == "l":
            if chosen.kind != KEY:
                self.say("limits are for keys: choose one, with j and k")
                return None
            (key,) = (key for key in sample.keys.rows if key.name == name)
            self._prompt = _Prompt(name, key.limit)
            return None
        if chosen.kind == QUEUE:
            (queue,) = (queue for queue in sample.status.queues if queue.name == name)
            if queue.paused:
                return lambda: self._acts.resume(name)
            return lambda: self._acts.pause(name)
        (key,) = (key for key in sample.keys.rows if key.name == name)
        if key.state in (HELD, THROTTLED, CIRCUIT):
            return lambda: self._acts.let_go(name)
        return lambda: self._acts.hold(name)

    def _type(self, prompt: _Prompt, key: str) -> Act | None:
        if key in ("escape", "quit"):
            self._prompt = None
        elif key == "backspace":
            prompt.text = prompt.text[:-1]
        elif key == "clear":
            prompt.text = ""
        elif key == "enter":
            self._prompt = None
            text = " ".join(prompt.text.split())
            if text:
                return lambda: self._acts.limit(prompt.key, text)
        elif len(key) == 1:
            prompt.text += key
        return None


def prompt_line(key: str, text: str, width: int) -> str:
    """What is being typed, its end always in sight."""
    for label in (f"limit of {key} (e.g. rate=100/min, or drop): ", f"limit of {key}: ", "limit: "):
        if cells(label) + cells(text) + 1 <= width:
            break
    room = max(1, width - cells(label) - 1)
    # Cut from the left.
    shown = text if cells(text) <= room else cut(text[::-1], room)[::-1]
    return f"{label}{shown}{_CURSOR}"
