"""Settler: the only writer of outcomes."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

import gevent
from gevent.event import Event

from greenworker.broker import MAX_BYTES, MAX_COUNT, Broker
from greenworker.errors import BrokerUnavailable, ConfigError
from greenworker.message import Delivery, Outcome
from greenworker.worker.incarnation import Membership
from greenworker.worker.service import Service

_TRY_AGAIN = 5.0  # seconds after which what was refused is sent again
IN_A_HURRY = 2.0  # seconds that outcomes get to leave, whatever the deadline

_log = logging.getLogger("greenworker.worker")


class Settler(Service):
    """Sends outcomes in batches: what ends while one batch is on the wire is the next one.

    Outcomes are kept while the server is away and sent again, until they are settled or
    the incarnation that they belong to is over. After each doubt (see Membership) they leave on a
    new connection: it leads to the server from which is claimed now.
    """

    name = "settler"

    def __init__(
        self, broker: Broker, membership: Membership, on_dead: Callable[[str], None] | None = None
    ) -> None:
        """`on_dead` is told of each id that is a dead letter now."""
        super().__init__(every=_TRY_AGAIN)
        self._broker = broker
        self._membership = membership
        self._on_dead = on_dead
        self._most = MAX_COUNT
        self._pending: deque[tuple[Delivery, Outcome]] = deque()
        self._refused: deque[tuple[Delivery, Outcome]] = deque()
        self._try_again_at = 0.0
        self._doubts = 0  # so many of the membership's are heeded

    def add(self, delivery: Delivery, outcome: Outcome) -> None:
        """Take an outcome; one that belongs to a past incarnation, or comes twice, is dropped."""
        current = self._membership.current
        if current.held.get(delivery.id) is delivery:
            self._pending.append((delivery, outcome))
            self.wake()

    def step(self) -> float | None:
        # Whatever is pending: under load something always is.
        again = bool(self._refused) and time.monotonic() >= self._try_again_at
        queue = self._refused if again else self._pending
        batch = self._next_batch(queue)
        if not batch:
            return 0.0 if self._pending else None
        if self._doubts != self._membership.doubts:
            self._broker.close()
        self._membership.leave(len(batch))
        try:
            verdicts = self._broker.settle(batch[0][0].worker, batch)
        except (BrokerUnavailable, ConfigError):
            raise
        except Exception:
            # Perhaps only one of them is refused: halve until it stands alone, then go on without.
            self._most = max(1, len(batch) // 2)
            if len(batch) > 1:
                return 0.0
            # Once per round: each of them costs a pause.
            self._refused.append(queue.popleft())
            self._try_again_at = time.monotonic() + _TRY_AGAIN
            raise
        finally:
            self._membership.leaving = 0
        self._doubts = self._membership.doubts  # with that of our own new connection
        self._most = min(MAX_COUNT, 2 * self._most)
        for _ in batch:
            queue.popleft()
        self._membership.settled(delivery for delivery, _ in batch)
        for (delivery, outcome), ours in zip(batch, verdicts, strict=True):
            if not ours:
                # Or it was claimed on another server than it was settled on.
                self._membership.doubt()
                _log.debug("%s was not ours any more: its %s is void", delivery.id, outcome.kind)
            elif self._on_dead is not None and outcome.kind == "dead":
                self._on_dead(delivery.id)
        return 0.0 if queue or self._pending else None

    def flush(self, timeout: float, hurry: Event | None = None) -> int:
        """Wait until all outcomes are settled, for at most `timeout` s, or two once `hurry` is set.

        What was refused is tried at once. Returns how many are left.
        """
        began = time.monotonic()
        self._try_again_at = 0.0
        while (self._pending or self._refused) and time.monotonic() - began < timeout:
            if hurry is not None and hurry.is_set():
                timeout = min(timeout, IN_A_HURRY)
            self.wake()
            gevent.sleep(0.005)
        return len(self._pending) + len(self._refused)

    def _next_batch(self, queue: deque[tuple[Delivery, Outcome]]) -> list[tuple[Delivery, Outcome]]:
        batch: list[tuple[Delivery, Outcome]] = []
        size = 0
        while queue and not self._membership.is_current(queue[0][0].worker):
            queue.popleft()
        for delivery, outcome in queue:
            # A dead letter takes the message along.
            size += outcome.size + (len(delivery.envelope) if outcome.kind == "dead" else 0)
            if batch and (len(batch) >= self._most or size > MAX_BYTES):
                break
            batch.append((delivery, outcome))
        return batch
