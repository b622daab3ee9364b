"""Connections that are cut, half open or slow, between workers or senders and the server."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from greenworker import keys
from greenworker.scripts import load as script
from tests.chaos import outages
from tests.chaos.arena import Arena
from tests.chaos.outages import conclude, crew, load, mark
from tests.chaos.report import Report, scenario
from tests.support.eventually import eventually
from tests.support.tcp_proxy import TcpProxy, Trap

Provoke = Callable[[Arena, random.Random], None]
# How a request is lost: (in words, where its reply is cut).
WAYS = (("request lost", -1), ("reply lost", 0), ("reply cut in the middle", 2))
EACH = ", ".join(way for way, _ in WAYS)
MIDDLE = {"claim": 60, "sync": 60, "settle": 20}  # bytes; of others the whole reply is `:1`


def _cut(name: str, provoke: Provoke, **options: object) -> None:
    """A scenario in which requests of one script are lost in each way, one after the other."""

    def play(arena: Arena, rng: random.Random) -> Report:
        crew(arena)
        count = load(arena, rng, 100, 1000)
        for _ in range(1 if arena.short else 5):
            for way, at in WAYS:
                arena.note_fault(f"{name}: {way}")
                cut = MIDDLE.get(name, at) if at > 0 else at
                trap = arena.proxy.truncate_next_reply(script(name).sha, cut)
                provoke(arena, rng)
                eventually(lambda trap=trap: trap.sprung, message=f"{name}: {way}: not sprung")
        times = "" if arena.short else ", five times each"
        return conclude(arena, f"{count:,} naps, two workers; {EACH}{times}")

    play.__name__ = f"cut_{name}"
    scenario(f"connection cut in mid-reply: {name}", lease=1.5, **options)(play)


def _nothing(_: Arena, __: random.Random) -> None:
    """Workers do it all the time."""


def _work(arena: Arena, rng: random.Random) -> None:
    arena.send_many("nap", [[rng.uniform(0.0, 0.1)] for _ in range(30)])


def _later(arena: Arena, _: random.Random) -> None:
    for number in range(5):
        arena.send("nap", 0.01, countdown=0.1 + number / 20)


def _lost_claim(arena: Arena, rng: random.Random) -> None:
    """What brings a sync about."""
    first = arena.proxy.truncate_next_reply(script("claim").sha, rng.choice([0, 40]))
    _work(arena, rng)
    eventually(lambda: first.sprung)


_cut("claim", _work)
_cut("sync", _lost_claim)
_cut("settle", _work)
_cut("beat", _nothing)
_cut("promote", _later)


@scenario("connection cut in mid-reply: register", lease=1.5)
def cut_register(arena: Arena, rng: random.Random) -> Report:
    traps = [arena.proxy.truncate_next_reply(script("register").sha, at) for _, at in WAYS]
    arena.note_fault("register: each reply lost")
    crew(arena, 2)
    assert all(trap.sprung for trap in traps)
    count = load(arena, rng)
    return conclude(arena, f"{count:,} naps, two workers; {EACH}")


@scenario("connection cut in mid-reply: reap", lease=1.5)
def cut_reap(arena: Arena, rng: random.Random) -> Report:
    victims = crew(arena, 3, concurrency=4)
    held = arena.send_many("wait_for", [[outages.GO]] * 12)
    eventually(lambda: set(held) <= set(arena.running()))
    crew(arena, 2)
    for victim, (way, at) in zip(victims, WAYS, strict=True):
        arena.note_fault(f"reap: {way}")
        arena.kill(victim)
        trap = arena.proxy.truncate_next_reply(script("reap").sha, at)
        eventually(lambda trap=trap: trap.sprung)
    eventually(lambda: outages.stats(arena).get("reaped", 0) >= 12, within=20)
    report = conclude(
        arena, f"three workers die, which hold four each; {EACH}", causes=("worker killed",)
    )
    assert outages.stats(arena)["reaped"] == 12, "a message was moved twice"
    return report


@scenario("connection cut in mid-reply: release", lease=1.5)
def cut_release(arena: Arena, rng: random.Random) -> Report:
    leavers = crew(arena, 3, "--grace", "0.3", concurrency=4)
    held = arena.send_many("wait_for", [[outages.GO]] * 12)
    eventually(lambda: set(held) <= set(arena.running()))
    crew(arena, 1)
    for leaver, (way, at) in zip(leavers, WAYS, strict=True):
        arena.note_fault(f"release: {way}")
        trap = arena.proxy.truncate_next_reply(script("release").sha, at)
        arena.terminate(leaver)
        assert leaver.wait() == 0
        assert "new incarnation" not in leaver.output, "it took its leave for a death"
        assert trap.sprung
    # One request was lost: that worker's lease runs out, and nobody else's.
    eventually(lambda: arena.redis.zcard(keys.workers(arena.root)) == 1)
    report = conclude(
        arena, f"three workers end, with four tasks each that do not; {EACH}",
        causes=("released at a stop",),
    )  # fmt: skip
    outages.uncharged(arena)
    return report


@scenario("connection cut in mid-reply: push", lease=2.0)
def cut_push(arena: Arena, rng: random.Random) -> Report:
    crew(arena, 1)
    count = 5 if arena.short else 100
    for _ in range(count):
        for way, at in WAYS:
            arena.note_fault(f"push: {way}")
            trap = arena.producers.truncate_next_reply(script("push").sha, at)
            arena.send("nap", 0.01)
            arena.send_many("nap", [[0.01]] * 10)
            assert trap.sprung
    assert all(event["verdict"] == "ok" for event in arena.events("sent"))
    report = conclude(arena, f"{3 * count} sends of 1, and of 10; {EACH}")
    assert outages.stats(arena)["enqueued"] == report.verdict.sent, "one arrived twice"
    return report


AGAIN = """
@app.task(name="again", retries=3, backoff=Backoff(base=0.01, cap=0.01))
@noted
def again(file):
    if current_task().attempt == 0:
        raise Failure(token())
    while not Path(file).exists():
        time.sleep(0.01)
"""


@scenario("a settle's reply is lost, and its message runs again on the same worker",
          lease=2.0, extra=AGAIN)  # fmt: skip
def settle_repeated_late(arena: Arena, rng: random.Random) -> Report:
    """The first run asks for a retry; before the repeat of that arrives, the second run has begun."""
    (worker,) = crew(arena, 1)
    settle = script("settle").sha
    for turn in range(2 if arena.short else 10):
        file = f"second-{turn}"
        with arena.fault("settles are lost"):
            reply = arena.proxy.drop_next_reply(settle)
            id = arena.send("again", file)
            eventually(lambda trap=reply: trap.sprung)
            _lose_until(arena.proxy, settle, lambda id=id: len(_runs(arena, id)) == 2)
        # It answers 0, and the second run goes on.
        eventually(lambda id=id: _settled(arena, id) == [("retry", False)])
        assert id in arena.running(worker)
        assert id in arena.held(arena.incarnation(worker))
        arena.allow(file)
        eventually(lambda id=id: _settled(arena, id) == [("retry", False), ("done", True)])
    return conclude(
        arena, "a retry's settle; meanwhile it is retried, promoted, and claimed by the same worker"
    )


def _lose_until(proxy: TcpProxy, match: bytes, over: Callable[[], bool]) -> None:
    """Let every repeat be lost on its way until then."""
    deadline = time.monotonic() + 20
    while not over():
        trap = proxy.drop_next_request(match)
        eventually(lambda trap=trap: trap.sprung or over())
        assert time.monotonic() < deadline


def _runs(arena: Arena, id: str) -> list[tuple[str, int]]:
    return [(e["worker"], e["seq"]) for e in arena.events("start") if e["id"] == id]


def _settled(arena: Arena, id: str) -> list[tuple[str, bool]]:
    """What was said of the outcomes of a message, in order."""
    return [
        (kind, ours)
        for event in arena.events("settled")
        for of, _, kind, ours in event["outcomes"]
        if of == id
    ]


@scenario("half-open connections; a claim that arrives after its worker has moved on",
          lease=4.0, bound=9.0)  # fmt: skip
def half_open(arena: Arena, rng: random.Random) -> Report:
    workers = crew(arena)
    count = load(arena, rng)
    claim: Trap = arena.proxy.hold_next_request(script("claim").sha)
    eventually(lambda: claim.sprung)
    with arena.fault("half-open connections", stops_all=True):
        began = time.monotonic()
        arena.proxy.swallow()
        # No connection of before says anything any more: read timeouts, and new ones.
        eventually(lambda: arena.completed(began + 1.0), within=20)
    back = time.monotonic() - began
    for worker in workers:  # each has fenced what it had claimed before
        worker.command.wait_for("consumer: goes on")
    arena.proxy.deliver(claim)
    assert b"stale" in claim.answer, claim.answer
    return conclude(
        arena, f"{count:,} naps, two workers; every connection swallows all; a late claim is refused",
        notes=f"the first message ended after {back:.1f} s, the read timeout is 5 s",
    )  # fmt: skip


@scenario("latency: 200 ms each way", lease=2.0)
def latency(arena: Arena, rng: random.Random) -> Report:
    arena.proxy.delay(0.2, each_way=True)
    return _slow(arena, rng, "latency", 100, 500)


@scenario("one byte at a time, each way of each connection", lease=5.0)
def trickle(arena: Arena, rng: random.Random) -> Report:
    arena.proxy.trickle(1, every=0.0)
    return _slow(arena, rng, "one byte at a time", 60, 300)


def _slow(arena: Arena, rng: random.Random, fault: str, few: int, many: int) -> Report:
    crew(arena)
    with arena.fault(fault):
        count = load(arena, rng, few, many)
        time.sleep(1.5 * arena.lease)
        arena.allow(outages.GO)
        arena.drain()
    _no_new_lives(arena)
    return conclude(
        arena, f"{count:,} naps, two workers; for two leases and more, nobody is reaped"
    )


def _no_new_lives(arena: Arena) -> None:
    assert not arena.events("renewed")
    assert outages.stats(arena).get("reaped", 0) == 0


@scenario("the network is a black hole for longer than the lease", lease=1.5)
def black_hole(arena: Arena, rng: random.Random) -> Report:
    crew(arena)
    count = load(arena, rng)
    seconds = 1.5 * arena.lease if arena.short else 7.0
    with arena.fault("black hole", stops_all=True):
        arena.proxy.freeze()
        time.sleep(seconds)
        arena.proxy.thaw()
    back = mark(arena)
    return conclude(arena, f"{count:,} naps, two workers; no byte passes for {seconds:g} s", [back])


@scenario("one worker's network is cut for longer than the lease", lease=1.5)
def partitioned(arena: Arena, rng: random.Random) -> Report:
    """The other one goes on, reaps it, and runs what it held: the only way to run twice alive."""
    with TcpProxy(arena.server.url) as own:
        away = arena.worker(via=own, ready=False)
        (other,) = crew(arena, 1)
        arena.wait_registered(away)
        count = load(arena, rng)
        with arena.fault("partition", costs_lease=[away.pid]):
            away.leaving = True  # nobody may expect it to claim
            own.freeze()
            first = arena.incarnation(away)
            eventually(lambda: not arena.held(first), within=20)
            own.thaw()
            at = mark(arena, "healed")
            eventually(lambda: arena.incarnation(away) != first)
            away.leaving = False
        healed = time.monotonic() - at
        assert other.running
        report = conclude(
            arena, f"{count:,} naps, two workers; what the absent one held runs on the other one",
            causes=("incarnation given up",), notes=f"back {healed:.1f} s after it healed",
        )  # fmt: skip
        away.signal(signal.SIGKILL)
        return report
