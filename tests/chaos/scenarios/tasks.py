"""Tasks that misbehave, and messages that are none."""

from __future__ import annotations

import random

from greenworker import keys
from tests.chaos.arena import Arena
from tests.chaos.report import Report, scenario
from tests.support.eventually import eventually

ASKS = """
    known = {}

    @app.task(name="ask", timeout=0.05)
    @noted
    def ask(ids):
        # Cut short in the middle of a request, again and again
        while True:
            for n, id in enumerate(ids):
                answer = app.result(id).get(allow_in_task=True)["value"]
                if len(answer) != n + 1:
                    journal.write("wrong", wanted=n + 1, got=len(answer))
"""
STRANGE_RESULTS = """
    @app.task(name="strange")
    @noted
    def strange(kind):
        deep = []
        for _ in range(300):
            deep = [deep]
        return {"set": {1, 2}, "big": 2**64, "deep": deep, "huge": "x" * 2_000_000}[kind]
"""
DEPLOYED_LATER = """
    if Path("deployed").exists() or not os.environ.get("CHAOS_WORKER"):
        @app.task(name="late")
        @noted
        def late():
            pass
"""


@scenario("tasks that swallow their hard timeout", lease=2.0)
def swallowed_timeouts(arena: Arena, rng: random.Random) -> Report:
    arena.worker("--max-stuck", "2", supervised=True)
    for times in (1, 2, 3):
        arena.send_many("swallows", [[times]] * 5)
    arena.send_many("stuck", [["never"]] * 3)
    arena.send_many("nap", [[0.1]] * 200)
    (end,) = eventually(lambda: arena.events("down"), within=30)
    assert end["code"] == 0, "it drained and ended for its supervisor"
    arena.drain()
    verdict = arena.verify(causes=("released at a stop",))
    assert verdict.ended["dead"] == 18
    return Report(
        "15 give in at last, 3 never; --max-stuck 2: the worker drains, and is started again",
        verdict,
    )


@scenario("tasks cut short inside a request to the server", extra=ASKS)
def killed_in_a_request(arena: Arena, rng: random.Random) -> Report:
    arena.worker(concurrency=50)
    answers = [arena.send("big", n + 1) for n in range(20)]
    eventually(lambda: set(answers) <= set(arena.completed()))
    count = 300 if arena.short else 3000
    arena.send_many("ask", [[rng.sample(answers[:1], 1) + answers[1:]] for _ in range(count)])
    arena.drain()
    verdict = arena.verify(causes=())
    assert verdict.ended["dead"] == count, "each ran into its timeout"
    assert not arena.events("wrong"), "nobody gets another's reply"
    return Report(f"{count:,} tasks ask for results until a hard timeout of 50 ms hits", verdict)


@scenario("malformed bytes, an unknown version, ids that nobody sent")
def hostile_bytes(arena: Arena, rng: random.Random) -> Report:
    arena.worker()
    ready = keys.ready(arena.root, "default", 5)
    bodies = (
        "[" * 100_000,
        "[[18446744073709551616],{}]",
        "[[1e999],{}]",
        "[[],{}",
        "{}",
        "[1,2]",
        "\x00\x80",
        "x" * 2_000_000,
        "[[" + "9" * 100_000 + "],{}]",
    )
    envelopes = [f"1 0 0 5 1 0 1000 default nap\n{body}".encode("latin1") for body in bodies]
    envelopes += [
        b"",
        b"\n",
        b"garbage",
        b"2 0 0 5 1 0 1000 default nap\n[[],{}]",
        rng.randbytes(500),
    ]
    envelopes += [b"1 " + b"9" * 400 + b" 0 5 1 0 1000 default nap\n[[],{}]"]
    for n, envelope in enumerate(envelopes):
        arena.redis.hset(keys.messages(arena.root), f"hostile{n}", envelope)
        arena.redis.lpush(ready, f"hostile{n}")
        arena.redis.lpush(ready, f"nobody{n}")
        arena.send_many("nap", [[0.01]] * 10)
    # What has a head that can be read is counted as sent, by whoever put it there
    arena.drain()
    dead = arena.redis.hkeys(keys.dead_records(arena.root))
    assert len([id for id in dead if id.startswith("nobody")]) == len(envelopes)
    assert len([id for id in dead if id.startswith("hostile")]) == len(envelopes)
    foreign = int(arena.redis.hget(keys.stats(arena.root), "foreign"))
    arena.redis.hincrby(keys.stats(arena.root), "foreign", 2 * len(envelopes) - foreign)
    return Report(
        f"{2 * len(envelopes)} entries made by hand, among 150 naps: each is a dead letter",
        arena.verify(causes=()),
    )


@scenario("an unknown task, which a deploy brings", lease=2.0, extra=DEPLOYED_LATER)
def unknown_task(arena: Arena, rng: random.Random) -> Report:
    old = arena.worker()
    late = arena.send_many("late", [[]] * 20)
    arena.send_many("nap", [[0.05]] * 100)
    old.command.wait_for("is no task of this worker", times=20)
    arena.allow("deployed")
    arena.worker()
    arena.terminate(old)
    arena.drain()
    verdict = arena.verify(causes=())
    assert set(late) <= set(arena.completed())
    assert verdict.ended["done"] == 120
    return Report("20 messages of a task that the old worker does not have", verdict)


@scenario("results that cannot be stored", extra=STRANGE_RESULTS)
def strange_results(arena: Arena, rng: random.Random) -> Report:
    arena.worker()
    for kind in ("set", "big", "deep", "huge"):
        arena.send_many("strange", [[kind]] * 5)
    arena.send_many("nap", [[0.05]] * 100)
    arena.drain()
    verdict = arena.verify(causes=())
    reasons = [
        str(record).split(" ")[1] for record in arena.redis.hvals(keys.dead_records(arena.root))
    ]
    assert reasons == ["result"] * 20
    return Report("a set, 2⁶⁴, 300 levels, 2 MB, five of each: a failure that says so", verdict)


@scenario("arguments that cannot be sent")
def strange_arguments(arena: Arena, rng: random.Random) -> Report:
    from greenworker.errors import NotEncodable, PayloadTooLarge

    arena.worker()
    deep: list[object] = []
    for _ in range(300):
        deep = [deep]
    refused = 0
    for value in ({1}, 2**64, deep, "x" * 64_000_000, object()):
        try:
            arena.app.tasks["nap"].delay(value)
        except (NotEncodable, PayloadTooLarge):
            refused += 1
    assert refused == 5
    assert not arena.present()
    arena.send_many("nap", [[0.05]] * 100)
    arena.drain()
    return Report("a set, 2⁶⁴, 300 levels, 64 MB, an object: refused at the call", arena.verify(()))
