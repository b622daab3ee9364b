"""Who sends to a peer, in the peer's own environment: the same program for all, given the peer's ways to send.

fill TASK COUNT [ARG...]     COUNT calls, the fastest way that the peer has
number TASK COUNT [ARG...]   likewise, each with its number before the arguments
latency COUNT GAP [IDLE]     one call of stamp() after the other, each waited for, after IDLE seconds
enqueue SECONDS              one call of noop() after the other
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from peers.tasks import slots

Send = Callable[..., Any]  # (task, *arguments) → what wait() takes
SendMany = Callable[[str, Iterable[tuple[Any, ...]]], object]
Wait = Callable[[Any], object]


def main(
    send: Send, send_many: SendMany, wait: Wait, later: Callable[[int], object] | None = None
) -> None:
    match sys.argv[1:]:
        case ["fill", task, count, *args]:
            call = tuple(map(json.loads, args))
            began = time.perf_counter()
            send_many(task, (call for _ in range(int(count))))
            print(json.dumps(_sent(int(count), time.perf_counter() - began)))
        case ["number", task, count, *args]:
            call = tuple(map(json.loads, args))
            send_many(task, ((n, *call) for n in range(int(count))))
        case ["latency", count, gap, *idle]:
            print(json.dumps(_latency(send, wait, int(count), float(gap), *map(float, idle))))
        case ["enqueue", seconds]:
            print(json.dumps(_enqueue(send, float(seconds))))
        case ["later", count] if later:
            later(int(count))
        case words:
            raise SystemExit(f"not known: {words}; see the beginning of {__file__}")


def _latency(
    send: Send, wait: Wait, count: int, gap: float, idle: float = 0.0
) -> list[tuple[int, int]]:
    """Nanoseconds from before a send to the start of its run, and to the moment that its result is here."""
    started, seen = slots(), []
    wait(send("stamp", count))  # connections are there
    time.sleep(idle)
    for n in range(count):
        # At no fixed distance: nobody's polling shall happen to be in step with it.
        time.sleep(gap * random.uniform(0.5, 1.5))
        began = time.monotonic_ns()
        wait(send("stamp", n))
        ended = time.monotonic_ns()
        seen.append((started[n] - began, ended - began))
    return seen


def _enqueue(send: Send, seconds: float) -> dict[str, float]:
    for _ in range(20):
        send("noop")
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        send("noop")
        count += 1
    return _sent(count, time.perf_counter() - began)


def _sent(count: int, seconds: float) -> dict[str, float]:
    # Not ru_maxrss: that begins with what the parent had when it forked.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024 / 1e6
    cpu = time.process_time() / max(1, count) * 1e6
    return {"sent": count, "seconds": seconds, "cpu_us": cpu, "peak_mb": peak}
