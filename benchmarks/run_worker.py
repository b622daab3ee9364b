"""A greenworker worker in the fewest lines, for trees without a command line and for the profiler."""

from gevent import monkey

monkey.patch_all()

import logging  # noqa: E402
import signal  # noqa: E402

import gevent  # noqa: E402
from bench_tasks import app  # noqa: E402

from greenworker import Worker  # noqa: E402

CONCURRENCY = 100


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    worker = Worker(app, concurrency=CONCURRENCY)
    gevent.signal_handler(signal.SIGTERM, lambda: gevent.spawn(worker.stop))
    worker.serve_forever()


if __name__ == "__main__":
    main()
