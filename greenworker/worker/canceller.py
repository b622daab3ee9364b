"""Canceller: ends runs here that somebody has cancelled, and carries marks out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from itertools import chain

from greenworker.broker import Promotion
from greenworker.control import Control
from greenworker.message import is_marked
from greenworker.worker.incarnation import Membership
from greenworker.worker.pool import SoloPool, TaskPool

_log = logging.getLogger("greenworker.worker")


class Canceller:
    """Heeds what a promotion brings along, twice a second.

    What was cancelled by id is told until this worker has said that it knows. A mark is looked at by each worker for
    itself, once, so that what runs ends at once; the pass, which one of them makes for all, sees to what is left.
    """

    def __init__(
        self, control: Control, membership: Membership, pool: TaskPool | SoloPool, grace: float
    ) -> None:
        """`grace`: seconds that a run has to tidy up before it is killed."""
        self._control = control
        self._membership = membership
        self._pool = pool
        self._grace = grace
        self._known: dict[str, int] = {}
        self._marks: Mapping[str, int] = {}

    def says(self) -> tuple[str, Iterable[str | int]]:
        """Who asks for a promotion, and what it need not be told again."""
        return self._membership.current.id, chain.from_iterable(self._known.items())

    def heed(self, told: Promotion) -> bool:
        """Throw into what is cancelled; True when the pass of a mark is to go on, soon."""
        held = self._membership.current.held
        ending = {
            id: held[id] for id, seq in told.cancelled.items() if id in held and held[id].seq == seq
        }
        # What is not held here, its claim's reply is on the way or was lost: it is told again.
        self._known = {id: one.seq for id, one in ending.items()}
        if told.marks and told.marks != self._marks:
            ending |= {id: one for id, one in held.items() if is_marked(one.envelope, told.marks)}
        self._marks = told.marks
        if ending:
            self._pool.call_off(ending, self._grace)
        if not told.marks:
            return False
        done = self._control.comb(self._membership.current.id)
        if done.cancelled:
            _log.debug("%d of %d messages cancelled", done.cancelled, done.looked)
        return done.more
