"""Delayed tasks that note how late they are. As a program: `fill N`, or `send SECONDS RATE LOAD`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from greenworker import App, Middleware, Worker
from greenworker.message import Message

AHEAD = 5.0  # seconds: the first is due so long after all of them were sent
NAP = 0.1  # seconds: what the load does


class Tell(Middleware):
    """At the worker's end: how late each was, in seconds."""

    def on_shutdown(self, worker: Worker) -> None:
        Path(os.environ["BENCH_OUT"]).write_text(json.dumps(late))


late: list[float] = []
app = App(os.environ["BENCH_URL"], middleware=[Tell()])


@app.task(name="later", ignore_result=True)
def later(due: float) -> None:
    # The server and the worker are on one machine, and have one clock.
    late.append(time.time() - due)


@app.task(name="nap", ignore_result=True)
def nap() -> None:
    time.sleep(NAP)


def fill(count: int) -> None:
    """So many tasks that are due in an hour or more."""

    def messages() -> Iterator[Message]:
        for n in range(count):
            yield Message(uuid4().hex, "later", (0.0,), due=3600.0 + n / 1000)

    app.client.send_many(messages(), lambda _: None)


def promote(times: int = 200) -> dict[str, float]:
    """Milliseconds that a promotion takes: when nothing is due, and when a thousand are; medians."""
    costs: dict[str, list[float]] = {"of nothing": [], "of 1,000": []}
    for _ in range(times):
        began = time.perf_counter()
        app.client.broker.promote()
        costs["of nothing"].append(time.perf_counter() - began)
    for _ in range(times // 10):
        due = [Message(uuid4().hex, "nap", due=0.001) for _ in range(1000)]
        app.client.send_many(due, lambda _: None)
        time.sleep(0.002)  # now all of them are due
        began = time.perf_counter()
        moved = app.client.broker.promote()[0]
        costs["of 1,000"].append(time.perf_counter() - began)
        assert moved == 1000
    return {what: median(seconds) * 1000 for what, seconds in costs.items()}


def send(seconds: float, rate: float, load: float) -> None:
    """`rate` a second come due for so long; beside them `load` tasks a second that nap."""
    count = int(seconds * rate)
    first = time.time() + AHEAD + count / 10_000
    due = [first + n / rate for n in range(count)]
    messages: list[Any] = [
        Message(uuid4().hex, "later", (when,), due=datetime.fromtimestamp(when, UTC))
        for when in due
    ]
    app.client.send_many(messages, lambda _: None)
    left = first - time.time()
    assert left > 0, f"sending took {-left:.1f} s longer than there was time for"
    next_at = time.monotonic()
    while time.time() < due[-1]:
        nap.delay_many([()] * max(1, int(load / 20)), results=False)
        next_at += 1 / 20
        time.sleep(max(0.0, next_at - time.monotonic()))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fill", count]:
            fill(int(count))
        case ["promote"]:
            print(json.dumps(promote()))
        case ["send", *numbers]:
            send(*map(float, numbers))
