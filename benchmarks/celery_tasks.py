"""Celery's side: the same task, as reliable as greenworker's, and without what can be left out."""

import os
import sys

from celery import Celery

app = Celery(
    "celery_tasks", broker=os.environ["BENCH_URL"], backend=os.environ["BENCH_RESULTS_URL"]
)
app.conf.update(
    task_acks_late=True,  # at least once, as greenworker does it
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
    # Off by default: each task then opens a connection of its own for its result.
    result_backend_thread_safe="BENCH_STOCK" not in os.environ,
)


@app.task(name="noop")
def noop() -> None:
    pass


if __name__ == "__main__":
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(int(sys.argv[1])):
            noop.apply_async(producer=producer)
