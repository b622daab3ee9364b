"""Probe: the scripts of the audit, a method each. They read, and change nothing.

Each looks at a bounded part of the namespace at one moment: what it says is exact for
that moment. `audit.py` draws the conclusions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from greenworker import keys
from greenworker.broker import MAX_BYTES, MAX_COUNT, Link
from greenworker.scripts import load
from greenworker.status import WorkerStatus, groups, worker_status

FOREIGN = "foreign:"  # what cannot be a name is called so, and its SHA-1, here and in claim.lua
CHUNK = 500  # entries that one call reads, some 4 ms
_KEYS = 100  # … of what is kept of keys, each of which costs a few looks
# What the first call for a key reads. HSCAN brings values along, and nobody knows yet how large they
# are: four of 1 MB are what a call may read.
_FIRST, _FIRST_OF_LARGE, _LARGE = 100, 4, ("msg", "dead:record", "unique")
WORK = 500_000  # entries of lists that one call may walk through, some 8 ms

_NAME = re.compile(rb"[A-Za-z0-9_.:/@-]{1,64}")
_LONGEST = 1500  # characters that are shown: `line:5:`, a queue and two keys
# What limits go by, escaped, and two of them; and patterns.
_KEY = re.compile(rb"[A-Za-z0-9_.~:/@%*-]{1,600}(,[A-Za-z0-9_.~:/@%*-]{1,600})?")


class Wrong(NamedTuple):
    """What a scan found to be wrong at that moment."""

    what: str
    name: str
    detail: str


class Chunk(NamedTuple):
    """A chunk of a key: the ids or workers in it, and for a list the index of the first."""

    start: int
    names: list[bytes]
    wrong: list[Wrong]


class Sight(NamedTuple):
    """A place and, for a list, the least index from the left at which an id was seen."""

    place: str
    since: int


class Whereabouts(NamedTuple):
    """Where an id is; `home` is the list that its envelope names, unless it is in one place."""

    present: bool
    home: str
    places: list[str]


@dataclass(frozen=True, slots=True)
class Totals:
    """How much is where at one moment; `swept`: seconds since the last sweep, or None."""

    messages: int
    places: int
    dead: int
    records: int
    swept: float | None
    counters: dict[str, str]
    workers: list[WorkerStatus]
    corpses: list[WorkerStatus]


class Probe:
    """A namespace as the audit sees it, through one link. Keys are named without the root."""

    def __init__(self, link: Link, namespace: str) -> None:
        self.root = keys.root(namespace)
        self._link = link

    def types(self) -> Iterator[tuple[str, str]]:
        """Every key but what is there by the thousand and well-typed, with its type; some may come twice."""
        cursor = b"0"
        while True:
            cursor, *found = self._run("audit_keys", cursor, MAX_COUNT)
            for name, kind in groups(found, 2):
                yield printable(name, _LONGEST), kind.decode()
            if cursor == b"0":
                return

    def scan(self, what: str, key: str) -> Iterator[Chunk]:
        """A key in chunks; `what` is described in audit_scan.lua."""
        cursor, count = b"0", _FIRST_OF_LARGE if key in _LARGE else _FIRST
        while True:
            start = int(cursor)
            cursor, size, names, wrong = self._run(
                "audit_scan", what, key, cursor, count, MAX_BYTES
            )
            found = [
                Wrong(printable(how), named(name), printable(detail, _LONGEST))
                for how, name, detail in groups(wrong, 3)
                for named in (shown_key if how == b"unvisited" else shown,)
            ]
            yield Chunk(start, names, found)
            if cursor == b"0":
                return
            # How many envelopes of this size are as much as a call may read.
            fitting = MAX_BYTES * max(1, len(names)) // max(1, size)
            count = max(1, min(CHUNK, count * 4, fitting))

    def keyed(self, what: str, key: str) -> Iterator[tuple[list[str], list[Wrong]]]:
        """What is kept of keys, in chunks: lines that are noted, what is wrong; `what` is described in audit_keyed.lua."""
        cursor = b"0"
        while True:
            cursor, _, lines, wrong = self._run("audit_keyed", what, key, cursor, _KEYS)
            found = [
                Wrong(printable(how), shown_key(name), printable(detail, _LONGEST))
                for how, name, detail in groups(wrong, 3)
            ]
            yield [printable(line, _LONGEST) for line in lines], found
            if cursor == b"0":
                return

    def confirm(self, ids: Sequence[tuple[bytes, Sequence[Sight]]]) -> list[Whereabouts]:
        """Where ids are at one moment: of the first of them at least, of all if that is little work."""
        args: list[bytes | str | int] = []
        for id, sights in ids:
            args += [id, len(sights)]
            for sight in sights:
                args += sight
        reply = self._run("audit_confirm", WORK, *args)
        return [
            Whereabouts(
                bool(present),
                printable(home, _LONGEST),
                [printable(place, _LONGEST) for place in places],
            )
            for present, home, *places in reply
        ]

    def totals(self, further: Iterable[str] = ()) -> Totals:
        """Sizes, counters and workers at one moment; `further` places count as well."""
        now, messages, places, dead, records, swept, counters, workers = self._run(
            "audit_totals", *further
        )
        known = list(groups(workers, 4))
        return Totals(
            messages,
            places,
            dead,
            records,
            (now - swept) / 1000 if swept else None,
            {printable(name): printable(value) for name, value in groups(counters, 2)},
            [worker_status(now, *group) for group in known if group[1]],
            [worker_status(now, *group) for group in known if not group[1]],
        )

    def _run(self, name: str, *args: bytes | str | int) -> Any:
        return self._link.run(load(name), keys.nil(self.root), *args)


def printable(raw: bytes | int, most: int = 200) -> str:
    """A key, or what a script says, as text that fits into a line."""
    text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else str(raw)
    return (text if text.isprintable() else ascii(text)[1:-1])[:most]


def shown_key(raw: bytes) -> str:
    """What limits go by, as it stands in Redis; under another name if it can be none."""
    return raw.decode() if _KEY.fullmatch(raw) else shown(raw)


def shown(raw: bytes) -> str:
    """An id or a worker; under another name if it can be none, as it may hold what is private."""
    if _NAME.fullmatch(raw):
        return raw.decode()
    return FOREIGN + hashlib.sha1(raw, usedforsecurity=False).hexdigest()
