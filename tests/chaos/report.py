"""Scenarios, each of one fault, and the table that tells what came of them."""

from __future__ import annotations

import importlib
import pkgutil
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.arena import Arena
from tests.chaos.judge import Verdict


@dataclass(slots=True)
class Report:
    """What a scenario saw; several runs of one add up."""

    done: str  # what was done, in words for the table
    verdict: Verdict
    first: list[float] = field(default_factory=list)  # s until the first ran again, or completed
    all: list[float] = field(default_factory=list)  # s until all that was in flight ran again
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A row of the table of faults, as a test: `play(arena, rng)` breaks, drains and verifies."""

    name: str
    fault: str
    play: Callable[[Arena, random.Random], Report]
    options: dict[str, Any]  # the arena's

    def run(self, folder: Path, seed: int, short: bool) -> Report:
        """Play it once in an arena of its own; what fails tells the seed."""
        options = {"short": short, **self.options}
        try:
            with Arena(folder, **options) as arena:
                return self.play(arena, random.Random(seed))
        except BaseException as error:
            error.add_note(f"replay: python -m tests.chaos table {self.name} --seed {seed}")
            raise


SCENARIOS: dict[str, Scenario] = {}


def scenario(fault: str, **arena: Any) -> Callable[[Callable[..., Report]], Callable[..., Report]]:
    """Register a function `(arena, rng) -> Report` under its name with hyphens.

    `fault` is the table's first column; the rest are options of its Arena.
    """

    def register(play: Callable[..., Report]) -> Callable[..., Report]:
        name = play.__name__.replace("_", "-")
        assert name not in SCENARIOS, f"two scenarios are called {name}"
        SCENARIOS[name] = Scenario(name, fault, play, arena)
        return play

    return register


def load() -> dict[str, Scenario]:
    """Every scenario of tests/chaos/scenarios/, by name."""
    from tests.chaos import scenarios

    for module in pkgutil.iter_modules(scenarios.__path__):
        importlib.import_module(f"tests.chaos.scenarios.{module.name}")
    return dict(sorted(SCENARIOS.items()))


def play(
    names: Sequence[str], repeat: int, seed: int, short: bool, say: Callable[[str], None]
) -> list[str]:
    """Run scenarios, each `repeat` times with seeds from `seed` on; returns the table's lines."""
    known = load()
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise SystemExit(f"no scenario {unknown[0]!r}; there are {', '.join(known)}")
    lines = [
        "| fault | done | times | sent | lost | run twice, why | recovered in | by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names or known:
        reports = []
        for turn in range(repeat):
            say(f"{name}, seed {seed + turn}")
            with tempfile.TemporaryDirectory(prefix="gw-chaos-") as folder:
                reports.append(known[name].run(Path(folder), seed + turn, short))
        lines.append(row(known[name], reports))
    return lines


def row(scenario: Scenario, reports: Sequence[Report]) -> str:
    """A line of the table."""
    verdicts = [report.verdict for report in reports]
    twice = sum((verdict.twice for verdict in verdicts), Counter[str]())
    cells = [
        scenario.fault,
        reports[0].done + (f" ({reports[0].notes})" if reports[0].notes else ""),
        str(len(reports)),
        f"{sum(verdict.sent for verdict in verdicts):,}",
        str(sum(len(verdict.lost) for verdict in verdicts)),
        ", ".join(f"{count:,} {cause}" for cause, count in sorted(twice.items())) or "0",
        _recovered(reports),
        f"`{scenario.name}`",
    ]
    return f"| {' | '.join(cells)} |"


def _recovered(reports: Iterable[Report]) -> str:
    first = [time for report in reports for time in report.first]
    whole = [time for report in reports for time in report.all]
    parts = []
    if first:
        parts.append(f"{_span(first)}")
    if whole:
        parts.append(f"all in {_span(whole)}")
    return "; ".join(parts) or "–"


def _span(times: Sequence[float]) -> str:
    low, high = min(times), max(times)
    return f"{high:.1f} s" if high - low < 0.05 else f"{low:.1f} to {high:.1f} s"
