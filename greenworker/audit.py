"""Audit: holds a live namespace against the promises, and says what is wrong.

A busy server never stands still, so what is seen in two looks proves nothing. Hence:

1. Whatever one script can see at one moment, it judges itself: an id in a list that is no
   message, a processing list of nobody, half a dead letter.
2. Whether each message is in exactly one place takes many looks: all messages first, then all
   places in the order in which messages pass them. What looks lost or doubled is a suspicion.
3. One script looks for the suspects everywhere at one moment, and only what holds is a finding.
4. Sizes and counters are read at one moment.

Everything is read in chunks. What is held in memory is one table of ids, some 160 bytes each, of
at most `at_once` messages; for more of them the second step is taken in several turns.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from zlib import crc32

from greenworker import keys
from greenworker.broker import MAX_COUNT
from greenworker.errors import ConfigError
from greenworker.findings import CAME, WENT, Finding, Report, Wording, count
from greenworker.probe import Probe, Sight, Totals, Wrong, printable, shown
from greenworker.status import is_number

AT_ONCE = 500_000  # ids in memory, some 80 MB
QUIET = 60.0  # seconds without a sweep after which nobody sweeps; longer with longer leases

# The type of each key: by its whole name, or by its name up to the colon.
_TYPES = {
    "msg": "hash", "scheduled": "zset", "workers": "zset", "corpses": "set", "seq": "hash",
    "about": "hash", "leases": "hash", "queues": "set", "dead": "zset", "dead:record": "hash", "stats": "hash",
    "sweep": "string", "pulse": "string", "paused": "set", "asked": "string", "schedules": "hash",
    "unique": "hash", "seen": "hash", "seen:dropped": "hash",
    "marks": "hash",
    "limits": "hash", "limits:by": "hash", "limits:under": "hash", "keys": "hash", "keyed": "hash", "pairs": "hash", "later": "zset", "idle": "zset",
}  # fmt: skip
_TYPES_BELOW = {
    "ready": "list", "suspects": "list", "wake": "list", "processing": "hash", "suspected": "zset", "solitary": "string",
    "room": "string", "consumers": "set", "running": "string", "result": "string", "push": "string",
    "unique": "string", "seen": "set",
    "cancels": "hash",
    "line": "list", "pairs": "list", "turn": "list", "held": "set",
}  # fmt: skip
# What audit_scan.lua tells, in words.
_JUDGED: dict[str, Callable[..., Finding]] = {
    "missing": Wording.missing,
    "misplaced": Wording.misplaced,
    "unreadable": Wording.unreadable,
    "ownerless": Wording.ownerless,
    "stranger": Wording.stranger,
    "unnumbered": Wording.unnumbered,
    "unheld": Wording.unheld,
    "unrecorded": Wording.unrecorded,
    "undated": Wording.undated,
    "undead": Wording.undead,
    "abandoned": Wording.abandoned,
    "unknown": Wording.unknown_filter,
    "unpermitted": Wording.unpermitted,
    "leaked": Wording.leaked,
    "unvisited": Wording.unvisited,
    "garbled": Wording.garbled,
    "unturned": Wording.unturned,
    "overturned": Wording.overturned,
    "unnoted": Wording.unnoted,
    "stuck": Wording.stuck,
    "unpaired": Wording.unpaired,
    "kept": Wording.kept,
    "uncounted": Wording.uncounted,
    "miscounted": Wording.miscounted,
    "unlimited": Wording.unlimited,
    "uncovered": Wording.uncovered,
}


class Audit:
    """One look at a namespace. Per kind at most `limit` findings are listed, and looked for:
    1 or more, else ConfigError."""

    def __init__(self, probe: Probe, limit: int = 100, at_once: int = AT_ONCE) -> None:
        if not isinstance(limit, int) or limit < 1:
            raise ConfigError(f"limit={limit!r}: give a whole number from 1 on")
        self._probe = probe
        self._say = Wording(probe.root)
        self._limit = limit
        self._at_once = at_once
        self._findings: dict[Finding, None] = {}
        self._kinds: Counter[str] = Counter()
        self._more = 0
        self._names: dict[str, list[str]] = {}  # keys, by their names up to the colon

    def run(self) -> Report:
        """Audit once; raises BrokerUnavailable or BrokerError."""
        if not self._check_types():
            return Report(0, [], [], list(self._findings), self._more)
        turns = max(1, -(-self._probe.totals().messages // self._at_once))
        for turn in range(turns):
            self._check_places(turn, turns)
        self._check_workers()
        self._check_keys()
        self._check_dead()
        self._scan("locks", "unique")
        self._scan("filters", "seen")
        totals = self._check_totals()
        return Report(
            totals.messages,
            totals.workers,
            totals.corpses,
            list(self._findings),
            self._more,
            list(_notes(totals)),
        )

    def _check_types(self) -> bool:
        """Whether the keys that all else relies on are of their types; takes down the names."""
        rest_can_be_read = True
        names: dict[str, dict[str, None]] = {}
        for key, kind in self._probe.types():
            prefix = key.partition(":")[0]
            names.setdefault(prefix, {})[key] = None
            wanted = _TYPES.get(key) or _TYPES_BELOW.get(prefix)
            if wanted and kind != wanted:
                self._add(self._say.mistyped(key, kind, wanted))
                rest_can_be_read &= key not in _TYPES
        self._names = {prefix: list(found) for prefix, found in names.items()}
        return rest_can_be_read

    # Each id in exactly one place

    def _check_places(self, turn: int, turns: int) -> None:
        """Audit the messages of one turn; what is wrong at one moment is told in the first."""
        seen: dict[bytes, int] = {}  # id → which of the sights, 0: none
        sights = [Sight("", 0)]
        doubled: dict[bytes, dict[str, int]] = {}  # id → each place once, with the least index
        for chunk in self._probe.scan("names" if turn else "messages", "msg"):
            self._judge("msg", chunk.wrong)
            seen |= dict.fromkeys((id for id in chunk.names if crc32(id) % turns == turn), 0)
        for place in self._places():
            for start, names, wrong in self._ids("names" if turn else "place", place):
                self._judge(place, wrong)
                sights.append(Sight(place, start))
                number = len(sights) - 1  # one int for the whole chunk
                for id in names:
                    first = seen.get(id)
                    if first == 0:
                        seen[id] = number
                    elif first is not None:
                        before = sights[first]
                        # A scan of a hash or zset may show an entry more than once.
                        if before.place != place or _is_list(place):
                            places = doubled.setdefault(id, {before.place: before.since})
                            places[place] = min(start, places.get(place, start))
        doubts = [(id, [Sight(*one) for one in places.items()]) for id, places in doubled.items()]
        self._confirm("twice", doubts)
        self._confirm("nowhere", [(id, ()) for id, first in seen.items() if not first])

    def _places(self) -> Iterator[str]:
        """Every place where ids can be, in the order in which messages pass them."""
        yield "scheduled"
        lists = dict.fromkeys(self._names.get("ready", []) + self._names.get("suspects", []))
        queues = [
            printable(name) for chunk in self._probe.scan("names", "queues") for name in chunk.names
        ]
        for queue in dict.fromkeys([*queues, "default"]):
            lists |= dict.fromkeys(keys.ready("", queue, priority) for priority in keys.PRIORITIES)
            lists[keys.suspects("", queue)] = None
        for line in self._names.get("line", []):
            lists[line] = None
        # Those that came meanwhile.
        for key in ("keys", "pairs"):
            for noted, _ in self._probe.keyed("lines", key):
                lists |= dict.fromkeys(noted)
        yield from lists
        now = self._probe.totals()
        holders = [keys.processing("", worker.id) for worker in now.workers + now.corpses]
        yield from dict.fromkeys(holders + self._names.get("processing", []))

    def _ids(self, what: str, place: str) -> Iterator[tuple[int, list[bytes], list[Wrong]]]:
        """A place in chunks: an index from which on its ids are, ids, what is wrong."""
        end, before = 0, list[bytes]()
        for chunk in self._probe.scan(what, place):
            names = chunk.names
            if not _is_list(place):
                yield 0, names, chunk.wrong
                continue
            if before:
                names = names[_overlap(before, names, end - chunk.start) :]
            yield chunk.start, names, chunk.wrong
            end, before = chunk.start + len(chunk.names), chunk.names

    def _confirm(self, kind: str, suspicions: Sequence[tuple[bytes, Sequence[Sight]]]) -> None:
        """Keep what holds at one moment, until there is enough of its kind."""
        done = 0
        while done < len(suspicions) and self._kinds[kind] < self._limit:
            some = suspicions[done : done + MAX_COUNT]
            answers = self._probe.confirm(some)
            done += len(answers)
            for (raw, _), at in zip(some, answers, strict=False):
                id = shown(raw)
                if len(at.places) > 1:
                    self._add(self._say.twice(id, at.home, at.places))
                elif at.present and not at.places:
                    self._add(self._say.nowhere(id, at.home))
        self._more += len(suspicions) - done

    # Whose is it?

    def _check_workers(self) -> None:
        of_workers = (self._names.get(prefix, []) for prefix in ("consumers", "solitary"))
        for key in ("about", "leases", "seq", *chain(*of_workers)):
            self._scan("members", key)
        for key in self._names.get("cancels", []):
            self._scan("owned", key)
        for key in self._names.get("suspected", []):
            # A worker that leaves with more than one call can hold gives up its deliveries first.
            for _ in range(3):
                wrong = [one for chunk in self._probe.scan("suspected", key) for one in chunk.wrong]
                if all(one.what != "unheld" for one in wrong):
                    break
                time.sleep(0.1)
            self._judge(key, wrong)

    def _check_keys(self) -> None:
        """What limits go by: would all of it be fetched, and does what they count add up?"""
        self._scan("members", "limits:by")
        looks = [
            ("known", "keys"),
            ("pairs", "pairs"),
            ("limits", "limits"),
            ("under", "limits:under"),
        ]
        looks += [("turns", turn) for turn in self._names.get("turn", [])]
        looks += [("permits", held) for held in self._names.get("held", [])]
        for what, key in [*looks, ("counts", "keyed")]:
            # What is not noted is not counted either.
            if what == "counts" and self._kinds["unvisited"] + self._kinds["garbled"]:
                return
            for _, wrong in self._probe.keyed(what, key):
                self._judge(key, wrong)

    def _check_dead(self) -> None:
        lacking = self._scan("dead", "dead")
        totals = self._probe.totals()
        # Records are large: they are read only when some are too many.
        if lacking or totals.records > totals.dead:
            self._scan("records", "dead:record")

    def _check_totals(self) -> Totals:
        places = (self._names.get(prefix, []) for prefix in ("ready", "suspects", "processing"))
        totals = self._probe.totals(key for names in places for key in names)
        if totals.messages != totals.places and not self._kinds["mistyped"]:
            self._add(self._say.totals(totals.messages, totals.places))
        numbers: Counter[str] = Counter()
        for name, value in totals.counters.items():
            if is_number(value):
                numbers[name] = int(value)
            else:
                self._add(self._say.counter(name, value))
        came, went = (sum(numbers[name] for name in names) for names in (CAME, WENT))
        if came != went + totals.messages and not self._kinds["counter"]:
            self._add(self._say.counters(came, went, totals.messages))
        return totals

    def _scan(self, what: str, key: str) -> bool:
        """Judge all of a key; whether anything was wrong."""
        wrong = False
        for chunk in self._probe.scan(what, key):
            wrong |= bool(chunk.wrong)
            self._judge(key, chunk.wrong)
        return wrong

    def _judge(self, key: str, wrong: Iterable[Wrong]) -> None:
        """Take down what a script saw at one moment."""
        for what, name, detail in wrong:
            self._add(_JUDGED[what](self._say, key, name, detail))

    def _add(self, finding: Finding) -> None:
        if finding in self._findings:
            return
        if self._kinds[finding.kind] >= self._limit:
            self._more += 1
            return
        self._kinds[finding.kind] += 1
        self._findings[finding] = None


def _is_list(place: str) -> bool:
    return place.startswith(("ready:", "line:", "suspects:"))


def _overlap(before: list[bytes], names: list[bytes], least: int) -> int:
    """How many of the first names are the last ones of the chunk before: pushes moved them."""
    for size in range(max(0, least), min(len(before), len(names)) + 1):
        if names[:size] == before[len(before) - size :]:
            return size
    return 0


def _notes(totals: Totals) -> Iterator[str]:
    """What is worth a line, and no fault."""
    overdue = [worker for worker in totals.workers if worker.lease < 0]
    for worker in overdue:
        yield (
            f"worker {worker.name} ({worker.id}) is overdue by {-worker.lease:.0f} s: if it stays silent, a "
            f"sweep will take it for dead and return {count(worker.running, 'message')}"
        )
    for corpse in totals.corpses:
        yield (
            f"worker {corpse.name} ({corpse.id}) is dead: {count(corpse.running, 'message')} of it are "
            "being returned"
        )
    quiet = max([QUIET, *(worker.lease for worker in totals.workers)])
    if (overdue or totals.corpses) and (totals.swept is None or totals.swept > quiet):
        since = "yet" if totals.swept is None else f"for {totals.swept:.0f} s"
        yield f"nobody has swept {since}: what dead workers held returns when a worker runs"
