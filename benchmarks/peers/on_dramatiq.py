"""Dramatiq on gevent, with its own Redis broker and results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from peers.peer import INSIDE, Peer


class Dramatiq(Peer):
    """dramatiq-gevent, one process. Acknowledged after the run (at least once: its broker returns what a worker held a
    minute after that was last heard of, with one of a thousand commands by chance); a time limit of 300 s; JSON; results for an hour. Of its middleware those that
    nothing here uses are left out (age limit, callbacks, pipelines). Prefetch stays at its default, twice the threads."""

    name = "dramatiq"
    file = "on_dramatiq.py"
    packages = ("dramatiq[redis,gevent]==2.2.1", "gevent==26.9.0", "redis==8.1.0", "urllib3==2.8.0")
    results = "dramatiq-results:*"
    database = 1

    def worker(self, concurrency: int) -> Sequence[object]:
        return ["dramatiq-gevent", "-p", 1, "-t", concurrency, "peers.on_dramatiq"]


if INSIDE:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.middleware import Retries, ShutdownNotifications, TimeLimit
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    from peers import inside
    from peers.tasks import TASKS, wide

    backend = RedisBackend(
        url=wide(os.environ["BENCH_RESULTS_URL"]), use_namespace_prefix_keys=True
    )
    broker = RedisBroker(
        url=wide(os.environ["BENCH_URL"]),
        middleware=[
            TimeLimit(time_limit=300_000),
            ShutdownNotifications(),
            Retries(),
            Results(backend=backend, store_results=True, result_ttl=3_600_000),
        ],
    )
    dramatiq.set_broker(broker)
    actors = {
        name: dramatiq.actor(function, actor_name=name, broker=broker)
        for name, function in TASKS.items()
    }

    def send(task: str, *args: Any) -> Any:
        return actors[task].send(*args)

    def send_many(task: str, calls: Iterable[tuple[Any, ...]]) -> None:
        for args in calls:
            actors[task].send(*args)

    def wait(message: Any) -> object:
        return message.get_result(backend=backend, block=True, timeout=60_000)


if __name__ == "__main__":
    inside.main(send, send_many, wait)
