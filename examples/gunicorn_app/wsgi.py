"""The web app: it sends a task for each request and awaits its result.

    greenworker tasks                                     # the worker
    gunicorn -k gevent --preload -w 2 wsgi:application    # the server; reads gunicorn.conf.py
    curl http://127.0.0.1:8000/teapot

The answer names the process that gave it: sooner or later it is the other one's turn.
"""

import json
import os
from collections.abc import Iterable
from typing import Any

from tasks import quote


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    item = environ["PATH_INFO"].removeprefix("/")
    answer = {**quote.delay(item).get(timeout=20), "pid": os.getpid()}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
