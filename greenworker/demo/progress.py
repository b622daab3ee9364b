"""How the demo shows what happens: a live panel on a terminal, else one plain line a second."""

from __future__ import annotations

import importlib.util
import sys
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rich.console import RenderableType

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 46


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a crawl stands at one moment."""

    seconds: float
    """Since the root page was sent."""
    done: int
    """Pages whose task succeeded."""
    known: int
    """Pages that were sent: `done` catches up with it."""
    speed: float
    """Pages a second over the last second."""
    in_flight: int
    """Tasks that run now."""
    errors: int
    """Tasks that failed for good."""
    retries: int
    """Runs that failed and are tried again."""
    memory: int
    """The most bytes of memory this process has held."""


class Progress(Protocol):
    """Something that shows snapshots; as a context manager it takes and returns the screen."""

    every: float
    """Seconds between two snapshots, as it likes them."""

    def show(self, now: Snapshot) -> None:
        """Show where the crawl stands."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def progress() -> Progress:
    """Return the panel when rich is installed and stdout is a terminal, or else plain lines."""
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        return Panel()
    return Lines()


class Lines:
    """One line a second, for pipes, logs and terminals without rich."""

    every = 1.0

    def show(self, now: Snapshot) -> None:
        """Print one line."""
        print(
            f"{now.seconds:5.1f} s  {now.done:6,} of {now.known:6,} pages"
            f"  {now.speed:5,.0f}/s  {now.in_flight:5,} in flight"
            f"  {now.errors:,} errors  {now.retries:,} retries  {megabytes(now.memory)}",
            flush=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class Panel:
    """A live panel with a bar, and the last 23 seconds of speed and of tasks in flight."""

    every = 0.25

    def __init__(self) -> None:
        from rich.live import Live

        # It is redrawn by show() alone: a refresh thread would take turns from the worker.
        self._live = Live(auto_refresh=False)
        self._speeds: deque[float] = deque(maxlen=WIDTH)
        self._crowds: deque[float] = deque(maxlen=WIDTH)
        self._snapshots = 0

    def show(self, now: Snapshot) -> None:
        """Redraw the panel."""
        if self._snapshots % 2 == 0:
            self._speeds.append(now.speed)
            self._crowds.append(now.in_flight)
        self._snapshots += 1
        self._live.update(self._draw(now), refresh=True)

    def _draw(self, now: Snapshot) -> RenderableType:
        from rich.panel import Panel as Frame
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(justify="right", min_width=14)
        table.add_column(min_width=WIDTH)
        bar = ProgressBar(total=max(now.known, 1), completed=now.done, width=WIDTH)
        crowds, speeds = sparkline(self._crowds), sparkline(self._speeds)
        table.add_row("pages", f"{now.done:,} / {now.known:,}", bar)
        table.add_row("in flight", f"[bold]{now.in_flight:,}[/]", f"[green]{crowds}[/]")
        table.add_row("pages/s", f"[bold]{now.speed:,.0f}[/]", f"[cyan]{speeds}[/]")
        table.add_row("retries", f"{now.retries:,}", f"{now.errors:,} errors")
        table.add_row("memory", megabytes(now.memory), f"{now.seconds:.1f} s")
        return Frame.fit(table, title="greenworker -c 1000", border_style="green")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()


def sparkline(values: deque[float]) -> str:
    """Return one bar character for each value, the highest value as the full bar."""
    top = max(values, default=0.0)
    if top <= 0.0:
        return BARS[0] * len(values)
    return "".join(BARS[round(value / top * (len(BARS) - 1))] for value in values)


def megabytes(size: int) -> str:
    """Return a size in bytes as whole megabytes."""
    return f"{size / 1e6:,.0f} MB"
