"""A web server that sends a task for each request and awaits its result.

    greenworker web_server -c 500        # the worker
    python web_server.py 8000            # the server
    curl http://127.0.0.1:8000/teapot    # {"item": "teapot", "price": 18}

A request that waits costs a greenlet: a thousand of them share one connection, on which results
are announced. Sending borrows one of a few more, 16 at most.
"""

# First of all: what is imported after the patch waits without blocking the others.
from gevent import monkey

monkey.patch_all()

import json
import signal
import sys
import time
from collections.abc import Iterable
from typing import Any

import gevent
from gevent.pywsgi import WSGIServer

from greenworker import App, errors

PATIENCE = 30  # seconds for an answer; proxies and browsers give up at 60 and later

app = App()


# It expires when its request is given up: nobody would see the result.
@app.task(timeout=10, expires=PATIENCE)
def quote(item: str) -> dict[str, Any]:
    """Ask a supplier what an item costs."""
    if not item.isalpha():
        raise LookupError(f"there is no {item!r}")
    time.sleep(0.5)  # stands for the supplier's web service
    return {"item": item, "price": 3 * len(item)}


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    item = environ["PATH_INFO"].removeprefix("/")
    answer: dict[str, Any]
    try:
        status, answer = "200 OK", quote.delay(item).get(timeout=PATIENCE)
    except (errors.ResultTimeout, errors.TaskExpired) as error:
        status, answer = "504 Gateway Timeout", {"error": str(error)}
    except errors.TaskFailed as error:
        status, answer = "502 Bad Gateway", {"error": error.message}
    except errors.BrokerUnavailable as error:
        status, answer = "503 Service Unavailable", {"error": str(error)}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


def main(port: int) -> None:
    # A pool, so that the end waits for the requests under way.
    server = WSGIServer(("127.0.0.1", port), application, spawn=10_000)
    server.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.close)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever(stop_timeout=PATIENCE)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
