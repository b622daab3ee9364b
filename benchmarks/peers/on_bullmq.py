"""BullMQ on Node.js: the fastest of those in other languages. Its tasks and who sends are in on_bullmq.js."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peers.peer import HERE, Peer

if TYPE_CHECKING:
    from harness import Server

# A result is a field of its job.
COUNT = """
local found = 0
for _, key in ipairs(redis.call('KEYS', 'bull:bench:[0-9]*')) do
  if redis.call('TYPE', key).ok == 'hash' then found = found + redis.call('HEXISTS', key, 'returnvalue') end
end
return found
"""


class BullMQ(Peer):
    """One worker, no stalled checks more than its own every 30 s: at least once, by a lock of 30 s. No time limit (it has none).
    Jobs and their results are kept, its default and cheaper than an hour. Sent a thousand at a time with addBulk."""

    name = "bullmq"
    file = "on_bullmq.js"
    fast = True
    node = True
    packages = ("bullmq@6.7.0", "ioredis@5.11.1")
    clients = ("node",)
    results = "bull:bench:[0-9]*"

    def env(self) -> Mapping[str, str]:
        return {"NODE_PATH": str(HERE.parent / ".venv-bullmq" / "node_modules")}

    def worker(self, concurrency: int) -> Sequence[object]:
        return ["node", HERE / self.file, "work"]

    def sender(self, *words: object) -> Sequence[object]:
        return ["node", HERE / self.file, *words]

    def ended(self, server: Server) -> int:
        return int(server.command("ZCARD", "bull:bench:completed"))

    def exactly(self, server: Server) -> int:
        return int(server.command("EVAL", COUNT, 0))
