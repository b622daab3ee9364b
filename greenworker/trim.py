"""What of a script is sent: what it reaches, so that each of its runs makes as little as it can.

Lua makes the functions of a script anew whenever it runs, and notes for each of them which variables around it it uses: in a
script of ours that took a tenth of the server's time for one message. So

- a constant that is a number or a text is put where its name stands;
- what is never reached is left out;
- what is reached only through a function marked `-- seldom` stands within that one, and is made when that is called.

Texts of ours stand on one line, functions at the left margin (those that others make, too), and constants are named in capitals.
Lines keep their numbers, as far as they stay where they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_COMMENT = re.compile(r" *--.*")
_SELDOM = re.compile(r"^(?:local )?function (\w+)\(.*\)  -- seldom$", re.MULTILINE)
_FUNCTION = re.compile(r"^(?:local )?function ([\w.]+)\(")
_OPENING = re.compile(r"^(?:(?:local )?function|for|if|while|do)\b")
_NAMES = re.compile(r"'[^'\n]*'|(?<![.:\w])([A-Za-z_]\w*)")  # (of texts: none)
_CAPITALS = re.compile(r"'[^'\n]*'|(?<![.:\w])[A-Z][A-Z0-9_]*\b")
_LOCALS = re.compile(r"^ *local ([\w, ]+)", re.MULTILINE)
_CONSTANTS = re.compile(r"^local ([A-Z][A-Z0-9_, ]*) = (.+)$", re.MULTILINE)
_LITERAL = re.compile(r"[\d.]+|'[^',]*'")
_ROOTED = re.compile(r"ROOT \.\. '[^',]*'")


def trimmed(source: str) -> str:
    """The same script, complete but for comments, indentation and what it does not reach."""
    seldom = _SELDOM.findall(source)
    pieces = list(_pieces(_with_constants(_COMMENT.sub("", source))))
    house = _House(pieces, seldom)
    text = "\n".join(house.text_of(piece) for piece in pieces)
    return re.sub(r"^ +", "", _without_unused(text), flags=re.MULTILINE)


class _Piece(NamedTuple):
    """Lines at the left margin that belong together; `name`: of the function that they are."""

    name: str
    text: str


def _declared_by(piece: _Piece) -> set[str]:
    found = None if piece.name else _LOCALS.match(piece.text)
    return set(re.findall(r"\w+", found[1])) if found else set()


def _own_names(piece: _Piece) -> set[str]:
    """Its parameters, and what it declares."""
    declared = re.findall(r"\b(?:function [\w.]*\(|local (?!function)|for )([\w, ]+)", piece.text)
    return set(re.findall(r"\w+", " ".join(declared)))


def _uses(piece: _Piece) -> set[str]:
    # Not what a line of `local` only declares.
    text = piece.text if piece.name else re.sub(r"^local [\w, ]+( =|$)", "", piece.text)
    return set(_NAMES.findall(text)) - {piece.name}


def _pieces(source: str) -> Iterator[_Piece]:
    lines: list[str] = []
    depth = 0
    for line in source.split("\n"):
        lines.append(line)
        if _OPENING.match(line) and not re.search(r"\bend$", line):
            depth += 1
        elif line == "end":
            depth -= 1
        if not depth:
            function = _FUNCTION.match(lines[0])
            yield _Piece(function[1] if function else "", "\n".join(lines))
            lines = []
    assert not lines, f"no end at the margin: {lines[0]}"


class _House:
    """Which function stands within which."""

    def __init__(self, pieces: list[_Piece], seldom: list[str]) -> None:
        self._functions = {piece.name: piece for piece in pieces if piece.name}
        names = set(self._functions)
        self._names = {name: _uses(piece) for name, piece in self._functions.items()}
        self._uses = {name: used & names for name, used in self._names.items()}
        self._roots = names & set().union(*(_uses(one) for one in pieces if not one.name))
        self._order = {piece.name: place for place, piece in enumerate(pieces)}
        self._declared = [_declared_by(piece) for piece in pieces]
        self._reached = self._reach()
        self._within: dict[str, str] = {}
        # The largest first: so each stands in the innermost that it can.
        inner = {name: self._only_through(name) for name in seldom if name in self._reached}
        for name in sorted(inner, key=lambda name: -len(inner[name])):
            self._within.update(dict.fromkeys(inner[name], name))

    def text_of(self, piece: _Piece) -> str:
        """As it is sent, where it stands in the script."""
        if not piece.name:
            return piece.text
        if piece.name not in self._reached or piece.name in self._within:
            return "\n" * piece.text.count("\n")
        return self._with_inner(piece)

    def _with_inner(self, piece: _Piece) -> str:
        inner = [
            self._with_inner(one)
            for name, one in self._functions.items()
            if self._within.get(name) == piece.name
        ]
        if not inner:
            return piece.text
        signature, end, rest = piece.text.partition(")")
        return "".join((signature, end, " ", re.sub(r"\n *", " ", " ".join(inner)), rest))

    def _reach(self, but: str = "") -> set[str]:
        reached: set[str] = set()
        ahead = list(self._roots)
        while ahead:
            name = ahead.pop()
            if name != but and name not in reached:
                reached.add(name)
                ahead += self._uses[name]
        return reached

    def _only_through(self, name: str) -> set[str]:
        inner = {
            one
            for one in self._reached - self._reach(but=name) - {name}
            if self._may_move(one, name)
        }
        while seen := {
            one
            for one in inner
            if any(one in self._uses[other] for other in self._reached - inner - {name})
        }:
            inner -= seen
        return inner

    def _may_move(self, name: str, to: str) -> bool:
        """Whether it would find the same names there, and what lies between the two would still find it."""
        between = self._declared[self._order[name] : self._order[to]]
        names = self._names[name] - _own_names(self._functions[name])
        return self._order[name] < self._order[to] and not names & set().union(*between)


def _with_constants(source: str) -> str:
    declared = Counter(
        name for names in _LOCALS.findall(source) for name in re.findall(r"\w+", names)
    )
    values: dict[str, str] = {}

    def note(match: re.Match[str]) -> str:
        names, texts = match[1].split(", "), match[2].split(", ")
        if len(names) != len(texts) or not all(map(_LITERAL.fullmatch, texts)):
            return match[0]
        if any(declared[name] > 1 for name in names):
            return match[0]
        values.update(zip(names, texts, strict=True))
        return ""

    source = _CONSTANTS.sub(note, source)
    return _CAPITALS.sub(lambda name: values.get(name[0], name[0]), source)


def _without_unused(source: str) -> str:
    """Names of keys that nothing uses any more are not put together."""
    used = Counter(_CAPITALS.findall(source))

    def keep(match: re.Match[str]) -> str:
        names, texts = match[1].split(", "), match[2].split(", ")
        if len(names) != len(texts) or not all(map(_ROOTED.fullmatch, texts)):
            return match[0]
        kept = [(name, text) for name, text in zip(names, texts, strict=True) if used[name] > 1]
        return (
            f"local {', '.join(n for n, _ in kept)} = {', '.join(t for _, t in kept)}"
            if kept
            else ""
        )

    return _CONSTANTS.sub(keep, source)
