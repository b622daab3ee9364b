"""`greenworker status`: what is where, as a table or as JSON."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict

from greenworker.commands.find_app import app_or_url
from greenworker.commands.options import Options
from greenworker.status import Status


def run(options: Options) -> int:
    """Print the status of the app's server; returns the exit code."""
    with closing(app_or_url(options)) as app:
        status = app.status()
        if options.flag("json"):
            print(json.dumps(_as_json(status), indent=2))
        else:
            print(f"server     {app.endpoint.redacted}, namespace {app.namespace}")
            print(render(status))
    return 0


def render(status: Status) -> str:
    """The status as text; queues that nobody listens to are named."""
    due = "" if status.next_due is None else f", the next due in {status.next_due:.1f} s"
    lines = [
        f"waiting    {status.waiting:,}",
        f"scheduled  {status.scheduled:,}{due}",
        f"running    {status.running:,}",
        f"dead       {status.dead:,}",
    ]
    lines += [
        f"{name:<10} {status.counters.get(name, 0):,}"
        for name in ("done", "retried", "throttled", "expired", "cancelled")
    ]
    lines += ["", f"{'queue':<24} {'waiting':>10} {'workers':>8}"]
    lines += [
        f"{queue.name:<24} {queue.waiting + queue.suspects:>10,} {queue.workers or 'none':>8}"
        + ("  paused" if queue.paused else "")
        + (f"  {queue.keyed:,} by key: greenworker limit" if queue.keyed else "")
        for queue in status.queues
    ] or ["(no queue yet)"]
    lines += ["", f"{'worker':<24} {'running':>10} {'of':>8}  {'lease':>7}  queues"]
    lines += [
        f"{worker.name:<24} {worker.running:>10,} {worker.concurrency:>8,}  {_lease(worker.lease):>7}  "
        + ", ".join(worker.queues)
        for worker in status.workers
    ] or ["(no worker)"]
    alone = [queue.name for queue in status.queues if not queue.workers]
    if alone:
        lines += ["", f"queues without a worker: {', '.join(alone)}"]
    return "\n".join(lines)


def _as_json(status: Status) -> dict[str, object]:
    totals = {"waiting": status.waiting, "running": status.running}
    alone = [queue.name for queue in status.queues if not queue.workers]
    return {**totals, **asdict(status), "queues_without_worker": alone}


def _lease(seconds: float) -> str:
    return "dead" if seconds < 0 else f"{seconds:.0f} s"
