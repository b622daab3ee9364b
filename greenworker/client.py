"""Client: what sends messages and looks them up, for any thread or greenlet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from greenworker.audit import Audit
from greenworker.broker import MAX_BYTES, MAX_COUNT, Broker, Link, PushFields, push_fields
from greenworker.connection_pool import ConnectionPool
from greenworker.control import Control
from greenworker.endpoint import Endpoint
from greenworker.errors import BrokerUnavailable, GreenworkerError, SendUnknown
from greenworker.findings import Report
from greenworker.message import Message
from greenworker.middleware import Middleware, each_sent_through, sends, sent_through
from greenworker.probe import Probe
from greenworker.result import Result, Results
from greenworker.signing import Signer
from greenworker.status import Status
from greenworker.subscriber import Subscriber

R = TypeVar("R")


class Client:
    """Sends messages through at most `connections` connections; opens none before it is used.

    `send(message)` sends one, through the middleware. Raises BrokerUnavailable (not sent), SendUnknown
    (perhaps sent) or BrokerError (refused), after at most the client's patience.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        namespace: str,
        connections: int,
        patience: float,
        signer: Signer | None = None,
        middleware: Sequence[Middleware] = (),
        link: Callable[[ConnectionPool], Link] = lambda pool: pool,
    ) -> None:
        """`link`: what all of it goes through, in tests, in place of the connections."""
        self.endpoint = endpoint
        self._step = step = sends(middleware)
        # Where there is none, nothing is between a call and its push.
        self.send: Callable[[Message], None] = (
            self._send if step is None else sent_through(step, self._send)
        )
        self.fields = push_fields if signer is None else _signed_fields(signer)
        self.pool = link(ConnectionPool(endpoint, connections, patience))
        self.broker = Broker(self.pool, namespace)
        self.control = Control(self.pool, namespace)
        self.subscriber = Subscriber(endpoint, self.broker.root)

    def send_many(self, messages: Iterable[Message], note: Callable[[str], object]) -> int:
        """Send in calls bounded by count and bytes; `note` gets the id of each that is sent.

        An error midway carries `.sent`, the number of messages of which it is certain.
        """
        if self._step is not None:
            messages = each_sent_through(self._step, messages)
        sent = 0
        try:
            for ids, fields in _calls(map(self.fields, messages)):
                self._push(ids, fields)
                sent += len(ids)
                for id in ids:
                    note(id)
        except GreenworkerError as error:
            error.sent = sent
            raise
        except Exception as error:  # of the caller's own iterable
            error.add_note(f"{sent} messages had been sent before")
            raise
        return sent

    def result(self, id: str, ignored: str = "") -> Result[R]:
        return Result(id, self.broker, self.subscriber, ignored)

    def results(self, ids: list[str], ignored: str = "") -> Results[R]:
        return Results(ids, self.broker, self.subscriber, ignored)

    def status(self) -> Status:
        return self.broker.status()

    def check(self, limit: int) -> Report:
        return Audit(Probe(self.pool, self.broker.namespace), limit).run()

    def close(self) -> None:
        """Close every connection; the client can be used again."""
        self.subscriber.close()
        self.pool.close()

    def _send(self, message: Message) -> None:
        self._push([message.id], list(self.fields(message)))

    def _push(self, ids: list[str], fields: list[bytes | str | int]) -> None:
        try:
            self.broker.push(os.urandom(12).hex(), fields)
        except BrokerUnavailable as error:
            if not error.maybe_done:
                raise
            raise SendUnknown(ids, str(error)) from error


def _signed_fields(signer: Signer) -> Callable[[Message], PushFields]:
    """push_fields, and a signature: whatever is sent goes through here."""

    def fields(message: Message) -> PushFields:
        id, queue, priority, due, expires, tail = push_fields(message)
        return id, queue, priority, due, expires, signer.sign(id, tail)

    return fields


def _calls(messages: Iterable[PushFields]) -> Iterator[tuple[list[str], list[bytes | str | int]]]:
    ids: list[str] = []
    fields: list[bytes | str | int] = []
    size = 0
    for one in messages:
        weight = len(one[-1])
        if ids and (len(ids) >= MAX_COUNT or size + weight > MAX_BYTES):
            yield ids, fields
            ids, fields, size = [], [], 0
        ids.append(one[0])
        fields += one
        size += weight
    if ids:
        yield ids, fields
