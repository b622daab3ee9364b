"""What a task that uses none of the features costs in two versions: the server's CPU time, and that of Python.

    python benchmarks/plain.py --tree ../before --tree . [--rounds 9]

One server; each round each checkout in turn, in a process of its own, sends, claims and settles messages through its own
client and scripts: a hundred at a time, and one by one. Of each step the fastest tenth of its calls counts, and of these
the median over rounds: who else uses the machine makes some calls slower, and none faster. Needs an
environment with what greenworker needs (`pip install -e .`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from harness import cpu_seconds

STEPS = ("send", "claim", "settle")
TIMES = {100: 120, 1: 1500}


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, str(options.tree[0]))
        from greenworker import App

        server = App(embedded=str(Path(folder) / "server"))
        url = server.client.broker.status() and server.endpoint.url
        found: dict[tuple[str, int, str], list[list[float]]] = {}
        for number in range(options.rounds):
            for n in range(len(options.tree)) if number % 2 else reversed(range(len(options.tree))):
                for at_once, step, *micros in _run(options.tree[n], url, f"t{number}-{n}"):
                    rows = found.setdefault((step, at_once, ""), [[] for _ in options.tree])
                    rows[n].append(micros)
        server.close()
    print(f"{'µs a message: server / Python':<34}" + "".join(f"{t.name:>18}" for t in options.tree))
    for (step, at_once, _), rows in found.items():
        figures = [[median(values) for values in zip(*row, strict=True)] for row in rows]
        texts = [f"{server:.2f} / {here:.2f}" for server, here in figures]
        ratios = [
            median(b[which] / a[which] for a, b in zip(rows[0], rows[-1], strict=True))
            for which in (0, 1)
        ]
        print(
            f"{step + f', {at_once} at a time':<34}" + "".join(f"{text:>18}" for text in texts)
            + f"   last : first {ratios[0]:.3f} / {ratios[1]:.3f}"
        )  # fmt: skip


def measure(url: str, namespace: str) -> list[list[Any]]:
    """In a checkout's own process: rows of how many at a time, step, and µs a message, of the server and here."""
    from greenworker import App
    from greenworker.message import Outcome

    app = App(url, namespace=namespace)

    @app.task
    def page(n: int, url: str) -> None: ...

    broker, done = app.client.broker, Outcome("done", b'{"state":"SUCCESS"}', 3600.0)
    pid = int(app.client.pool.execute("INFO", "server").decode().split("process_id:")[1].split()[0])
    broker.register("w", 3600.0, {}, ["default"])
    rows, seq = [], 0
    for at_once, times in TIMES.items():
        spent: dict[str, list[tuple[float, float]]] = {step: [] for step in STEPS}

        def timed(step: str, do: Any, *args: Any, spent: Any = spent) -> Any:
            server, here = cpu_seconds(pid), time.process_time()
            answer = do(*args)
            spent[step].append((cpu_seconds(pid) - server, time.process_time() - here))
            return answer

        for number in range(times):
            url_of = f"https://example.org/path/to/page-{number}"
            if at_once == 1:
                timed("send", page.delay, number, url_of)
            else:
                calls = [(n, url_of) for n in range(at_once)]
                timed("send", lambda calls: page.delay_many(calls, results=False), calls)
            seq += 1
            claim = timed("claim", broker.claim, "w", seq, at_once, ["default"])
            assert len(claim.deliveries) == at_once
            timed("settle", broker.settle, "w", [(one, done) for one in claim.deliveries])
        for step, values in spent.items():
            rows.append(
                [at_once, step, *(_fast(each) / at_once * 1e6 for each in zip(*values, strict=True))]
            )  # fmt: skip
    app.close()
    return rows


def _fast(values: tuple[float, ...]) -> float:
    return median(sorted(values)[: max(1, len(values) // 10)])


def _run(tree: Path, url: str, namespace: str) -> list[list[Any]]:
    env = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{Path(__file__).parent}"}
    command = [sys.executable, __file__, "--measure", url, namespace]
    rows: list[list[Any]] = json.loads(subprocess.check_output(command, env=env))
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tree", type=lambda name: Path(name).resolve(), action="append")
    parser.add_argument("--rounds", type=int, default=9, help="(%(default)s)")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.tree and not options.measure:
        parser.error("give --tree for each checkout")
    return options


if __name__ == "__main__":
    asked = _options().measure
    if asked:
        print(json.dumps(measure(*asked)))
    else:
        main()
