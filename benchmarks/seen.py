"""What a filter of what was seen costs: bytes and microseconds each, on a private server.

    python benchmarks/seen.py [MILLIONS]

Bytes are what `used_memory` grew by since the filter was empty, over how many it has seen: the sets,
their keys, and what the allocator rounds up. For comparison: `MEMORY USAGE` of all its sets.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from greenworker import App

STEPS = (1_000, 10_000, 100_000, 300_000, 1_000_000)
LINE = "{:>12}  {:>10}  {:>12}  {:>8}  {:>8}  {:>12}"


def main(millions: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        app = App(embedded=Path(folder) / "server")
        link, seen = app.client.pool, app.seen("bench")
        seen.add("first")
        forget_pushes(link)
        empty, done = used(link), 1
        print(LINE.format("seen", "bytes each", "MEMORY USAGE", "sets", "µs each", "in the server"))
        for target in (*STEPS, *(n * 1_000_000 for n in range(2, millions + 1))):
            began, before, server = time.perf_counter(), done, in_scripts(link)
            while done < target:
                some = range(done, min(done + 10_000, target))
                seen.add(*(f"https://example.org/path/to/page-{n}?of=a+site" for n in some))
                done = some.stop
            spent = (time.perf_counter() - began) * 1e6
            server = in_scripts(link) - server
            # Notes of the calls, that are kept for five minutes, whatever they were about.
            forget_pushes(link)
            sets = [int(link.execute("MEMORY", "USAGE", key)) for key in keys(link, "seen:*:*")]
            each = [f"{value:.2f}" for value in ((used(link) - empty) / done, sum(sets) / done)]
            took = [f"{value / (done - before):.1f}" for value in (spent, server)]
            print(LINE.format(f"{done:,}", *each, f"{len(sets):,}", *took), flush=True)
        began = time.perf_counter()
        seen.drop()
        print(f"dropped in {(time.perf_counter() - began) * 1e3:.1f} ms")
        app.close()


def keys(link: Any, pattern: str) -> Iterator[bytes]:
    cursor = b"0"
    while True:
        cursor, found = link.execute(
            "SCAN", cursor, "MATCH", "gw:{default}:" + pattern, "COUNT", 10_000
        )
        yield from found
        if cursor == b"0":
            return


def forget_pushes(link: Any) -> None:
    notes = [*keys(link, "push:*")]
    for start in range(0, len(notes), 1000):
        link.execute("DEL", *notes[start : start + 1000])


def used(link: Any) -> int:
    return int(info(link, "memory")["used_memory"])


def in_scripts(link: Any) -> int:
    """µs in scripts so far."""
    line = info(link, "commandstats").get("cmdstat_evalsha", "usec=0,")
    return int(line.split("usec=")[1].split(",")[0])


def info(link: Any, section: str) -> dict[str, str]:
    text = link.execute("INFO", section).decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
