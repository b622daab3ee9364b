"""Tables that are never wider than the terminal: columns leave in the order of their importance.

A line is made of spans, each a text and the name of a style: what these look like is the view's matter.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Span = tuple[str, str]  # a text, and its style or ""
Line = list[Span]
T = TypeVar("T")

_GAP = 2
# Cells that the first column keeps, if its names are that long: of the less important columns each leaves rather than
# that names are cut short, and all but the most important ones rather than that they cannot be told apart.
_READABLE, _LEAST = 28, 14
_IMPORTANT = 7


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """`cell` says what stands in a row. Who has the least `weight` leaves first; `least` cells are kept free
    for it, so that the table does not jump about with its numbers."""

    title: str
    weight: int
    cell: Callable[[T], Span]
    least: int = 0
    right: bool = True


def table(
    name: Column[T], columns: Sequence[Column[T]], rows: Sequence[T], width: int, title: str = ""
) -> list[Line]:
    """A head line and a line for each row. The first column is that of the `name`, which is cut if it has to be;
    `title` stands above it in the place of its own. No line has more than `width` cells."""
    title = title or name.title
    names = [name.cell(row) for row in rows]
    longest = max([cells(title), *(cells(text) for text, _ in names)])
    told = [(column, [column.cell(row) for row in rows]) for column in columns]
    kept = [
        (
            column,
            found,
            max([column.least, *(cells(text) for text, _ in [(column.title, ""), *found])]),
        )
        for column, found in told
    ]
    while kept:
        last = min(kept, key=lambda one: one[0].weight)
        least = _LEAST if last[0].weight >= _IMPORTANT else _READABLE
        if min(longest, least) <= width - sum(wide + _GAP for _, _, wide in kept):
            break
        kept.remove(last)
    room = max(1, min(longest, width - sum(wide + _GAP for _, _, wide in kept)))
    lines: list[Line] = [[(pad(title, room), "head")]]
    for column, _, wide in kept:
        lines[0].append((" " * _GAP + pad(column.title, wide, column.right), "head"))
    for index, (text, style) in enumerate(names):
        line: Line = [(pad(middle_cut(text, room), room), style)]
        for column, found, wide in kept:
            line.append((" " * _GAP + pad(found[index][0], wide, column.right), found[index][1]))
        lines.append(line)
    return [trimmed(line) for line in lines]


def trimmed(line: Line) -> Line:
    """Without the blanks at its end."""
    line = list(line)
    while line:
        text, style = line.pop()
        if text.rstrip():
            return [*line, (text.rstrip(), style)]
    return []


def plain(line: Line) -> str:
    return "".join(text for text, _ in line)


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(one) for one in text)


def cut(text: str, width: int) -> str:
    """The text, or as much of it as fits into so many cells, and an ellipsis."""
    if cells(text) <= width:
        return text
    left, kept = width - 1, ""
    for one in text:
        left -= _cells(one)
        if left < 0:
            break
        kept += one
    return f"{kept}…" if width > 0 else ""


def middle_cut(text: str, width: int) -> str:
    """The same with the ellipsis in the middle: what tells many names apart is their ends, a port or a process."""
    if cells(text) <= width or width < 1:
        return cut(text, width)
    end = (width - 1) // 2
    return cut(text, width - end) + cut(text[::-1], end + 1)[:-1][::-1]


def pad(text: str, width: int, right: bool = False) -> str:
    """The text in exactly so many cells."""
    text = cut(text, width)
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks


def _cells(one: str) -> int:
    if unicodedata.combining(one):
        return 0
    return 2 if unicodedata.east_asian_width(one) in "WF" else 1
