"""Drain: runs what waits on a server in the process that calls, one after the other, and lets time pass."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from greenworker.broker import MAX_COUNT, Broker, Link
from greenworker.client import Client
from greenworker.connection import Connection
from greenworker.dead import DeadLetters
from greenworker.errors import ConfigError, GreenworkerError
from greenworker.keys import check_name
from greenworker.message import Delivery
from greenworker.testing.inline import InlineClient
from greenworker.testing.moving import Clock, Clocked, ClockedClient, require_nobody
from greenworker.testing.record import (
    LIMIT,
    Errors,
    Ran,
    Span,
    check_errors,
    check_limit,
    seconds_of,
)
from greenworker.testing.runner import Runner, end_if_interrupted, raise_first
from greenworker.worker import proof
from greenworker.worker.ticker import Ticker

if TYPE_CHECKING:
    from greenworker.app import App

_KEEP = "drain(errors='keep') leaves it to its Result"
_LEASE = 3600.0  # seconds: nobody beats meanwhile, and nobody else is there


def drain(
    app: App,
    *,
    errors: Errors = "raise",
    limit: int = LIMIT,
    queues: Sequence[str] | None = None,
    **span: Unpack[Span],
) -> list[Ran]:
    """Run what waits for the app's tasks here, one after the other, until nothing is left that could run now.

    Returns what ran, in order. Within `clock(app)` a span lets time pass, `drain(app, hours=1)`: what is delayed,
    retried or scheduled runs at its moment, none earlier, each tick once; without one time stands. Outside of it the
    server's time counts, and no schedule is looked at. `queues` are a worker's by default. What a task has failed of
    for good is raised in the end, or kept for its Result: `errors="keep"`. More than `limit` runs at one moment are
    refused. Needs no patched process; a task that blocks is not interrupted by its timeout. Raises ConfigError
    where workers are at work.
    """
    __tracebackhide__ = True
    check_errors(errors)
    check_limit(limit)
    seconds = seconds_of(span)
    if isinstance(queues, str):
        raise ConfigError(f"queues={queues!r:.60}: give a list of names")
    for queue in queues or ():
        check_name("queue", queue)
    app.load()
    client = app.client
    if isinstance(client, InlineClient):
        raise ConfigError("in app.testing() nothing waits on a server: sent.drain() lets time pass")
    if span and not isinstance(client, ClockedClient):
        raise ConfigError(
            "drain() lets time pass where it stands: with greenworker.testing.clock(app): …"
        )
    drainage = _Drainage(app, client, limit, queues or app.queues())
    drainage.run(seconds)
    if errors == "raise":
        failed = [ran for ran in drainage.ran if ran.outcome == "dead"]
        raise_first(failed, drainage.told, _KEEP)
    return drainage.ran


class _Drainage:
    """A worker of one slot, which lives for one drain."""

    def __init__(self, app: App, client: Client, limit: int, queues: Sequence[str]) -> None:
        self.ran: list[Ran] = []
        self.told: list[Exception] = []
        self._clock: Clock | None = None
        self._ticker: Ticker | None = None
        # Of its own: a pool would repeat a claim whose reply was lost.
        link: Link = Connection(client.endpoint, "greenworker-drain")
        unclocked = client.broker
        if isinstance(client, ClockedClient):
            self._clock, self._ticker = client.clock, client.ticker
            link, unclocked = Clocked(link, client.clock), client.unclocked
        self._unclocked = unclocked
        self._broker = Broker(link, client.broker.namespace)
        self._control = client.control
        self._letters = DeadLetters(client.broker)
        self._runner = Runner(
            app.tasks, app.middlewares, app.signer, app.failure_functions, unknown_is_dead=False
        )
        self._limit = limit
        self._queues = tuple(queues)
        self._id = os.urandom(8).hex()
        self._claims = 0
        self._runs = 0  # at this moment

    def run(self, seconds: float) -> None:
        require_nobody(self._unclocked)
        about = {"name": "drain", "queues": self._queues, "concurrency": 1, "process": proof.mark()}
        try:
            self._broker.register(self._id, _LEASE, about, self._queues)
            self._pass(seconds)
        finally:
            try:
                self._broker.release(self._id)
            finally:
                self._broker.close()

    def _pass(self, seconds: float) -> None:
        clock = self._clock
        until = clock.ms + round(seconds * 1000) if clock is not None else 0
        while True:
            wait = self._due_in()
            if self._work():
                continue  # what it has sent may be due at this very moment
            if clock is None or clock.ms + wait > until:
                break
            clock.ms += wait
            self._runs = 0
        if clock is not None:
            clock.ms = until

    def _due_in(self) -> int:
        """Make ready what is due; in how many ms (1 at least) more is."""
        moments = [math.inf]
        if self._ticker is not None:
            moments.append((self._ticker.step() or 0.0) - 0.001)  # which it adds
        while (promoted := self._broker.promote()).moved == MAX_COUNT:
            pass
        while promoted.marks and self._control.comb(self._id).more:
            pass
        if promoted.next_due is not None:
            moments.append(promoted.next_due)
        soonest = min(moments)
        return 2**62 if soonest == math.inf else max(1, math.ceil(soonest * 1000 - 0.01))

    def _work(self) -> int:
        """Run what is ready; how many runs that were."""
        before = len(self.ran)
        while True:
            self._claims += 1
            claim = self._broker.claim(self._id, self._claims, 1, self._queues)
            for delivery in claim.deliveries:
                self._run(delivery)
            if not claim.deliveries and (claim.alone or not claim.more):
                return len(self.ran) - before

    def _run(self, delivery: Delivery) -> None:
        outcome, ran = self._runner.run(delivery)
        self._broker.settle(self._id, [(delivery, outcome)])
        self.ran.append(ran)
        end_if_interrupted(ran)
        if outcome.kind == "dead":
            letter = self._letters.get(delivery.id)
            if letter is not None:
                self.told += self._runner.tell(letter)
        self._runs += 1
        if self._runs >= self._limit:
            raise GreenworkerError(
                f"{self._runs:,} runs at one moment, and no end, the last one of {ran.task}: does it send itself "
                "for ever? drain(limit=…) allows more"
            )
