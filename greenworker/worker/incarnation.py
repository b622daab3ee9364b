"""Incarnation: one registered life of a worker, and what it holds."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable

from gevent.event import Event

from greenworker.message import Delivery

_log = logging.getLogger("greenworker.worker")


class Incarnation:
    """The id under which a worker claims, with its claim sequence.

    `held` mirrors this incarnation's processing list: what was claimed and is not settled. When
    it is reaped, the deliveries are others'; the worker goes on as a new incarnation.
    """

    def __init__(self) -> None:
        self.id = os.urandom(8).hex()
        self.registered = False
        self.listens = False  # the others reckon with what it will claim
        self.used = 0  # last claim sequence that was sent
        self.known = 0  # last one whose reply arrived
        self.beaten = 0.0  # when its lease was last lengthened (time.monotonic())
        self.held: dict[str, Delivery] = {}

    def hold(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Add what was claimed; returns what had not been held yet.

        An id that is held may come again under a later sequence: it was settled, the reply was
        lost, and it came back as a retry. That is a new delivery, and the old one is over.
        """
        new = []
        for delivery in deliveries:
            known = self.held.get(delivery.id)
            if known is None or known.seq < delivery.seq:
                self.held[delivery.id] = delivery
                new.append(delivery)
        return new


class Membership:
    """The worker's current incarnation, and the event that it has room again, or will have at once."""

    def __init__(self, on_renew: Callable[[], None]) -> None:
        self.current = Incarnation()
        self.room = Event()
        self.leaving = 0  # so many that are held are on their way to be settled
        self.doubts = 0
        self._on_renew = on_renew

    def fresh(self) -> None:
        """Begin as somebody new: an incarnation that has left never comes back."""
        self.current = Incarnation()

    def is_current(self, worker: str) -> bool:
        return worker == self.current.id

    def doubt(self) -> None:
        """The server may be another one than before, or remember less: see Consumer._reconcile."""
        self.doubts += 1

    def leave(self, count: int) -> None:
        """So many are about to be settled: who claims need not wait until they are."""
        self.leaving = count
        self.room.set()

    def settled(self, deliveries: Iterable[Delivery]) -> None:
        """These are no longer held, whoever ended them."""
        held = self.current.held
        for delivery in deliveries:
            # The very one: a later incarnation counts its sequences from one again.
            if held.get(delivery.id) is delivery:
                del held[delivery.id]
        self.room.set()

    def renew(self, worker: str) -> None:
        """Give up the incarnation `worker` if it is the current one: what it holds is others' now."""
        if self.is_current(worker):
            # Here, since a beat may have learned it before any claim did.
            _log.warning("reaped, or the server lost its data: going on as a new incarnation")
            self.current = Incarnation()
            self._on_renew()
            self.room.set()
