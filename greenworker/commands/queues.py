"""`greenworker pause`, `resume` and `purge`: what people do to queues."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import asdict

from greenworker.app import App
from greenworker.commands.find_app import app_or_url
from greenworker.commands.options import Options
from greenworker.control import Purged
from greenworker.errors import BrokerUnavailable, ConfigError
from greenworker.keys import check_name


def run(options: Options, verb: str) -> int:
    """Carry out `greenworker VERB QUEUE…`; returns the exit code."""
    queues = list(dict.fromkeys(check_name("queue", queue) for queue in options.queues))
    with closing(app_or_url(options)) as app:
        if verb == "purge":
            return _purge(options, app, queues)
        switched = app.pause(*queues) if verb == "pause" else app.resume(*queues)
    if options.flag("json"):
        told = [{**asdict(one), "paused": verb == "pause"} for one in switched]
        print(json.dumps({"queues": told}))
        return 0
    for one in switched:
        if verb == "pause":
            now = "paused" if one.changed else "was paused already"
        else:
            now = "resumed" if one.changed else "was not paused"
        unknown = "" if one.known else "; no worker listens there, and nothing has been sent to it"
        print(f"{one.queue}: {now}{unknown}")
    return 0


def _purge(options: Options, app: App, queues: list[str]) -> int:
    counts = {queue: app.client.control.count(queue) for queue in queues}
    if options.flag("dry-run"):
        return _say(options, {queue: Purged(count) for queue, count in counts.items()})
    if any(counts.values()) and not options.said_by_flag("yes") and not _agreed(counts):
        print("nothing was dropped", file=sys.stderr)
        return 1
    done: dict[str, Purged] = {}
    try:
        for queue in queues:
            done[queue] = Purged()
            for step in app.client.control.purge(queue):
                done[queue] = done[queue].plus(step)
    except BrokerUnavailable as error:
        if error.maybe_done:
            print("of some more it is not known: the reply was lost", file=sys.stderr)
        raise
    finally:
        # Whatever ended it: what was done is said.
        _say(options, done)
    return 0


def _agreed(counts: dict[str, int]) -> bool:
    """Whether somebody at a terminal says yes; raises ConfigError where nobody is."""
    what = " and ".join(f"{count:,} of {queue}" for queue, count in counts.items())
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(
            f"purge would drop what waits: {what}; say --yes to do it, --dry-run to count"
        )
    print(f"Drop what waits, {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _say(options: Options, done: dict[str, Purged]) -> int:
    dry_run = options.flag("dry-run")
    if options.flag("json"):
        told = [
            {
                "queue": queue,
                "purged": one.purged,
                "expired": one.expired,
                "cancelled": one.cancelled,
                "foreign": one.foreign,
            }
            for queue, one in done.items()
        ]
        print(json.dumps({"dry_run": dry_run, "queues": told}), flush=True)
        return 0
    for queue, one in done.items():
        would = "would be " if dry_run else ""
        notes = [f"{queue}: {one.purged:,} {would}dropped"]
        if one.expired:
            notes.append(f"{one.expired:,} had expired")
        if one.cancelled:
            notes.append(f"{one.cancelled:,} had been cancelled")
        if one.foreign:
            notes.append(f"{one.foreign:,} that were no messages are dead letters")
        print("; ".join(notes), flush=True)
    return 0
