"""Consumer: free slots → claim that many → pool."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gevent
from gevent import GreenletExit
from gevent.event import Event

from greenworker.broker import MAX_COUNT, Broker, NotRegistered
from greenworker.errors import BrokerUnavailable, UnsuitableServer
from greenworker.message import RELEASE, Delivery
from greenworker.worker import proof
from greenworker.worker.incarnation import Incarnation, Membership
from greenworker.worker.pool import SoloPool, TaskPool
from greenworker.worker.service import Service

_log = logging.getLogger("greenworker.worker")

_WAIT_MOST = 2.0  # seconds in BRPOP; a wake token that was lost costs no more than this
_BURST_WAIT = 0.1  # … in a burst, which looks whether it is over
_BURST_PATIENCE = 5.0  # seconds that a burst bears a server that is away
_BURST_WAITS_FOR = 60.0  # seconds: a burst stays for what is due within them


class _StopWaiting(GreenletExit):  # type: ignore[misc]  # gevent is untyped
    """Thrown into the consumer while it waits for a wake token."""


class Consumer(Service):
    """Registers the incarnation, then claims for the free slots and starts what was claimed.

    Never claims more than there are free slots. After a connection was lost it first adopts
    what a claim had brought whose reply did not arrive.
    """

    name = "consumer"
    announces_outage = True

    def __init__(
        self,
        broker: Broker,
        membership: Membership,
        pool: TaskPool | SoloPool,
        queues: Sequence[str],
        lease: float,
        about: Mapping[str, Any],
        expect: Callable[[float], None],
        burst: bool = False,
        allow_eviction: bool = False,
        max_tasks: int = 0,
        on_enough: Callable[[], None] = lambda: None,
        not_run: Callable[[], int] = lambda: 0,
        declare: Callable[[str], object] = lambda _: None,
    ) -> None:
        super().__init__()
        self.ready = Event()  # registered for the first time
        self.over = Event()  # a burst has drained its queues, or `error` ended the work
        self.error: BrokerUnavailable | UnsuitableServer | None = None
        self.quiet = False
        self.retiring = False  # quiet for good
        self._given = 0  # to the pool, since the start
        self._not_run = not_run  # how many of those were no run, ever
        self._not_run_before = 0
        self.ends_on_error = False  # serve_forever passes the error on; a library goes on trying
        self._broker = broker
        self._membership = membership
        self._pool = pool
        self._queues = queues
        self._lease = lease
        self._about = about
        self._expect = expect  # told in how many seconds more becomes due
        self._burst = burst
        self._allow_eviction = allow_eviction
        self._max_tasks = max_tasks  # 0: no limit
        self._declare = declare  # tells the server, as an incarnation, what the code declares
        self._on_enough = on_enough  # told when so many were begun
        self._away_since = 0.0
        self._unsuitable_since = 0.0
        self._waiting = False
        self._has_token = False
        self._doubts = 0  # so many of the membership's are resolved
        self._compared_at = 0.0

    def fresh(self) -> None:
        """Forget what a former start and stop have left."""
        self.ready.clear()
        self.over.clear()
        self.error = None
        self.ends_on_error = self.retiring = False
        self._given, self._not_run_before = 0, self._not_run()
        self._stopping = False

    @property
    def begun(self) -> int:
        """Runs since the start."""
        return self._given - (self._not_run() - self._not_run_before)

    def step(self) -> float | None:
        me = self._membership.current
        try:
            if not me.registered:
                self._register(me)
            if time.monotonic() - me.beaten > self._lease / 2:
                self._beat(me)
            if me.used > me.known:
                self._adopt(me)
            # After so long in any case: another lane may still have been led to another server.
            overdue = time.monotonic() - self._compared_at > self._lease
            if overdue or self._doubts != self._membership.doubts:
                self._reconcile(me)
            self._listen(me, not self.quiet and not self.retiring)
            self._claim(me)
        except NotRegistered:
            self._membership.renew(me.id)
        return 0.0

    def stop(self, timeout: float | None = None) -> None:
        self._stopping = True
        self._membership.room.set()
        if self._waiting and self._greenlet is not None:
            # Only a token can be lost here, never a message; leaving puts tokens back.
            self._greenlet.kill(_StopWaiting, block=False)
        super().stop(timeout)

    def interrupt(self) -> None:
        """End `run()` soon, wherever it was called."""
        self._stopping = True
        self._membership.room.set()
        self.wake()

    def _register(self, me: Incarnation) -> None:
        try:
            # Here, not only at the start: the server may have been away, or be another one.
            self._broker.check_server(self._allow_eviction)
            # The mark of this very process: it may have forked since the worker was built.
            about = {**self._about, "process": proof.mark()}
            registered = self._broker.register(me.id, self._lease, about, self._queues)
        except UnsuitableServer as error:
            self._give_up(error)
            raise
        if not registered:
            raise NotRegistered(me.id)
        # Before any claim, which it may limit.
        self._declare(me.id)
        me.registered, me.beaten = True, time.monotonic()
        me.listens = True
        self.ready.set()

    def _listen(self, me: Incarnation, listens: bool) -> None:
        if me.listens is not listens:
            if not self._broker.listen(me.id, listens, self._queues):
                raise NotRegistered(me.id)
            me.listens = listens

    def _beat(self, me: Incarnation) -> None:
        """In the watchdog's stead: its connection may fail where ours works, and who claims without
        a lease has all it runs taken away, and charged, again and again."""
        if not self._broker.beat(me.id, self._lease):
            raise NotRegistered(me.id)
        me.beaten = time.monotonic()

    def _failed(self, error: Exception) -> float:
        if not isinstance(error, UnsuitableServer):
            self._unsuitable_since = 0.0
        elif self.error is None:
            # Somebody may be changing it just now; after a lease what runs is others' anyway.
            self._unsuitable_since = self._unsuitable_since or time.monotonic()
            if time.monotonic() - self._unsuitable_since > self._lease:
                self._give_up(error)
        if isinstance(error, BrokerUnavailable):
            self._membership.doubt()
            self._away_since = self._away_since or time.monotonic()
            if self._burst and time.monotonic() - self._away_since > _BURST_PATIENCE:
                self._give_up(error)
        if self._stopping and self.error is error:
            return 0.0  # whoever serves tells it, once
        return super()._failed(error)

    def _recovered(self) -> None:
        self._away_since = self._unsuitable_since = 0.0
        if self.error is not None and not self._stopping:
            # Somebody has mended the server: who serves from now on is told of nothing old.
            self.error = None
            self.over.clear()
        super()._recovered()

    def _give_up(self, error: BrokerUnavailable | UnsuitableServer) -> None:
        self.error = error
        self._stopping = self._stopping or self.ends_on_error
        self.over.set()

    def _adopt(self, me: Incarnation) -> None:
        used = me.used
        adopted = self._broker.sync(me.id, me.known, used)
        me.known = used
        if adopted:
            _log.info("adopted %d messages of a claim whose reply was lost", len(adopted))
        self._begin(me, adopted)

    def _reconcile(self, me: Incarnation) -> None:
        """Give back what the server says is ours and is not: it has forgotten that we settled it.

        A replica that became master lags behind, and so does a file that is synced every second.
        As long as we live, nobody else would ever take those.
        """
        doubts = self._membership.doubts  # a later one is about what happens meanwhile
        before = {id: delivery.seq for id, delivery in me.held.items()}
        stale = [
            (Delivery(id, seq, me.id, b"", 0.0), RELEASE)
            for id, seq in self._broker.held(me.id).items()
            # What has been settled since we asked was ours before.
            if seq <= me.known and before.get(id) != seq
        ]
        for start in range(0, len(stale), MAX_COUNT):
            self._broker.settle(me.id, stale[start : start + MAX_COUNT])
        self._doubts, self._compared_at = doubts, time.monotonic()
        if stale:
            _log.warning(
                "the server has lost what it had acknowledged: %d message(s) run again", len(stale)
            )

    def _claim(self, me: Incarnation) -> None:
        room = self._room(me)
        if room <= 0 and not self._has_token:
            self._membership.room.clear()
            woken = self._room(me) > 0 or self._membership.room.wait(min(1.0, self._lease / 4))
            if self._burst and not woken:
                # In a burst, who is full looks as well whether the server is still there.
                self._beat(me)
            return
        # Whoever took a token claims, were it nothing: that passes the token on.
        self._has_token = False
        me.used += 1
        idle, size = not me.held, int(self._pool.size)
        # Some of these slots may not be free yet, as the server sees it. (Else we do not have it look: it may believe
        # that we hold what another one has settled.)
        early = room > size - len(me.held)
        # Before we ask: what is settled meanwhile makes room for another claim.
        self._membership.room.clear()
        claim = self._broker.claim(
            me.id, me.used, max(0, room), self._queues, may_hold=size if early else 0
        )
        me.known = me.used
        self._recovered()  # now, and not after the wait that may follow
        self._begin(me, claim.deliveries)
        if claim.next_due is not None:
            # Also where no slot is left: others may have one, and wait to be woken.
            self._expect(claim.next_due)
        if len(claim.deliveries) >= room or self._stopping:
            return
        # What ended while the claim was under way may have become a retry behind its back.
        if self._burst and idle and self._is_drained(me, claim.more, claim.next_due):
            self.over.set()
            self._stopping = True
            return
        if claim.alone or (early and (claim.more or self._burst)):
            # Tokens are for others now; or what we have settled had not arrived yet. (A burst may be over by then.)
            self._membership.room.wait(_BURST_WAIT if self._burst else 1.0)
            return
        self._wait(_BURST_WAIT if self._burst else min(_WAIT_MOST, self._lease / 4))

    def _room(self, me: Incarnation) -> int:
        if self.quiet or self.retiring:
            return 0
        # What is being settled counts no more: the server sees to it that never more is held than can run. And what an
        # incarnation that was reaped has left may run on, though it is no longer held.
        size = int(self._pool.size)
        room = min(size - len(me.held) + self._membership.leaving, self._pool.free_count())
        return min(room, self._max_tasks - self.begun) if self._max_tasks else room

    def _begin(self, me: Incarnation, deliveries: list[Delivery]) -> None:
        if not self._membership.is_current(me.id):
            return  # reaped while the reply was under way: these are others' now
        # Held first, all of them: what follows may run tasks.
        new = deque(me.hold(deliveries))
        try:
            while new:
                self._pool.begin(new[0])
                self._given += 1
                new.popleft()
        finally:
            # No memory, say: what is held and never begun would cost its slot for ever.
            for delivery in new:
                self._pool.give_back(delivery)
        if self._max_tasks and self.begun >= self._max_tasks:
            self._on_enough()

    def _wait(self, timeout: float) -> None:
        self._waiting = True
        try:
            # What was claimed begins first: to ask for more takes longer than to begin one.
            gevent.sleep(0)
            self._has_token = self._broker.wait(self._queues, timeout)
        finally:
            self._waiting = False

    def _is_drained(self, me: Incarnation, more: bool, next_due: float | None) -> bool:
        return not me.held and not more and (next_due is None or next_due > _BURST_WAITS_FOR)
