"""SAQ on asyncio: the one of these that is not on green threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from inspect import signature
from itertools import islice
from typing import TYPE_CHECKING, Any

from peers.peer import INSIDE, Peer

if TYPE_CHECKING:
    from harness import Server


class Saq(Peer):
    """uvloop, orjson and hiredis. At least once: three attempts (its default is one, and then what a worker held when it was
    killed has failed); results for an hour; a time limit of 300 s, its sweeps return nothing that began later than that.
    Its tasks are coroutines: they nap by asyncio and fetch by aiohttp. Sent a thousand at a time with gather()."""

    name = "saq"
    file = "on_saq.py"
    packages = (
        "saq[redis]==0.26.4",
        "hiredis==3.5.0",
        "redis==7.4.1",
        "orjson==3.13.0",
        "uvloop==0.23.0",
        "aiohttp==3.14.5",
    )
    clients = ("aiohttp",)
    results = "saq:job:default:*"

    def worker(self, concurrency: int) -> Sequence[object]:
        return ["saq", "-q", "peers.on_saq.settings"]

    def ended(self, server: Server) -> int:
        # A result takes the place of its job, under the same key; then the job leaves this set.
        return -int(server.command("ZCARD", "saq:default:incomplete"))

    def exactly(self, server: Server) -> int:
        return super().exactly(server) - int(server.command("ZCARD", "saq:default:incomplete"))


if INSIDE:
    import orjson
    import uvloop
    from saq import Queue

    from peers import inside
    from peers.tasks import TASKS, slots, wide

    uvloop.install()
    queue = Queue.from_url(wide(os.environ["BENCH_URL"]), dump=orjson.dumps, load=orjson.loads)

    async def noop(_: Any) -> None:
        pass

    async def nap(_: Any, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def stamp(_: Any, n: int) -> None:
        TASKS["stamp"](n)

    async def mark(_: Any, n: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        slots()[n] += 1

    async def park(_: Any, n: int, seconds: float) -> None:
        slots()[n] = 1
        await asyncio.sleep(seconds)

    async def page(context: Any, url: str) -> int:
        async with context["session"].get(url) as response:
            return len(await response.read())

    async def startup(context: Any) -> None:
        import aiohttp

        context["session"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    settings = {
        "queue": queue,
        "functions": [noop, nap, stamp, mark, park, page],
        "concurrency": int(os.environ["BENCH_CONCURRENCY"]),
        "startup": startup,
    }
    names = {name: list(signature(function).parameters) for name, function in TASKS.items()}

    def job(task: str, args: tuple[Any, ...]) -> Any:
        named = dict(zip(names[task], args, strict=True))
        return queue.enqueue(task, timeout=300, ttl=3600, retries=3, **named)

    # Who sends has a loop that runs whenever something is sent.
    loop: Any = uvloop.new_event_loop() if __name__ == "__main__" else None

    def send(task: str, *args: Any) -> Any:
        return loop.run_until_complete(job(task, args))

    def send_many(task: str, calls: Iterable[tuple[Any, ...]]) -> None:
        async def gathered() -> None:
            left = iter(calls)
            while some := list(islice(left, 1000)):
                await asyncio.gather(*(job(task, args) for args in some))

        loop.run_until_complete(gathered())

    async def ended(job: Any) -> None:
        # Its subscription ends when nobody waits, and one that is just beginning misses what is announced meanwhile.
        await queue._pubsub.subscribe("stay")
        while not job.completed:
            try:
                await job.refresh(until_complete=1.0)
            except TimeoutError:
                pass

    def wait(job: Any) -> object:
        return loop.run_until_complete(ended(job))


if __name__ == "__main__":
    inside.main(send, send_many, wait)
