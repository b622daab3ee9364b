"""What keys and their limits cost the server: µs and commands a message, bytes a message and a key.

    python benchmarks/keys.py [--messages 200000] [--claimed 20000] [--rounds 1]

Runs with the greenworker of this checkout, on an embedded server. In each case as many messages wait; a worker of 100
slots claims and settles some of them, a hundred at a time. What is told is the server's CPU time. The scripts' clock
stands still and is moved by hand, so that a limit allows the same on every machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import cpu_seconds

from greenworker import App
from greenworker.message import Outcome
from greenworker.testing.moving import clock

SLOTS = 100
DONE = Outcome("done", b'{"state":"SUCCESS","value":null}', 3600.0)

# A limit that refuses nothing, and one that has a key wait after each start.
NONE: dict[str, Any] = {}
WIDE: dict[str, Any] = {"concurrency": 1000, "rate": "1000000/s", "burst": 100_000}
DELAY: dict[str, Any] = {"concurrency": 2, "delay": 1.0}


class Case(NamedTuple):
    name: str
    keys: int
    limit: dict[str, Any]


CASES = (
    Case("no key", 0, NONE),
    Case("1 key", 1, NONE),
    Case("1,000 keys", 1_000, NONE),
    Case("100,000 keys", 100_000, NONE),
    Case("1 key, limited", 1, WIDE),
    Case("1,000 keys, limited", 1_000, WIDE),
    Case("100,000 keys, limited", 100_000, WIDE),
    Case("1,000 keys, a delay each", 1_000, DELAY),
    Case("100,000 keys, a delay each", 100_000, DELAY),
)
STEPS = ("push", "claim", "settle", "promote")
LINE = "{:<27}" + "{:>8}" * 6 + "{:>10}{:>10}"


class Figures(NamedTuple):
    push: float
    claim: float
    settle: float
    promote: float
    commands: float  # within claim, settle and promote, a message
    longest: float  # ms: of one call
    bytes: float  # that one that waits takes, its key's included


def main() -> None:
    options = _options()
    heads = (*STEPS, "all but", "redis.", "longest", "bytes")
    print(LINE.format("µs a message", *heads))
    print(LINE.format("", "", "", "", "", "push", "calls", "call, ms", "each"))
    for case in CASES:
        if options.only not in case.name:
            continue
        rounds = [measure(case, options.messages, options.claimed) for _ in range(options.rounds)]
        found = Figures(*(median(values) for values in zip(*rounds, strict=True)))
        spent = found.claim + found.settle + found.promote
        micros = (found.push, found.claim, found.settle, found.promote, spent, found.commands)
        texts = [f"{value:.1f}" for value in micros]
        print(LINE.format(case.name, *texts, f"{found.longest:.1f}", f"{found.bytes:.0f}"))
        sys.stdout.flush()


def measure(case: Case, messages: int, claimed: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        app = App(embedded=str(Path(folder) / "server"))

        @app.task(key="host:site-{n}.example.org" if case.keys else None)
        def page(n: int, url: str) -> None: ...

        url = "https://example.org/path/to/page-"
        calls = ((n % max(1, case.keys), f"{url}{n:07}") for n in range(messages))
        with clock(app) as standing:
            if case.limit:
                app.limits.set("host:*", **case.limit)
            server = Server(app)
            page.delay_many(_few(calls, 1000), results=False)
            server.forget_pushes()
            empty = server.used()
            pushes = []
            while some := _few(calls, 1000):
                before = server.spent()
                page.delay_many(some, results=False)
                pushes.append((server.spent() - before, len(some)))
            server.forget_pushes()
            each = (server.used() - empty) / (messages - 1000)
            spent, commands, longest = _drain(app, server, standing, claimed)
        app.close()
    return Figures(
        _each(pushes, messages - 1000),
        *(spent[step] for step in STEPS[1:]),
        commands,
        longest,
        each,
    )


def _drain(
    app: App, server: Server, standing: Any, claimed: int
) -> tuple[dict[str, float], float, float]:
    """Claim and settle so many; what that takes by step, and commands within, each a message; and the longest call's ms."""
    broker = app.client.broker
    broker.register("w", 3600.0, {}, ["default"])
    calls: dict[str, list[tuple[float, int]]] = {step: [] for step in STEPS}
    done, seq, waits = 0, 0, False

    def timed(step: str, how_many: Callable[[Any], int], do: Any, *args: Any) -> Any:
        before = server.spent()
        answer = do(*args)
        calls[step].append((server.spent() - before, how_many(answer)))
        return answer

    commands = server.commands()
    while done < claimed:
        if waits:
            standing.move(seconds=1.0)
            while timed("promote", lambda told: told.moved, broker.promote, "w").moved:
                pass
        seq += 1
        claim = timed(
            "claim", lambda one: len(one.deliveries), broker.claim, "w", seq, SLOTS, ["default"]
        )
        waits = len(claim.deliveries) < SLOTS
        if claim.deliveries:
            ends = [(one, DONE) for one in claim.deliveries]
            timed("settle", len, broker.settle, "w", ends)
        done += len(claim.deliveries)
    commands = server.commands() - commands
    longest = max(took for step in calls.values() for took, _ in step)
    return {step: _each(calls[step], done) for step in STEPS}, commands / done, longest / 1000


def _each(calls: list[tuple[float, int]], messages: int) -> float:
    """The median call's µs for each that it was about, times how many there were: what else the machine does meanwhile
    lengthens some calls, and is not counted."""
    useful = [(took, count) for took, count in calls if count]
    if not useful:
        return 0.0
    return median(took / count for took, count in useful) * sum(n for _, n in useful) / messages


class Server:
    """What the server says of itself."""

    def __init__(self, app: App) -> None:
        self._ask = app.client.pool.execute
        self._pid = int(self._info("server")["process_id"])

    def spent(self) -> float:
        """µs of CPU time so far. (What it says of its scripts itself, in INFO commandstats, is wall time: on a machine
        that others use as well it tells of them.)"""
        return cpu_seconds(self._pid) * 1e6

    def commands(self) -> int:
        """Commands so far that scripts have called."""
        stats = self._info("commandstats")
        calls = {name: int(line.split("calls=")[1].split(",")[0]) for name, line in stats.items()}
        ours = ("cmdstat_evalsha", "cmdstat_info", "cmdstat_eval")
        return sum(count for name, count in calls.items() if name not in ours)

    def used(self) -> int:
        return int(self._info("memory")["used_memory"])

    def forget_pushes(self) -> None:
        """Notes of sends, that are kept for five minutes, whatever they were about."""
        for key in self._keys("*push:*"):
            self._ask("DEL", key)

    def _keys(self, pattern: str) -> Iterable[bytes]:
        cursor = b"0"
        while True:
            cursor, found = self._ask("SCAN", cursor, "MATCH", pattern, "COUNT", 10_000)
            yield from found
            if cursor == b"0":
                return

    def _info(self, section: str) -> dict[str, str]:
        text = self._ask("INFO", section).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _few(calls: Iterator[Any], count: int) -> list[Any]:
    return [call for call, _ in zip(calls, range(count), strict=False)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=200_000, help="that wait (%(default)s)")
    parser.add_argument("--claimed", type=int, default=20_000, help="of them (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="of which the medians (%(default)s)")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    return parser.parse_args()


if __name__ == "__main__":
    main()
