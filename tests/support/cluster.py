"""Two cluster nodes that own half of the slots each; a slot can be moved from one to the other."""

from __future__ import annotations

from typing import Any, Self

import redis

from tests.support.eventually import eventually
from tests.support.server import Server, free_port

SLOTS = 16384


class Cluster:
    """`first` owns the lower half of the slots, `second` the upper one."""

    def __init__(self) -> None:
        # Not the usual one, 10,000 above the other: that may be none.
        self._bus = [free_port(), free_port()]
        config = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}
        self.first = Server(config={**config, "cluster-port": str(self._bus[0])})
        try:
            self.second = Server(config={**config, "cluster-port": str(self._bus[1])})
        except BaseException:
            self.first.close()
            raise
        self.nodes = (self.first, self.second)
        try:
            self._meet()
        except BaseException:
            self.close()
            raise

    def owner(self, slot: int) -> Server:
        """Who owns it, as both say."""
        ports = {self._owner_port(node, slot) for node in self.nodes}
        assert len(ports) == 1, "they do not agree yet"
        (port,) = ports
        return self.first if port == self.first.port else self.second

    def other(self, node: Server) -> Server:
        return self.second if node is self.first else self.first

    def begin_to_move(self, slot: int) -> None:
        """From here on its owner answers ASK for whatever it has not."""
        source = self.owner(slot)
        target = self.other(source)
        ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(target))

    def move_keys(self, slot: int, most: int = 1_000_000) -> int:
        """Move up to `most` keys of a slot that is on its way; how many."""
        source = self.owner(slot)
        target = self.other(source)
        moved = 0
        while moved < most:
            keys = ask(source, "CLUSTER", "GETKEYSINSLOT", slot, min(10, most - moved))
            if not keys:
                break
            ask(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "KEYS", *keys)
            moved += len(keys)
        return moved

    def end_to_move(self, slot: int) -> None:
        """The slot is the other one's; whoever asks here is told MOVED."""
        source = self.owner(slot)
        target = self.other(source)
        for node in (target, source):
            ask(node, "CLUSTER", "SETSLOT", slot, "NODE", self._id(target))
        eventually(lambda: self._owner_port(source, slot) == target.port)

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _meet(self) -> None:
        ask(self.first, "CLUSTER", "ADDSLOTSRANGE", 0, SLOTS // 2 - 1)
        ask(self.second, "CLUSTER", "ADDSLOTSRANGE", SLOTS // 2, SLOTS - 1)
        # Each with an epoch of its own: else one of them would give up its slots at their meeting.
        ask(self.first, "CLUSTER", "SET-CONFIG-EPOCH", 1)
        ask(self.second, "CLUSTER", "SET-CONFIG-EPOCH", 2)
        ask(self.first, "CLUSTER", "MEET", "127.0.0.1", self.second.port, self._bus[1])
        for node in self.nodes:
            eventually(lambda node=node: self._is_ready(node), within=30)

    def _is_ready(self, node: Server) -> bool:
        info = ask(node, "CLUSTER", "INFO")
        return "cluster_state:ok" in info and "cluster_known_nodes:2" in info

    def _id(self, node: Server) -> str:
        id: str = ask(node, "CLUSTER", "MYID")
        return id

    def _owner_port(self, node: Server, slot: int) -> int:
        for first, last, (_, port, *_), *_ in ask(node, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return int(port)
        raise AssertionError(f"nobody owns slot {slot}")


def ask(node: Server, *command: Any) -> Any:
    with redis.Redis(port=node.port, protocol=2, decode_responses=True) as client:
        client.response_callbacks.clear()
        return client.execute_command(*command)
