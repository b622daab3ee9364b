"""Tracing: one trace from the program that sends, through tasks that send tasks and their retries.

    greenworker tracing         # in one terminal: the worker
    python tracing.py shelf     # in another: sends, and prints the trace's id
    grep ID spans.jsonl         # each run of the trace: its parent, its time, its error

The trace travels in a message's headers, as W3C's traceparent. A tracer of your own (OpenTelemetry's,
say) takes the place of the file.
"""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from greenworker import App, Message, Middleware, current_task

# The span that this code is part of: (trace, span).
here: ContextVar[tuple[str, str] | None] = ContextVar("here", default=None)


class Tracing(Middleware):
    """Sends along which span this is, and runs what comes with such a note as a child of that."""

    def __init__(self, file: str) -> None:
        self.file = file

    def send(self, message: Message, call_next: Callable[[Message], None]) -> None:
        trace, span = here.get() or (secrets.token_hex(16), secrets.token_hex(8))
        headers = {**message.headers, "traceparent": f"00-{trace}-{span}-01"}
        call_next(replace(message, headers=headers))

    def run(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
        span, parent = secrets.token_hex(8), None
        if "traceparent" in message.headers:  # else it was sent without this: a trace begins
            _, trace, parent, _ = message.headers["traceparent"].split("-")
        else:
            trace = secrets.token_hex(16)
        here.set((trace, span))  # of this run alone: each has variables of its own
        began, error = time.time(), None
        try:
            return call_next(message)
        except BaseException as failed:
            error = type(failed).__name__
            raise
        finally:
            took, attempt = time.time() - began, current_task().attempt
            self.note(trace=trace, span=span, parent=parent, task=message.task, id=message.id,
                      attempt=attempt, began=began, took=took, error=error)  # fmt: skip

    def note(self, **span: Any) -> None:
        # One write: whole lines also where several workers share the file.
        out = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(out, json.dumps(span).encode() + b"\n")
        os.close(out)


app = App(middleware=[Tracing("spans.jsonl")])


@app.task
def price(item: str) -> int:
    quotes = [ask.delay(item, supplier) for supplier in ("north", "south")]
    return min(quote.get(timeout=30, allow_in_task=True) for quote in quotes)


@app.task(retries=2, backoff=0.1)
def ask(item: str, supplier: str) -> int:
    time.sleep(0.1)  # stands for the supplier's web service
    if supplier == "south" and current_task().attempt == 0:
        raise ConnectionError("the south is busy")
    return len(item) * (3 if supplier == "north" else 2)


if __name__ == "__main__":
    trace = secrets.token_hex(16)
    here.set((trace, secrets.token_hex(8)))
    print(price.delay(sys.argv[1]).get(timeout=30), "in trace", trace)
