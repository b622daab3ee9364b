"""Once: sends what may be there already, or was seen before. Its script's method, as in broker.py."""

from __future__ import annotations

from collections.abc import Sequence

from greenworker import keys
from greenworker.broker import PUSH_TTL, Link
from greenworker.scripts import load


class Once:
    """Sends in one namespace, through one link."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._nil = keys.nil(keys.root(namespace))

    def push(
        self, push_id: str, seen: str, fields: Sequence[bytes | str | int]
    ) -> tuple[str, list[str]]:
        """Send of at most MAX_COUNT messages what is new, or none; each as its `push_fields` and its mark in
        the filter `seen`, or "".

        Returns a letter for each, see push_once.lua, and the ids that stand for those of letter d.
        """
        told: bytes = self._link.run(
            load("push_once"), self._nil, push_id, round(PUSH_TTL * 1000), seen, *fields
        )
        fates, _, firsts = told.decode().partition(" ")
        return fates, firsts.split()
