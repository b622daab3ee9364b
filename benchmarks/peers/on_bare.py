"""The bare loop, as a peer: `bare_loop.py` drains, and the rest is the least that the same libraries need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peers.peer import GREENWORKER, HERE, INSIDE, Peer

LOOP = HERE.parent / "bare_loop.py"


class Bare(Peer):
    """Not a worker: no retries, leases, priorities, schedules; nobody returns what is lost. It is frozen, so that ratios of
    different dates can be compared. `latency`: a script pushes, BRPOP gets it, a script stores and announces the
    result. `enqueue`: that push, and no more. `pages`: a client in a pool of greenlets, and no queue."""

    name = "bare"
    file = "on_bare.py"
    fast = True
    packages = GREENWORKER
    workloads = frozenset({"drain", "latency", "enqueue", "server", "pages"})
    clients = ("urllib3", "geventhttpclient")
    results = "result:*"

    @property
    def venv(self) -> str:
        return "greenworker"

    def worker(self, concurrency: int) -> Sequence[object]:
        # Which of the two it is, is asked inside.
        return ["python", HERE / self.file, "work"]

    def sender(self, *words: object) -> Sequence[object]:
        match words:
            case ["fill", "noop", count]:
                return ["python", LOOP, count]
        return super().sender(*words)


if INSIDE:
    import os
    import sys
    from collections.abc import Iterable
    from itertools import islice

    WORK, WORKLOAD = sys.argv[1:] == ["work"], os.environ["BENCH_WORKLOAD"]
    if WORK:
        if WORKLOAD not in ("latency", "pages"):
            os.execv(sys.executable, [sys.executable, str(LOOP)])
        from gevent import monkey

        monkey.patch_all()

    import uuid

    import orjson
    import redis

    from peers import inside
    from peers.tasks import TASKS

    PUSH = """
for i = 1, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[i]) end
return #ARGV
"""
    SETTLE = """
redis.call('SET', 'result:' .. ARGV[1], ARGV[2], 'PX', 3600000)
redis.call('PUBLISH', 'done', ARGV[1])
return 1
"""
    client = redis.Redis.from_url(os.environ["BENCH_URL"])
    push, settle = client.register_script(PUSH), client.register_script(SETTLE)
    told = client.pubsub(ignore_subscribe_messages=True)

    def message(task: str, args: tuple[Any, ...]) -> bytes:
        call = {"task": task, "args": args, "kwargs": {}}
        return uuid.uuid4().hex.encode() + orjson.dumps(call)

    def send(task: str, *args: Any) -> Any:
        if WORKLOAD == "latency" and not told.subscribed:
            told.subscribe("done")
        one = message(task, args)
        push(["ready"], [one])
        return one[:32]

    def send_many(task: str, calls: Iterable[tuple[Any, ...]]) -> None:
        left = iter(calls)
        while some := [message(task, args) for args in islice(left, 1000)]:
            push(["ready"], some)

    def wait(id: bytes) -> object:
        while True:
            announced = told.get_message(timeout=60)
            if announced and announced["data"] == id:
                return client.get(b"result:" + id)

    def wake() -> None:
        """One task after the other, each as soon as it comes."""
        while True:
            if popped := client.brpop(["ready"], 2):
                id, call = popped[1][:32], orjson.loads(popped[1][32:])
                value = TASKS[call["task"]](*call["args"])
                settle([], [id, orjson.dumps({"state": "SUCCESS", "value": value})])

    def fetch() -> None:
        """All pages that wait, and no queue any more."""
        from gevent.pool import Pool

        calls = [orjson.loads(one[32:]) for one in client.lrange("ready", 0, -1)]
        pool = Pool(int(os.environ["BENCH_CONCURRENCY"]))
        for call in calls:
            pool.spawn(TASKS["page"], *call["args"])
        pool.join()


if __name__ == "__main__":
    if WORK:
        {"latency": wake, "pages": fetch}[WORKLOAD]()
    else:
        inside.main(send, send_many, wait)
