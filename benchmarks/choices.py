"""The figures behind the choices in docs/design.md: `python benchmarks/choices.py`.

Each is a ratio of two ways to do the same thing, measured in turn in one run.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable

from harness import CHECKOUT, GREENWORKER, HERE, WORKER_CPU, Server, Venv, start

ROUNDS = 7


def main() -> None:
    """Make the environment and a server, and measure inside."""
    environment = Venv("greenworker", GREENWORKER)
    with Server(environment.server_binary()) as server:
        measuring = start(
            [environment.python, HERE / "choices.py", server.port],
            WORKER_CPU,
            env={"PYTHONPATH": str(CHECKOUT)},
        )
        sys.exit(measuring.wait())


def measure(port: int) -> None:
    """Print every figure."""
    acks(port)
    wake(port)
    spawns()
    timers()


def acks(port: int) -> None:
    """Server time of one ack, in random order, from a LIST and from a HASH."""
    import redis

    client = redis.Redis(port=port, protocol=2)
    for in_flight in (100, 1_000, 10_000):
        ids = [f"{number:032x}" for number in range(in_flight)]
        sample = random.Random(1).sample(ids, 100)
        client.config_resetstat()
        for _ in range(ROUNDS):
            client.delete("list", "hash")
            client.rpush("list", *ids)
            client.hset("hash", mapping=dict.fromkeys(ids, "1"))
            for id in sample:
                client.lrem("list", 1, id)
                client.hdel("hash", id)
        stats = client.info("commandstats")
        lrem, hdel = (stats[f"cmdstat_{name}"]["usec_per_call"] for name in ("lrem", "hdel"))
        print(f"ack, {in_flight:>6,} in flight: LREM {lrem:.1f} µs, HDEL {hdel:.1f} µs")


def wake(port: int) -> None:
    """From send to the message in the worker: wake token and claim, against a bare BRPOP."""
    import threading

    import redis

    from greenworker.broker import Broker, push_fields
    from greenworker.connection import Connection
    from greenworker.endpoint import Endpoint
    from greenworker.message import Message

    endpoint = Endpoint(f"redis://127.0.0.1:{port}")
    sender, worker = (Broker(Connection(endpoint), "wake") for _ in range(2))
    worker.register("w", 600.0, {}, ["default"])
    ours, bare, done = [], [], threading.Event()
    sends: list[float] = []

    def claims() -> None:
        for seq in range(1, 2 * 300, 2):
            worker.wait(["default"], 2.0)
            worker.claim("w", seq, 100, ["default"])
            ours.append(time.perf_counter() - sends[-1])
            done.set()

    def pops() -> None:
        client = redis.Redis(port=port, protocol=2)
        for _ in range(300):
            client.brpop(["bare"], 2)
            bare.append(time.perf_counter() - sends[-1])
            done.set()

    client = redis.Redis(port=port, protocol=2)

    def run(receive: Callable[[], None], send: Callable[[int], object]) -> None:
        thread = threading.Thread(target=receive)
        thread.start()
        for number in range(300):
            # The receiver is to be asleep in its BRPOP.
            while not any(other["cmd"] == "brpop" for other in client.client_list()):
                time.sleep(0.001)
            sends.append(time.perf_counter())
            send(number)
            done.wait()
            done.clear()
        thread.join()

    run(claims, lambda n: sender.push(f"p{n}", push_fields(Message(id=f"m{n}", task="t"))))
    run(pops, lambda n: client.lpush("bare", "x" * 300))
    mine, theirs = statistics.median(ours), statistics.median(bare)
    print(
        f"wake: BRPOP a token and claim {mine * 1e6:.0f} µs, BRPOP the message {theirs * 1e6:.0f} µs: "
        f"{mine / theirs:.1f} times"
    )


def spawns() -> None:
    """A no-op through gevent's Pool, and as a raw greenlet of the hub."""
    import gevent
    from gevent.pool import Pool

    def pooled() -> None:
        pool = Pool(1000)
        for _ in range(1000):
            pool.spawn(int)
        pool.join()

    def raw() -> None:
        for _ in range(1000):
            gevent.spawn_raw(int)
        gevent.sleep(0)

    print(f"spawn: {_compare(pooled, 'Pool.spawn', raw, 'a raw greenlet')}")


def timers() -> None:
    """A time limit that is started and cancelled."""
    import gevent

    def timeout() -> None:
        for _ in range(1000):
            gevent.Timeout.start_new(10).close()

    loop = gevent.get_hub().loop

    def raw() -> None:
        for _ in range(1000):
            timer = loop.timer(10)
            timer.start(print)
            timer.stop()
            timer.close()

    print(f"time limit: {_compare(timeout, 'gevent.Timeout', raw, 'a raw timer')}")


def _compare(
    one: Callable[[], None], its_name: str, other: Callable[[], None], other_name: str
) -> str:
    """Two ways in turn, 1,000 times each a call; the median of one of them, in µs."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(20 * ROUNDS):
        for way, seconds in zip((one, other), times, strict=True):
            began = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - began)
    first, second = (statistics.median(seconds) * 1000 for seconds in times)
    return f"{its_name} {first:.1f} µs, {other_name} {second:.1f} µs: {first / second:.1f} times"


if __name__ == "__main__":
    measure(int(sys.argv[1])) if sys.argv[1:] else main()
