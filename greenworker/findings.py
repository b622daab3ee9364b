"""Findings: what an audit has found to be wrong, each in one line that says the mend.

The mends are commands for redis-cli, on the keys of the namespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from greenworker.probe import FOREIGN
from greenworker.status import WorkerStatus

# I13: what came is what went and what is present.
CAME = ("enqueued", "foreign", "revived")
WENT = ("done", "dead", "expired", "purged", "cancelled", "replaced")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    `kind` is one word for programs, `where` a key without its root, `name` an id or a worker.
    """

    kind: str
    where: str
    name: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit has found.

    `more` findings or suspicions like those listed were not looked into; `notes` are no faults.
    """

    messages: int
    workers: list[WorkerStatus]
    corpses: list[WorkerStatus]
    findings: list[Finding] = field(default_factory=list)
    more: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return not self.findings and not self.more

    @property
    def summary(self) -> str:
        """One line: how much there is, and whether all is well."""
        size = f"{count(self.messages, 'message')}, {count(len(self.workers), 'worker')}"
        if self.well:
            return f"{size}: all is well"
        beyond = f", and up to {self.more:,} more" if self.more else ""
        return f"{size}: {count(len(self.findings), 'finding')}{beyond}"


class Wording:
    """Findings in words, about the keys below `root`."""

    def __init__(self, root: str) -> None:
        self._root = root

    def mistyped(self, key: str, kind: str, wanted: str) -> Finding:
        full = self._root + key
        text = (
            f"{key} is a {kind}, not a {wanted}: whatever needs it is refused; "
            f"RENAME {full} away:{full}"
        )
        return Finding("mistyped", key, "", text)

    def nowhere(self, id: str, home: str) -> Finding:
        if home:
            mend = self._mend("LPUSH", self._root + home, id)
        else:
            mend = self._mend("HDEL", self._root + "msg", id)
        text = f"message {id} is in no list: it will never run; {mend}"
        return Finding("nowhere", "msg", id, text)

    def twice(self, id: str, home: str, places: Sequence[str]) -> Finding:
        *others, last = places
        where = f"twice in {last}" if set(others) == {last} else f"in {' and '.join(places)}"
        # Whoever runs it goes on, and what is where it belongs stays.
        waiting = [place for place in places if not place.startswith("processing:")]
        extra = min(waiting, key=lambda place: place == home, default=last)
        text = f"message {id} is {where}: it may run twice; {self._remove(extra, id)}"
        return Finding("twice", extra, id, text)

    def missing(self, place: str, id: str, _: str = "") -> Finding:
        if place.startswith("processing:"):
            end = "it goes with its worker"
        else:
            end = "it ends as a dead letter"
        text = f"{place} holds {id}, which is no message: {end}; {self._remove(place, id)}"
        return Finding("missing", place, id, text)

    def misplaced(self, place: str, id: str, home: str) -> Finding:
        text = (
            f"message {id} is in {place}, but its envelope says {home}: whoever works there runs it"
        )
        return Finding("misplaced", place, id, text)

    def unreadable(self, place: str, id: str, _: str = "") -> Finding:
        text = (
            f"the envelope of message {id} cannot be read: whoever claims it makes it a dead letter; "
            f"{self._mend('HGET', self._root + place, id)}"
        )
        return Finding("unreadable", place, id, text)

    def ownerless(self, key: str, worker: str, size: str) -> Finding:
        if key.startswith("processing:"):
            text = (
                f"{key} holds {count(int(size), 'message')} of a worker that nobody knows: none of them "
                f"will run again; {self._mend('SADD', self._root + 'corpses', worker)}"
            )
        else:
            text = (
                f"{key} is of a worker that nobody knows: it stays for ever; DEL {self._root}{key}"
            )
        return Finding("ownerless", key, worker, text)

    def stranger(self, key: str, worker: str, _: str = "") -> Finding:
        if key.startswith("consumers:"):
            text = (
                f"{key} names {worker}, which is no worker: each claim there takes too small a share; "
                f"{self._mend('SREM', self._root + key, worker)}"
            )
        else:
            text = (
                f"{key} names {worker}, which is no worker: it stays for ever; "
                f"{self._mend('HDEL', self._root + key, worker)}"
            )
        return Finding("stranger", key, worker, text)

    def unnumbered(self, key: str, worker: str, _: str = "") -> Finding:
        harm = "it may claim nothing" if key == "seq" else "sweeps cannot tell its lease"
        text = (
            f"what {key} says of worker {worker} is no positive number: {harm}; "
            f"{self._mend('HDEL', self._root + key, worker)}"
        )
        return Finding("unnumbered", key, worker, text)

    def unheld(self, key: str, id: str, _: str = "") -> Finding:
        text = (
            f"{key} names {id}, which that worker does not hold: it runs fewer suspects than it may; "
            f"{self._mend('ZREM', self._root + key, id)}"
        )
        return Finding("unheld", key, id, text)

    def unrecorded(self, key: str, id: str, _: str = "") -> Finding:
        mend = self._mend("ZREM", self._root + "dead", id)
        text = f"dead letter {id} has no record: nobody can read it; {mend}"
        return Finding("unrecorded", key, id, text)

    def undated(self, key: str, id: str, _: str = "") -> Finding:
        text = (
            f"dead letter {id} has a record, but no date: it is never dropped; "
            f"{self._mend('HDEL', self._root + 'dead:record', id)}"
        )
        return Finding("undated", key, id, text)

    def undead(self, key: str, id: str, _: str = "") -> Finding:
        text = (
            f"message {id} is a dead letter as well: it may run though it is given up; "
            f"{self._mend('ZREM', self._root + 'dead', id)}"
        )
        return Finding("undead", key, id, text)

    def abandoned(self, key: str, lock: str, holder: str) -> Finding:
        text = (
            f"lock {lock} is held by {holder}, which does not hold it: it stays until one like it is sent; "
            f"{self._mend('HDEL', self._root + key, lock)}"
        )
        return Finding("abandoned", key, lock, text)

    def unknown_filter(self, key: str, name: str, _: str = "") -> Finding:
        text = (
            f"what {key} says of the filter {name} cannot be read: it has seen nothing; "
            f"{self._mend('HDEL', self._root + key, name)}"
        )
        return Finding("unknown", key, name, text)

    # Of keys, which limits go by

    def unvisited(self, place: str, key: str, _: str = "") -> Finding:
        text = f"nobody would come to {place}: nothing of it is ever handed out; {self._find(key)}"
        return Finding("unvisited", place, key, text)

    def garbled(self, place: str, key: str, _: str = "") -> Finding:
        text = (
            f"what {place} says of {unquote(key)} cannot be read: its delay, rate and throttles are forgotten; "
            f"{self._find(key)}"
        )
        return Finding("garbled", place, key, text)

    def unturned(self, _: str, key: str, turn: str) -> Finding:
        text = f"{unquote(key)} should be in {turn} and is not: what it has there is not handed out; {self._find(key)}"
        return Finding("unturned", turn, key, text)

    def overturned(self, _: str, key: str, turn: str) -> Finding:
        text = f"{unquote(key)} is in {turn} more than once: it gets more turns than others; {self._find(key)}"
        return Finding("overturned", turn, key, text)

    def unnoted(self, turn: str, key: str, _: str = "") -> Finding:
        text = f"{unquote(key)} is in {turn}, and nothing is known of that: purges do not see what it has there; {self._find(key)}"
        return Finding("unnoted", turn, key, text)

    def stuck(self, place: str, key: str, at: str) -> Finding:
        priority, _, queue = at.partition(":")
        text = (
            f"{unquote(key)} is parked in {queue} at priority {priority} and nothing would fetch it: what it has there is not "
            f"handed out; {self._find(key)}"
        )
        return Finding("stuck", place, key, text)

    def unpaired(self, place: str, pair: str, _: str = "") -> Finding:
        text = f"what {place} says of {unquote(pair)} cannot be read: what it has may not be handed out; the next sweeps mend it"
        return Finding("unpaired", place, pair, text)

    def kept(self, place: str, key: str, _: str = "") -> Finding:
        text = (
            f"nothing waits for {unquote(key)} or runs, and {place} would keep it for ever; "
            f"{self._mend('ZADD', self._root + 'idle', '0', key)}"
        )
        return Finding("kept", place, key, text)

    def leaked(self, held: str, id: str, _: str = "") -> Finding:
        text = (
            f"{held} has a permit of {id}, which nobody runs: one less may run; "
            f"{self._mend('SREM', self._root + held, id)}, then {self._find(held.partition(':')[2])}"
        )
        return Finding("leaked", held, id, text)

    def unpermitted(self, place: str, id: str, key: str) -> Finding:
        text = (
            f"{place} holds {id} without a permit of {unquote(key)}: until it ends one more may run; "
            f"{self._mend('SADD', self._root + 'held:' + key, id)}"
        )
        return Finding("unpermitted", place, id, text)

    def uncounted(self, key: str, queue: str, _: str = "") -> Finding:
        text = (
            f"what {key} says of queue {queue} is no positive number: its lines may be passed over, and shares are wrong; "
            f"{self._mend('HSET', self._root + key, queue, '1')}, until a sweep has counted"
        )
        return Finding("uncounted", key, queue, text)

    def miscounted(self, key: str, queue: str, numbers: str) -> Finding:
        said, right = numbers.split(" ")
        text = (
            f"{key} says that {said} wait in lines of queue {queue}, and there are {right}: those may be passed over; "
            f"{self._mend('HSET', self._root + key, queue, right)}"
        )
        return Finding("miscounted", key, queue, text)

    def unlimited(self, key: str, pattern: str, _: str = "") -> Finding:
        text = (
            f"what {key} says of {unquote(pattern)} cannot be read, or is not in order: it limits nothing; "
            f"{self._mend('HDEL', self._root + key, pattern)}, and set it again"
        )
        return Finding("unlimited", key, pattern, text)

    def uncovered(self, key: str, pattern: str, _: str = "") -> Finding:
        text = (
            f"{key} has what code declares of {unquote(pattern)}, and people have set nothing above it: it limits nothing "
            f"until a sweep has seen to it; {self._mend('HDEL', self._root + key, pattern)}"
        )
        return Finding("uncovered", key, pattern, text)

    def _find(self, key: str) -> str:
        """Have its lines be found (lines.lua, look_at_due)."""
        return self._mend("ZADD", self._root + "later", "0", key)

    def totals(self, messages: int, places: int) -> Finding:
        text = (
            f"there are {count(messages, 'message')}, but {count(places, 'entry', 'entries')} in all lists "
            "together: some are lost, or would run twice"
        )
        return Finding("totals", "msg", "", text)

    def counter(self, name: str, value: str) -> Finding:
        text = f"counter {name} holds {value!r:.40}: every script that counts is refused; HDEL {self._root}stats {name}"
        return Finding("counter", "stats", name, text)

    def counters(self, came: int, went: int, messages: int) -> Finding:
        text = (
            f"the counters are off by {came - went - messages:+,}: {came:,} came ({', '.join(CAME)}), "
            f"{went:,} went ({', '.join(WENT)}) and {messages:,} are present: somebody changed the data by hand, "
            "or part of it is gone"
        )
        return Finding("counters", "stats", "", text)

    def _remove(self, place: str, id: str) -> str:
        key = self._root + place
        if place == "scheduled":
            return self._mend("ZREM", key, id)
        if place.startswith("processing:"):
            return self._mend("HDEL", key, id)
        return self._mend("LREM", key, "1", id)

    def _mend(self, *command: str) -> str:
        if any(word.startswith(FOREIGN) for word in command):
            return "its real name is none that greenworker gives, and not shown"
        return " ".join(command)


def count(number: int, one: str, many: str = "") -> str:
    """1 message, 2 messages."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
