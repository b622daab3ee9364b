"""The scripts on a real server, with a clock that the test moves and with small bounds.

What runs is the scripts' own text, but for Redis' TIME, which becomes a key, for the numbers that
are named in `CHANGES`, and for the corpse that a reaper takes by chance.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import redis

from greenworker.broker import Broker
from greenworker.connection import Connection
from greenworker.endpoint import Endpoint
from greenworker.scripts import Script, written
from greenworker.trim import trimmed
from tests.support.model_parts import Bounds, State

_CLOCK = "model:clock"
# Chance would make a failure that cannot be repeated.
_FIRST = "(function(all) table.sort(all) return all[1] end)(redis.call('SMEMBERS', CORPSES))"

# A constant in the scripts → the field of Bounds.
CHANGES = {
    "SUSPECT_AFTER": "suspect_after",
    "ALONE_AFTER": "alone_after",
    "SOLITARY_AFTER": "solitary_after",
    "FEW": "few",
    "PATIENCE": "patience",
    "IMPATIENCE": "impatience",
    "LOOK_AT_MOST": "look",
    "CHUNK": "chunk",
    "SPREAD_OVER": "spread_over",
    "PASS_MOST": "passes",
    "DEAD_MOST": "dead_most",
    "DEAD_FOR": "dead_for",
    "FULL": "full",
}
_CONSTANTS = re.compile(r"^local ([A-Z_]+(?:, [A-Z_]+)*) = (\d.*)$", re.MULTILINE)

_DUMP = """
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  local kind, value = redis.call('TYPE', key).ok
  if kind == 'string' then value = redis.call('GET', key)
  elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  elseif kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  found[#found + 1] = {string.sub(key, #ARGV[1] + 1), kind, value, redis.call('PTTL', key)}
end
return found
"""


class Clockwork:
    """A namespace whose scripts go by `clock(ms)`."""

    def __init__(self, url: str, namespace: str, bounds: Bounds) -> None:
        self.redis: Any = redis.Redis.from_url(url, protocol=2, decode_responses=True)
        self._connection = Connection(Endpoint(url))
        self._bounds = bounds
        self.broker = Broker(self, namespace)
        self.root = self.broker.root
        self._dump = self.redis.register_script(_DUMP)

    def run(
        self, script: Script, key: str, *args: bytes | str | int, patience: float | None = None
    ) -> Any:
        return self._connection.run(altered(script, self._bounds), key, *args)

    def execute(self, *command: bytes | str | int) -> Any:
        if command == ("TIME",):
            command = ("HMGET", _CLOCK, "s", "us")
        return self._connection.execute(*command)

    def close(self) -> None:
        """Leave nothing behind: the next dump looks through all keys of the server."""
        self._connection.close()
        self.redis.flushall()
        self.redis.close()

    def clock(self, ms: int) -> None:
        self.redis.hset(_CLOCK, mapping={"s": ms // 1000, "us": ms % 1000 * 1000})

    def state(self) -> State:
        """Every key without its root: strings, dicts, sets, scores as numbers, and lists with what
        is popped next in front; the record of a dead letter in its parts."""
        state = {}
        for name, kind, value, life in self._dump(args=[self.root]):
            assert (life > 0) == name.startswith(("result:", "push:", "room:", "unique:")), (
                f"{name} lives for {life}"
            )
            state[name] = _plain(kind, value)
        if records := state.get("dead:record"):
            state["dead:record"] = {id: tuple(text.split("\n", 3)) for id, text in records.items()}
        return state


@cache
def altered(script: Script, bounds: Bounds) -> Script:
    source = written(script.name).decode()
    source = source.replace("redis.call('TIME')", f"redis.call('HMGET', '{_CLOCK}', 's', 'us')")
    source = source.replace("redis.call('SRANDMEMBER', CORPSES)", _FIRST)
    assert "'TIME'" not in source

    def smaller(match: re.Match[str]) -> str:
        names, values = match[1].split(", "), match[2].split(", ")
        for i, name in enumerate(names):
            if name in CHANGES:
                values[i] = str(getattr(bounds, CHANGES[name]))
        return f"local {match[1]} = {', '.join(values)}"

    data = trimmed(_CONSTANTS.sub(smaller, source)).encode()
    sha = hashlib.sha1(data, usedforsecurity=False).hexdigest().encode()
    return Script(script.name, data, sha)


def constants(script: Script) -> Mapping[str, str]:
    """The named numbers of a script, as written."""
    return {
        name: value
        for names, values in _CONSTANTS.findall(written(script.name).decode())
        for name, value in zip(names.split(", "), values.split(", "), strict=True)
    }


def _plain(kind: str, value: Any) -> Any:
    match kind:
        case "list":
            return value[::-1]
        case "set":
            return set(value)
        case "hash":
            return dict(zip(value[::2], value[1::2], strict=True))
        case "zset":
            return {id: float(score) for id, score in zip(value[::2], value[1::2], strict=True)}
    return value
