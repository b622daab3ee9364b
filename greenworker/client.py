"""Client: what sends messages and looks them up, for any thread or greenlet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from greenworker.audit import Audit
from greenworker.broker import MAX_BYTES, MAX_COUNT, Broker, Link, PushFields, push_fields
from greenworker.connection_pool import ConnectionPool
from greenworker.control import Control
from greenworker.endpoint import Endpoint
from greenworker.errors import BrokerUnavailable, GreenworkerError, SendUnknown
from greenworker.findings import Report
from greenworker.message import Message
from greenworker.middleware import Middleware, each_sent_through, sends, sent_through
from greenworker.once import Once
from greenworker.probe import Probe
from greenworker.result import Result, Results
from greenworker.signing import Signer
from greenworker.status import Status
from greenworker.subscriber import Subscriber

R = TypeVar("R")


class Client:
    """Sends messages through at most `connections` connections; opens none before it is used.

    `send(message)` sends one, through the middleware, and returns its id, or that of the one that stands
    for it, if it is unique. Raises BrokerUnavailable (not sent), SendUnknown
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
        self.send: Callable[[Message], str] = (
            self._send if step is None else sent_through(step, self._send)
        )
        self.fields = push_fields if signer is None else _signed_fields(signer)
        self.pool = link(ConnectionPool(endpoint, connections, patience))
        self.broker = Broker(self.pool, namespace)
        self.once = Once(self.pool, namespace)
        self.control = Control(self.pool, namespace)
        self.subscriber = Subscriber(endpoint, self.broker.root)

    def send_many(
        self, messages: Iterable[Message], note: Callable[[str], object], seen: str = ""
    ) -> int:
        """Send in calls bounded by count and bytes; `note` gets the id of each, as `send` returns it.

        Not those whose mark is in the filter `seen`: what is sent is marked there in the same step.
        An error midway carries `.sent`, the number of messages of which it is certain.
        """
        if self._step is not None:
            messages = each_sent_through(self._step, messages)
        sent = 0
        try:
            for call in _calls(messages, self.fields):
                if call.once:
                    ids = self._push_once(call.ids, call.fields, seen)
                else:
                    ids = self._push(call.ids, call.fields)
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

    def _send(self, message: Message) -> str:
        fields: list[bytes | str | int] = [*self.fields(message)]
        if not _is_once(message):
            self._push([message.id], fields)
            return message.id
        (id,) = self._push_once([message.id], [*fields, ""], "")
        return id

    def _push(self, ids: list[str], fields: list[bytes | str | int]) -> list[str]:
        try:
            self.broker.push(os.urandom(12).hex(), fields)
        except BrokerUnavailable as error:
            if not error.maybe_done:
                raise
            raise SendUnknown(ids, str(error)) from error
        return ids

    def _push_once(self, ids: list[str], fields: list[bytes | str | int], seen: str) -> list[str]:
        """Send what is new; returns the ids of those that are there now, or of what stands for them."""
        try:
            fates, firsts = self.once.push(os.urandom(12).hex(), seen, fields)
        except BrokerUnavailable as error:
            if not error.maybe_done:
                raise
            raise SendUnknown(ids, str(error)) from error
        first = iter(firsts)
        return [
            next(first) if fate == "d" else id
            for id, fate in zip(ids, fates, strict=True)
            if fate != "s"
        ]


class _Call(NamedTuple):
    """What one call of the server sends; `once`: with a mark each, by `push_once`."""

    ids: list[str]
    fields: list[bytes | str | int]
    once: bool


def _signed_fields(signer: Signer) -> Callable[[Message], PushFields]:
    """push_fields, and a signature: whatever is sent goes through here."""

    def fields(message: Message) -> PushFields:
        id, queue, priority, due, expires, tail = push_fields(message)
        return id, queue, priority, due, expires, signer.sign(id, tail)

    return fields


def _is_once(message: Message) -> bool:
    return message.mark is not None or "unique" in message.options


def _calls(
    messages: Iterable[Message], fields_of: Callable[[Message], PushFields]
) -> Iterator[_Call]:
    """Calls of a bounded size; in each all are sent once, or none is."""
    call, size = _Call([], [], once=False), 0
    for message in messages:
        one, once = fields_of(message), _is_once(message)
        weight = len(one[-1])
        if call.ids and (
            len(call.ids) >= MAX_COUNT or size + weight > MAX_BYTES or once != call.once
        ):
            yield call
            call, size = _Call([], [], once), 0
        elif not call.ids:
            call = call._replace(once=once)
        call.ids.append(one[0])
        call.fields.extend(one)
        if once:
            call.fields.append("" if message.mark is None else message.mark)
        size += weight
    if call.ids:
        yield call
