"""`greenworker check`: is everything where it belongs? As text or as JSON."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict

from greenworker.commands.find_app import app_or_url
from greenworker.commands.options import Options
from greenworker.findings import Report


def run(options: Options) -> int:
    """Print what an audit finds; returns the exit code, 1 when something is wrong."""
    limit = options.count("limit")
    with closing(app_or_url(options)) as app:
        report = app.check() if limit is None else app.check(limit)
        if options.flag("json"):
            print(json.dumps(_as_json(report), indent=2))
        else:
            print(f"server     {app.endpoint.redacted}, namespace {app.namespace}")
            print(render(report))
    return 0 if report.well else 1


def render(report: Report) -> str:
    """A line a note and a finding, and the summary last."""
    lines = [f"note: {note}" for note in report.notes]
    lines += [f"{finding.kind}: {finding.text}" for finding in report.findings]
    return "\n".join([*lines, report.summary])


def _as_json(report: Report) -> dict[str, object]:
    return {"well": report.well, "summary": report.summary, **asdict(report)}
