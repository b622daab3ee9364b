"""What a chaos run breaks and sends, and when: derived from its seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support import failpoints

# Whose requests and replies are dropped; those that carry tasks more often.
SCRIPTS = ("claim", "settle", "push") * 3 + (
    "promote", "reap", "register", "beat", "sync", "release", "push_once", "schedule_tick", "cancel", "cancel_mark",
    "cancel_comb", "limit_set",
)  # fmt: skip

# By track: each breaks one thing at a time, and all three go on beside each other.
# (name, weight, seconds that it lasts)
FAULTS: dict[str, tuple[tuple[str, float, tuple[float, float]], ...]] = {
    "workers": (
        ("kill", 4, (0, 0)),
        ("failpoint", 4, (0, 0)),
        ("freeze", 4, (0.1, 10)),
        ("term", 2, (0, 0)),
        ("term-twice", 1, (0.05, 0.5)),
    ),
    "server": (
        ("kill", 2, (0.1, 5)),
        ("freeze", 2, (0.2, 6)),
        ("client-kill", 2, (0, 0)),
        ("pause", 2, (0.2, 4)),
        ("script-flush", 2, (0.1, 1)),
        ("squeeze", 2, (1, 5)),
        ("no-replicas", 1, (1, 5)),
    ),
    "network": (
        ("cut", 3, (0, 0)),
        ("delay", 2, (0.5, 4)),
        ("trickle", 1, (0.5, 3)),
        ("drop-reply", 6, (0.1, 0.5)),
        ("drop-request", 2, (0.1, 0.5)),
        ("half-open", 1, (5.5, 6)),
        ("black-hole", 1, (0.2, 5)),
        ("refuse", 1, (0.2, 4)),
    ),
    "senders": (("kill", 1, (0, 0)),),
    "people": (
        ("retry-dead", 1, (0, 0)),
        ("pause", 1, (0.2, 3)),
        ("cancel", 1, (0, 0)),
        ("cancel-tag", 1, (0, 0)),
        ("limit", 1, (0, 0)),
    ),
}
PAUSES = {
    "workers": (0.5, 3.0), "server": (1.5, 5.0), "network": (0.3, 3.0), "senders": (5.0, 15.0),
    "people": (3.0, 10.0),
}  # fmt: skip

# (task, weight): what the producers send.
TASKS = (
    ("nap", 38), ("long", 4), ("effect", 16), ("flaky", 10), ("delayed", 10), ("expiring", 6), ("many", 4), ("chain", 3),
    ("fails", 3), ("hangs", 2), ("swallows", 2), ("big", 3), ("hostile", 1), ("block", 0.3), ("softly", 2), ("asks_again", 2),
    ("snoozes", 3), ("rejects", 2), ("ignores", 2), ("tagged", 8), ("only", 6), ("polite", 8),
    ("of_a_tenant", 6),
)  # fmt: skip

KEYS = 4  # of the tasks that are unique
SITE_COUNT = 6  # of the polite tasks
TAG = "some"  # of the tasks that are cancelled together


@dataclass(frozen=True, slots=True)
class Step:
    """One fault: on its track, from `at` on, for `lasts` seconds."""

    track: str
    at: float
    name: str
    lasts: float
    worker: int = 0  # whom it hits
    number: float = 0.0  # 0 to 1: how hard
    word: str = ""  # a script, a failpoint


def faults(seed: int, seconds: float, workers: int, only: tuple[str, ...] = ()) -> list[Step]:
    """The faults of a run, track by track, the last of them over before its end; `only`: of these
    kinds, as `server.kill`."""
    steps = []
    for track, kinds in FAULTS.items():
        chosen = [kind for kind in kinds if not only or f"{track}.{kind[0]}" in only]
        if chosen:
            rng = random.Random(f"{seed} {track}")
            steps += list(_track(rng, track, chosen, seconds, workers))
    return steps


def _track(
    rng: random.Random, track: str, kinds: list[Any], seconds: float, workers: int
) -> Iterator[Step]:
    at = rng.uniform(0.5, 2.0)
    while True:
        ((name, _, lasts),) = rng.choices(kinds, [weight for _, weight, _ in kinds])
        step = Step(
            track, at, name, rng.uniform(*lasts), rng.randrange(workers), rng.random(),
            _word(rng, name),
        )  # fmt: skip
        if at + step.lasts > seconds:
            return
        yield step
        at += step.lasts + rng.uniform(*PAUSES[track])


def _word(rng: random.Random, name: str) -> str:
    if name == "failpoint":
        # Soon after its start, or in the middle of its work.
        return f"{rng.choice(failpoints.NAMES)}=KILL@{rng.choice((1, 1, 2, 3, 10))}"
    return rng.choice(SCRIPTS) if name.startswith("drop") else rng.choice(failpoints.CLIENT_STEPS)


@dataclass(frozen=True, slots=True)
class Send:
    """One act of a producer: a call with its options, or a batch, or bytes that are no message."""

    kind: str
    task: str
    args: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    count: int = 1


def sends(seed: int, producer: int) -> Iterator[Send]:
    """What a producer sends, without an end."""
    rng = random.Random(f"{seed} producer {producer}")
    names, weights = [name for name, _ in TASKS], [weight for _, weight in TASKS]
    while True:
        (kind,) = rng.choices(names, weights)
        priority = ("priority", rng.choice((0, 5, 5, 5, 9)))
        nap = round(rng.choice((0.0, 0.02, 0.05, 0.2, rng.uniform(0, 2))), 3)
        match kind:
            case "nap":
                yield Send(kind, "nap", (nap,), (priority,))
            case "long":
                yield Send(kind, "nap", (round(rng.uniform(2, 6), 2),), (priority,))
            case "flaky":
                yield Send(kind, "flaky", (rng.randint(1, 3),), (priority,))
            case "delayed":
                yield Send(kind, "nap", (nap,), (("countdown", round(rng.uniform(0.05, 8), 3)),))
            case "expiring":
                expires = ("expires", round(rng.uniform(0.05, 5), 3))
                yield Send(kind, "nap", (nap,), (priority, expires))
            case "tagged":
                delayed = rng.random() < 0.5
                countdown = [("countdown", round(rng.uniform(0.05, 8), 3))] if delayed else []
                yield Send(kind, "nap", (nap,), (("tags", (TAG,)), *countdown))
            case "only":
                yield Send(kind, kind, (rng.randrange(KEYS),))
            case "polite":
                yield Send(kind, kind, (rng.randrange(SITE_COUNT), min(nap, 0.3)), (priority,))
            case "of_a_tenant":
                yield Send(kind, kind, (rng.randrange(2), rng.randrange(SITE_COUNT), min(nap, 0.3)))
            case "many":
                yield Send(kind, "nap", (0.02,), (), rng.randint(20, 300))
            case "asks_again":
                yield Send(kind, kind, (rng.randint(1, 4),))
            case "swallows":
                yield Send(kind, "swallows", (rng.randint(1, 3),))
            case "big":
                yield Send(kind, "big", (rng.randint(1_000, 60_000),))
            case "block":
                yield Send(kind, "block", (round(rng.uniform(0.2, 1.5), 2),))
            case _:
                yield Send(kind, kind)
