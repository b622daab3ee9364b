"""The scripts against a model in Python, by random steps (hypothesis).

After every step the namespace is, key by key, what the model says, and the promises hold that
need no model. A longer search: `pytest tests/lua/test_model.py --hypothesis-profile=long`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from math import ceil
from typing import Any, ClassVar
from uuid import uuid4

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from greenworker import broker as broker_module
from greenworker import control as control_module
from greenworker.audit import Audit
from greenworker.broker import Claim, NotRegistered, push_fields
from greenworker.control import Control
from greenworker.errors import BrokerError, ConfigError
from greenworker.message import Delivery, Message, Outcome
from greenworker.once import Once
from greenworker.probe import Probe
from greenworker.scripts import load
from greenworker.seen import Seen
from tests.support.clockwork import CHANGES, Clockwork, constants
from tests.support.model import Model, Refused
from tests.support.model_cancel import Cancels
from tests.support.model_parts import Bounds, State
from tests.support.model_steps import (
    BEGINNING,
    LEASE,
    MANY,
    NEVER_QUIET,
    QUEUES,
    bounds,
    crashes,
    delays,
    ends,
    ids,
    kinds,
    marks,
    messages,
    olds,
    once,
    outcome,
    queues,
    slots,
    soon,
)
from tests.support.promises import check_promises, without_filters
from tests.support.server import Server


class Scripts(RuleBasedStateMachine):
    """Workers in four slots, of which each has one incarnation after the other."""

    server: ClassVar[Server]

    @initialize(bounds=bounds, ordered=st.booleans())
    def begin(self, bounds: Bounds, ordered: bool) -> None:
        self.place = Clockwork(self.server.url, f"t{uuid4().hex[:8]}", bounds)
        # A hash of few fields keeps their order, and HSCAN returns all of it.
        self.place.redis.config_set("hash-max-ziplist-entries", 128 if ordered else 1)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(broker_module, "MAX_COUNT", bounds.count)
        self.patch.setattr(broker_module, "MAX_BYTES", bounds.size)
        self.patch.setattr(control_module, "MAX_COUNT", bounds.count)
        self.patch.setattr(control_module, "MAX_BYTES", bounds.size)
        self.patch.setattr(control_module, "MOST_MARKS", 2)
        self.broker = self.place.broker
        self.once = Once(self.place, self.broker.namespace)
        self.control = Control(self.place, self.broker.namespace)
        self.model = Model(bounds, BEGINNING, ordered)
        self.cancels = Cancels(self.model)
        self.told: dict[str, dict[str, int]] = {}  # worker → what it was told last
        self.place.clock(BEGINNING)
        self.lives = [0, 0, 0, 0]
        self.born: set[str] = set()  # incarnations that were ever registered
        self.used: Counter[str] = Counter()  # claim sequences
        # Every delivery that an incarnation ever heard of, the latest last.
        self.known: dict[str, list[Delivery]] = defaultdict(list)
        self.tokens: dict[str, set[str]] = defaultdict(
            set
        )  # queue → who took one and has not claimed
        self.crashes: Counter[str] = Counter()  # of its holder, by id
        self.seen: State = {}
        self.others = 0  # names that are used once

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.patch.undo()
            self.place.close()

    # Sending

    @rule(batch=st.lists(messages, min_size=1, max_size=6), again=st.integers(0, 9))
    def push(self, batch: list[Message], again: int) -> None:
        self.others += 1
        push_id = f"again{again}" if again < 3 else f"p{self.others}"
        for message in batch:
            is_new = message.id not in self.model.msg or self.model.makes_way(message.id)
            if push_id not in self.model.pushes and is_new:
                self.crashes[message.id] = 0
        fields = [field for message in batch for field in push_fields(message)]
        reply = self.broker.push(push_id, fields)
        assert reply == self.model.push(push_id, batch)
        self.look()

    @rule(
        batch=st.lists(once, min_size=1, max_size=6),
        seen=st.sampled_from(["", "crawl", "other"]),
        again=st.integers(0, 9),
    )
    def push_once(self, batch: list[Message], seen: str, again: int) -> None:
        """What is unique, and what was seen."""
        self.others += 1
        push_id = f"once{again}" if again < 2 else f"o{self.others}"
        batch = [one if seen else replace(one, mark=None) for one in batch]
        fields: list[bytes | str | int] = []
        for one in batch:
            fields += [*push_fields(one), "" if one.mark is None else one.mark]
        before = {*self.model.msg}
        reply = self.once.push(push_id, seen, fields)
        assert reply == self.model.locks.push(push_id, seen, batch)
        for id in {*self.model.msg} - before:
            self.crashes[id] = 0
        self.look()

    @rule(
        slot=slots,
        note=st.sampled_from(["da", "sa", "ra", "ra"]),
        then=st.sampled_from(["da", "sa", "ra", "ra"]),
        dues=st.tuples(soon, soon),
        expires=st.sampled_from([None, None, 0.3]),
        queues=st.sampled_from([("default", "default"), ("default", "default"), QUEUES]),
        between=st.sampled_from(["", "", "work", "wait", "finish"]),
    )
    def one_after_the_other(
        self,
        slot: int,
        note: str,
        then: str,
        dues: tuple[float | None, float | None],
        expires: float | None,
        queues: tuple[str, str],
        between: str,
    ) -> None:
        """Two that are alike, wherever the first one is by then."""
        unused = [f"m{n}" for n in range(MANY) if f"m{n}" not in self.model.msg]
        if len(unused) < 3:
            return
        first = Message(
            unused[0], "t", queue=queues[0], due=dues[0], expires=expires, options={"unique": note}
        )
        self.push_once([first], "", 9)
        self.push_once([Message(unused[1], "t", queue=queues[0])], "", 9)
        if between in ("work", "finish"):
            self.work(slot, 4, QUEUES)
        if between == "finish":
            self.finish(slot, [("done", 0.0), ("retry", 0.2), ("dead", 0.0)])
        if between:
            self.pass_time(500)
        second = Message(unused[2], "t", queue=queues[1], due=dues[1], options={"unique": then})
        self.push_once([second], "", 9)

    @rule(seen=st.sampled_from(["crawl", "other"]))
    def drop_seen(self, seen: str) -> None:
        filter = Seen(lambda: (self.place, self.broker.namespace), seen)
        assert filter.count() == len(self.model.locks.seen.get(seen, ()))
        assert filter.drop() == len(self.model.locks.seen.pop(seen, ()))
        self.look()

    @rule(
        first=st.integers(0, MANY),
        count=st.integers(1, MANY),
        queue=st.sampled_from(QUEUES),
        priority=st.sampled_from([0, 5, 5, 5, 9]),
        due=st.sampled_from([None, None, 0.2]),
        expires=st.sampled_from([None, None, None, 0.0]),
    )
    def push_many(
        self,
        first: int,
        count: int,
        queue: str = "default",
        priority: int = 5,
        due: float | None = None,
        expires: float | None = None,
    ) -> None:
        batch = [
            Message(f"m{(first + n) % MANY}", "t", (), {}, {}, queue, priority, 600.0, due, expires)
            for n in range(count)
        ]
        self.push(batch, 9)

    @rule(crashed=crashes, queue=st.sampled_from(QUEUES))
    def push_what_has_crashed(self, crashed: list[tuple[str, int, Any]], queue: str) -> None:
        """A shortcut to what takes many steps: messages that were present at crashes."""
        redis, root = self.place.redis, self.place.root
        for id, deliveries, expires in crashed:
            if id in self.model.msg:
                continue
            self.push([Message(id, "t", queue=queue, expires=expires)], 9)
            letter = replace(self.model.msg[id], deliveries=deliveries)
            self.model.msg[id] = letter
            self.crashes[id] = deliveries
            redis.hset(f"{root}msg", id, str(letter))
            if deliveries >= self.model.bounds.suspect_after:
                self.model.ready[queue, 5].remove(id)
                self.model.suspects[queue].append(id)
                redis.lrem(f"{root}ready:{queue}:5", 0, id)
                redis.lpush(f"{root}suspects:{queue}", id)
        self.look()

    @rule(
        queue=st.sampled_from(QUEUES),
        envelope=st.sampled_from([None, "", "rubbish", "2 0 0 5 1 0 0 default t\n[[],{}]"]),
        scheduled=st.booleans(),
    )
    def plant(self, queue: str, envelope: str | None, scheduled: bool) -> None:
        """An entry that no script of ours made."""
        self.others += 1
        id = f"x{self.others}"
        self.model.planted[id] = envelope
        if envelope is not None:
            self.place.redis.hset(self.place.root + "msg", id, envelope)
        if scheduled:
            self.model.scheduled[id] = self.model.now
            self.place.redis.zadd(self.place.root + "scheduled", {id: self.model.now})
        else:
            self.model.ready[queue, 5].append(id)
            self.place.redis.lpush(f"{self.place.root}ready:{queue}:5", id)
            self.model.put_tokens(queue)
            self.place.redis.delete(f"{self.place.root}wake:{queue}")
            if queue in self.model.wake:
                self.place.redis.lpush(f"{self.place.root}wake:{queue}", "1")
        self.look()

    # Workers

    @rule(slot=slots, listens=queues, lease=st.sampled_from([1_000, LEASE, LEASE]))
    def register(self, slot: int, listens: tuple[str, ...], lease: int) -> None:
        if self.worker(slot) in self.born - {*self.model.workers, *self.model.corpses}:
            self.lives[slot] += 1  # an incarnation that has left never comes back
        worker = self.worker(slot)
        about = {"name": f"slot {slot}"}
        reply = self.broker.register(worker, lease / 1000, about, listens)
        assert reply == self.model.register(worker, lease, orjson.dumps(about).decode(), listens)
        self.look()

    @rule(slot=slots, old=olds, listens=st.booleans(), queues=queues)
    def listen(self, slot: int, old: int, listens: bool, queues: tuple[str, ...]) -> None:
        worker = self.someone(slot, old)
        reply = self.broker.listen(worker, listens, queues)
        assert reply == self.model.listen(worker, listens, queues)
        self.look()

    @rule(slot=slots, most=st.integers(1, 8), queues=queues)
    def work(self, slot: int, most: int, queues: tuple[str, ...]) -> None:
        """As workers do: register, take what tokens there are, and claim."""
        if self.worker(slot) not in self.model.workers:
            self.register(slot, queues, LEASE)
        for _ in queues:
            self.wakes(self.worker(slot), queues)
        self.claims(self.worker(slot), 1, most, queues, False)

    @rule(slot=slots, how=st.lists(ends, min_size=1, max_size=8))
    def finish(self, slot: int, how: list[tuple[str, float]]) -> None:
        """As workers do: settle what is held."""
        worker = self.someone(slot, 0, self.model.processing)
        held = self.model.processing[worker]
        mine = [one for one in self.known[worker] if held.get(one.id) == one.seq]
        ends = [(one, outcome(*end, one, 600.0)) for end, one in zip(how, mine, strict=False)]
        if ends:
            self.settled(worker, ends)

    @rule(
        acts=st.lists(
            st.tuples(slots, st.integers(1, 8), st.lists(ends, max_size=4)), min_size=1, max_size=5
        ),
        first=st.integers(0, MANY),
        count=st.integers(0, MANY),
    )
    def bustle(
        self, acts: list[tuple[int, int, list[tuple[str, float]]]], first: int, count: int
    ) -> None:
        """What most of the time is: messages come, are claimed and end."""
        if count:
            self.push_many(first, count)
        for slot, most, how in acts:
            self.work(slot, most, QUEUES)
            self.finish(slot, how)

    @rule(slot=slots, crashed=crashes, how=st.lists(ends, max_size=4))
    def suspects_in_turn(self, slot: int, crashed: list[Any], how: list[Any]) -> None:
        """Some run, and the others when there is room, or when their worker has died."""
        self.push_what_has_crashed(crashed, "default")
        self.work(slot, 8, QUEUES)
        if how:
            self.finish(slot, how)
            self.work(slot, 8, QUEUES)
        else:
            self.ordeal(slot, 8, QUEUES)

    @rule(slot=slots, old=olds)
    def beat(self, slot: int, old: int) -> None:
        worker = self.someone(slot, old)
        assert self.broker.beat(worker, LEASE / 1000) == self.model.beat(worker, LEASE)
        self.look()

    @rule(
        slot=slots,
        old=olds,
        step=st.sampled_from([1, 1, 1, 1, 1, 3, 0, -1]),
        most=st.integers(0, 8),
        queues=queues,
        lost=st.sampled_from([False, False, False, True]),
    )
    def claim(
        self, slot: int, old: int, step: int, most: int, queues: tuple[str, ...], lost: bool
    ) -> None:
        """`lost`: the worker does not hear the reply."""
        self.claims(self.someone(slot, old), step, most, queues, lost)

    def claims(
        self, worker: str, step: int, most: int, queues: tuple[str, ...], lost: bool
    ) -> None:
        seq = max(0, self.used[worker] + step)
        self.used[worker] = max(self.used[worker], seq)
        before = self.model.seq.get(worker, 0)
        deliveries = self.claimed(worker, seq, most, queues)
        if deliveries is not None:
            assert len(deliveries) <= most, "I14"
            assert worker in self.seen.get("workers", ()), "I4, I6"
            assert seq > before, "I5: a sequence is used once"
            for queue in queues:
                self.tokens[queue].discard(worker)
        if deliveries and not lost:
            self.known[worker] += deliveries
        self.look()

    def claimed(
        self, worker: str, seq: int, most: int, queues: tuple[str, ...]
    ) -> list[Delivery] | None:
        # Few messages a call are for chores: a worker that held few would leave them nothing to do.
        with self.patch.context() as patch:
            patch.setattr(broker_module, "MAX_COUNT", 1000)
            reply = self.says(lambda: self.broker.claim(worker, seq, most, queues))
        expected = self.says(lambda: self.model.claim(worker, seq, most, queues))
        if not isinstance(reply, Claim):
            assert reply == expected
            return None
        got = [(one.id, one.seq, one.envelope.decode()) for one in reply.deliveries]
        due = None if reply.next_due is None else round(reply.next_due * 1000)
        assert (got, due, reply.more) == expected
        return reply.deliveries

    @rule(slot=slots, queues=queues)
    def take_token(self, slot: int, queues: tuple[str, ...]) -> None:
        """As a worker that wakes up: it will claim."""
        self.wakes(self.someone(slot, 0), queues)

    def wakes(self, worker: str, queues: tuple[str, ...]) -> None:
        listens = [queue for queue in queues if worker in self.model.consumers[queue]]
        woken = [queue for queue in listens if queue in self.model.wake]
        if worker not in self.model.workers or not woken:
            return
        assert self.broker.wait(listens, 0.01)
        self.model.wake.remove(woken[0])
        self.tokens[woken[0]].add(worker)
        self.look()

    @rule(slot=slots, old=olds, behind=st.integers(0, 3), lost=st.integers(-1, 1))
    def sync(self, slot: int, old: int, behind: int, lost: int) -> None:
        """`lost` 1: a claim is still on its way, and will be too late."""
        worker = self.someone(slot, old)
        known = max(0, self.used[worker] - behind)
        used = max(0, self.used[worker] + lost)
        self.used[worker] = max(used, self.used[worker])
        reply = self.says(lambda: self.broker.sync(worker, known, used))
        expected = self.says(lambda: self.model.sync(worker, known, used))
        if isinstance(reply, str):
            assert reply == expected
        else:
            got = [(one.id, one.seq, one.envelope.decode()) for one in reply]
            assert self.in_order(got) == self.in_order(expected)
            self.known[worker] += reply
        self.look()

    @rule(
        slot=slots,
        old=olds,
        other=st.sampled_from([None, None, None, 0, 1, 2, 3]),
        batch=st.lists(
            st.tuples(st.integers(0, 7), kinds, delays, st.sampled_from([0.0, 600.0])),
            min_size=1,
            max_size=6,
        ),
    )
    def settle(
        self, slot: int, old: int, other: int | None, batch: list[tuple[int, Any, float, float]]
    ) -> None:
        """Deliveries of a worker, the latest as number 0; `other`: somebody else settles them."""
        known = self.known[self.someone(slot, old, self.known)][::-1]
        worker = self.someone(slot, old) if other is None else self.someone(other, 0)
        outcomes = []
        for number, kind, delay, ttl in batch:
            if number < len(known):
                one = known[number]
                # Numbers of two workers may be the same; an envelope of another is no retry then.
                if other is None or not self.is_held(worker, one):
                    outcomes.append((one, outcome(kind, delay, one, ttl)))
        if outcomes:
            self.settled(worker, outcomes)

    def settled(self, worker: str, outcomes: list[tuple[Delivery, Outcome]]) -> None:
        rights, ended = [], set()
        for one, _ in outcomes:
            rights.append(self.is_held(worker, one) and one.id not in ended)
            if rights[-1]:
                ended.add(one.id)
        told = [(one.id, one.seq, how) for one, how in outcomes]
        reply = self.broker.settle(worker, outcomes)
        assert reply == self.model.settle(worker, told)
        assert reply == rights, "I5"
        before = self.seen
        self.look()
        if not any(reply):
            assert self.seen == before, "I5: what is refused changes nothing"

    @rule(slot=slots, kind=kinds)
    def settle_late(self, slot: int, kind: Any) -> None:
        """What is no longer the worker's, though somebody holds it: itself again if that can be."""
        over: dict[str, list[Delivery]] = defaultdict(list)
        for own in (True, False):
            for worker, known in self.known.items():
                held = self.model.processing[worker] if own else self.owners()
                late = [one for one in known if one.id in held and not self.is_held(worker, one)]
                if late:
                    over[worker] = late
            if over:
                break
        if over:
            worker = sorted(over)[slot % len(over)]
            self.settled(
                worker, [(one, outcome(kind, 0.0, one, 600.0)) for one in over[worker][:6]]
            )

    @rule(slot=slots, old=olds, sure=st.sampled_from([False, False, True]))
    def release(self, slot: int, old: int, sure: bool) -> None:
        worker = self.someone(slot, old)
        if not sure:
            return
        charged = self.charges()
        self.broker.release(worker)
        self.model.release(worker, self.place.state())
        self.look()
        assert self.charges() == charged, "I8: a graceful stop charges nothing"

    # Chores

    @rule(slot=slots, ms=st.sampled_from([-1, 0, 1]))
    def lapse(self, slot: int, ms: int) -> None:
        """The lease ends about now, and somebody sweeps."""
        worker = self.someone(slot, 0)
        if worker in self.model.workers:
            self.model.workers[worker] = self.model.now + ms
            key = self.place.root + "workers"
            self.place.redis.zadd(key, {worker: self.model.now + ms}, xx=True)
            self.reap([], 0, NEVER_QUIET, 3)

    @rule(
        gone=st.lists(slots, max_size=3),
        old=olds,
        quiet=st.sampled_from([20_000, NEVER_QUIET, NEVER_QUIET]),
        max_deliveries=st.sampled_from([1, 3]),
    )
    def reap(self, gone: list[int], old: int, quiet: int, max_deliveries: int) -> None:
        names = [self.worker(slot, old) for slot in gone]
        charged, held = self.charges(), {**self.owners()}
        sweep = self.broker.reap(LEASE / 1000, quiet / 1000, max_deliveries, names)
        expected = self.model.reap(LEASE, quiet, max_deliveries, names, self.place.state())
        assert (sweep.extended, sweep.corpses, sweep.returned, sweep.buried, sweep.left) == expected
        self.crashes.update(held.keys() - self.owners().keys())
        self.look()
        for id, deliveries in self.charges().items():
            assert deliveries - charged[id] in (0, id in held), "I8: charged is who was held, once"

    @rule()
    def promote(self) -> None:
        moved, due, *_ = self.broker.promote()
        assert (moved, None if due is None else round(due * 1000)) == self.model.promote()
        self.look()

    @rule(ms=st.sampled_from([-1, 0, 0, 1]))
    def promote_what_is_due(self, ms: int) -> None:
        """As the scheduler does: when the next is due, or about then."""
        wait = ceil(min(self.model.scheduled.values(), default=0)) + ms - self.model.now
        if 0 < wait < 600_000:
            self.pass_time(wait)
        self.promote()

    @rule(slot=slots, most=st.integers(1, 8), queues=queues)
    def ordeal(self, slot: int, most: int, queues: tuple[str, ...]) -> None:
        """A worker claims and dies, and what it held is back in line."""
        self.work(slot, most, queues)
        self.reap([slot], 0, NEVER_QUIET, 3)
        for _ in range(10):
            if self.model.corpses:
                self.reap([], 0, NEVER_QUIET, 3)
        self.pass_time(500)
        self.promote()

    @rule(slot=slots, most=st.integers(1, 8), kind=kinds, ms=st.sampled_from([1, 1, 0]))
    def haunt(self, slot: int, most: int, kind: Any, ms: int) -> None:
        """A worker is declared dead, and goes on before anybody drains what it held."""
        self.push_many(slot, 4)
        self.reap([], 0, NEVER_QUIET, 3)
        self.work(slot, most, QUEUES)
        worker = self.worker(slot)
        self.pass_time(LEASE - 1)
        self.reap([slot], 0, LEASE - 1 - ms, 3)  # quiet for longer than that, or just as long
        held = self.model.processing[worker]
        ends = [
            (one, outcome(kind, 0.0, one, 600.0)) for one in self.known[worker] if one.id in held
        ]
        if ends:
            self.settled(worker, ends)

    @rule(
        ms=st.sampled_from(
            [1, 37, 500, 500, 1_000, 1_000, LEASE, 300_000, 3_600_000, 31 * 24 * 3_600_000]
        )
    )
    def pass_time(self, ms: int) -> None:
        for key in self.model.pass_time(ms):
            self.place.redis.delete(self.place.root + key)
        self.place.clock(self.model.now)
        self.look()

    # Dead letters

    @rule(batch=st.lists(ids, min_size=1, max_size=4, unique=True), dry_run=st.booleans())
    def revive(self, batch: list[str], dry_run: bool) -> None:
        fates = self.broker.revive([id.encode() for id in batch], dry_run)
        assert fates == self.model.revive(batch, dry_run)
        for id, fate in zip(batch, fates, strict=True):
            if fate == "r":
                self.crashes[id] = 0
        if not dry_run:
            # A call remembers its id; the model knows those of pushes only.
            for key in self.place.redis.scan_iter(self.place.root + "push:*"):
                if key.rpartition(":")[2] not in self.model.pushes:
                    self.place.redis.delete(key)
        self.look()

    @rule(batch=st.lists(ids, min_size=1, max_size=4))
    def delete_dead(self, batch: list[str]) -> None:
        deleted = self.broker.dead_delete([id.encode() for id in batch])
        assert deleted == self.model.delete_dead(batch)
        self.look()

    @rule(since=st.sampled_from([None, 0, -500]), until=st.sampled_from([0, -1, -500]))
    def list_dead(self, since: int | None, until: int) -> None:
        now = self.model.now
        first = None if since is None else (now + since) / 1000
        pages = list(self.broker.dead_ids(first, (now + until) / 1000))
        assert all(len(page) <= self.model.bounds.count for page in pages)
        assert [id.decode() for page in pages for id in page] == [
            id
            for died, id in sorted((died, id) for id, died in self.model.dead.items())
            if (since is None or died >= now + since) and died <= now + until
        ]

    # People

    @rule(queues=queues, pauses=st.sampled_from([True, False, False]))
    def pause(self, queues: tuple[str, ...], pauses: bool) -> None:
        told = self.control.pause(*queues) if pauses else self.control.resume(*queues)
        got = [(one.changed, one.known) for one in told]
        assert got == self.model.pause(queues, pauses)
        self.look()

    @rule(first=st.integers(0, MANY), queue=st.sampled_from(QUEUES), slot=slots)
    def pause_for_a_while(self, first: int, queue: str, slot: int) -> None:
        """What is sent meanwhile waits, and is taken afterwards."""
        self.pause((queue,), True)
        self.push_many(first, 3, queue)
        self.work(slot, 8, QUEUES)
        assert not self.model.waiting(queue) or queue not in self.model.wake
        self.pause((queue,), False)
        self.work(slot, 8, QUEUES)

    @rule(queue=st.sampled_from(QUEUES), calls=st.integers(1, 4), ms=st.sampled_from([None, 0, 1]))
    def purge(self, queue: str, calls: int, ms: int | None) -> None:
        """`ms`: it began so long ago."""
        before = None if ms is None else self.model.now - ms
        waiting = len(self.model.waiting(queue)) + len(self.model.suspects[queue])
        assert self.control.count(queue) == waiting
        for _ in range(calls):
            step = self.control.purge_some(queue, before)
            most = self.model.bounds.count
            counts = (step.purged, step.expired, step.cancelled, step.foreign, step.more)
            assert counts == self.model.purge(queue, most, before)
            before = step.before
            self.look()
            if not step.more:
                break

    @rule(
        batch=st.lists(ids, min_size=1, max_size=4, unique=True),
        dry_run=st.sampled_from([False] * 3 + [True]),
    )
    def cancel(self, batch: list[str], dry_run: bool) -> None:
        assert self.broker.cancel(batch, dry_run) == self.cancels.cancel(batch, dry_run)
        self.look()

    @rule(mark=marks, dry_run=st.booleans())
    def cancel_marked(self, mark: str, dry_run: bool) -> None:
        if dry_run:
            found = self.control.count_marked(mark)
            assert (found.waiting, found.running) == self.cancels.count(mark)
        else:
            # The clock stands still here: nothing to wait for.
            with self.patch.context() as patch:
                patch.setattr(self.control, "_now", lambda: self.model.now + 1)
                try:
                    self.control.mark(mark)
                    done = True
                except ConfigError:
                    done = False
            assert done == self.cancels.mark(mark, 2)
        self.look()

    @rule(who=st.sampled_from(["a", "a", "b"]), calls=st.integers(1, 4))
    def comb(self, who: str, calls: int) -> None:
        for _ in range(calls):
            done = self.control.comb(who)
            assert (done.cancelled, done.more) == self.cancels.comb(who, self.place.state())
            self.look()

    @rule(slot=slots, lost=st.booleans())
    def hears_what_is_cancelled(self, slot: int, lost: bool) -> None:
        worker = self.someone(slot, 0)
        known = list(self.told.get(worker, {}).items())
        told = self.broker.promote(worker, [part for one in known for part in one])
        moved = told.moved, None if told.next_due is None else round(told.next_due * 1000)
        assert moved == self.model.promote()
        cancelled = self.cancels.told(worker, known)
        assert told.cancelled == cancelled
        assert told.marks == {mark: ms for mark, (ms, _) in self.model.marks.items()}
        self.told[worker] = {} if lost else cancelled
        self.look()

    @rule(slot=slots, most=st.integers(1, 8), kind=kinds, mark=marks)
    def cancel_what_runs(self, slot: int, most: int, kind: Any, mark: str) -> None:
        """It ends as it would, or it does not begin again."""
        self.push_many(slot, 6)
        self.work(slot, most, QUEUES)
        worker = self.worker(slot)
        held = [one for one in self.known[worker] if self.is_held(worker, one)]
        if held:
            self.cancel([held[0].id], False)
            self.settled(worker, [(held[0], outcome(kind, 0.0, held[0], 600.0))])
            assert held[0].id not in self.model.msg
        self.cancel_marked(mark, False)
        self.reap([slot], 0, NEVER_QUIET, 3)

    # Looking up

    @rule(id=ids)
    def lookup(self, id: str) -> None:
        sighting = self.broker.lookup(id)
        due = None if sighting.due_in is None else round(sighting.due_in * 1000)
        left = None if sighting.expires_in is None else round(sighting.expires_in * 1000)
        result = None if sighting.result is None else sighting.result.decode()
        assert (sighting.state, result, sighting.attempt, due, left) == self.model.lookup(id)

    @rule(which=st.integers(0, MANY), ms=st.sampled_from([-1, 0, 1]))
    def lookup_when_it_expires(self, which: int, ms: int) -> None:
        model = self.model
        later = sorted(id for id, one in model.msg.items() if one.expires + ms > model.now)
        if later:
            id = later[which % len(later)]
            if (wait := model.msg[id].expires + ms - model.now) < 600_000:
                self.pass_time(wait)
            self.lookup(id)

    @rule(id=ids)
    def forget(self, id: str) -> None:
        assert self.broker.forget(id) == (self.model.results.pop(id, None) is not None)
        self.look()

    @rule()
    def status(self) -> None:
        status, model = self.broker.status(), self.model
        known = model.queues | model.paused
        lines = ((queue, model.waiting(queue), model.suspects[queue]) for queue in known)
        waiting = {queue: (len(ready), len(suspects)) for queue, ready, suspects in lines}
        assert {one.name: (one.waiting, one.suspects) for one in status.queues} == waiting
        assert {one.name for one in status.queues if one.paused} == model.paused
        assert status.running == len(self.owners())
        assert (status.scheduled, status.dead) == (len(model.scheduled), len(model.dead))
        assert {one.id for one in status.workers} == {*model.workers, *model.corpses}
        self.look()  # it reads only

    @rule()
    def check(self) -> None:
        """The audit finds nothing wrong, whatever has happened."""
        if not self.model.planted:
            report = Audit(Probe(self.place, self.broker.namespace)).run()
            assert report.findings == []
            assert report.messages == len(self.model.msg)

    # What is used above

    def worker(self, slot: int, old: int = 0) -> str:
        """The slot's present incarnation, or the one before it."""
        return f"w{slot}.{max(0, self.lives[slot] - old)}"

    def someone(self, slot: int, old: int, having: Mapping[str, Any] | None = None) -> str:
        """A living incarnation if there is one, and `having` something there; `old`: a corpse."""
        those: Collection[str] = self.model.corpses if old else self.model.workers
        found = sorted(one for one in those if having is None or having.get(one))
        return found[slot % len(found)] if found else self.worker(slot, old)

    def is_held(self, worker: str, one: Delivery) -> bool:
        """Whether it may settle that delivery."""
        held = self.model.processing[worker] if worker in self.model.workers else {}
        return held.get(one.id) == one.seq

    def owners(self) -> dict[str, str]:
        return {id: worker for worker, held in self.model.processing.items() for id in held}

    def charges(self) -> Counter[str]:
        return Counter({id: letter.deliveries for id, letter in self.model.msg.items()})

    def says(self, call: Callable[[], Any]) -> Any:
        """Its reply, or `gone` or `stale`."""
        try:
            return call()
        except Refused as refused:
            return str(refused)
        except NotRegistered:
            return "gone"
        except BrokerError as error:
            return "stale" if "came too late" in str(error) else str(error)

    def in_order(self, found: list[Any]) -> list[Any]:
        """The order of a large hash is its own."""
        return found if self.model.ordered else sorted(found)

    def look(self) -> None:
        """The server holds what the model says, and the promises hold whatever it says."""
        self.seen, marks = without_filters(self.place.state())
        assert marks == Counter(mark for some in self.model.locks.seen.values() for mark in some)
        assert self.seen == self.model.state()
        self.born |= set(self.model.workers)
        check_promises(self.seen, self.model, self.tokens, self.crashes)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """Small hashes are ordered there or not, as an example wants."""
    with Server() as server:
        yield server


@pytest.mark.timeout(600 + settings().max_examples)  # it makes a failure short, which takes a while
def test_the_scripts_do_what_the_model_says(own_server: Server) -> None:
    Scripts.server = own_server
    run_state_machine_as_test(Scripts)


def test_the_bounds_that_are_made_smaller_are_in_the_scripts() -> None:
    found = {
        name: value
        for script in ("push_once", "claim", "settle", "reap")
        for name, value in constants(load(script)).items()
    }
    assert set(CHANGES) <= set(found)
    assert (found["SUSPECT_AFTER"], found["ALONE_AFTER"]) == ("2", "3")
