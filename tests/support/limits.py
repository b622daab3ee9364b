"""A namespace with limits, whose time stands still until the test moves it; and what must hold of lines, turns and permits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from greenworker import keys
from greenworker.broker import Broker
from greenworker.connection import Connection
from greenworker.control import Control
from greenworker.message import Delivery, Outcome
from greenworker.scripts import load
from greenworker.testing.moving import Clock, Clocked
from tests.support.state import Space, State

DONE = Outcome("done", b'{"state":"SUCCESS","value":1}', 3600.0)
_UNITS = {"s": 1000, "min": 60_000, "hour": 3_600_000}


class KeyState(NamedTuple):
    """A row of limit_keys."""

    key: str
    pattern: str
    spec: str
    running: int
    waiting: int
    state: str
    until: float
    per_minute: float
    p50: int
    p95: int
    throttled: int
    interval: float


class Limited:
    """Messages of one worker, `w`, by a clock."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.clock = Clock(round(space.broker.time() * 1000))
        self._link = Clocked(Connection(space.endpoint), self.clock)
        space.broker.close()
        space.broker = Broker(self._link, space.broker.namespace)
        self._control = Control(self._link, space.broker.namespace)
        self._nil = keys.nil(space.root)

    def push(self, *ids: str, key: str = "", priority: int = 5, queue: str = "default") -> None:
        self.space.push(*ids, key=key, priority=priority, queue=queue)

    def claim(self, most: int = 10, worker: str = "w") -> list[Delivery]:
        return self.space.claim(worker, most).deliveries

    def claim_ids(self, most: int = 10, worker: str = "w") -> list[str]:
        return [one.id for one in self.claim(most, worker)]

    def settle(self, one: Delivery, outcome: Outcome, took: float = 0.0) -> None:
        assert self.space.settle(one.worker, (one, replace(outcome, took=took))) == [True]

    def done(self, one: Delivery, took: float = 0.0) -> None:
        self.settle(one, DONE, took)

    def promote(self) -> None:
        self.space.broker.promote()

    def purge(self) -> int:
        return sum(step.total for step in self._control.purge("default"))

    def take_token(self) -> bool:
        return self.space.take_token()

    def goes_by(self, seconds: float) -> None:
        self.clock.move(seconds=seconds)

    def is_set_back(self, seconds: float) -> None:
        """Somebody does that with the server's clock."""
        self.clock.ms -= round(seconds * 1000)

    def sweep(self) -> None:
        """As a reaper, who finds nobody dead."""
        self.space.redis.zadd(self.space.key("workers"), {"w": self.clock.ms + 10**6}, xx=True)
        self.space.redis.set(self.space.key("pulse"), self.clock.ms)
        self.space.reap()

    def limit(self, pattern: str, *, by: str = "s", worker: str = "", **options: Any) -> list[str]:
        """Set it as its text is kept; `rate` as "100/min"."""
        spec = []
        for name, value in options.items():
            if name == "delay":
                spec.append(f"delay={round(value * 1000)}")
            elif name in ("rate", "floor", "ceiling"):
                starts, _, unit = value.partition("/")
                spec.append(f"{name}={starts}/{_UNITS[unit]}")
            else:
                spec.append(f"{name}={int(value)}")
        return self._set(by, worker, pattern, " ".join(spec))

    def drop(self, pattern: str) -> list[str]:
        return self._set("s", "", pattern, "")

    def _set(self, *args: str) -> list[str]:
        changed = [pattern.decode() for pattern in self._run("limit_set", *args)]
        while self._run("limit_look", 100):
            pass
        return changed

    def hold(self, key: str, seconds: float | None = None) -> None:
        self._run("limit_hold", -1 if seconds is None else round(seconds * 1000), key)

    def resume(self, key: str) -> None:
        self._run("limit_hold", 0, key)

    def state_of(self, key: str) -> KeyState:
        """As people see it."""
        reply = self._run("limit_keys", "0", 100, key)
        assert len(reply) == 2 + len(KeyState._fields), reply
        texts = [field.decode() if isinstance(field, bytes) else field for field in reply[2:]]
        kinds = (str, str, str, int, int, str, float, float, int, int, int, float)
        return KeyState(*(kind(text) for kind, text in zip(kinds, texts, strict=True)))

    def held(self, key: str) -> set[str]:
        return set(self.space.redis.smembers(self.space.key(f"held:{key}")))

    def known(self) -> set[str]:
        return set(self.space.redis.hkeys(self.space.key("keys")))

    def state(self) -> set[str]:
        """The names of what is there, without what follows a colon."""
        return {name.partition(":")[0] for name in self.space.state("push", "about", "leases", "consumers", "wake", "pulse")}  # fmt: skip

    def make_suspect(self, id: str) -> None:
        """It was present at two crashes, and is back in line."""
        redis, space = self.space.redis, self.space
        text = redis.hget(space.key("msg"), id)
        key = text.partition(" keys=")[2].split()[0]
        assert redis.lrem(space.key(f"line:5:default {key}"), 0, id) == 1
        redis.hincrby(space.key("keyed"), "default", -1)
        space.edit(id, "1 0 ", "1 2 ")
        redis.lpush(space.key("suspects:default"), id)

    def check(self) -> None:
        """Everything is where it belongs."""
        self.space.check()
        check_lines(self.space.state())

    def _run(self, name: str, *args: str | int) -> Any:
        return self._link.run(load(name), self._nil, *args)


def check_lines(state: State) -> None:
    """Each line is where its key's turns or its parking are noted; nothing is parked that nothing would fetch; permits
    are those of what runs; the counts add up."""
    lines = dict(_lines(state))
    noted = {
        (key, at[1:]): at[0]
        for key, text in state.get("keys", {}).items()
        for at in (text.split(" ")[11].split(";") if text.split(" ")[11] != "-" else ())
    }
    own = {(key, at) for key, at in lines if "," not in key}
    assert own <= set(noted), "a line that nobody would come to"
    _check_pairs(state, {(key, at) for key, at in lines if "," in key}, set(noted))
    turns: Counter[tuple[str, str]] = Counter()
    for name, value in state.items():
        if name.startswith("turn:"):
            queue, _, priority = name.removeprefix("turn:").rpartition(":")
            for name in value:
                key, comma, _ = name.partition(",")
                turns[key, f"{priority}:{queue}{comma}"] += 1
    assert turns == Counter({at: 1 for at, how in noted.items() if how == "t"}), "turns"
    for (key, _), how in noted.items():
        if how == "p":
            phase, spec = state["keys"][key].split(" ")[6], state["keys"][key].split(" ", 12)[12]
            stopped = phase == "2" or "concurrency=0" in spec.split(" ")
            # (While limits change, a pass looks at all that is parked.)
            passing = "?" in state.get("limits", {})
            fetched = (
                key in state.get("later", {}) or state.get(f"held:{key}") or stopped or passing
            )
            assert fetched, f"{key} is parked for ever"
    waiting = Counter[str]()
    for (_, at), ids in lines.items():
        waiting[at.partition(":")[2]] += len(ids)
    assert waiting == Counter({queue: int(n) for queue, n in state.get("keyed", {}).items()})
    held: dict[str, set[str]] = {}
    for name, value in state.items():
        if name.startswith("processing:"):
            for id in value:
                for key in _keys_of(state["msg"][id]):
                    held.setdefault(key, set()).add(id)
    permits = {name.removeprefix("held:"): value for name, value in state.items() if name.startswith("held:")}  # fmt: skip
    assert permits == held


def _check_pairs(state: State, lines: set[tuple[str, str]], noted: set[tuple[str, str]]) -> None:
    """Each pair that has messages waits once, at the key that is noted; and whoever comes past that one is noted too."""
    waiting: Counter[tuple[str, str, str]] = Counter()
    for name, value in state.items():
        if name.startswith("pairs:"):
            at, _, key = name.removeprefix("pairs:").partition(" ")
            assert (key, f"{at},") in noted, "pairs that nobody would come to"
            waiting.update((pair, at, key) for pair in value)
    told = set()
    for place, side in state.get("pairs", {}).items():
        at, _, pair = place.partition(" ")
        told.add((pair, at, pair.split(",")[int(side) - 1]))
    assert waiting == Counter(dict.fromkeys(told, 1)), "pairs"
    assert lines <= {(pair, at) for pair, at, _ in told}, "a line that no pair waits for"


def _lines(state: State) -> Iterator[tuple[tuple[str, str], list[str]]]:
    for name, value in state.items():
        if name.startswith("line:"):
            at, _, key = name.removeprefix("line:").partition(" ")
            yield (key, at), value


def _keys_of(envelope: str) -> list[str]:
    head = envelope.partition("\n")[0]
    return head.partition(" keys=")[2].split(" ")[0].split("%2C") if " keys=" in head else []
