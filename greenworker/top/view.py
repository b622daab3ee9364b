"""View: frames in colours, on a screen of their own, with rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from greenworker.top.table import Line

# What means something is said in words as well: without colours nothing is lost.
STYLES = {
    "title": "dim",
    "head": "bold",
    "dim": "dim",
    "good": "green",
    "warn": "bold yellow",
    "bad": "bold red",
    "chosen": "reverse",
    "message": "bold",
}


def console(colours: bool, file: IO[str] | None = None) -> Console:
    """What is printed on: it knows NO_COLOR, and what the terminal can do."""
    return Console(file=file, no_color=None if colours else True, highlight=False, markup=False)


def text_of(lines: Sequence[Line]) -> Text:
    """The lines as rich has them: never wrapped, cut where the terminal ends."""
    text = Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines):
        if number:
            text.append("\n")
        for words, style in line:
            text.append(words, STYLES.get(style, ""))
    return text


def show(lines: Sequence[Line], colours: bool) -> None:
    """Print a frame."""
    console(colours).print(text_of(lines), no_wrap=True, crop=False, end="\n")


class Screen:
    """The terminal's other screen: what was there before is there again afterwards."""

    def __init__(self, colours: bool) -> None:
        self._console = console(colours)
        # It is drawn by show() alone: there is no thread.
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        return self._console.size.width, self._console.size.height

    def take(self) -> None:
        self._live.start()

    def give_back(self) -> None:
        self._live.stop()

    def show(self, lines: Sequence[Line]) -> None:
        self._live.update(text_of(lines), refresh=True)
