"""What is unique, and what was seen, without a server: as once.lua and seen.lua have it, for `app.testing()`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from greenworker.message import attempts_of
from greenworker.once import Once
from greenworker.scripts import Script
from greenworker.testing.memory import Entry, Memory, NoServer

_FIELDS = 7  # of a message: its `push_fields`, and its mark


class Filters(NoServer):
    """The link: filters have an answer, all else needs a server."""

    def __init__(self) -> None:
        self.seen: defaultdict[str, set[int]] = defaultdict(set)

    def run(self, script: Script, key: str, *args: Any, patience: float | None = None) -> Any:
        match script.name:
            case "seen_add":
                return "".join(map(self._add, [args[2]] * len(args[3:]), args[3:])).encode()
            case "seen_look":
                known = self.seen.get(args[0], set[int]())
                told = "".join("s" if mark in known else "n" for mark in args[1:])
                return [len(known), told.encode()]
            case "seen_drop":
                return len(self.seen.pop(args[0], ()))
        super().run(script, key, *args)

    def _add(self, name: str, mark: int) -> str:
        known = self.seen[name]
        fate = "s" if mark in known else "n"
        known.add(mark)
        return fate


class MemoryOnce(Once):
    """Sends to a Memory what is not there already."""

    def __init__(self, memory: Memory, filters: Filters) -> None:
        super().__init__(filters, memory.namespace)
        self._memory = memory
        self._filters = filters
        self._holders: dict[str, str] = {}  # lock → id
        self._windows: dict[str, tuple[str, int]] = {}  # name → the first one's id, until which ms

    def push(
        self, push_id: str, seen: str, fields: Sequence[bytes | str | int]
    ) -> tuple[str, list[str]]:
        fates, firsts = "", []
        for start in range(0, len(fields), _FIELDS):
            *message, mark = fields[start : start + _FIELDS]
            known = self._filters.seen[seen] if isinstance(mark, int) else set[int]()
            if mark in known:
                fates += "s"
                continue
            first = self._first(message)
            if first:
                fates += "d"
                firsts.append(first)
                continue
            fates += "n" if self._memory.push(push_id, message) else "p"
            if isinstance(mark, int) and fates[-1] == "n":
                known.add(mark)
        return fates, firsts

    def _first(self, message: Sequence[Any]) -> str:
        """The id of what stands for a message; "" if it is to be sent, and holds its lock from now on."""
        id, note, memory = message[0], _note_in(message[5]), self._memory
        if not note or id in memory.present:
            return ""
        if note.startswith("f"):
            ms, _, name = note[1:].partition(".")
            first, until = self._windows.get(name, ("", 0))
            if until > memory.now:
                return first
            self._windows[name] = (id, memory.now + int(ms))
            return ""
        mode, lock = note[0], note[1:]
        holder = self._holder(lock)
        if holder is not None:
            if mode != "r":
                return holder.id
            if not holder.started:
                memory.end(holder, f'{{"state":"CANCELLED","replaced_by":"{id}"}}'.encode())
        self._holders[lock] = id
        return ""

    def _holder(self, lock: str) -> Entry | None:
        entry = self._memory.present.get(self._holders.get(lock, ""))
        if entry is None:
            return None
        note = _note_in(entry.envelope)
        began = (
            entry.started or entry.held or attempts_of(entry.envelope.partition(b"\n")[0])[0] > 0
        )
        if note[1:] != lock or (began and note[0] != "d"):
            return None
        if 0 < entry.expires <= self._memory.now and not entry.started:
            return None
        return entry


def _note_in(envelope: bytes) -> str:
    _, found, rest = envelope.partition(b"\n")[0].partition(b" unique=")
    return rest.split(b" ")[0].decode() if found else ""
