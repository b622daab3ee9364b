"""How an adaptive limit follows a real site that allows 20 requests a second, then 5, then 20 again.

    python benchmarks/adaptive.py [--before 60] [--at 660] [--again 240] [--burst 5] [--latency 0.05]

Runs with the greenworker of this checkout: the test site in a process of its own, and two workers of 50 slots on an embedded
server, which know nothing of the site but its answers. What is told is what the site counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from greenworker.testsite import RunningSite, running_site

FAST, SLOW = 20.0, 5.0
SETTLED = 60.0  # seconds after the shift, from which on it counts
MODULE = """
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from greenworker import App, Throttled, host

app = App(embedded={folder!r})
app.limit("host:*", adaptive=True)
visit = build_opener(ProxyHandler({{}})).open


@app.task(key=lambda url: "host:" + host(url))
def page(url):
    try:
        with visit(url, timeout=30) as answer:
            answer.read()
    except HTTPError as error:
        with error:
            if error.code == 429:
                raise Throttled(error.headers["Retry-After"]) from None
            raise
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=float, default=60.0, help="seconds at 20/s")
    parser.add_argument("--at", type=float, default=660.0, help="seconds at 5/s")
    parser.add_argument("--again", type=float, default=240.0, help="seconds at 20/s again")
    parser.add_argument("--burst", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.05)
    told = parser.parse_args()
    os.environ["PYTHONPATH"] = str(CHECKOUT)  # for the processes that are started
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = stack.enter_context(
            running_site(
                hosts=1,
                pages=100,
                rate=FAST,
                burst=told.burst,
                latency=told.latency,
                police=("rate",),
            )
        )
        (folder / "adaptive_tasks.py").write_text(MODULE.format(folder=str(folder / "server")))
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        from adaptive_tasks import app, page  # type: ignore[import-not-found]

        stack.callback(app.close)
        n = int((told.before + told.again) * FAST * 1.1 + told.at * SLOW * 1.3)
        page.delay_many(((f"{site.root}page/{1 + i % 99}",) for i in range(n)), results=False)
        env = {**os.environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{folder}"}
        for name in ("one", "two"):
            command = [sys.executable, "-m", "greenworker", "-q", "-c", "50", "-n", name]
            worker = subprocess.Popen([*command, "adaptive_tasks"], env=env)
            stack.callback(worker.wait)
            stack.callback(worker.terminate)
        watch(app, site, told.before, told.at, told.again)


def watch(app: Any, site: RunningSite, before: float, at: float, again: float) -> None:
    while not site.stats().total.requests:
        time.sleep(0.1)
    begin = time.monotonic()
    marks = [0.0]
    shown = [_counts(site)]

    def until(second: float) -> None:
        while (now := time.monotonic() - begin) < second:
            time.sleep(min(10.0, second - now))
            marks.append(time.monotonic() - begin)
            shown.append(_counts(site))
            seconds = marks[-1] - marks[-2]
            served, refused = (b - a for a, b in zip(shown[-2], shown[-1], strict=True))
            (key,) = app.limits.keys()
            rate = 1 / key.interval if key.interval else 0.0
            print(
                f"{marks[-1]:6.0f} s: served {served / seconds:5.2f}/s, refused {refused:3}, "
                f"learnt {rate:5.2f}/s",
                flush=True,
            )

    def told(name: str, rate: float, since: float) -> None:
        first = next(i for i, mark in enumerate(marks) if mark >= since - 0.5)
        seconds = marks[-1] - marks[first]
        served, refused = (b - a for a, b in zip(shown[first], shown[-1], strict=True))
        share = refused / max(1, served + refused)
        print(
            f"{name}, {seconds:.0f} s: {served / seconds / rate:.1%} of what is allowed was used, "
            f"{refused} of {served + refused} were refused ({share:.2%})",
            flush=True,
        )

    until(before)
    told("20/s, the last half", FAST, before / 2)
    site.set(rate=SLOW)
    until(before + SETTLED)
    told("5/s, the first minute", SLOW, before)
    until(before + at)
    told("5/s, after that minute", SLOW, before + SETTLED)
    site.set(rate=FAST)
    until(before + at + again)
    told("20/s again, the last minute", FAST, before + at + again - 60)


def _counts(site: RunningSite) -> tuple[int, int]:
    total = site.stats().total
    return total.served, total.refused


if __name__ == "__main__":
    main()
