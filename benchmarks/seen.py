"""What a filter of what was seen costs: bytes and microseconds each, on a server of its own.

    python benchmarks/seen.py [MILLIONS]

Bytes are what `used_memory` grew by since the filter was empty, over how many it has seen: sets,
their keys, and what the allocator rounds up.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from greenworker import App

STEPS = (1_000, 10_000, 100_000, 300_000, 1_000_000)


def main(millions: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        app = App(embedded=Path(folder) / "server")
        broker, seen = app.client.broker, app.seen("bench")
        memory = lambda: int(_info(broker, "memory")["used_memory"])  # noqa: E731
        seen.add("first")
        empty, done, spent = memory(), 1, 0.0
        print(
            f"{'seen':>12}  {'bytes each':>10}  {'sets':>8}  {'µs each':>8}  {'µs in the server':>16}"
        )
        for target in (*STEPS, *(n * 1_000_000 for n in range(2, millions + 1))):
            began, before, server = time.perf_counter(), done, _script_time(broker)
            while done < target:
                some = range(done, min(done + 10_000, target))
                seen.add(*(f"https://example.org/path/to/page-{n}?of=a+site" for n in some))
                done = some.stop
            spent = time.perf_counter() - began
            each = (_script_time(broker) - server) / (done - before)
            sets = int(_info(broker, "keyspace")["db0"].split("keys=")[1].split(",")[0])
            push_notes = sum(1 for _ in broker_keys(broker, "push:*"))
            # Notes of the calls, for five minutes: they are no part of it.
            noted = push_notes * _note_size(broker)
            print(
                f"{done:12,}  {(memory() - empty - noted) / done:10.2f}  {sets - push_notes:8,}  "
                f"{spent / (done - before) * 1e6:8.2f}  {each:16.2f}",
                flush=True,
            )
        began = time.perf_counter()
        seen.drop()
        print(f"dropped in {(time.perf_counter() - began) * 1e3:.1f} ms")
        app.close()


def broker_keys(broker, pattern):  # type: ignore[no-untyped-def]
    cursor = b"0"
    while True:
        cursor, found = broker._link.execute(
            "SCAN", cursor, "MATCH", broker.root + pattern, "COUNT", 10_000
        )
        yield from found
        if cursor == b"0":
            return


def _note_size(broker):  # type: ignore[no-untyped-def]
    for key in broker_keys(broker, "push:*"):
        return int(broker._link.execute("MEMORY", "USAGE", key))
    return 0


def _info(broker, section):  # type: ignore[no-untyped-def]
    text = broker._link.execute("INFO", section).decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _script_time(broker):  # type: ignore[no-untyped-def]
    line = _info(broker, "commandstats").get("cmdstat_evalsha", "usec=0,")
    return int(line.split("usec=")[1].split(",")[0])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
