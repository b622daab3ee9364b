"""The worker: claims messages, runs them in a gevent pool, settles their outcomes."""

from greenworker.worker.config import WorkerConfig
from greenworker.worker.worker import Worker

__all__ = ["Worker", "WorkerConfig"]
