"""Limits by key under random steps (hypothesis): nothing starts that a limit forbids (I12), nothing is lost, nothing waits for ever.

Beside it stands a judge in Python that knows limits and starts (tests/support/model_limits.py), and of the namespace only what must
hold in any state of it. A longer search: `pytest tests/lua/test_limits_model.py --hypothesis-profile=long`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from greenworker import keys as names
from greenworker.admission import Admission
from greenworker.audit import Audit
from greenworker.broker import push_fields
from greenworker.control import Control
from greenworker.message import Delivery, Message, Outcome, keys_of
from greenworker.once import Once
from greenworker.probe import Probe
from greenworker.scripts import load
from tests.support.clockwork import Clockwork
from tests.support.limits import check_lines
from tests.support.model_limits import Limits
from tests.support.model_parts import Bounds, State
from tests.support.model_steps import BEGINNING, LEASE, NEVER_QUIET, QUEUES, outcome
from tests.support.server import Server
from tests.support.state import check_whole

SLOTS = 3
slots = st.integers(0, SLOTS - 1)
KEYS = ("host:a", "host:b", "tenant:1", "tenant:2")
some_keys = st.sampled_from([
    "", *KEYS, "host:a,tenant:1", "host:a,tenant:1", "host:b,tenant:1", "tenant:1,host:a", "host:b,tenant:2", "host:a,host:b",
])  # fmt: skip
queues = st.sampled_from([("default",), QUEUES, QUEUES[::-1]])
patterns = st.sampled_from(["*", "host:*", "host:*", "host:a", "tenant:1", "tenant:*"])
specs = st.sampled_from([
    "", "none", "concurrency=0", "concurrency=1", "concurrency=1", "concurrency=2", "delay=100", "delay=1000", "concurrency=1 delay=250",
    "rate=1/1000", "rate=10/60000 burst=3", "rate=100/1000", "rate=2/1000 burst=1", "concurrency=2 rate=5/1000 burst=2",
])  # fmt: skip
declared = st.dictionaries(patterns, specs.filter(bool), max_size=2)
kinds = st.sampled_from(
    [
        "done",
        "done",
        "done",
        "retry",
        "dead",
        "release",
        "later",
        "cancelled",
        "throttled",
        "throttled",
    ]
)
ends = st.tuples(kinds, st.sampled_from([-1, 0, 100, 2000]), st.sampled_from([0, 50, 1500]))
messages = st.tuples(
    some_keys, st.sampled_from(QUEUES), st.sampled_from([5, 5, 5, 9]), st.sampled_from([None, None, None, 0.2]),
    st.sampled_from([None, None, None, 1.0]), st.sampled_from(["", "", "", "da", "ra"]),
)  # fmt: skip
bounds = st.builds(
    Bounds,
    few=st.sampled_from([1, 3]), suspect_after=st.just(1), alone_after=st.just(2), solitary_after=st.just(3),
    patience=st.sampled_from([1, 60_000]), look=st.sampled_from([3, 1000]), chunk=st.sampled_from([2, 200]),
    passes=st.sampled_from([1, 3, 500]),
)  # fmt: skip


class Keyed(RuleBasedStateMachine):
    """Workers in slots, and a judge of what they are handed."""

    server: ClassVar[Server]

    @initialize(bounds=bounds)
    def begin(self, bounds: Bounds) -> None:
        self.now = BEGINNING
        self.place = Clockwork(self.server.url, f"t{uuid4().hex[:8]}", bounds)
        self.place.clock(self.now)
        self.broker = self.place.broker
        namespace = self.broker.namespace
        self.once, self.control = Once(self.place, namespace), Control(self.place, namespace)
        self.admission = Admission(self.place, namespace)
        self.limits = Limits()
        self.sent: list[str] = []
        self.keys: dict[str, tuple[str, ...]] = {}
        self.lives = [0] * SLOTS
        self.alive: set[str] = set()
        self.corpses: set[str] = set()
        self.known: dict[str, list[Delivery]] = defaultdict(list)  # what a worker was handed
        self.used: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()  # the last claim whose reply it heard
        self.tokens: dict[str, set[str]] = defaultdict(set)
        self.seen: State = {}
        self.whole = True

    def teardown(self) -> None:
        try:
            if hasattr(self, "place") and self.whole:
                self.everything_ends()
        finally:
            if hasattr(self, "place"):
                self.place.close()

    # Sending

    @rule(batch=st.lists(messages, min_size=1, max_size=5))
    def push(self, batch: list[tuple[Any, ...]]) -> None:
        for keys, queue, priority, due, expires, unique in batch:
            id = f"m{len(self.sent)}"
            self.send(id, keys, queue, priority, due, expires, unique)

    @rule(key=some_keys, count=st.integers(1, 12))
    def push_many(self, key: str, count: int) -> None:
        self.push([(key, "default", 5, None, None, "")] * count)

    @rule(
        limits=st.lists(st.tuples(patterns, specs), max_size=2),
        sent=st.lists(st.tuples(some_keys, st.integers(1, 6)), min_size=1, max_size=3),
        acts=st.lists(
            st.tuples(slots, st.integers(0, 6), st.lists(ends, max_size=4), st.sampled_from([0, 1, 100, 250, 1000])),
            min_size=1, max_size=6,
        ),
        then=st.sampled_from(["", "", "crash", "crash", "release", "purge", "cancel", "promote"]),
    )  # fmt: skip
    def bustle(self, limits: list[Any], sent: list[Any], acts: list[Any], then: str) -> None:
        """What most of the time is: messages come, are handed out and end, by some limits; and then something happens."""
        for pattern, spec in limits:
            self.set_limit(pattern, spec, True)
        for key, count in sent:
            self.push_many(key, count)
        for slot, most, how, ms in acts:
            self.claim(slot, most, QUEUES, False)
            if how:
                self.settle(slot, how, True)
            self.pass_time(ms)
        slot = acts[0][0]
        if then in ("crash", "release"):
            if then == "crash":
                self.crash(slot, True)
            else:
                self.release(slot)
            self.pass_time(500)
            self.promote()
        elif then == "purge":
            self.purge("default", False)
        elif then == "cancel":
            self.cancel([0, 1, 2])
            self.push_again(0, sent[0][0], "default")
        else:
            self.promote()

    @rule(n=st.integers(0, 30), keys=some_keys, queue=st.sampled_from(QUEUES))
    def push_again(self, n: int, keys: str, queue: str) -> None:
        """An id that was there before: it makes way if it was cancelled."""
        if self.sent:
            id = self.sent[-1 - n % len(self.sent)]
            self.send(id, keys, queue, 5, None, None, "")

    def send(self, id: str, keys: str, queue: str, priority: int, due: Any, expires: Any, unique: str) -> None:  # fmt: skip
        options = {**({"keys": keys} if keys else {}), **({"unique": unique} if unique else {})}
        one = Message(id, "t", (), {}, {}, queue, priority, 600.0, due, expires, options)
        if unique:
            fields: list[bytes | str | int] = [*push_fields(one), ""]
            self.once.push(uuid4().hex, "", fields)
        else:
            self.broker.push(uuid4().hex, push_fields(one))
        if id not in self.keys:
            self.sent.append(id)
            self.keys[id] = ()
        self.look()

    # Workers

    @rule(
        slot=slots,
        most=st.integers(0, 6),
        queues=queues,
        lost=st.sampled_from([False] * 4 + [True]),
    )
    def claim(self, slot: int, most: int, queues: tuple[str, ...], lost: bool) -> None:
        """`lost`: the worker does not hear the reply."""
        worker = self.worker(slot)
        if self.used[worker] > self.heard[worker]:
            self.sync(slot)
        for queue in queues:
            if self.place.redis.rpop(f"{self.place.root}wake:{queue}"):
                self.tokens[queue].add(worker)
        self.used[worker] += 1
        got = self.broker.claim(worker, self.used[worker], most, queues).deliveries
        assert len(got) <= most, "I14"
        if not lost:
            self.known[worker] += got
            self.heard[worker] = self.used[worker]
        for queue in queues:
            self.tokens[queue].discard(worker)
        self.look()
        running = Counter(key for id in self.held() for key in self.keys[id])
        # One after the other, as they were handed out.
        fresh = Counter(key for one in got for key in self.keys[one.id])
        begun = Counter[str]()
        for one in got:
            for key in self.keys[one.id]:
                begun[key] += 1
                self.limits.started(key, self.now, running[key] - fresh[key] + begun[key])

    @rule(slot=slots)
    def sync(self, slot: int) -> None:
        worker = self.worker(slot)
        adopted = self.broker.sync(worker, self.heard[worker], self.used[worker])
        self.known[worker] += adopted
        self.heard[worker] = self.used[worker]
        self.look()

    @rule(slot=slots, batch=st.lists(ends, min_size=1, max_size=6), named=st.booleans())
    def settle(self, slot: int, batch: list[tuple[str, int, int]], named: bool) -> None:
        """What a worker knows of, the latest first; some of it may be its own no more."""
        worker = self.worker(slot)
        told, rights = [], []
        held = self.seen.get(f"processing:{worker}", {})
        for kind, ms, took in batch:
            if not self.known[worker]:
                break
            one = self.known[worker].pop()
            mine = held.get(one.id) == str(one.seq)
            keys = self.keys[one.id]
            if kind == "throttled":
                named_key = keys[-1] if keys and named else ""
                how = Outcome("throttled", delay=ms / 1000 if ms >= 0 else -1.0, reason=named_key)
                if mine and keys:
                    key = self.limits.key(named_key or keys[0])
                    key.held_until = max(key.held_until, self.now + max(ms, 0))
            else:
                how = outcome(kind, max(ms, 0) / 1000, one, 600.0)
            told.append((one, replace(how, took=took / 1000)))
            rights.append(mine)
        if told:
            assert self.broker.settle(worker, told) == rights, "I5"
        self.look()

    @rule(slot=slots, lease_over=st.booleans())
    def crash(self, slot: int, lease_over: bool) -> None:
        """A worker dies; what it held comes back, charged."""
        worker = self.worker(slot)
        self.lives[slot] += 1
        self.alive.discard(worker)
        self.corpses.add(worker)
        if lease_over:
            self.place.redis.zadd(self.place.root + "workers", {worker: 1})
            self.sweep()
        else:
            self.sweep(worker)

    @rule(slot=slots)
    def goes_on_as_a_zombie(self, slot: int) -> None:
        """It was taken for dead, and settles what it held."""
        worker = self.worker(slot)
        known = list(self.known[worker])
        self.crash(slot, False)
        late = [(one, Outcome("done", b"{}", 60.0)) for one in known[:3]]
        if late:
            assert not any(self.broker.settle(worker, late)), "I6"
            self.look()

    @rule()
    def sweep(self, *gone: str) -> None:
        self.broker.reap(LEASE / 1000, NEVER_QUIET / 1000, 3, gone)
        self.look()
        for worker in self.corpses - set(self.seen.get("corpses", ())):
            self.corpses.discard(worker)
            self.limits.depart(worker)

    @rule(slot=slots)
    def release(self, slot: int) -> None:
        worker = self.worker(slot)
        self.broker.release(worker)
        self.lives[slot] += 1
        self.alive.discard(worker)
        self.limits.depart(worker)
        self.look()

    @rule()
    def promote(self) -> None:
        self.broker.promote()
        self.look()

    @rule(ms=st.sampled_from([1, 50, 100, 250, 500, 1000, 1000, 15_000, 60_000, 3_600_000]))
    def pass_time(self, ms: int) -> None:
        self.now += ms
        self.place.clock(self.now)
        # Nobody else is there whose lease it would cost.
        for worker in self.alive:
            self.broker.beat(worker, LEASE / 1000)

    # People

    @rule(pattern=patterns, spec=specs, goes_on=st.booleans())
    def set_limit(self, pattern: str, spec: str, goes_on: bool) -> None:
        """`goes_on`: whoever changes it sees to it that all keys are looked at."""
        self.limits.set(pattern, spec)
        self.run("limit_set", "s", "", pattern, spec)
        while goes_on and self.run("limit_look", 2):
            self.look()
        self.look()
        self.limits_are_told()

    @rule(slot=slots, pattern=patterns, said=specs.filter(bool), above=specs, then=slots, gone=st.booleans())  # fmt: skip
    def set_over_code(self, slot: int, pattern: str, said: str, above: str, then: int, gone: bool) -> None:  # fmt: skip
        """And dropped again; meanwhile something is claimed, or who declares it may have left."""
        self.declare(slot, {pattern: said})
        self.set_limit(pattern, above, True)
        if gone:
            self.release(then)
        else:
            self.claim(then, 3, QUEUES, False)
        self.set_limit(pattern, "", True)

    @rule(slot=slots, said=declared)
    def declare(self, slot: int, said: dict[str, str]) -> None:
        worker = self.worker(slot)
        self.limits.declare(worker, said)
        self.run("limit_set", "d", worker, *(part for one in said.items() for part in one))
        self.look()
        self.limits_are_told()

    @rule(key=st.sampled_from(KEYS), ms=st.sampled_from([-1, 0, 0, 1000]))
    def hold(self, key: str, ms: int) -> None:
        self.run("limit_hold", ms, key)
        until = {-1: inf, 0: 0}.get(ms, self.now + ms)
        self.limits.key(key).held_until = until
        self.look()

    @rule(n=st.lists(st.integers(0, 30), min_size=1, max_size=4))
    def cancel(self, n: list[int]) -> None:
        if self.sent:
            self.broker.cancel(list({self.sent[-1 - one % len(self.sent)] for one in n}))
            self.look()

    @rule(queue=st.sampled_from(QUEUES), some=st.booleans())
    def purge(self, queue: str, some: bool) -> None:
        if some:
            self.control.purge_some(queue, self.now)
        else:
            self.control.purge_all(queue)
            left = {
                key for key in self.seen_now() if key.startswith("line:") and f":{queue} " in key
            }
            assert not left, "a purge has left something"
        self.look()

    @rule(queue=st.sampled_from(QUEUES), pauses=st.booleans())
    def pause(self, queue: str, pauses: bool) -> None:
        (self.control.pause if pauses else self.control.resume)(queue)
        self.look()

    @rule(n=st.integers(0, 30))
    def revive(self, n: int) -> None:
        dead = sorted(self.seen.get("dead", {}))
        if dead:
            self.broker.revive([dead[n % len(dead)].encode()])
            self.look()

    @rule()
    def check(self) -> None:
        findings = Audit(Probe(self.place, self.broker.namespace)).run().findings
        assert [one.text for one in findings] == []
        self.limits_are_told()

    def limits_are_told(self) -> None:
        """Which there are, who says them, and what code declares beneath what people set."""
        told = [one.decode() for one in self.run("limit_list")]
        said = {}
        for pattern, line, beneath in zip(told[::3], told[1::3], told[2::3], strict=True):
            origin, _, spec = line.split(" ", 2)
            said[pattern] = origin, spec, beneath
        people, code = self.limits.people, self.limits.code
        assert said == {
            pattern: ("s", spec, code.get(pattern, "")) if pattern in people else ("d", spec, "")
            for pattern, spec in self.limits.said.items()
        }

    # What is used above

    def worker(self, slot: int) -> str:
        name = f"w{slot}.{self.lives[slot]}"
        if name not in self.alive:
            assert self.broker.register(name, LEASE / 1000, {"name": name}, QUEUES)
            self.alive.add(name)
        return name

    def run(self, name: str, *args: str | int) -> Any:
        return self.place.run(load(name), names.nil(self.place.root), *args)

    def held(self) -> set[str]:
        return {
            id for key, held in self.seen.items() if key.startswith("processing:") for id in held
        }

    def seen_now(self) -> State:
        """What there is, of which nobody's id is lost; and which keys each message has."""
        self.seen = self.place.state()
        for id, text in self.seen.get("msg", {}).items():
            head = text.partition("\n")[0]
            told = head.partition(" keys=")[2].split(" ")[0]
            self.keys[id] = tuple(keys_of({"keys": told.replace("%2C", ",")})) if told else ()
        return self.seen

    def look(self) -> None:
        """What must hold in any state."""
        self.whole = False
        state = self.seen_now()
        check_whole(state)
        check_lines(state)
        self.check_turns(state)
        self.whole = True

    def check_turns(self, state: State) -> None:
        """Whoever may claim is woken."""
        for queue in QUEUES:
            waits = any(state.get(f"ready:{queue}:{n}") for n in range(10)) or any(
                state.get(f"line:{n}:{queue} {key}")
                for n in range(10)
                for name in state.get(f"turn:{queue}:{n}", ())
                for key in (
                    state.get(f"pairs:{n}:{queue} {name[:-1]}", ()) if name[-1] == "," else [name]
                )
            )
            if waits and queue not in state.get("paused", ()):
                told = self.tokens[queue] & set(state.get(f"consumers:{queue}", ()))
                assert f"wake:{queue}" in state or told, f"{queue}: work waits and nobody is woken"
            elif queue in state.get("paused", ()):
                assert f"wake:{queue}" not in state

    def everything_ends(self) -> None:
        """Whatever has happened: when nobody stops it, all that waits is handed out."""
        for queue in QUEUES:
            self.pause(queue, False)
        for pattern, spec in self.limits.said.items():
            if spec == "concurrency=0":
                self.set_limit(pattern, "none", True)
        for key in KEYS:
            self.hold(key, 0)
        while self.corpses:
            self.sweep()
        # (No sweep from here on: it would heal what should not need it.)
        for _ in range(300):
            for slot in range(SLOTS):
                self.settle(slot, [("done", 0, 0)] * 100, False)
                self.sync(slot)
                self.claim(slot, 50, QUEUES, False)
            if not self.seen.get("msg"):
                break
            due = self.broker.promote().next_due
            self.pass_time(round(1000 * min(max(due or 0.5, 0.001), 61.0)))
            self.promote()
        assert not self.seen.get("msg"), "something waits for ever"
        self.pass_time(3_700_000)
        self.sweep()
        self.promote()
        self.promote()
        assert not {"keys", "idle", "later", "keyed", "pairs"} & set(self.seen), (
            "something is kept for ever"
        )
        self.check()


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.mark.timeout(600 + settings().max_examples)
def test_nothing_starts_that_a_limit_forbids_and_nothing_waits_for_ever(own_server: Server) -> None:
    Keyed.server = own_server
    run_state_machine_as_test(
        Keyed, settings=settings(max_examples=max(25, settings().max_examples // 4))
    )
