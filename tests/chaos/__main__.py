"""The fault suite by hand.

    python -m tests.chaos list
    python -m tests.chaos table [NAME…] [--repeat N] [--seed S] [--long]

`table` plays the scenarios and prints the table of docs/reliability.md; a failure names the
command that replays it.
"""

from __future__ import annotations

import argparse
import sys

from tests.chaos import report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the scenarios")
    table = commands.add_parser("table", help="play scenarios, print their table")
    table.add_argument("names", nargs="*", metavar="NAME")
    table.add_argument("--repeat", type=int, default=1, metavar="N")
    table.add_argument("--seed", type=int, default=1, metavar="S")
    table.add_argument("--long", action="store_true", help="with more tasks than in CI")
    options = parser.parse_args()
    if options.command == "list":
        for name, scenario in report.load().items():
            print(f"{name:40} {scenario.fault}")
        return 0
    lines = report.play(options.names, options.repeat, options.seed, not options.long, _say)
    print("\n".join(lines))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
