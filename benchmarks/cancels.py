"""What it takes to cancel a million waiting tasks of a tag.

    PYTHONPATH=. python benchmarks/cancels.py [--tasks 1000000]

Runs with the greenworker of this checkout, on an embedded server in a folder of its own. Sends the tasks, cancels their
tag, looks at a thousand of them, then starts a worker and waits until nothing is left. Prints a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from greenworker import App, keys

CHECKOUT = Path(__file__).resolve().parents[1]
MODULE = """
from greenworker import App
app = App(embedded={folder!r})

@app.task
def page(n): open("ran", "a").write("page\\n")

@app.task
def other(): return "well"
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=1_000_000)
    count = parser.parse_args().tasks
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(count, Path(folder))))


def measure(count: int, folder: Path) -> dict[str, float]:
    (folder / "cancel_tasks.py").write_text(MODULE.format(folder=str(folder / "server")))
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    from cancel_tasks import app, other, page  # type: ignore[import-not-found]

    began = time.perf_counter()
    page.delay_many(((n,) for n in range(count)), results=False, tags=["crawl"])
    sent = time.perf_counter() - began
    pool = app.client.pool
    ids = pool.execute("HRANDFIELD", keys.messages(app.client.broker.root), 1000)
    latencies = []
    began = time.perf_counter()
    app.cancel(tag="crawl")
    cancelled = time.perf_counter() - began
    states = {str(app.result(id.decode()).state) for id in random.sample(ids, len(ids))}
    seen = time.perf_counter() - began
    assert states == {"CANCELLED"}, states
    env = {**os.environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{folder}"}
    command = [sys.executable, "-m", "greenworker", "-q", "cancel_tasks"]
    with subprocess.Popen(command, env=env) as worker:
        try:
            result = other.delay()
            began = time.perf_counter()
            while _left(app):
                start = time.perf_counter()
                pool.execute("PING")
                latencies.append(time.perf_counter() - start)
                time.sleep(0.01)
            drained = time.perf_counter() - began
            assert result.get(timeout=60) == "well"
        finally:
            worker.terminate()
    assert not Path("ran").exists(), "some have run"
    app.close()
    return {
        "tasks": count,
        "send, s": round(sent, 1),
        "cancel, ms": round(cancelled * 1000, 1),
        "cancel, and a thousand looked up, ms": round(seen * 1000, 1),
        "until nothing is left of them, s": round(drained, 1),
        "longest PING meanwhile, ms": round(max(latencies) * 1000, 1),
    }


def _left(app: App) -> bool:
    root = app.client.broker.root
    execute = app.client.pool.execute
    return bool(execute("EXISTS", keys.messages(root), keys.marks(root)))


if __name__ == "__main__":
    main()
