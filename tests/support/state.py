"""A namespace as a whole: seed it, read all of it, check what must hold in any state of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self
from uuid import uuid4

import redis

from greenworker.broker import Broker, Claim, Sweep, push_fields
from greenworker.connection import Connection
from greenworker.endpoint import Endpoint
from greenworker.findings import CAME, WENT
from greenworker.message import Delivery, Message, Moment, Outcome

State = dict[str, Any]

_MOMENT = re.compile(r"(?<![\w.])\d{13}(?![\w.])")  # epoch ms, from 2001 to 2286


def snapshot(client: redis.Redis, root: str) -> State:
    """Every key of a namespace, without its root: strings, dicts, sets, and lists with what is
    popped next in front.

    Times are volatile, so each absolute ms in a value, and each score, is one word instead:
    `now` within five minutes before the snapshot or half a minute after it, else `past` or
    `later`. How long a key lives is not shown.
    """
    seconds, micros = client.time()
    now = seconds * 1000 + micros // 1000

    def word(moment: float) -> str:
        if moment < now - 300_000:
            return "past"
        return "now" if moment <= now + 30_000 else "later"

    def plain(text: str) -> str:
        return _MOMENT.sub(lambda match: word(int(match[0])), text)

    def value(key: str) -> Any:
        match client.type(key):
            case "string":
                return plain(client.get(key))
            case "list":
                return client.lrange(key, 0, -1)[::-1]
            case "set":
                return client.smembers(key)
            case "hash":
                return {name: plain(text) for name, text in client.hgetall(key).items()}
            case "zset":
                return {id: word(score) for id, score in client.zrange(key, 0, -1, withscores=True)}
            case other:
                raise AssertionError(f"{key} is a {other}")

    return {key.removeprefix(root): value(key) for key in client.scan_iter(match=root + "*")}


def check_whole(state: State) -> None:
    """I2: each message is in exactly one place. I13: none came from nowhere, none is gone.

    For a namespace that stands still; `greenworker check` says the same of one that does not.
    """
    places: Counter[str] = Counter()
    for key, value in state.items():
        if key.startswith(("ready:", "line:", "suspects:", "processing:")) or key == "scheduled":
            places.update(list(value))
    present = state.get("msg", {})
    assert places == Counter(dict.fromkeys(present, 1)), "an id is in no place, or in several"
    assert not set(present) & set(state.get("dead", {})), "a dead letter is present as well"
    assert set(state.get("dead", {})) == set(state.get("dead:record", {}))
    count = Counter({name: int(n) for name, n in state.get("stats", {}).items()})
    came, went = (sum(count[name] for name in names) for names in (CAME, WENT))
    assert came == went + len(present), f"{dict(count)} and {len(present)} present"


def envelope(
    *,
    deliveries: int = 0,
    attempt: int = 0,
    priority: int = 5,
    sent: str = "now",
    expires: str = "0",
    ttl: int = 3_600_000,
    queue: str = "default",
    rest: str = "t\n[[],{}]",
) -> str:
    """The envelope of one of Space's messages, as a snapshot shows it."""
    return f"1 {deliveries} {attempt} {priority} {sent} {expires} {ttl} {queue} {rest}"


class Space:
    """A namespace on a server: the broker under test, and a plain client to seed and look.

    Messages are calls of a task `t` without arguments, under ids that the test chooses.
    """

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url
        self.endpoint = Endpoint(url)
        self.redis: Any = redis.Redis.from_url(url, protocol=2, decode_responses=True)
        self.broker = self.another_broker(namespace)
        self.root = self.broker.root
        self._seq: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.close()
        self.redis.close()

    def another_broker(self, namespace: str = "") -> Broker:
        """A broker with a connection of its own, for another thread."""
        return Broker(Connection(self.endpoint), namespace or self.broker.namespace)

    def key(self, name: str) -> str:
        return self.root + name

    def state(self, *without: str) -> State:
        """The snapshot, without the keys that begin with one of these words."""
        state = snapshot(self.redis, self.root)
        return {
            key: value for key, value in state.items() if not key.startswith(without or ("\n",))
        }

    def check(self) -> None:
        check_whole(self.state())

    def stats(self) -> dict[str, int]:
        return {name: int(n) for name, n in self.redis.hgetall(self.key("stats")).items()}

    def waiting(self, queue: str = "default", priority: int = 5) -> list[str]:
        """The ids of a queue, next one first."""
        return self.redis.lrange(self.key(f"ready:{queue}:{priority}"), 0, -1)[::-1]

    def take_token(self, queue: str = "default") -> bool:
        """As a worker that wakes up: whether there was a token."""
        return self.redis.rpop(self.key(f"wake:{queue}")) is not None

    def push(
        self,
        *ids: str,
        push_id: str | None = None,
        queue: str = "default",
        priority: int = 5,
        due: Moment | None = None,
        expires: Moment | None = None,
        result_ttl: float = 3600.0,
        args: Sequence[Any] = (),
        key: str = "",
    ) -> int:
        """`key`: what limits go by; two with a comma between."""
        fields: list[bytes | str | int] = []
        options = {"keys": key} if key else {}
        for id in ids:
            fields += push_fields(
                Message(id, "t", args, {}, {}, queue, priority, result_ttl, due, expires, options)
            )
        return self.broker.push(push_id or uuid4().hex, fields)

    def push_suspect(self, *ids: str, deliveries: int = 2, queue: str = "default") -> None:
        """Messages that were present at that many crashes, back in line."""
        self.push(*ids, queue=queue)
        for id in ids:
            self.edit(id, "1 0 ", f"1 {deliveries} ")
            self.redis.lrem(self.key(f"ready:{queue}:5"), 0, id)
            self.redis.lpush(self.key(f"suspects:{queue}"), id)

    def edit(self, id: str, old: str, new: str) -> None:
        """Replace a part of a message's envelope."""
        text = self.redis.hget(self.key("msg"), id)
        assert old in text
        self.redis.hset(self.key("msg"), id, text.replace(old, new, 1))

    def register(
        self, *workers: str, queues: Sequence[str] = ("default",), lease: float = 60
    ) -> None:
        for worker in workers:
            assert self.broker.register(worker, lease, {"name": worker}, queues)

    def claim(
        self,
        worker: str,
        most: int = 10,
        queues: Sequence[str] = ("default",),
        seq: int | None = None,
    ) -> Claim:
        """A claim with the next sequence of that worker, or with the one given."""
        following = self.next_seq(worker)
        return self.broker.claim(worker, seq or following, most, queues)

    def next_seq(self, worker: str) -> int:
        self._seq[worker] += 1
        return self._seq[worker]

    def claim_ids(
        self, worker: str, most: int = 10, queues: Sequence[str] = ("default",)
    ) -> list[str]:
        return [delivery.id for delivery in self.claim(worker, most, queues).deliveries]

    def run(self, worker: str, *ids: str) -> list[Delivery]:
        """Push, register and claim: deliveries that the worker now holds, in the order of the ids."""
        self.push(*ids)
        self.register(worker)
        deliveries = self.claim(worker, len(ids)).deliveries
        assert [delivery.id for delivery in deliveries] == list(ids)
        return deliveries

    def hold(self, worker: str, count: int, left: int) -> None:
        """Let the worker have claimed `count` messages, and have settled all but `left`."""
        self.register(worker)
        for start in range(0, count, 1000):
            self.push(*(f"m{n}" for n in range(start, min(start + 1000, count))))
        held = [one for _ in range(0, count, 1000) for one in self.claim(worker, 1000).deliveries]
        assert len(held) == count
        ended = held[left:]
        for start in range(0, len(ended), 1000):
            self.done(worker, *ended[start : start + 1000])

    def settle(self, worker: str, *outcomes: tuple[Delivery, Outcome]) -> list[bool]:
        return self.broker.settle(worker, outcomes)

    def done(self, worker: str, *deliveries: Delivery) -> list[bool]:
        outcome = Outcome("done", b'{"state":"SUCCESS","value":1}', 3600.0)
        return self.settle(worker, *((delivery, outcome) for delivery in deliveries))

    def crash(self, *workers: str) -> None:
        """Let their leases have run out long ago, with beats of others until now."""
        self.redis.zadd(self.key("workers"), dict.fromkeys(workers, 1), xx=True)
        self.pulse_was(0.0)

    def pulse_was(self, seconds_ago: float) -> None:
        """Let that be when somebody was heard of last."""
        seconds, _ = self.redis.time()
        self.redis.set(self.key("pulse"), int((seconds - seconds_ago) * 1000))

    def reap(self, max_deliveries: int = 3) -> Sweep:
        return self.broker.reap(30.0, 60.0, max_deliveries)

    def make_due(self) -> None:
        """Let the time come for all that is scheduled."""
        # Half a millisecond stays: it marks what came back from a dead worker.
        for id, due in self.redis.zrange(self.key("scheduled"), 0, -1, withscores=True):
            self.redis.zadd(self.key("scheduled"), {id: 1 + due % 1})
