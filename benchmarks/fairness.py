"""Whether one host with very many tasks holds up those with few.

    python benchmarks/fairness.py [--large 100000] [--hosts 999] [--each 10] [--nap 0.02]

Runs with the greenworker of this checkout, on an embedded server. The large host's tasks are all sent before the others'; then one
worker with 200 slots runs them, each a nap. Ideal is that the hosts take turns: when the small ones are through with all they have,
the large one has had as many tasks as one of them. So their ideal time is that of (hosts + 1) × each tasks, at the
rate that the worker has shown over them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from greenworker import App

CHECKOUT = Path(__file__).resolve().parents[1]
MODULE = """
import os, time
from greenworker import App

app = App(embedded={folder!r})
notes = os.open({notes!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.task(name="visit", key="host:{{host}}")
def visit(host, nap):
    time.sleep(nap)
    os.write(notes, f"{{host}} {{time.monotonic()}}\\n".encode())
"""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        text = MODULE.format(folder=str(Path(folder) / "server"), notes=str(notes))
        (Path(folder) / "fair_tasks.py").write_text(text)
        sys.path.insert(0, folder)
        from fair_tasks import app, visit  # type: ignore[import-not-found]

        visit.delay_many((("large", options.nap) for _ in range(options.large)), results=False)
        small = [
            (f"small-{n}", options.nap) for _ in range(options.each) for n in range(options.hosts)
        ]
        visit.delay_many(small, results=False)
        env = {**os.environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{folder}"}
        command = [sys.executable, "-m", "greenworker", "-q", "-c", str(options.c), "fair_tasks"]
        with subprocess.Popen(command, env=env) as worker:
            try:
                ended = _until_small_are_through(notes, len(small), app)
            finally:
                worker.terminate()
        app.close()
    _tell(ended, options)


def _until_small_are_through(notes: Path, count: int, app: App) -> list[tuple[str, float]]:
    """What ended when, until the small hosts have nothing left."""
    while True:
        time.sleep(0.5)
        lines = notes.read_text().splitlines()[:-1] if notes.exists() else []
        ended = [(host, float(at)) for host, at in (line.split() for line in lines)]
        if sum(host != "large" for host, _ in ended) >= count:
            return ended


def _tell(ended: list[tuple[str, float]], options: argparse.Namespace) -> None:
    ended.sort(key=lambda one: one[1])
    began, small = ended[0][1], [at for host, at in ended if host != "large"]
    until_small = sum(at <= small[-1] for _, at in ended)
    took = small[-1] - began
    rate = until_small / took
    ideal = (options.hosts + 1) * options.each / rate
    print(f"the small ones were through after {took:.1f} s, at {rate:,.0f} tasks/s;")
    print(f"in turns it would have been {ideal:.1f} s: {took / ideal:.2f} × ideal.")
    print(f"Meanwhile the large one had {until_small - len(small):,} of its {options.large:,}.")
    first_come = (options.large + len(small)) / rate
    print(f"(First come, first served, it would have been {first_come:.0f} s: {first_come / ideal:.0f} × ideal.)")  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--large", type=int, default=100_000, help="tasks (%(default)s)")
    parser.add_argument("--hosts", type=int, default=999, help="small ones (%(default)s)")
    parser.add_argument("--each", type=int, default=10, help="tasks of each (%(default)s)")
    parser.add_argument("--nap", type=float, default=0.02, help="seconds (%(default)s)")
    parser.add_argument("-c", type=int, default=200, help="slots (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
