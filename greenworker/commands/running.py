"""`greenworker running`: what each worker runs now, and where it stands."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict

from greenworker.commands.find_app import app_or_url
from greenworker.commands.options import Options
from greenworker.running import Running


def run(options: Options) -> int:
    """Print what runs; returns the exit code, 1 when a worker has not answered."""
    limit = options.count("limit")
    with closing(app_or_url(options)) as app:
        found = app.running() if limit is None else app.running(limit)
    print(json.dumps(asdict(found), indent=2) if options.flag("json") else render(found))
    return 1 if found.silent else 0


def render(found: Running) -> str:
    """A line a run, the longest first, and who has not answered."""
    lines = []
    if found.tasks:
        widths = [max(len(one.worker) for one in found.tasks), 0]
        widths[1] = max(len(f"{one.task}[{one.id}]") for one in found.tasks)
        lines.append(f"{'seconds':>9}  {'worker':<{widths[0]}}  {'task':<{widths[1]}}  at")
        for one in found.tasks:
            stuck = " (ignores its timeout)" if one.stuck else ""
            blocks = " (blocks the loop)" if one.blocks else ""
            call = f" {one.call}" if one.call else ""
            lines.append(
                f"{one.seconds:>9,.1f}  {one.worker:<{widths[0]}}  "
                f"{f'{one.task}[{one.id}]':<{widths[1]}}  {one.where}{stuck}{blocks}{call}"
            )
    more = f", {len(found.tasks):,} of them shown" if found.total > len(found.tasks) else ""
    lines.append(f"{found.total:,} running{more}")
    if found.silent:
        names = ", ".join(found.silent[:5])
        others = f" and {len(found.silent) - 5} more" if len(found.silent) > 5 else ""
        lines.append(
            f"no answer from {names}{others}: blocked (then its log says by what), cut off, or dead"
        )
    return "\n".join(lines)
