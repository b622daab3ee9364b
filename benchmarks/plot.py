"""Draw what run.py has measured: `python benchmarks/plot.py FIGURES.jsonl [--out FIGURES.svg]`.

A panel for each of PANELS that the file has, a bar for each peer: its length the median, the line at its end the range.
Standard library only. Without a background and in colours that can be read on a light page and on a dark one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

LABELS, WIDTH, ROOM = 110, 720, 90  # pixels: names, all of it, what is kept free for the numbers
ROW, BAR, TITLE = 22, 13, 44

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #6e7781 }
  .title { font-weight: 600 }
  .bar { fill: #8c959f } .own { fill: #1a7f37 } .range { stroke: #424a53; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #adb5bd } .bar { fill: #6e7681 } .own { fill: #3fb950 } .range { stroke: #adb5bd }
  }
"""


class Panel(NamedTuple):
    workload: str
    case: str
    figure: str
    title: str
    less_is_better: bool = False


PANELS = (
    Panel("drain", "", "per_second", "No-op tasks a second, 100 at once, results on"),
    Panel("naps", "c=1000", "per_second", "Tasks of 0.1 s, 1,000 at once: tasks a second, of 10,000"),
    Panel("pages", "urllib3", "per_second", "HTTP pages of 50 ms, 1,000 at once, urllib3: pages a second"),
    Panel("enqueue", "one by one", "per_second", "Sent a second, one by one"),
    Panel("latency", "", "start_p50_ms", "An idle worker: ms from send to start, median", True),
    Panel("server", "", "cpu_us", "CPU time of the server, µs a task", True),
    Panel("memory", "", "parked_kb", "Memory of each task that waits, KB", True),
    Panel("crash", "", "seconds", "Killed at 40 %: seconds until the last one that came back has run", True),
)  # fmt: skip


def main() -> None:
    options = _options()
    lines = [line for file in options.file for line in file.read_text("utf-8").splitlines()]
    rows = [row for row in map(json.loads, lines) if "workload" in row and "failed" not in row]
    out = options.out or options.file[0].with_suffix(".svg")
    out.write_text(svg(rows), encoding="utf-8")
    print(out)


def svg(rows: Sequence[dict[str, Any]]) -> str:
    parts, y = [], 0
    for panel in PANELS:
        mine = _values(panel, rows)
        if mine:
            parts += list(_panel(panel, mine, y))
            y += TITLE + ROW * len(mine)
    size = f'width="{WIDTH}" height="{y + 10}" viewBox="0 0 {WIDTH} {y + 10}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )


def _values(panel: Panel, rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Each peer's figures in this panel, the best peer first."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if (row["workload"], row.get("case", "")) == panel[:2] and panel.figure in row:
            found.setdefault(row["peer"], []).append(row[panel.figure])
    best_last = sorted(found, key=lambda peer: median(found[peer]))
    order = best_last if panel.less_is_better else best_last[::-1]
    return {peer: found[peer] for peer in order}


def _panel(panel: Panel, values: dict[str, list[float]], top: int) -> Iterator[str]:
    better = "less is better" if panel.less_is_better else "more is better"
    yield f'<text class="title" x="0" y="{top + 28}">{escape(panel.title)} ({better})</text>'
    scale = (WIDTH - LABELS - ROOM) / (max(max(some) for some in values.values()) or 1)
    for number, (peer, some) in enumerate(values.items()):
        y = top + TITLE + ROW * number
        middle = y + BAR / 2
        low, mid, high = (LABELS + scale * value for value in (min(some), median(some), max(some)))
        own = " own" if peer.startswith("greenworker") else ""
        yield f'<text x="{LABELS - 8}" y="{y + 11}" text-anchor="end">{escape(peer)}</text>'
        yield f'<rect class="bar{own}" x="{LABELS}" y="{y}" width="{max(1, mid - LABELS):.1f}" height="{BAR}" rx="2"/>'
        yield f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        yield f'<text x="{high + 8:.1f}" y="{y + 11}">{_number(median(some))}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, nargs="+", help="JSON lines of run.py --json")
    parser.add_argument("--out", type=Path, help="the drawing (beside the first file)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
