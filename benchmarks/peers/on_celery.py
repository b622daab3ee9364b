"""Celery on gevent, as reliable as greenworker, and without what can be left out; and as most people run it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peers.peer import INSIDE, Peer


class Celery(Peer):
    """acks_late and reject_on_worker_lost (at least once), JSON, results for an hour, a time limit of 300 s. No gossip,
    mingle, heartbeat, events, remote control or rate limits; result_backend_thread_safe, without which each task opens
    a connection for its result. Prefetch stays at 4 a slot: unlimited is up to a quarter faster, and puts the whole
    queue into one worker's memory. Sent through one producer, which is the fastest way that it has."""

    name = "celery"
    file = "on_celery.py"
    packages = ("celery[redis,gevent]==5.7.0", "gevent==26.9.0", "redis==8.1.0", "urllib3==2.8.0")
    results = "celery-task-meta-*"
    database = 1

    def worker(self, concurrency: int) -> Sequence[object]:
        flags = "-l WARNING --without-gossip --without-mingle --without-heartbeat -c"
        return [*f"celery -A peers.on_celery worker -P gevent {flags}".split(), concurrency]


class StockCelery(Celery):
    """The same with the result backend's default: a connection for each result."""

    name = "celery-stock"
    workloads = frozenset({"drain"})

    @property
    def venv(self) -> str:
        return "celery"

    def env(self) -> Mapping[str, str]:
        return {"BENCH_STOCK": "1"}


if INSIDE:
    import celery

    from peers import inside
    from peers.tasks import TASKS

    CONNECTIONS = int(os.environ["BENCH_CONCURRENCY"]) + 50
    app = celery.Celery(
        "on_celery", broker=os.environ["BENCH_URL"], backend=os.environ["BENCH_RESULTS_URL"]
    )
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=False,
        task_time_limit=300,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_disable_rate_limits=True,
        task_serializer="json",
        result_serializer="json",
        result_expires=3600,
        broker_connection_retry_on_startup=True,
        # As many connections as tasks, should they all want one: redis-py's pools have a hundred.
        broker_transport_options={"max_connections": CONNECTIONS},
        redis_max_connections=CONNECTIONS,
        result_backend_thread_safe="BENCH_STOCK" not in os.environ,
    )
    tasks = {name: app.task(name=name)(function) for name, function in TASKS.items()}

    def send(task: str, *args: Any) -> Any:
        return tasks[task].apply_async(args)

    def send_many(task: str, calls: Iterable[tuple[Any, ...]]) -> None:
        with app.producer_pool.acquire(block=True) as producer:
            for args in calls:
                tasks[task].apply_async(args, producer=producer)

    def wait(result: Any) -> object:
        return result.get(timeout=60)


if __name__ == "__main__":
    inside.main(send, send_many, wait)
