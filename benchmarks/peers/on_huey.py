"""Huey on greenlets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from peers.peer import INSIDE, Peer


class Huey(Peer):
    """huey_consumer -k greenlet, patched before it imports anything. At most once: what a worker held when it was killed is
    lost, there is nothing to switch on. A time limit of 300 s; results for an hour, of tasks that return None as well
    (store_none), announced only in `latency`, where somebody waits (notify_result costs two commands a task). No periodic
    tasks, no health check of its greenlets. Pickle, its default, which is faster than its JSON."""

    name = "huey"
    file = "on_huey.py"
    packages = ("huey==3.5.4", "gevent==26.9.0", "redis==8.1.0", "urllib3==2.8.0")
    results = "huey.r.bench.*"

    def worker(self, concurrency: int) -> Sequence[object]:
        patched = ["python", "-m", "gevent.monkey", "--module", "huey.bin.huey_consumer"]
        return [
            *patched,
            "peers.on_huey.huey",
            *["-k", "greenlet", "-q", "-n", "-C", "-w"],
            concurrency,
        ]


if INSIDE:
    from huey import RedisExpireHuey

    from peers import inside
    from peers.tasks import TASKS, wide

    huey = RedisExpireHuey(
        "bench",
        url=wide(os.environ["BENCH_URL"]),
        expire_time=3600,
        store_none=True,
        notify_result=os.environ["BENCH_WORKLOAD"] == "latency",
    )
    tasks = {name: huey.task(name=name, timeout=300)(function) for name, function in TASKS.items()}

    def send(task: str, *args: Any) -> Any:
        return tasks[task](*args)

    def send_many(task: str, calls: Iterable[tuple[Any, ...]]) -> None:
        for args in calls:
            tasks[task](*args)

    def wait(result: Any) -> object:
        return result.get(blocking=True, timeout=60)


if __name__ == "__main__":
    inside.main(send, send_many, wait)
