"""Loads `lua/*.lua`: a file a script, with the shared parts it needs in front."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from greenworker.trim import trimmed

# Where messages wait, and what limits of keys allow of them; made at once, or when the first key is met.
_WAITING = ("adapt", "limits", "lines")
_LINES = (*_WAITING, "keyed")

# What stands before a script, besides the prelude that stands before each.
_SHARED = {
    "push": ("marks", *_WAITING, "send"),
    "push_once": ("marks", *_WAITING, "send", "unique", "once", "seen"),
    "schedule_plan": ("schedule",),
    "schedule_tick": ("marks", *_WAITING, "send", "unique", "once", "schedule"),
    "schedule_pause": ("schedule",),
    "schedule_list": ("schedule",),
    "claim": ("finish", "marks", "weed", *_WAITING, "survey", "take", "turns", "suspects"),
    "purge": ("finish", "marks", "weed", *_LINES),
    "promote": ("marks", *_LINES),
    "lookup": ("marks",),
    "cancel": ("finish", "marks", "call_off"),
    "cancel_mark": ("marks",),
    "cancel_comb": ("finish", "marks", "call_off"),
    "cancel_count": ("marks", "call_off"),
    "settle": ("finish", *_WAITING),
    "beat": ("pulse",),
    "reap": ("finish", *_LINES, "declared", "depart", "pulse", "seen", "heal"),
    "release": (*_LINES, "declared", "depart"),
    "listen": (*_LINES, "declared", "depart"),
    "pause": _LINES,
    "revive": ("record", "marks", "unique", *_LINES),
    "audit_scan": _LINES,
    "audit_confirm": _LINES,
    "audit_keyed": _LINES,
    "limit_set": (*_LINES, "declared"),
    "limit_look": _LINES,
    "limit_keys": _LINES,
    "limit_hold": _LINES,
    "dead_records": ("record",),
    "seen_add": ("seen",),
    "seen_look": ("seen",),
    "seen_drop": ("seen",),
    "dead_delete": ("record",),
}


class Script(NamedTuple):
    """A script's source and the SHA-1 by which EVALSHA knows it."""

    name: str
    source: bytes
    sha: bytes


@cache
def load(name: str) -> Script:
    """The script `lua/<name>.lua`, complete but for what its runs can do without."""
    source = trimmed(written(name).decode()).encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


def written(name: str) -> bytes:
    """The script as we wrote it, shared parts in front."""
    parts = ("prelude", *_SHARED.get(name, ()), name)
    return b"\n".join((files("greenworker") / "lua" / f"{part}.lua").read_bytes() for part in parts)
