"""Worker processes that are killed, frozen, or end at the worst moment."""

from __future__ import annotations

import random
import signal
import time

from tests.chaos.arena import Arena
from tests.chaos.report import Report, scenario
from tests.support import failpoints
from tests.support.eventually import eventually

KILLED = ("worker killed",)

# Who has no proof that a process is gone waits for its lease, as for one of another host.
ELSEWHERE = """
    from greenworker.worker import proof
    proof.mark = lambda: None
"""
# By this worker's clock it is another day.
SKEWED = """
    shift = {"tomorrow": 86400.0, "yesterday": -86400.0}.get(os.environ.get("CHAOS_WORKER"), 0.0)
    if shift:
        wall = time.time
        time.time = lambda: wall() + shift
"""
HUNGRY = """
    if os.environ.get("CHAOS_WORKER") == "hungry":
        import resource
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 300_000_000
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    @app.task(name="hog", timeout=0)
    @noted
    def hog(seconds):
        eaten = []
        for _ in range(40):  # more than there is; where there is enough, soon done
            eaten.append(bytearray(10_000_000))
            time.sleep(seconds)
"""
BLOCKS_ONCE = """
    @app.task(name="block_once")
    @noted
    def block_once(seconds):
        from gevent.monkey import get_original
        if not Path("blocked").exists():
            Path("blocked").touch()
            get_original("time", "sleep")(seconds)
"""


@scenario("SIGKILL of a worker at work", lease=2.0)
def worker_killed(arena: Arena, rng: random.Random) -> Report:
    return _one_is_killed(arena, rng, 300 if arena.short else 3000)


@scenario("SIGKILL of a worker on another host", lease=2.0, extra=ELSEWHERE)
def worker_killed_elsewhere(arena: Arena, rng: random.Random) -> Report:
    return _one_is_killed(arena, rng, 300)


def _one_is_killed(arena: Arena, rng: random.Random, count: int) -> Report:
    victim, _ = arena.worker(), arena.worker()
    arena.send_many("nap", [[rng.uniform(0.05, 0.3)] for _ in range(count)])
    eventually(lambda: len(arena.running(victim)) >= 10)
    at = arena.kill(victim)
    victim.wait()
    in_flight = arena.running(victim)
    arena.drain()
    verdict = arena.verify(causes=KILLED)
    assert sum(verdict.twice.values()) <= arena.concurrency
    first, last = arena.recovery(at, in_flight)
    return Report(
        f"{count:,} naps, two workers, one is killed; lease {arena.lease:g} s",
        verdict, [first], [last],
    )  # fmt: skip


@scenario("SIGKILL at 40 %, restart by a supervisor", lease=30.0, concurrency=200)
def killed_at_40_percent(arena: Arena, rng: random.Random) -> Report:
    """2,000 naps of 0.5 s at concurrency 200 in the long variant, under the default lease."""
    count, nap = (400, 0.2) if arena.short else (2000, 0.5)
    victim = arena.worker(supervised=True, concurrency=count // 10)
    arena.send_many("nap", [[nap]] * count)
    eventually(lambda: len(arena.completed()) >= 0.4 * count, within=60)
    held = arena.held(arena.incarnation(victim))
    at = arena.kill(victim)
    arena.drain()
    verdict = arena.verify(causes=KILLED)
    assert verdict.ended["done"] == count
    first, last = arena.recovery(
        at, set(held) - {i for i, t in arena.completed().items() if t < at}
    )
    return Report(
        f"{count:,} naps of {nap:g} s at -c {count // 10}; lease 30 s", verdict, [first], [last]
    )


@scenario("SIGKILL at each step of a worker", lease=1.0)
def killed_at_each_step(arena: Arena, rng: random.Random) -> Report:
    arena.worker()
    steps = list(failpoints.NAMES)
    rng.shuffle(steps)
    for start in range(0, len(steps), 4):
        victims = {}
        for step in steps[start : start + 4]:
            # A sync comes only after a claim whose reply was lost
            before = "claim.replied=RAISE," if step.startswith("sync") else ""
            victims[step] = arena.worker(failpoint=f"{before}{step}=KILL", ready=False)
        for step, victim in victims.items():
            if step.startswith("release"):
                arena.wait_registered(victim)
                victim.signal(signal.SIGTERM)
        for step, victim in victims.items():
            while victim.running:
                arena.send_many("effect", [[0.01]] * 3)
                time.sleep(0.05)
            assert victim.wait() == -signal.SIGKILL, step
    arena.drain()
    causes = (*KILLED, "worker ended before it was settled", "incarnation given up")
    return Report(
        f"{len(steps)} steps from claim to release, a worker each, beside a healthy one",
        arena.verify(causes),
    )


@scenario("a zombie: SIGSTOP for longer than the lease, SIGCONT", lease=1.5)
def zombie(arena: Arena, rng: random.Random) -> Report:
    victim, _ = arena.worker(), arena.worker()
    arena.send_many("nap", [[rng.uniform(0.05, 0.3)] for _ in range(300)])
    eventually(lambda: len(arena.running(victim)) >= 10)
    before = arena.incarnation(victim)
    at = arena.freeze(victim)
    held = arena.held(before)
    eventually(lambda: set(held) <= set(arena.completed()), within=30)
    arena.thaw(victim)
    eventually(lambda: arena.incarnation(victim) != before, message="it is somebody new")
    arena.drain()
    verdict = arena.verify(causes=("incarnation given up",))
    first, last = arena.recovery(at, held)
    return Report(
        f"300 naps, two workers, one stands still; lease {arena.lease:g} s",
        verdict,
        [first],
        [last],
    )


@scenario("out of memory (RLIMIT_AS), then SIGKILL", lease=1.5, extra=HUNGRY)
def out_of_memory(arena: Arena, rng: random.Random) -> Report:
    arena.worker()
    hungry = arena.worker(name="hungry", supervised=True)
    first = hungry.command
    naps = arena.send_many("nap", [[rng.uniform(0.05, 0.3)] for _ in range(300)])
    arena.send_many("hog", [[0.01]] * 5)
    eventually(lambda: any(e["how"] == "MemoryError" for e in arena.events("end")), within=30)
    arena.kill(hungry)
    eventually(lambda: not first.running)
    arena.drain()
    verdict = arena.verify(causes=("worker killed", "worker ended before it was settled"))
    assert set(naps) <= set(arena.completed()), "no nap is to blame"
    return Report("300 naps beside five tasks that take all there is", verdict)


@scenario("clocks of workers a day fast and a day slow", lease=1.5, extra=SKEWED)
def clock_skew(arena: Arena, rng: random.Random) -> Report:
    arena.worker()
    victim = arena.worker(name="tomorrow")
    arena.worker(name="yesterday")
    for _ in range(30):
        arena.send("nap", 0.05, countdown=1.0)
        arena.send("nap", 0.05, expires=60.0)
        arena.send("flaky", 2)
    arena.kill(victim)
    arena.drain()
    verdict = arena.verify(causes=KILLED)
    assert not verdict.ended["expired"]
    sent = {e["ids"][0]: e["t"] for e in arena.events("send")[::3]}
    starts = {e["id"]: e["t"] for e in reversed(arena.events("start"))}
    assert min(starts[id] - t for id, t in sent.items()) >= 0.999, "nothing runs early"
    return Report("30 delayed, 30 that expire, 30 that retry; one worker is killed", verdict)


@scenario("the loop is blocked for three leases", lease=1.0)
def loop_blocked(arena: Arena, rng: random.Random) -> Report:
    arena.worker(), arena.worker()
    arena.send("block", 3 * arena.lease)
    eventually(lambda: arena.running())
    arena.send_many("nap", [[0.1]] * 200)
    arena.drain()
    # The watchdog's thread beats: nobody is reaped
    return Report("a task blocks one of two workers; 200 naps", arena.verify(causes=()))


@scenario("the loop is blocked beyond --max-block", lease=1.0, extra=BLOCKS_ONCE)
def loop_blocked_for_good(arena: Arena, rng: random.Random) -> Report:
    arena.worker("--max-block", "1", supervised=True)
    arena.worker("--max-block", "1", supervised=True)
    arena.send("block_once", 600.0)
    (blocked,) = eventually(lambda: arena.running())
    arena.send_many("nap", [[0.1]] * 200)
    (end,) = eventually(lambda: arena.events("down"), within=30)
    assert end["code"] > 0, "it ended itself"
    arena.drain()
    verdict = arena.verify(causes=("worker ended before it was settled",))
    first, last = arena.recovery(end["t"], [blocked])
    return Report("a task blocks for ten minutes; 200 naps", verdict, [first], [last])


@scenario("a poison task beside healthy long ones", lease=2.0, concurrency=1000, bound=10.0)
def poison(arena: Arena, rng: random.Random) -> Report:
    count, nap, most = (200, 0.2, 100) if arena.short else (2000, 1.0, 1000)
    arena.worker(supervised=True, concurrency=most)
    arena.send_many("nap", [[nap]] * (count // 2))
    poison = arena.send("poison", nap / 4)
    arena.send_many("nap", [[nap]] * (count // 2))
    arena.drain(within=300)
    verdict = arena.verify(causes=("a task killed its worker",))
    assert (verdict.ended["dead"], verdict.ended["done"]) == (1, count)
    assert poison not in {id for id, *_ in arena.completed()}
    assert len(arena.events("down")) == 5
    at = arena.events("down")[0]["t"]
    return Report(
        f"os._exit beside {count:,} naps of {nap:g} s at -c {most}",
        verdict, all=[max(arena.completed().values()) - at], notes="buried alone, by the fifth crash",
    )  # fmt: skip


@scenario("a deploy that kills four times within a minute", lease=2.0)
def four_kills(arena: Arena, rng: random.Random) -> Report:
    worker = arena.worker(supervised=True)
    arena.send_many("nap", [[0.3]] * 200)
    for _ in range(4):
        incarnation = arena.wait_registered(worker)
        eventually(lambda: len(arena.running(worker)) >= 10)
        dead, at = worker.command, arena.kill(worker)
        eventually(lambda dead=dead: not dead.running)  # type: ignore[misc]
        eventually(lambda old=incarnation: arena.incarnation(worker) not in ("", old))  # type: ignore[misc]
    arena.drain()
    verdict = arena.verify(causes=KILLED)
    assert verdict.ended["done"] == 200, "nothing healthy is buried"
    return Report("SIGKILL whenever at least ten of 200 naps run", verdict, [arena.resumption(at)])


@scenario("two workers of one name, one is killed", lease=2.0)
def two_of_one_name(arena: Arena, rng: random.Random) -> Report:
    victim, other = arena.worker(name="twin"), arena.worker(name="twin")
    arena.send_many("nap", [[0.1]] * 200)
    eventually(lambda: arena.running(victim) and arena.running(other))
    at = arena.kill(victim)
    victim.wait()
    in_flight = arena.running(victim)
    arena.drain()
    verdict = arena.verify(causes=KILLED)
    first, last = arena.recovery(at, in_flight)
    assert not arena.events("renewed"), "a name is a label: the other one goes on"
    return Report("200 naps", verdict, [first], [last])


@scenario("a worker dies with its claim's reply in its hands", lease=2.0)
def killed_at_claim_replied(arena: Arena, rng: random.Random) -> Report:
    arena.worker()
    victim = arena.worker(failpoint=f"claim.brought=KILL@{rng.randint(1, 4)}", supervised=True)
    first = victim.command
    arena.send_many("nap", [[0.1]] * 200)
    assert first.wait() == -signal.SIGKILL
    (at,) = eventually(lambda: [e["t"] for e in arena.events("down") if e["of"] == first.pid])
    arena.drain()
    verdict = arena.verify(causes=KILLED)
    # Not what the server says it holds: who sweeps on this host need not wait for its lease.
    starts = arena.events("start")
    held = {event["id"] for event in starts if event["delivery"] == 2}
    begun = {event["id"] for event in starts if event["pid"] == first.pid}
    assert held - begun, "it died before it started what it had claimed"
    soonest, last = arena.recovery(at, held)
    return Report(
        f"killed between a claim's reply and the tasks' start; lease {arena.lease:g} s",
        verdict, [soonest], [last],
    )  # fmt: skip
