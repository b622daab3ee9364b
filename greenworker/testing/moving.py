"""Clock: an app on a server, in a namespace of its own, whose time stands until it is moved.

The server's clock is not touched, and nothing in what production runs looks for another one. Time is moved by the
text of the scripts: before this process sends one, it puts a number in the place of Redis' TIME, which
`prelude.lua` reads, and the number is the call's last argument. Whoever else uses the server, in this namespace too,
goes by the server's own clock.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Unpack

from greenworker.broker import MAX_COUNT, Broker, Link
from greenworker.client import Client
from greenworker.endpoint import Endpoint
from greenworker.errors import BadArguments, BrokerError, ConfigError, GreenworkerError
from greenworker.scripts import Script
from greenworker.testing.record import Span, seconds_of
from greenworker.timetable import Timetable
from greenworker.worker import proof
from greenworker.worker.ticker import Ticker

if TYPE_CHECKING:
    from greenworker.app import App

_TIME = b"redis.call('TIME')"
_FOR_EVER = 1e9  # seconds: the ticker asks when it is told to
_CONNECTIONS, _PATIENCE = 16, 5.0  # as an App's


class Clock:
    """Time as an app sees it that is being tested; it stands until somebody moves it, forward."""

    def __init__(self, ms: int) -> None:
        self.ms = ms

    def __repr__(self) -> str:
        return f"<Clock {self.now:%Y-%m-%d %H:%M:%S}>"

    @property
    def now(self) -> datetime:
        """Where it stands, in UTC."""
        return datetime.fromtimestamp(self.ms / 1000, UTC)

    def move(self, **span: Unpack[Span]) -> None:
        """Let time pass while nobody works, `clock.move(hours=1)`: as a downtime.

        What is due by then runs at the next `drain`; of a schedule's ticks that were missed its `misfire` decides.
        """
        self.ms += round(seconds_of(span) * 1000)


class Clocked:
    """A link over which scripts go by a clock; as safe for many at once as what it goes through."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock

    def run(
        self, script: Script, key: str, *args: bytes | str | int, patience: float | None = None
    ) -> Any:
        reply = self._link.run(by_clock(script), key, *args, self._clock.ms, patience=patience)
        if script.name == "cancel_mark":
            # What is sent from then on is not hit: who marks waits for the next millisecond.
            self._clock.ms += 1
        return reply

    def execute(self, *command: bytes | str | int) -> Any:
        if command == ("TIME",):
            return [b"%d" % (self._clock.ms // 1000), b"%d" % (self._clock.ms % 1000 * 1000)]
        return self._link.execute(*command)

    def close(self) -> None:
        self._link.close()


class ClockedClient(Client):
    """A client in a namespace whose scripts go by a clock; `unclocked` goes by the server's."""

    def __init__(self, app: App, endpoint: Endpoint, namespace: str, clock: Clock) -> None:
        def link(pool: Link) -> Link:
            self.unclocked = Broker(pool, namespace)
            return Clocked(pool, clock)

        super().__init__(
            endpoint, namespace, _CONNECTIONS, _PATIENCE, app.signer, app.middlewares, link
        )
        self.clock = clock
        # Of the schedules that are declared by now, or later.
        schedules = app.schedule.declared.values()
        self.ticker = Ticker(Timetable(self.pool, namespace), schedules, self.fields, _FOR_EVER)


@contextmanager
def clock(
    app: App,
    *,
    url: str | None = None,
    namespace: str | None = None,
    at: datetime | None = None,
) -> Iterator[Clock]:
    """Have the app send to a namespace of its own on its server, where time stands, and `drain` run from there.

    `url`: another server than the app's; `namespace`: this one, which is kept, instead of a new one that is
    forgotten in the end; `at`: where the clock stands at first, instead of where the server's does. Schedules
    count from there. Raises ConfigError where the app is being tested already, or where workers are at work.
    """
    if at is not None and (not isinstance(at, datetime) or at.tzinfo is None):
        raise BadArguments(f"at={at!r}: give a datetime with a time zone, datetime(…, tzinfo=UTC)")
    app.load()
    name = f"test-{os.urandom(8).hex()}" if namespace is None else namespace
    standing = Clock(0)
    client = ClockedClient(
        app, app.endpoint if url is None else Endpoint(url, "clock(url)"), name, standing
    )
    with app.stand_in(client):
        require_nobody(client.unclocked)
        standing.ms = round(1000 * (client.unclocked.time() if at is None else at.timestamp()))
        try:
            client.ticker.step()  # what is due from now on counts, as if a worker were there
            yield standing
        finally:
            if namespace is None:
                _forget(client)


def require_nobody(broker: Broker) -> None:
    """Raise ConfigError where workers are at work: what runs here they might take, and the other way round."""
    marks = broker.processes()
    living = [
        one.name
        for one in broker.status().workers
        if one.lease > 0 and not proof.is_gone(marks.get(one.id))
    ]
    if living:
        raise ConfigError(
            f"workers are at work in the namespace {broker.namespace}: {', '.join(living)}; "
            "clock(app) gives a test one of its own"
        )


@cache
def by_clock(script: Script) -> Script:
    """The same script, but for where it has the time from: its last argument."""
    if script.source.count(b"'TIME'") != script.source.count(_TIME):
        raise GreenworkerError(f"{script.name}.lua asks for the time otherwise than the prelude")
    number = b"{math.floor(CLOCK / 1000), CLOCK % 1000 * 1000}"
    source = b"local CLOCK = tonumber(table.remove(ARGV))\n" + script.source.replace(_TIME, number)
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    return Script(script.name, source, sha)


def _forget(client: ClockedClient) -> None:
    """Leave nothing of the namespace; a server that is away, or lets us not, keeps it."""
    cursor: Any = b"0"
    with suppress(BrokerError, ConfigError):
        while True:
            cursor, found = client.pool.execute(
                "SCAN", cursor, "MATCH", f"{client.broker.root}*", "COUNT", MAX_COUNT
            )
            if found:
                client.pool.execute("UNLINK", *found)
            if cursor == b"0":
                return
