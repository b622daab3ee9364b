"""What it costs that many hosts wait, each for its next turn: calls and CPU time a second of the server and of idle workers.

    python benchmarks/waiting.py [--hosts 2000] [--workers 4] [--seconds 10]

Runs with the greenworker of this checkout. Each host has tasks that do nothing, and a delay between two of them: an hour,
ten seconds, one second. The hosts come due one after the other, since their first tasks were sent so, over ten seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import cpu_seconds

from greenworker import App
from tests.support.process import Command
from tests.support.server import Server

MODULE = """
from greenworker import App
app = App({url!r})

@app.task(name="visit", key="host:{{n}}", ignore_result=True)
def visit(n): pass
"""
SPREAD = 10.0  # seconds
LINE = "{:>10}{:>10}{:>14}{:>14}{:>14}{:>14}"


def main() -> None:
    options = _options()
    print(LINE.format("delay, s", "starts/s", "scripts/s", "BRPOP/s", "server", "each worker"))
    for delay in (3600.0, 10.0, 1.0):
        measure(options, delay)


def measure(options: argparse.Namespace, delay: float) -> None:
    """A line of what was seen."""
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        text = MODULE.format(url=server.url)
        (Path(folder) / "waiting_tasks.py").write_text(text)
        app = App(server.url)

        @app.task(name="visit", key="host:{n}", ignore_result=True)
        def visit(n: int) -> None: ...

        app.limits.set("host:*", delay=delay)
        workers = [Command("waiting_tasks", cwd=folder) for _ in range(options.workers)]
        try:
            for worker in workers:
                worker.wait_for("ready")
            each = 3 + round((options.seconds + SPREAD) / delay)
            began = time.monotonic()
            for n in range(options.hosts):
                visit.delay_many(((n,) for _ in range(each)), results=False)
                due = began + SPREAD * n / options.hosts
                time.sleep(max(0.0, due - time.monotonic()))
            time.sleep(1.0)
            execute = app.client.pool.execute
            before = _counts(execute), [cpu_seconds(one.pid) for one in (server, *workers)]
            began = time.monotonic()
            time.sleep(options.seconds)
            took = time.monotonic() - began
            after = _counts(execute), [cpu_seconds(one.pid) for one in (server, *workers)]
        finally:
            for worker in workers:
                worker.kill()
            app.close()
        starts, scripts, waits = ((b - a) / took for a, b in zip(before[0], after[0], strict=True))
        spent = [(b - a) / took for a, b in zip(before[1], after[1], strict=True)]
        of_workers = sum(spent[1:]) / len(spent[1:])
        rates = (f"{delay:g}", f"{starts:.0f}", f"{scripts:.0f}", f"{waits:.0f}")
        print(LINE.format(*rates, f"{spent[0]:.1%}", f"{of_workers:.1%}"), flush=True)


def _counts(execute) -> tuple[int, int, int]:  # type: ignore[no-untyped-def]
    """Tasks that are done, calls of scripts, and of BRPOP, so far."""
    stats = execute("INFO", "commandstats").decode()
    calls = {
        line.split(":")[0]: int(line.split("calls=")[1].split(",")[0])
        for line in stats.splitlines()
        if "calls=" in line
    }
    done = int(execute("HGET", "gw:{default}:stats", "done") or 0)
    return done, calls["cmdstat_evalsha"], calls.get("cmdstat_brpop", 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=2000, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each line (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
