"""Where the worker's time goes: a profile of tasks that do nothing, in µs a task.

    python benchmarks/profile_worker.py [--tasks 20000] [--rounds 5]

Samples, since cProfile mixes up the stacks of greenlets: every half millisecond a signal looks
at the running frame and charges it the CPU time since the last look. What is compiled (gevent's
loop, orjson, the switch between greenlets) has no frame: it counts for the Python code that
called it, or, as `→ function`, for the way into the function that came next.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

EVERY = 0.0005  # seconds
# Away from start-up and from the last stragglers.
FIRST, LAST = 0.1, 0.9


class Sampler:
    """CPU seconds by the stack they were spent in."""

    def __init__(self) -> None:
        self._own: Counter[_Spot] = Counter()  # by function
        self._behalf: Counter[_Spot] = (
            Counter()
        )  # by function of ours, with what it calls of others
        self.seconds = 0.0
        self._last = 0.0

    def start(self) -> None:
        signal.signal(signal.SIGALRM, self._look)
        self._last = time.thread_time()
        signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def result(self) -> dict[str, Any]:
        own, behalf = (
            {_text(spot): seconds for spot, seconds in spots.items()}
            for spots in (self._own, self._behalf)
        )
        return {"seconds": self.seconds, "own": own, "behalf": behalf}

    def _look(self, _signal: int, frame: FrameType | None) -> None:
        spent = time.thread_time() - self._last
        self.seconds += spent
        self._own[_spot(frame)] += spent
        ours = frame
        while ours is not None and "/greenworker/" not in ours.f_code.co_filename:
            ours = ours.f_back
        self._behalf[_spot(ours or frame)] += spent
        self._last = time.thread_time()  # what this look took is nobody's


# A function, and whether it had begun: on its `def` line the time was spent before it was called.
_Spot = tuple[CodeType, bool]


def _spot(frame: FrameType | None) -> _Spot:
    assert frame is not None
    return frame.f_code, frame.f_lineno != frame.f_code.co_firstlineno


def _text(spot: _Spot) -> str:
    code, begun = spot
    path = Path(code.co_filename)
    return f"{'' if begun else '→ '}{path.parent.name}/{path.stem}.{code.co_qualname}"


def inside(tasks: int) -> None:
    """The worker's process: drain the queue, print the profile of the middle as JSON."""
    from gevent import monkey

    monkey.patch_all()

    import gevent
    from peers.on_greenworker import app

    from greenworker import Worker

    sampler, worker = Sampler(), Worker(app, concurrency=100)
    received = {}
    with worker:
        for what, part in (("start", FIRST), ("stop", LAST), ("", 1.0)):
            while worker.stats.succeeded < tasks * part:
                gevent.sleep(0.01)
            if what:
                getattr(sampler, what)()
                received[what] = worker.stats.succeeded
    print(json.dumps({"tasks": received["stop"] - received["start"], **sampler.result()}))


def main() -> None:
    options = _options()
    if options.inside:
        return inside(options.tasks)
    import harness
    from peers.on_greenworker import Greenworker

    print(harness.pin_myself(), file=sys.stderr)
    venv = harness.Venv("greenworker", harness.GREENWORKER)
    profiles: list[dict[str, Any]] = []
    for _ in range(options.rounds):
        with harness.Server(venv.server_binary()) as server:
            peer = Greenworker(options.tree)
            env = {**peer.env(), "BENCH_URL": server.url()}
            _, *fill = peer.sender("fill", "noop", options.tasks)
            sender = harness.start(
                [venv.python, *fill], harness.OTHER_CPU, env, stdout=subprocess.DEVNULL
            )
            if sender.wait() != 0:
                raise RuntimeError("sending failed")
            command = [venv.python, __file__, "--inside", "--tasks", options.tasks]
            output, _ = harness.start(
                command, harness.WORKER_CPU, env, stdout=subprocess.PIPE
            ).communicate()
            profiles.append(json.loads(output))
    tasks = sum(profile["tasks"] for profile in profiles)
    total = sum(profile["seconds"] for profile in profiles)
    print(
        f"{tasks:,} tasks in {options.rounds} rounds, {total / tasks * 1e6:.1f} µs of CPU time a task"
    )
    _print(
        "own time, by function", [profile["own"] for profile in profiles], tasks, total, options.top
    )
    _print(
        "by function of greenworker, with all that it calls of others",
        [profile["behalf"] for profile in profiles], tasks, total, options.top,
    )  # fmt: skip
    return None


def _print(title: str, parts: list[dict[str, float]], tasks: int, total: float, top: int) -> None:
    whole: Counter[str] = Counter()
    for part in parts:
        whole.update(part)
    print(f"\n{title}\n{'µs/task':>8} {'share':>6}")
    for place, seconds in whole.most_common(top):
        print(f"{seconds / tasks * 1e6:>8.2f} {seconds / total:>6.1%}  {place}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=20_000, help="a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--top", type=int, default=20, help="lines to print (%(default)s)")
    parser.add_argument(
        "--tree", type=Path, default=Path(__file__).resolve().parent.parent, help="the checkout"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
