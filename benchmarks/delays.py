"""What delayed tasks cost, and how late they run: beside a thousand scheduled ones, and beside a million.

    python benchmarks/delays.py [--scheduled 1000000] [--seconds 20] [--rate 500] [--load 1000]

Makes an environment and a private server, schedules tasks for in an hour, starts a worker, has `rate` other
tasks a second come due beside a load of `load` naps of 0.1 s a second, and prints a JSON line for each size, then a table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
from harness import CHECKOUT, HERE, OTHER_CPU, WORKER_CPU, Server, Venv

FEW = 1000


def main() -> None:
    options = _options()
    print(harness.pin_myself(), file=sys.stderr)
    venv = Venv("greenworker", list(harness.GREENWORKER))
    runs = []
    for scheduled in (FEW, options.scheduled):
        with Server(venv.server_binary()) as server, tempfile.TemporaryDirectory() as folder:
            runs.append(measure(venv, server, Path(folder), scheduled, options))
        print(json.dumps(runs[-1]), flush=True)
    names = [name for name in runs[0] if name != "scheduled"]
    print(f"\n{'scheduled beside them':<28}" + "".join(f"{run['scheduled']:>14,}" for run in runs))
    for name in names:
        print(f"{name:<28}" + "".join(f"{run[name]:>14,}" for run in runs))


def measure(
    venv: Venv, server: Server, folder: Path, scheduled: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One size, on a server of its own."""
    out = folder / "late.json"
    env = {"BENCH_URL": server.url(), "BENCH_OUT": str(out), "PYTHONPATH": f"{CHECKOUT}:{HERE}"}
    program = [venv.python, HERE / "delay_tasks.py"]

    def run(*words: object) -> bytes:
        child = harness.start([*program, *words], OTHER_CPU, env, stdout=subprocess.PIPE)
        output, _ = child.communicate()
        if child.returncode != 0:
            raise RuntimeError(f"{words[0]} failed")
        return bytes(output)

    run("fill", scheduled)
    memory = int(_info(server, "memory", "used_memory"))
    costs = json.loads(run("promote"))
    command = ["-m", "greenworker", "-c", "1000", "-l", "warning", "delay_tasks"]
    worker = harness.start([venv.python, *command], WORKER_CPU, env, stdout=subprocess.DEVNULL)
    try:
        time.sleep(8)  # all is imported, and what the promotions made ready has run
        idle = _resident(worker.pid)
        cpu = harness.cpu_seconds(worker.pid)
        time.sleep(5)
        cpu = harness.cpu_seconds(worker.pid) - cpu
        run("send", options.seconds, options.rate, options.load)
        time.sleep(2)
        busy = _resident(worker.pid)
    finally:
        harness.stop(worker)
    late = sorted(json.loads(out.read_text()))
    if len(late) != int(options.seconds * options.rate):
        raise RuntimeError(f"{len(late)} ran of {int(options.seconds * options.rate)}")
    return {
        "scheduled": scheduled,
        "earliest, ms": round(late[0] * 1000, 1),
        "late, median, ms": round(late[len(late) // 2] * 1000, 1),
        "late, p99, ms": round(late[int(len(late) * 0.99)] * 1000, 1),
        "late at most, ms": round(late[-1] * 1000, 1),
        "promote nothing, ms": round(costs["of nothing"], 3),
        "promote 1,000, ms": round(costs["of 1,000"], 2),
        "worker idle, MB": round(idle / 1e6, 1),
        "worker busy, MB": round(busy / 1e6, 1),
        "idle worker, CPU ms a second": round(cpu / 5 * 1000, 1),
        "server, MB": round(memory / 1e6, 1),
    }


def _resident(pid: int) -> int:
    """Bytes of memory that a process has, as Linux counts them."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def _info(server: Server, section: str, field: str) -> str:
    lines = server.command("INFO", section).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)[field]  # type: ignore[no-any-return]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scheduled", type=int, default=1_000_000, help="due in an hour")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, default=500, help="delayed tasks a second")
    parser.add_argument("--load", type=float, default=1000, help="naps of 0.1 s a second")
    return parser.parse_args()


if __name__ == "__main__":
    main()
