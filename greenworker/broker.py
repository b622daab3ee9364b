"""Broker: the only module that talks to the server; a method for each script.

Seconds become milliseconds here and nowhere else. A broker is a namespace and
a link, and the link decides who may use it: a private Connection for a service of
a worker, or a ConnectionPool for everybody.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import orjson

from greenworker import keys
from greenworker.errors import BrokerError, MalformedMessage, UnsuitableServer
from greenworker.message import (
    Delivery,
    Message,
    Moment,
    Outcome,
    State,
    attempts_of,
    deliveries_in,
    encode_tail,
)
from greenworker.outcomes import pack_outcomes
from greenworker.scripts import Script, load
from greenworker.status import Status, groups, numbers, read_status, told

MAX_COUNT = 1000  # messages a call
MAX_BYTES = 4 * 1024 * 1024  # a call: 300 messages of 1 MB in one blocked a server for 4.9 s
PUSH_TTL = 300.0  # seconds for which repeating a push is a no-op
OLDEST_SERVER = (6, 2)

NO_MOMENTS: Mapping[bytes, float] = {}

# id, queue, priority, due, expires, and the tail of the envelope
PushFields = tuple[str, str, int, str, str, bytes]


def _forget(_told: str) -> None:
    """What is done with what nobody asked for."""


class Link(Protocol):
    """What a broker needs of a connection."""

    def run(
        self, script: Script, key: str, *args: bytes | str | int, patience: float | None = None
    ) -> Any: ...

    def execute(self, *command: bytes | str | int) -> Any: ...

    def close(self) -> None: ...


class NotRegistered(BrokerError):
    """This incarnation was reaped, or the server lost its data: its deliveries are others' now."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim's reply: deliveries, and when more becomes due (seconds from now, or None).

    `alone`: nothing more is for this worker until it has settled what it holds.
    """

    deliveries: list[Delivery]
    next_due: float | None
    more: bool
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one reap did; `extended`: all leases were lengthened instead.

    `shortest` is the shortest lease (s) among all workers: so often must be swept. `buried_ids` names
    those that were buried.
    """

    extended: bool
    corpses: int
    returned: int
    buried: int
    left: int
    shortest: float
    buried_ids: tuple[str, ...] = ()


class Promotion(NamedTuple):
    """How many became ready, the seconds until the next is due or None, and what workers are asked:
    nothing, as a rule; see `Control.running`. `cancelled`: ids that this one holds, with their claim
    sequences; `marks`: what is cancelled by a mark, and until which ms each counts."""

    moved: int
    next_due: float | None
    asked: bytes
    cancelled: Mapping[str, int] = {}
    marks: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Sighting:
    """Where a message is: `state`, the result's bytes once it has ended, the retries so far,
    the seconds until it is due, what the last attempt failed of, and the seconds until it expires
    if it still waits then. `state` None: nothing is known of it."""

    state: State | None
    result: bytes | None = None
    attempt: int = 0
    due_in: float | None = None
    last_error: str = ""
    expires_in: float | None = None


class Broker:
    """The namespace's data, through one link."""

    def __init__(self, link: Link, namespace: str = "default") -> None:
        self.namespace = namespace
        self.root = keys.root(namespace)
        self._link = link
        self._nil = keys.nil(self.root)

    # Sending

    def push(self, push_id: str, fields: Sequence[bytes | str | int]) -> int:
        """Send all or none of at most MAX_COUNT messages, each as its `push_fields`.

        Returns how many were new, or -1 when this push id had been carried out before.
        """
        return int(self._run("push", push_id, _ms(PUSH_TTL), *fields))

    # Claims and leases

    def register(
        self, worker: str, lease: float, about: Mapping[str, Any], queues: Iterable[str]
    ) -> bool:
        """Make an incarnation known, alive for one lease; False if it was known and died."""
        return bool(self._run("register", worker, _ms(lease), orjson.dumps(dict(about)), *queues))

    def beat(self, worker: str, lease: float) -> bool:
        """Lengthen the lease; False when the incarnation has been reaped."""
        return bool(self._run("beat", worker, _ms(lease)))

    def listen(self, worker: str, listens: bool, queues: Iterable[str]) -> bool:
        """Have others reckon, or no longer, with what this incarnation will claim; False when it is
        not registered."""
        return bool(self._run("listen", worker, int(listens), *queues))

    def claim(
        self, worker: str, seq: int, most: int, queues: Sequence[str], may_hold: int = 0
    ) -> Claim:
        """Up to `most` messages into this incarnation's processing list, where then are no more than
        `may_hold` (0: as many as there are); raises NotRegistered."""
        most = min(most, MAX_COUNT)
        room = f"{most}/{may_hold}" if may_hold else most
        reply = self._run("claim", worker, seq, room, MAX_BYTES, *queues)
        if reply[0] == b"gone":
            raise NotRegistered(f"worker {worker} is not registered")
        if reply[0] == b"stale":
            raise BrokerError(f"claim {seq} of worker {worker} came too late")
        now, due, more, lengths, text = reply
        deliveries = deliveries_in(lengths, text, seq, worker, now / 1000)
        next_due = None if due < 0 else max(0.0, (due - now) / 1000)
        return Claim(deliveries, next_due, more > 0, alone=more == 2)

    def wait(self, queues: Iterable[str], timeout: float) -> bool:
        """Block until something may be claimed, or for `timeout` s (at most 2); True if woken."""
        tokens = (keys.wake(self.root, queue) for queue in queues)
        return self._link.execute("BRPOP", *tokens, f"{max(timeout, 0.001):.3f}") is not None

    def sync(self, worker: str, known: int, used: int) -> list[Delivery]:
        """Fence claims up to `used` and adopt what was claimed after `known`; raises NotRegistered."""
        reply = self._run("sync", worker, known, used)
        if reply[0] == b"gone":
            raise NotRegistered(f"worker {worker} is not registered")
        at = reply[0] / 1000
        return [
            Delivery(reply[i + 1].decode(), int(reply[i]), worker, reply[i + 2], at)
            for i in range(1, len(reply), 3)
        ]

    def held(self, worker: str) -> dict[str, int]:
        """What an incarnation holds, as the server sees it: id → claim sequence."""
        reply = self._link.execute("HGETALL", keys.processing(self.root, worker))
        return {id.decode(): int(seq) for id, seq in groups(reply, 2)}

    def settle(self, worker: str, outcomes: Sequence[tuple[Delivery, Outcome]]) -> list[bool]:
        """Settle deliveries; False for each that is no longer ours.

        Times that are out of all bounds, a raw envelope's say, are cut: what cannot be sent would be kept for ever.
        """
        if not outcomes:
            return []
        packed, *ran = pack_outcomes(outcomes)
        verdicts = self._run("settle", worker, len(outcomes), packed, *ran)
        return [bool(mine) for mine in verdicts]

    def release(self, worker: str) -> None:
        """Leave gracefully: what is still held goes back to the front of its queue, uncharged."""
        while self._run("release", worker, MAX_COUNT):
            pass

    # Chores that any worker does for all

    def processes(self) -> dict[str, Any]:
        """What each registered incarnation has told of the process that it lives in."""
        reply = self._link.execute("HGETALL", keys.about(self.root))
        return {
            worker.decode("utf-8", "backslashreplace"): told(about).get("process")
            for worker, about in groups(reply, 2)
        }

    def reap(
        self, lease: float, quiet: float, max_deliveries: int, gone: Sequence[str] = ()
    ) -> Sweep:
        """One sweep: find expired incarnations, return a chunk of one corpse's deliveries.

        `gone` are incarnations that are known to be dead, whatever their leases.
        """
        extended, corpses, returned, buried, left, shortest, *ids = self._run(
            "reap", _ms(lease), _ms(quiet), MAX_COUNT, max_deliveries, *gone
        )
        return Sweep(
            bool(extended), corpses, returned, buried, left, shortest / 1000,
            tuple(id.decode("utf-8", "backslashreplace") for id in ids),
        )  # fmt: skip

    def promote(self, worker: str = "", known: Iterable[str | int] = ()) -> Promotion:
        """Make ready what is due. Of what is cancelled this worker has `known` these: id, sequence, …"""
        moved, next_due, asked, told, marks = self._run("promote", MAX_COUNT, worker, *known)
        due = None if next_due < 0 else next_due / 1000
        return Promotion(moved, due, asked, numbers(told), numbers(marks))

    # Ends

    def cancel(self, ids: Sequence[str], dry_run: bool = False) -> str:
        """End messages, or have their workers do it; a letter for the fate of each: see cancel.lua."""
        how, fates = "dry" if dry_run else "", ""
        while some := ids[len(fates) : len(fates) + MAX_COUNT]:
            fates += self._run("cancel", how, *some).decode()
        return fates

    # Looking up

    def lookup(self, id: str, patience: float | None = None) -> Sighting:
        """Where a message is, or how it ended; `patience` (s) instead of the link's own."""
        kind, *rest = self._link.run(load("lookup"), self._nil, id, patience=patience)
        if kind == b"ended":
            return Sighting(_ended_state(rest[0]), rest[0])
        if kind == b"unknown":
            return Sighting(None)
        attempt, last_error = attempts_of(rest[0])
        due_in = None
        if kind == b"scheduled":
            state = State.RETRY if attempt else State.SCHEDULED
            due_in = max(0.0, rest[2] / 1000)
        else:
            state = State.STARTED if kind == b"started" else State.PENDING
        expires_in = None if rest[1] < 0 else rest[1] / 1000
        return Sighting(state, None, attempt, due_in, last_error, expires_in)

    def forget(self, id: str) -> bool:
        """Drop a result; False if there was none."""
        return bool(self._link.execute("DEL", keys.result(self.root, id)))

    def status(self) -> Status:
        """What is where, read in one step; what is damaged and cannot be shown is left out."""
        return read_status(self._run("status"))

    def time(self) -> float:
        """The server's clock, in epoch seconds, as exact as the scripts see it."""
        seconds, micros = self._link.execute("TIME")
        return int(seconds) + int(micros) // 1000 / 1000

    # Dead letters

    def dead_ids(self, since: float | None, until: float) -> Iterator[list[bytes]]:
        """The ids of those that died between these moments (epoch seconds of the server's clock),
        oldest first, a page at a time."""
        first = "-inf" if since is None else _ms(since)
        reached: list[bytes | str] = ["", ""]
        while page := self._run("dead_ids", MAX_COUNT, first, _ms(until), *reached):
            reached = page[-2:]
            yield page[1::2]

    def dead_records(self, ids: Sequence[bytes], whole: bool) -> Iterator[bytes | None]:
        """What is kept of each; None where there is no such dead letter. Not `whole`: without
        the body of its message."""
        how = "whole" if whole else "front"
        while ids:
            records = self._run("dead_records", how, MAX_BYTES, *ids[:MAX_COUNT])
            yield from records
            ids = ids[len(records) :]

    def dead_delete(
        self,
        ids: Sequence[bytes],
        died: Mapping[bytes, float] = NO_MOMENTS,
        note: Callable[[str], object] = _forget,
    ) -> int:
        """Forget dead letters; returns how many there were. One whose moment of death (epoch seconds)
        is told in `died`, and that has died again since, stays. `note` gets the fates that each call
        tells (d, or g for gone), in order: an error may come after some of them."""
        fates = ""
        while rest := ids[len(fates) : len(fates) + MAX_COUNT]:
            told = self._run("dead_delete", MAX_BYTES, *_with_moments(rest, died)).decode()
            note(told)
            fates += told
        return fates.count("d")

    def revive(
        self,
        ids: Sequence[bytes],
        dry_run: bool = False,
        died: Mapping[bytes, float] = NO_MOMENTS,
        note: Callable[[str], object] = _forget,
    ) -> str:
        """Make messages of dead letters again; a letter for the fate of each: see revive.lua.
        `died` and `note` are as for `dead_delete`."""
        fates = ""
        while rest := ids[len(fates) : len(fates) + MAX_COUNT]:
            revival = (os.urandom(12).hex(), _ms(PUSH_TTL), MAX_BYTES, "dry" if dry_run else "")
            told = self._run("revive", *revival, *_with_moments(rest, died)).decode()
            note(told)
            fates += told
        return fates

    def check_server(self, allow_eviction: bool = False) -> str:
        """The server's name and version; raises UnsuitableServer if tasks are not safe there."""
        info = _parse_info(
            self._link.execute("INFO", "server") + self._link.execute("INFO", "memory")
        )
        version = info.get("redis_version", "0")
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_SERVER:
            raise UnsuitableServer(f"the server is Redis {version}; greenworker needs 6.2 or newer")
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and not allow_eviction:
            raise UnsuitableServer(
                f"the server's maxmemory-policy is {policy}: it may drop tasks when memory is short; "
                "CONFIG SET maxmemory-policy noeviction, or pass --allow-eviction"
            )
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {version}"

    def close(self) -> None:
        """Close the link; the next call opens it again."""
        self._link.close()

    def _run(self, name: str, *args: bytes | str | int) -> Any:
        return self._link.run(load(name), self._nil, *args)


def push_fields(message: Message) -> PushFields:
    """A message as the push script takes it."""
    return (
        message.id,
        message.queue,
        message.priority,
        _moment(message.due),
        _moment(message.expires),
        encode_tail(message),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _moment(moment: Moment | None) -> str:
    if moment is None:
        return ""
    if isinstance(moment, datetime):
        return str(_ms(moment.timestamp()))
    return f"+{_ms(moment)}"


def _with_moments(ids: Iterable[bytes], died: Mapping[bytes, float]) -> Iterator[bytes | int]:
    for id in ids:
        yield from (id, _ms(died[id]) if id in died else b"")


def _ended_state(result: bytes) -> State:
    # The state is the first member of every result: no need to decode the value.
    try:
        return State(result[10 : result.index(b'"', 10)].decode())
    except ValueError:
        raise MalformedMessage("what is kept of it is no result of ours") from None


def _parse_info(text: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}
