"""Memory: what the server would keep, kept in this process, for `app.testing()`. Its clock stands."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from greenworker.broker import NO_MOMENTS, Broker, Sighting
from greenworker.control import Control, Marked
from greenworker.errors import ConfigError
from greenworker.message import CANCELLED, Delivery, Outcome, State, attempts_of, is_marked
from greenworker.scripts import Script
from greenworker.verdicts import LONGEST_HELD, UNTOLD

_EXPIRED = b'{"state":"EXPIRED"}'
_FIELDS = 6  # of a message, as `push_fields` makes them
_WORKER = "testing"  # who runs it, in dead letters


@dataclass(slots=True, eq=False)
class Entry:
    """A message that is present. `due` in ms; `held`: it has run and wants to wait, whatever its time;
    `called_off`: it was cancelled while it ran; `left`: what was to run it has broken off."""

    id: str
    envelope: bytes
    due: int
    started: bool = False
    held: bool = False
    called_off: bool = False
    left: bool = False

    @property
    def expires(self) -> int:
        return int(self.envelope.split(b" ", 6)[5])


class Memory(Broker):
    """A namespace without a server. `on_push` gets the messages that have become present, and those that are due."""

    def __init__(
        self,
        namespace: str,
        on_push: Callable[[list[Entry]], None],
    ) -> None:
        super().__init__(NoServer(), namespace)
        self.now = round(time.time() * 1000)  # ms
        self.present: dict[str, Entry] = {}
        self._on_push = on_push
        self._results: dict[str, bytes] = {}
        self._records: dict[str, tuple[int, bytes]] = {}  # of dead letters: when, and what is kept
        self._sequence = 0
        self._lock = threading.RLock()

    # As scripts do it

    def push(self, push_id: str, fields: Sequence[bytes | str | int]) -> int:
        with self._lock:
            sent = [
                entry
                for start in range(0, len(fields), _FIELDS)
                if (entry := self._push(*fields[start : start + _FIELDS])) is not None
            ]
        self._on_push(sent)
        return len(sent)

    def lookup(self, id: str, patience: float | None = None) -> Sighting:
        with self._lock:
            entry = self.present.get(id)
            if entry is None:
                result = self._results.get(id)
                if result is None and id in self._records:
                    result = self._records[id][1].split(b"\n", 3)[2]
                return Sighting(None) if result is None else _ended(result)
            if not entry.started and 0 < entry.expires <= self.now:
                return _ended(_EXPIRED)
            attempt, last_error = attempts_of(entry.envelope.partition(b"\n")[0])
            if entry.started:
                return Sighting(State.STARTED, None, attempt, None, last_error)
            left = (entry.expires - self.now) / 1000 if entry.expires else None
            if entry.due <= self.now and not entry.held:
                return Sighting(State.PENDING, None, attempt, None, last_error, left)
            state = State.RETRY if attempt else State.SCHEDULED
            due_in = max(0, entry.due - self.now) / 1000
            return Sighting(state, None, attempt, due_in, last_error, left)

    def cancel(self, ids: Sequence[str], dry_run: bool = False) -> str:
        with self._lock:
            return "".join(self._cancel(id, dry_run) for id in ids)

    def marked(self, mark: str) -> list[Entry]:
        """What is present and a mark hits."""
        with self._lock:
            marks = {mark: self.now}
            return [entry for entry in self.present.values() if is_marked(entry.envelope, marks)]

    def forget(self, id: str) -> bool:
        return self._results.pop(id, None) is not None

    def time(self) -> float:
        return self.now / 1000

    def dead_ids(self, since: float | None, until: float) -> Iterator[list[bytes]]:
        from_ms, to_ms = round((since or 0.0) * 1000), round(until * 1000)
        yield [id.encode() for id, (at, _) in list(self._records.items()) if from_ms <= at <= to_ms]

    def dead_records(self, ids: Sequence[bytes], whole: bool) -> Iterator[bytes | None]:
        for id in ids:
            record = self._records.get(id.decode())
            yield None if record is None else record[1]

    def dead_delete(
        self,
        ids: Sequence[bytes],
        died: Mapping[bytes, float] = NO_MOMENTS,
        note: Callable[[str], object] = str,
    ) -> int:
        fates = "".join("d" if self._take_record(id, died) else "g" for id in ids)
        note(fates)
        return fates.count("d")

    def revive(
        self,
        ids: Sequence[bytes],
        dry_run: bool = False,
        died: Mapping[bytes, float] = NO_MOMENTS,
        note: Callable[[str], object] = str,
    ) -> str:
        fates, revived = "", []
        for id in ids:
            name = id.decode()
            if name in self.present:
                fates += "p"
            elif not (record := self._take_record(id, died, dry_run)):
                fates += "g"
            else:
                fates += "r"
                if not dry_run:
                    entry = Entry(name, _fresh(record.split(b"\n", 3)[3], self.now), self.now)
                    self.present[name] = entry
                    revived.append(entry)
        note(fates)
        self._on_push(revived)
        return fates

    # A run's begin and end

    def begin(self, entry: Entry) -> Delivery | None:
        """It is run now, or when it is due; None: it has ended, or had expired by then."""
        with self._lock:
            if self.present.get(entry.id) is not entry:
                return None
            at = self.moment_of(entry)
            if 0 < entry.expires <= at:
                self._end(entry, _EXPIRED, _ttl(entry.envelope))
                return None
            entry.started, entry.held = True, False
            self._sequence += 1
            return Delivery(entry.id, self._sequence, _WORKER, entry.envelope, at / 1000)

    def settle_one(self, entry: Entry, outcome: Outcome) -> Outcome:
        """As settle.lua; returns what counts."""
        with self._lock:
            at = self.moment_of(entry)
            entry.started = False
            if entry.called_off and outcome.kind != "done":
                outcome = Outcome("cancelled", CANCELLED, _ttl(entry.envelope))
            match outcome.kind:
                case "done" | "cancelled":
                    self._end(entry, outcome.result, outcome.result_ttl)
                case "dead":
                    # Now, whenever it was due: else it would have died in a time to come.
                    told = f"{self.now} {outcome.reason} {_WORKER} 0\n{_WORKER}\n".encode()
                    self._records[entry.id] = (
                        self.now,
                        told + outcome.result + b"\n" + entry.envelope,
                    )
                    self._end(entry, outcome.result, outcome.result_ttl)
                case "retry" | "later":
                    entry.envelope = outcome.envelope
                    entry.due = at + round(outcome.delay * 1000)
                    entry.held = outcome.kind == "later"
                case "throttled":
                    # Limits are the server's: here only this message waits.
                    entry.due, entry.held = at + round(throttled_for(outcome) * 1000), True
            return outcome

    def end(self, entry: Entry, result: bytes) -> None:
        """It ends where it waits, with this result."""
        with self._lock:
            self._end(entry, result, _ttl(entry.envelope))

    def moment_of(self, entry: Entry) -> int:
        """When it runs (ms): now, or at its time if nobody waits for that."""
        return max(self.now, entry.due)

    def waiting(self) -> list[Entry]:
        """What waits for its time, the earliest first."""
        with self._lock:
            waiting = [
                entry
                for entry in self.present.values()
                if not entry.started and (entry.held or entry.due > self.now)
            ]
        return sorted(waiting, key=lambda entry: entry.due)

    def _push(self, *fields: Any) -> Entry | None:
        id, _queue, priority, due, expires, tail = fields
        if id in self.present:
            return None
        head = f"1 0 0 {priority} {self.now} {max(1, self._moment(expires)) if expires else 0} "
        entry = Entry(id, head.encode() + tail, self._moment(due) if due else self.now)
        # An id that is sent again begins anew.
        self._results.pop(id, None)
        self._records.pop(id, None)
        self.present[id] = entry
        return entry

    def _moment(self, spec: str) -> int:
        return self.now + int(spec[1:]) if spec.startswith("+") else int(spec)

    def _end(self, entry: Entry, result: bytes, ttl: float) -> None:
        """Every end of a message: what it holds besides is given back here."""
        del self.present[entry.id]
        if ttl > 0:
            self._results[entry.id] = result

    def _cancel(self, id: str, dry_run: bool) -> str:
        """A letter as cancel.lua's. What runs is not interrupted here: it does not run again."""
        entry = self.present.get(id)
        if entry is None:
            return "e" if id in self._results or id in self._records else "u"
        if not entry.started and 0 < entry.expires <= self.now:
            return "e"
        if entry.started:
            entry.called_off = entry.called_off or not dry_run
            return "r"
        if not dry_run:
            self._end(entry, CANCELLED, _ttl(entry.envelope))
        return "c"

    def _take_record(
        self, id: bytes, died: Mapping[bytes, float], look_only: bool = False
    ) -> bytes | None:
        name = id.decode()
        at, record = self._records.get(name, (0, None))
        if record is None or (id in died and round(died[id] * 1000) != at):
            return None
        if not look_only:
            del self._records[name]
        return record


class MemoryControl(Control):
    """People's hands on a Memory: of all that they do, cancelling is for tests."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(NoServer(), memory.namespace)
        self._memory = memory

    def mark(self, mark: str) -> Marked:
        hit = [entry.id for entry in self._memory.marked(mark)]
        self._memory.cancel(hit)
        return Marked(self._memory.time())

    def count_marked(self, mark: str) -> Marked:
        started = [entry.started for entry in self._memory.marked(mark)]
        return Marked(self._memory.time(), started.count(False), started.count(True))


class NoServer:
    """The link of an app that is tested without one."""

    def run(
        self, script: Script, key: str, *args: bytes | str | int, patience: float | None = None
    ) -> Any:
        self._refuse(script.name)

    def execute(self, *command: bytes | str | int) -> NoReturn:
        self._refuse(str(command[0]))

    def close(self) -> None:
        """There is nothing to close."""

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            f"app.testing() has no server, which this needs ({what}): see greenworker.testing.clock() "
            "for tests with one"
        )


def throttled_for(outcome: Outcome) -> float:
    """For how many seconds what was throttled waits here."""
    return UNTOLD if outcome.delay < 0 else min(outcome.delay, LONGEST_HELD)


def new_push_id() -> str:
    return os.urandom(12).hex()


def _ended(result: bytes) -> Sighting:
    # The state is the first member of every result.
    return Sighting(State(result[10 : result.index(b'"', 10)].decode()), result)


def _ttl(envelope: bytes) -> float:
    return int(envelope.split(b" ", 7)[6]) / 1000


def _fresh(envelope: bytes, now: int) -> bytes:
    """As revive.lua has it: without attempts, notes and an expiry that has passed."""
    line, _, body = envelope.partition(b"\n")
    _, _, _, priority, sent, expires, *rest = line.split(b" ")
    if 0 < int(expires) <= now:
        span = int(expires) - int(sent)
        expires = b"%d" % (now + span) if span > 0 else b"0"
    rest = [part for part in rest if not part.startswith((b"unknown=", b"last="))]
    return b" ".join((b"1 0 0", priority, sent, expires, *rest)) + b"\n" + body
