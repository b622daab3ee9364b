"""The fault suite by hand.

    python -m tests.chaos list
    python -m tests.chaos table [NAME…] [--repeat N] [--seed S] [--long]
    python -m tests.chaos run [--minutes N] [--seed S] [--rate R] [--only FAULT,FAULT]

`table` plays the scenarios and prints the table of docs/reliability.md. `run` is the mix of all
faults: its seed, printed first, decides what is broken and sent, and when. A failure names the
command that replays it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos import mix, report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the scenarios")
    table = commands.add_parser("table", help="play scenarios, print their table")
    table.add_argument("names", nargs="*", metavar="NAME")
    table.add_argument("--repeat", type=int, default=1, metavar="N")
    table.add_argument("--seed", type=int, default=1, metavar="S")
    table.add_argument("--long", action="store_true", help="with more tasks than in CI")
    run = commands.add_parser("run", help="the chaos mix")
    run.add_argument("--minutes", type=float, default=2.0, metavar="N")
    run.add_argument("--seed", type=int, default=None, metavar="S")
    run.add_argument("--rate", type=float, default=300.0, metavar="R", help="sends a second")
    run.add_argument("--keep", action="store_true", help="leave the journal")
    run.add_argument("--only", default="", metavar="FAULTS", help="as server.kill,network.cut")
    options = parser.parse_args()
    if options.command == "list":
        for name, scenario in report.load().items():
            print(f"{name:40} {scenario.fault}")
        return 0
    if options.command == "run":
        return _run(options)
    lines = report.play(options.names, options.repeat, options.seed, not options.long, _say)
    print("\n".join(lines))
    return 0


def _run(options: argparse.Namespace) -> int:
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    replay = f"python -m tests.chaos run --seed {seed} --minutes {options.minutes:g}"
    if options.rate != 300.0:
        replay += f" --rate {options.rate:g}"
    if options.only:
        replay += f" --only {options.only}"
    print(f"seed {seed}: {replay}", flush=True)
    only = tuple(filter(None, options.only.split(",")))
    folder = Path(tempfile.mkdtemp(prefix="gw-chaos-"))
    try:
        figures = mix.play(folder, seed, options.minutes, options.rate, only)
    except BaseException as error:
        # The journal stays: who looks for the reason needs it.
        print(f"{type(error).__name__}: {error}\nseed {seed}: {replay}\njournal: {folder}/journal")
        return 1
    print("\n".join(figures.lines()))
    if options.keep:
        print(f"journal: {folder}/journal")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
