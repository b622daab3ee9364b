"""What the scripts of two versions cost the server for a task that uses no feature: µs of its CPU time a message.

    git worktree add ../before <commit>
    python benchmarks/plain.py --tree ../before --tree . [--rounds 3000]

Runs with the greenworker of this checkout, on an embedded server, which has the scripts of each tree. By turns, call by call
on one connection, they push, claim and settle: one message, and a hundred. Of each the fastest tenth of the calls counts: who else
uses the machine makes calls slower, and none faster.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import cpu_seconds

from greenworker import App

STEPS = ("push", "claim", "settle")
TAIL = b'3600000 default page\n[[1,"https://example.org/path/to/page"],{},{}]'
RESULT = b'{"state":"SUCCESS","value":1}'


def main() -> None:
    options = _options()
    print(f"{'µs a message':<24}" + "".join(f"{tree.name:>12}" for tree in options.tree))
    for at_once in (1, 100):
        with tempfile.TemporaryDirectory() as folder:
            app = App(embedded=str(Path(folder) / "server"))
            execute = app.client.pool.execute
            trees = [Tree(number, tree, execute) for number, tree in enumerate(options.tree)]
            for number in range(options.rounds // at_once + 200):
                for tree in trees if number % 2 else reversed(trees):
                    tree.pass_through(number, at_once)
            app.close()
        for step in STEPS:
            micros = [tree.micros(step) / at_once for tree in trees]
            texts = "".join(f"{value:>12.2f}" for value in micros)
            print(f"{step + f', {at_once} at a time':<24}{texts}   {micros[-1] / micros[0]:.3f}")


class Tree:
    """The scripts of one checkout, in a namespace of their own."""

    def __init__(self, number: int, tree: Path, execute: Callable[..., Any]) -> None:
        self._execute, self._nil = execute, f"gw:{{tree-{number}}}:nil"
        info = execute("INFO", "server").decode()
        self._pid = int(info.split("process_id:")[1].split()[0])
        lua = tree / "greenworker" / "lua"
        parts = _module(number, tree, "scripts")._SHARED
        # From the version on that sends of a script what it reaches.
        trims = (tree / "greenworker" / "trim.py").exists()
        trimmed = _module(number, tree, "trim").trimmed if trims else str
        self._scripts = {}
        for name in (*STEPS, "register"):
            files = ("prelude", *parts.get(name, ()), name)
            source = "\n".join((lua / f"{file}.lua").read_text() for file in files)
            self._scripts[name] = execute("SCRIPT", "LOAD", trimmed(source))
        # From the version on that knows keys, a settle tells how many.
        self._tells_count = b"wid, n, then for each" in (lua / "settle.lua").read_bytes()
        self._spent: dict[str, list[float]] = {step: [] for step in STEPS}
        self._run("register", "w", 3_600_000, "{}", "default")

    def pass_through(self, number: int, count: int) -> None:
        """Push, claim and settle so many."""
        ids = [f"id-{number}-{n}" for n in range(count)]
        fields = [field for id in ids for field in (id, "default", 5, "", "", TAIL)]
        self._timed("push", f"push-{number}", 1000, *fields)
        claimed = self._timed("claim", "w", number + 1, count, 4_194_304, "default")
        # In two strings, or, in versions before that, one by one.
        words = len(claimed[3].split()) if len(claimed) == 5 and claimed[3][:1].isdigit() else 0
        assert count in (words // 2, (len(claimed) - 3) // 2)
        ends = [field for id in ids for field in (id, number + 1, "done", 1000, RESULT, "")]
        self._timed("settle", "w", *((count,) if self._tells_count else ()), *ends)

    def micros(self, step: str) -> float:
        spent = sorted(self._spent[step])
        return median(spent[: max(1, len(spent) // 10)]) * 1e6

    def _timed(self, step: str, *args: Any) -> Any:
        before = cpu_seconds(self._pid)
        reply = self._run(step, *args)
        self._spent[step].append(cpu_seconds(self._pid) - before)
        return reply

    def _run(self, name: str, *args: Any) -> Any:
        return self._execute("EVALSHA", self._scripts[name], 1, self._nil, *args)


def _module(number: int, tree: Path, name: str) -> Any:
    """A module of that checkout, which needs no other one of it."""
    spec = importlib.util.spec_from_file_location(
        f"{name}_{number}", tree / "greenworker" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tree", type=Path, action="append", required=True)
    parser.add_argument("--rounds", type=int, default=3000, help="(%(default)s)")
    options = parser.parse_args()
    options.tree = [tree.resolve() for tree in options.tree]
    return options


if __name__ == "__main__":
    main()
