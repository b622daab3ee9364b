"""A web server with its worker inside: one process to start, deploy and stop.

    python embedded_worker.py 8000       # server and worker
    curl http://127.0.0.1:8000/teapot    # {"item": "teapot", "price": 18}

Start it several times, on other ports, and they share the work. Requests and tasks take turns
in one event loop, so this is for tasks that wait; what computes belongs in a worker apart.
"""

# First of all: what is imported after the patch waits without blocking the others.
from gevent import monkey

monkey.patch_all()

import json
import logging
import signal
import sys
import time
from collections.abc import Iterable
from typing import Any

import gevent
from gevent.pywsgi import WSGIServer

from greenworker import App, Worker

# Kubernetes kills 30 seconds after SIGTERM; the requests under way get the most of them.
REQUESTS_END, TASKS_END = 20, 5

app = App()


@app.task(timeout=10)
def quote(item: str) -> dict[str, Any]:
    """Ask a supplier what an item costs."""
    time.sleep(0.5)  # stands for the supplier's web service
    return {"item": item, "price": 3 * len(item)}


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    item = environ["PATH_INFO"].removeprefix("/")
    answer = quote.delay(item).get(timeout=15)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


def main(port: int) -> None:
    worker = Worker(app, concurrency=200, grace=TASKS_END)
    # A pool, so that the end waits for the requests under way.
    server = WSGIServer(("127.0.0.1", port), application, spawn=10_000)
    # A Worker leaves the signals to its host.
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.close)
    # In this order: the requests under way wait for results, which the worker still has to bring.
    with worker:
        server.start()
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever(stop_timeout=REQUESTS_END)
    print("stopped", flush=True)


if __name__ == "__main__":
    # A worker logs through logging, and says nothing that nobody has asked for.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
