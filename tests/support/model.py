"""The scripts' promises in plain Python: what a namespace holds after each step.

Written from docs/design.md, with nothing of Redis in it. Where the scripts are free (which corpse
a reaper takes, the order of a large hash) the model takes over what was `seen` if it is allowed.
Moments are ms of a clock that the test moves.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from greenworker.message import Message, Moment, Outcome, encode_tail
from tests.support.model_cancel import is_hit
from tests.support.model_claim import ClaimRun
from tests.support.model_once import Locks, lock_of, was_replaced
from tests.support.model_parts import CANCELLED, EXPIRED, Bounds, Letter, State, failure

JITTER = 500  # ms over which a reaper spreads what it returns
HALF = 0.5  # ms: the mark of what came back from a dead worker


class Refused(Exception):
    """`gone` or `stale`."""


class Model:
    """A namespace. A line of ids has the next one in front."""

    def __init__(self, bounds: Bounds, now: int, ordered: bool) -> None:
        self.bounds = bounds
        self.now = now
        self.ordered = ordered  # the server keeps the order of a hash
        self.msg: dict[str, Letter] = {}
        self.planted: dict[str, str | None] = {}  # ids that no push made, and their envelopes
        self.ready: dict[tuple[str, int], list[str]] = defaultdict(list)
        self.suspects: dict[str, list[str]] = defaultdict(list)
        self.wake: set[str] = set()
        self.scheduled: dict[str, float] = {}
        self.workers: dict[str, int] = {}
        self.corpses: set[str] = set()
        self.processing: dict[str, dict[str, int]] = defaultdict(dict)
        self.suspected: dict[str, dict[str, int]] = defaultdict(dict)  # and since when
        self.seq: dict[str, int] = {}
        self.about: dict[str, str] = {}
        self.leases: dict[str, int] = {}
        self.queues: set[str] = set()
        self.paused: set[str] = set()
        self.marks: dict[str, tuple[int, int]] = {}  # until when each counts; the pass it needs
        self.passing = ""  # how far a pass is: its number, a cursor, …
        self.cancels: dict[str, dict[str, int]] = defaultdict(dict)
        self.consumers: dict[str, set[str]] = defaultdict(set)
        self.results: dict[str, tuple[str, int]] = {}  # and until when
        self.dead: dict[str, int] = {}
        self.records: dict[str, tuple[str, str, str, str]] = {}  # front, name, result, envelope
        self.pushes: dict[str, int] = {}  # until when
        self.stats: Counter[str] = Counter()
        self.solitary: dict[str, str] = {}
        self.room: dict[
            str, tuple[int, int]
        ] = {}  # since when a solitary one waits; until when that is known
        self.blamed: dict[str, set[str]] = {}  # what a corpse's death is charged to
        self.locks = Locks(self)
        self.sweep: int | None = None
        self.pulse: int | None = None

    def state(self) -> State:
        """As the server has it, key by key; see Clockwork.state."""
        everything: dict[str, Any] = {
            "msg": {id: str(letter) for id, letter in self.msg.items()}
            | {id: text for id, text in self.planted.items() if text is not None},
            "scheduled": self.scheduled,
            "workers": self.workers,
            "corpses": self.corpses,
            "seq": _texts(self.seq),
            "about": self.about,
            "leases": _texts(self.leases),
            "queues": self.queues,
            "paused": self.paused | ({"*"} if self.marks else set()),
            "marks": {mark: f"{ms} {number}" for mark, (ms, number) in self.marks.items()}
            | ({"pass": self.passing} if self.passing else {}),
            "dead": self.dead,
            "dead:record": self.records,
            "stats": _texts(self.stats),
            "sweep": self.sweep and str(self.sweep),
            "pulse": self.pulse and str(self.pulse),
            **{f"room:{queue}": str(since) for queue, (since, _) in self.room.items()},
            **{f"solitary:{worker}": id for worker, id in self.solitary.items()},
            **{f"ready:{queue}:{level}": line for (queue, level), line in self.ready.items()},
            **{f"suspects:{queue}": line for queue, line in self.suspects.items()},
            **{f"wake:{queue}": ["1"] for queue in self.wake},
            **{f"processing:{worker}": _texts(held) for worker, held in self.processing.items()},
            **{f"cancels:{worker}": _texts(ids) for worker, ids in self.cancels.items()},
            **{f"suspected:{worker}": ids for worker, ids in self.suspected.items()},
            **{f"consumers:{queue}": names for queue, names in self.consumers.items()},
            **{f"result:{id}": result for id, (result, _) in self.results.items()},
            **{f"push:{push_id}": self._answer(push_id) for push_id in self.pushes},
            "unique": self.locks.held,
            **{
                f"unique:{name}": f"{id} {until}"
                for name, (id, until) in self.locks.windows.items()
            },
        }
        return {key: value for key, value in everything.items() if value}

    def _answer(self, push_id: str) -> str:
        fates, firsts = self.locks.answers.get(push_id, ("", []))
        return f"{fates} {' '.join(firsts)}" if fates else "1"

    def pass_time(self, ms: int) -> list[str]:
        """The keys whose life has ended by then."""
        self.now += ms
        results = [id for id, (_, until) in self.results.items() if until <= self.now]
        pushes = [push_id for push_id, until in self.pushes.items() if until <= self.now]
        for id in results:
            del self.results[id]
        for push_id in pushes:
            del self.pushes[push_id]
        rooms = [queue for queue, (_, until) in self.room.items() if until <= self.now]
        for queue in rooms:
            del self.room[queue]
        windows = [name for name, (_, until) in self.locks.windows.items() if until <= self.now]
        for name in windows:
            del self.locks.windows[name]
        families = (("result", results), ("push", pushes), ("room", rooms), ("unique", windows))
        return [f"{family}:{name}" for family, names in families for name in names]

    # Sending

    def push(self, push_id: str, messages: Sequence[Message]) -> int:
        if push_id in self.pushes:
            return -1
        self.pushes[push_id] = self.now + 300_000
        new = 0
        for message in messages:
            if message.id not in self.msg or self.makes_way(message.id):
                new += 1
                self.send(message, None)
        return new

    def due(self, message: Message) -> int:
        return self._moment(message.due, self.now)

    def send(self, message: Message, place: int | None) -> None:
        """What is not present, or makes way; at the end of its line, or at a place in it."""
        due = self.due(message)
        line, lies_there = self.ready[message.queue, message.priority], False
        if message.id in self.msg:
            lies_there = message.id in line and due <= self.now
            if not lies_there:
                self._take_away(message.id)
            self.locks.free(message.id, self.msg[message.id])
            self.count("replaced" if was_replaced(self.msg[message.id]) else "cancelled")
        expires = max(2, self._moment(message.expires, 0)) if message.expires is not None else 0
        ttl, queue, rest = encode_tail(message).decode().split(" ", 2)
        self.msg[message.id] = Letter(
            0, 0, message.priority, self.now, expires, int(ttl), queue, rest
        )
        self.results.pop(message.id, None)
        if self.records.pop(message.id, None) is not None:
            del self.dead[message.id]
        self.queues.add(queue)
        if due > self.now:
            self.scheduled[message.id] = due
        else:
            if not lies_there:
                line.insert(len(line) if place is None else place, message.id)
            self.put_tokens(queue)
        self.count("enqueued")

    # Claims and leases

    def register(self, worker: str, lease: int, about: str, queues: Iterable[str]) -> bool:
        if worker in self.corpses:
            return False
        self.workers[worker] = self.now + lease
        self.about[worker] = about
        self.leases[worker] = lease
        for queue in queues:
            self.consumers[queue].add(worker)
            self.queues.add(queue)
        return True

    def listen(self, worker: str, listens: bool, queues: Iterable[str]) -> bool:
        if worker not in self.workers:
            return False
        for queue in queues:
            if listens:
                self.consumers[queue].add(worker)
                self.queues.add(queue)
            elif worker in self.consumers[queue]:
                self._stop_listening(queue, worker)
        return True

    def beat(self, worker: str, lease: int) -> bool:
        if worker not in self.workers:
            return False
        self._heard(lease, lease * 2 / 3)
        self.workers[worker] = self.now + lease
        return True

    def _heard(self, lease: int, quiet: float) -> bool:
        """Whether nobody had been heard of for too long: then all leases are lengthened."""
        last, self.pulse = self.pulse or 0, self.now
        if self.now - last <= quiet * min([lease, *self.leases.values()]) / lease:
            return False
        for worker, end in self.workers.items():
            self.workers[worker] = max(end, self.now + self.leases[worker])
        return True

    def claim(
        self, worker: str, seq: int, most: int, queues: Sequence[str]
    ) -> tuple[list[tuple[str, int, str]], int | None, bool]:
        """What was claimed, the ms until the next is due, and whether more waits."""
        if worker not in self.workers:
            raise Refused("gone")
        if seq <= self.seq.get(worker, 0):
            raise Refused("stale")
        self.seq[worker] = seq
        run = ClaimRun(self, worker, most)
        queues = [queue for queue in queues if queue not in self.paused]
        lengths = {queue: len(self.waiting(queue)) for queue in queues}
        more = False
        shares = {
            queue: self._share(worker, queue, length) for queue, length in lengths.items() if length
        }
        makes_room = run.makes_room_for_one(queues)
        if makes_room:
            more = True
            self.put_tokens(*(queue for queue, length in lengths.items() if length))
        for queue in [] if makes_room else queues:
            run.take_suspects(queue)
            left_out = run.room <= 0 and self.suspects[queue]
            if lengths[queue]:
                run.take_ready(queue, shares[queue])
            if left_out or self.waiting(queue):
                more = True
                self.put_tokens(queue)
        self.processing[worker].update(dict.fromkeys(run.held, seq))
        due = min(self.scheduled.values(), default=None)
        return (
            [(id, seq, str(self.msg[id])) for id in run.held],
            None if due is None else max(0, int(due) - self.now),
            more,
        )

    def sync(self, worker: str, known: int, used: int) -> list[tuple[str, int, str]]:
        if worker not in self.workers:
            raise Refused("gone")
        if self.seq.get(worker, 0) < used:
            self.seq[worker] = used
        held = self.processing[worker].items()
        return [(id, seq, str(self.msg[id])) for id, seq in held if seq > known]

    def settle(self, worker: str, outcomes: Sequence[tuple[str, int, Outcome]]) -> list[bool]:
        replies, cleared = [], False
        for id, seq, outcome in outcomes:
            mine = worker in self.workers and self.processing[worker].get(id) == seq
            replies.append(mine)
            if not mine:
                continue
            del self.processing[worker][id]
            ttl, delay = round(outcome.result_ttl * 1000), round(outcome.delay * 1000)
            match outcome.kind:
                case "done":
                    self.finish(id, "done", ttl, outcome.result.decode())
                case "dead":
                    letter = str(self.msg[id])
                    self.bury(id, ttl, outcome.result.decode(), outcome.reason, worker, letter)
                case "cancelled":
                    self.finish(id, "cancelled", ttl, outcome.result.decode())
                case _ if self.msg[id].expires == 1:
                    self.finish(id, "cancelled", self.msg[id].ttl, CANCELLED)
                case "retry" | "later":
                    self.msg[id] = Letter.read(outcome.envelope.decode())
                    self.scheduled[id] = self.now + delay
                    self.count("retried", outcome.kind == "retry")
                case "release":
                    self._make_ready(id, in_front=True)
            cleared = cleared or id in self.suspected[worker]
            self.suspected[worker].pop(id, None)
            if self.solitary.get(worker) == id:
                del self.solitary[worker]
        if cleared:
            self.put_tokens(*(queue for queue, line in self.suspects.items() if line))
        return replies

    def release(self, worker: str, seen: State) -> None:
        """All goes back to the front, uncharged; the oldest is next in line."""
        back = list(self.processing.pop(worker, {}))
        lines: set[tuple[str, int | None]] = set()
        for id in reversed(back):
            lines.add(self._make_ready(id, in_front=True))
        if not self.ordered:
            for queue, level in lines:
                line = self.suspects[queue] if level is None else self.ready[queue, level]
                name = f"suspects:{queue}" if level is None else f"ready:{queue}:{level}"
                front = len([id for id in line if id in back])
                found = seen.get(name, [])[:front]
                if sorted(found) == sorted(line[:front]):
                    line[:front] = found
        self._depart(worker)

    # Chores

    def reap(
        self, lease: int, quiet: int, max_deliveries: int, gone: Sequence[str], seen: State
    ) -> tuple[bool, int, int, int, int]:
        found = sum(self._declare_dead(worker) for worker in gone)
        self.sweep = self.now
        if self._heard(lease, quiet):
            return True, found, 0, 0, len(self.corpses)
        over = [worker for worker, end in self.workers.items() if end <= self.now]
        found += sum(self._declare_dead(worker) for worker in over)
        returned = buried = 0
        if self.corpses:
            returned, buried = self._drain(*self._drained(seen), max_deliveries, seen)
        self._forget_dead(100)
        for queue in {queue for queue in self.queues if not self._is_used(queue)}:
            self.queues.remove(queue)
            self.wake.discard(queue)
        return False, found, returned, buried, len(self.corpses)

    def promote(self) -> tuple[int, int | None]:
        due = sorted((at, id) for id, at in self.scheduled.items() if at <= self.now)
        for at, id in due[: self.bounds.count]:
            del self.scheduled[id]
            if id in self.msg:
                suspect = self.msg[id].deliveries >= self.bounds.suspect_after
                self._make_ready(id, in_front=at % 1 == HALF and not suspect)
            else:  # planted: nobody can tell where it belongs
                self.ready["default", 5].append(id)
                self.queues.add("default")
                self.put_tokens("default")
        first = min(self.scheduled.values(), default=None)
        return (
            len(due[: self.bounds.count]),
            None if first is None else max(0, int(first - self.now)),
        )

    # Dead letters

    def revive(self, ids: Sequence[str], dry_run: bool) -> str:
        """The fate of each, in a letter; no id twice."""
        fates, taken = "", set[str]()
        for id in ids:
            if id not in self.records:
                fates += "g"
            elif id in self.msg:
                fates += "p"
            elif not self.records[id][3].startswith("1 "):
                fates += "u"
            elif (lock := lock_of(Letter.read(self.records[id][3]))[1]) and (
                lock in taken or self.locks.holder(lock)
            ):
                fates += "l"
            else:
                fates += "r"
                taken.add(lock)
                if not dry_run:
                    self._revive(id)
        return fates

    def _revive(self, id: str) -> None:
        letter = Letter.read(self.records[id][3])
        expires = letter.expires
        if expires and expires <= self.now:
            span = expires - letter.sent
            expires = self.now + span if span > 0 else 0
        sent = self.now if self.marks else letter.sent
        self.msg[id] = replace(letter, deliveries=0, attempt=0, expires=expires, sent=sent)
        if lock := lock_of(letter)[1]:
            self.locks.held[lock] = id
        self.results.pop(id, None)
        del self.dead[id], self.records[id]
        self.queues.add(letter.queue)
        self._make_ready(id, in_front=False)
        self.count("revived")

    def delete_dead(self, ids: Sequence[str]) -> int:
        known = [id for id in dict.fromkeys(ids) if id in self.records]
        for id in known:
            del self.dead[id], self.records[id]
        return len(known)

    # People

    def pause(self, queues: Sequence[str], pauses: bool) -> list[tuple[bool, bool]]:
        """Of each whether it was otherwise before, and whether anybody uses it."""
        told = []
        for queue in queues:
            changed = (queue in self.paused) is not pauses
            told.append((changed, queue in self.queues or bool(self.consumers[queue])))
            if pauses:
                self.paused.add(queue)
                self.room.pop(queue, None)
                self.wake.discard(queue)
            else:
                self.paused.discard(queue)
                if self.waiting(queue) or self.suspects[queue]:
                    self.put_tokens(queue)
        return told

    def purge(self, queue: str, most: int, before: int | None) -> tuple[int, int, int, int, bool]:
        """How many were purged, had expired, were cancelled, were none, and whether there are more."""
        run = ClaimRun(self, "purge", most, heeds_marks=False)
        counts = Counter(self.stats)
        before, more = self.now if before is None else before, False
        for line in (self.suspects[queue], *(self.ready[queue, n] for n in range(9, -1, -1))):
            while line and not more:
                letter = self.msg.get(line[0])
                if letter and letter.sent > before:
                    break
                if run.looked >= most:
                    more = True
                elif run.take(line):
                    id = run.held.pop()
                    self.finish(id, "purged", self.msg[id].ttl, CANCELLED)
                more = more or run.full
        self.room.pop(queue, None)
        names = ("purged", "expired", "cancelled", "foreign")
        purged, expired, cancelled, foreign = (self.stats[name] - counts[name] for name in names)
        return purged, expired, cancelled, foreign, more

    # Looking up

    def lookup(self, id: str) -> tuple[str | None, str | None, int, int | None, int | None]:
        """State, result, attempt, ms until due, ms until it expires."""
        letter = self.msg.get(id)
        if letter is None:
            known = self.results.get(id, self.records.get(id, ("", "", None))[2:])[0]
            state = re.match(r'\{"state":"(\w+)"', known)[1] if known else None  # type: ignore[index]
            return state, known, 0, None, None
        if any(id in held for held in self.processing.values()):
            return "STARTED", None, letter.attempt, None, None
        if was_replaced(letter):
            known = self.results.get(id, ("",))[0]
            return ("CANCELLED" if known else None), known or None, 0, None, None
        if self.is_cancelled(letter):
            return "CANCELLED", CANCELLED, 0, None, None
        left = letter.expires - self.now if letter.expires else None
        if left is not None and left <= 0:
            return "EXPIRED", EXPIRED, 0, None, None
        if id in self.scheduled and self.scheduled[id] % 1 != HALF:
            due = max(0, int(self.scheduled[id]) - self.now)
            return "RETRY" if letter.attempt else "SCHEDULED", None, letter.attempt, due, left
        return "PENDING", None, letter.attempt, None, left

    def is_cancelled(self, letter: Letter) -> bool:
        return letter.expires == 1 or is_hit(letter, self.marks)

    def is_held(self, id: str) -> bool:
        return any(id in held for held in self.processing.values())

    def makes_way(self, id: str) -> bool:
        """Whether a message that is present is not in the way of another one of its id."""
        return id in self.msg and self.is_cancelled(self.msg[id]) and not self.is_held(id)

    # Steps that several share

    def _take_away(self, id: str) -> None:
        self.scheduled.pop(id, None)
        for line in (*self.ready.values(), *self.suspects.values()):
            if id in line:
                line.remove(id)

    def _moment(self, moment: Moment | None, none: int) -> int:
        if moment is None:
            return none
        if isinstance(moment, (int, float)):
            return self.now + round(moment * 1000)
        return round(moment.timestamp() * 1000)

    def put_tokens(self, *queues: str) -> None:
        """Nobody is woken for what is paused."""
        self.wake |= set(queues) - self.paused

    def count(self, counter: str, by: int = 1) -> None:
        if by:
            self.stats[counter] += by

    def waiting(self, queue: str) -> list[str]:
        """All that is ready in a queue, the next one first."""
        return [id for level in range(9, -1, -1) for id in self.ready[queue, level]]

    def _make_ready(self, id: str, *, in_front: bool) -> tuple[str, int | None]:
        letter = self.msg[id]
        suspect = letter.deliveries >= self.bounds.suspect_after
        line = self.suspects[letter.queue] if suspect else self.ready[letter.queue, letter.priority]
        line.insert(0 if in_front else len(line), id)
        self.queues.add(letter.queue)
        self.put_tokens(letter.queue)
        return letter.queue, None if suspect else letter.priority

    def _is_used(self, queue: str) -> bool:
        waits = self.suspects[queue] or any(self.ready[queue, level] for level in range(10))
        return bool(self.consumers[queue] or waits)

    def _share(self, worker: str, queue: str, waiting: int) -> int:
        """What one worker may take of a queue: its part, or what evens out what all hold."""
        listeners = self.consumers[queue]
        if len(listeners) < 2:
            return waiting
        part = -(-waiting // len(listeners))
        if len(listeners) > self.bounds.spread_over:
            return part
        held = {one: len(self.processing.get(one, ())) for one in {*listeners, worker}}
        everything = waiting + sum(held[one] for one in listeners)
        even = -(-everything // len(listeners)) - held[worker]
        return max(part, even, 1)

    def finish(self, id: str, counter: str, ttl: int, result: str) -> None:
        letter = self.msg.pop(id, None)
        if letter:
            self.locks.free(id, letter)
        self.count(counter)
        if ttl > 0:
            self.results[id] = (result, self.now + ttl)

    def bury(self, id: str, ttl: int, result: str, reason: str, worker: str, envelope: str) -> None:
        self.finish(id, "dead", ttl, result)
        self.dead[id] = self.now
        name = orjson.loads(self.about[worker])["name"] if worker in self.about else "?"
        self.records[id] = (f"{self.now} {reason} {worker} 0", name, result, envelope)
        self._forget_dead(10)

    def _forget_dead(self, most: int) -> None:
        first = sorted(self.dead, key=lambda one: (self.dead[one], one))
        old = [one for one in first if self.dead[one] <= self.now - self.bounds.dead_for][:most]
        over = min(len(self.dead) - self.bounds.dead_most, most)
        for one in old or first[: max(0, over)]:
            del self.dead[one], self.records[one]

    def _declare_dead(self, worker: str) -> bool:
        if self.workers.pop(worker, None) is None:
            return False
        self.corpses.add(worker)
        # Of what it held at its death, however many sweeps it takes to return it.
        few = self.suspected[worker]
        alone = len(few) == 1 and all(self.crashes_of(id) >= self.bounds.alone_after for id in few)
        self.blamed[worker] = set(few if few and not alone else self.processing[worker])
        return True

    def _drained(self, seen: State) -> tuple[str, list[str]]:
        """Which corpse was taken, and what of it."""
        touched = {}
        for corpse in self.corpses:
            held, left = self.processing[corpse], seen.get(f"processing:{corpse}", {})
            taken = [id for id in held if id not in left]
            if taken or corpse not in seen.get("corpses", ()):
                touched[corpse] = taken
        assert len(touched) == 1, f"one corpse is drained at a time, not {touched}"
        ((corpse, taken),) = touched.items()
        held = self.processing[corpse]
        assert taken or not held, "a sweep takes some of what a corpse held"
        assert len(held) > self.bounds.count or len(taken) == len(held), "all that fits a call"
        return corpse, taken

    def _drain(
        self, corpse: str, taken: list[str], max_deliveries: int, seen: State
    ) -> tuple[int, int]:
        charged = self.blamed[corpse]
        returned = buried = 0
        moments = []
        for k, id in enumerate(taken):
            del self.processing[corpse][id]
            letter = self.msg[id]
            if id in charged:
                letter = replace(letter, deliveries=letter.deliveries + 1)
            if letter.expires == 1:
                self.finish(id, "cancelled", letter.ttl, CANCELLED)
                continue
            most = self.bounds.suspect_after + max_deliveries
            if self.solitary.get(corpse) == id and letter.deliveries >= most:
                told = f"the worker died {letter.deliveries} times while it ran"
                error = failure("WorkerCrashed", told)
                self.bury(id, letter.ttl, error, "poison", corpse, str(letter))
                buried += 1
                continue
            self.msg[id] = letter
            moment = self.now + (2 * k + 1) * 37 % JITTER + HALF
            if not self.ordered:
                moment = seen.get("scheduled", {}).get(id, 0)
            assert self.now <= moment < self.now + JITTER
            assert moment % 1 == HALF
            moments.append(moment)
            self.scheduled[id] = moment
            returned += 1
        assert len(set(moments)) == len(moments) or len(moments) > 100, (
            "each at a moment of its own"
        )
        self.count("reaped", returned)
        if not self.processing[corpse]:
            self._depart(corpse)
        return returned, buried

    def crashes_of(self, id: str) -> int:
        return self.msg[id].deliveries if id in self.msg else 0

    def _depart(self, worker: str) -> None:
        self.solitary.pop(worker, None)
        self.workers.pop(worker, None)
        self.corpses.discard(worker)
        self.about.pop(worker, None)
        self.leases.pop(worker, None)
        self.seq.pop(worker, None)
        self.suspected.pop(worker, None)
        self.cancels.pop(worker, None)
        for queue, names in self.consumers.items():
            if worker in names:
                self._stop_listening(queue, worker)

    def _stop_listening(self, queue: str, worker: str) -> None:
        self.consumers[queue].discard(worker)
        if self.waiting(queue):
            self.put_tokens(queue)


def _texts(numbers: Mapping[str, int]) -> dict[str, str]:
    return {name: str(number) for name, number in numbers.items()}
