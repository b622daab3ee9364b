"""What the random steps of tests/lua/test_model.py draw from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from greenworker.message import CANCELLED, Delivery, Message, Outcome, next_attempt
from tests.support.model_parts import Bounds

BEGINNING = 1_900_000_000_000  # ms
LEASE = 30_000  # ms
NEVER_QUIET = 10**13  # ms
QUEUES = ("default", "other")
MANY = 12  # ids
SUCCESS = b'{"state":"SUCCESS","value":1}'
FAILURE = b'{"state":"FAILURE","error":{"type":"E","message":"m","traceback":""}}'

ids = st.sampled_from([f"m{n}" for n in range(MANY)])
queues = st.sampled_from([("default",), ("other",), QUEUES, QUEUES[::-1]])
slots = st.integers(0, 3)
# Mostly a living incarnation, sometimes one that is over.
olds = st.sampled_from([0, 0, 0, 0, 1])
delays = st.sampled_from([0.0, 0.0, 0.2, 60.0])
moments = st.sampled_from(
    [
        *[None] * 20,
        *[0.0, 0.001, 1.0, 60.0, 3600.0],
        *(
            datetime.fromtimestamp((BEGINNING + ms) / 1000, UTC)
            for ms in (-BEGINNING, -1, 0, 1, 500, 10_000)
        ),
    ]
)
messages = st.builds(
    Message,
    id=ids,
    task=st.just("t"),
    args=st.sampled_from([(), ("x" * 60,)]),
    queue=st.sampled_from(QUEUES),
    priority=st.sampled_from([0, 5, 5, 5, 9]),
    result_ttl=st.sampled_from([0.0, 600.0, 3600.0]),
    due=moments,
    expires=moments,
    options=st.sampled_from([{}, {}, {"tags": "a"}, {"tags": "b,a"}, {"tags": "b"}]),
)
soon = st.sampled_from([None, None, 0.2])
# Few names, so that they meet; some by a lock, some for a time.
notes = st.sampled_from(["", "da", "da", "db", "sa", "sb", "ra", "ra", "rb", "f500.a", "f60000.b"])
once = st.builds(
    lambda message, note, mark: replace(
        message, options={**message.options, "unique": note} if note else message.options, mark=mark
    ),
    messages,
    notes,
    st.sampled_from([None, 0, 1, 2**62, 2**63 - 1]),
)
marks = st.sampled_from(["task:t", "tag:a", "tag:a", "tag:b", "tag:b"])
kinds = st.sampled_from(["done", "retry", "later", "dead", "release", "cancelled"])
ends = st.tuples(kinds, delays)
bounds = st.builds(
    Bounds,
    few=st.sampled_from([2, 3, 32]),
    patience=st.sampled_from([1, 300, 60_000]),
    impatience=st.sampled_from([600, 600_000]),
    look=st.sampled_from([5, 1000]),
    chunk=st.sampled_from([2, 200]),
    spread_over=st.sampled_from([2, 64]),
    dead_most=st.sampled_from([2, 100_000]),
    dead_for=st.sampled_from([60_000, 30 * 24 * 3_600_000]),
    full=st.sampled_from([1, 2, 220]),
    count=st.sampled_from([2, 4, 1000, 1000, 1000]),
    size=st.sampled_from([200, 4 * 1024 * 1024]),
)


crashes = st.lists(
    st.tuples(
        ids,
        st.sampled_from([2, 2, 2, 2, 1, 3, 4]),
        st.sampled_from([None, None, None, None, 0.0, 1.0]),
    ),
    min_size=1,
    max_size=6,
)


def outcome(kind: Any, delay: float, one: Delivery, ttl: float) -> Outcome:
    match kind:
        case "done":
            return Outcome("done", SUCCESS, ttl)
        case "dead":
            return Outcome("dead", FAILURE, ttl, reason="failed")
        case "retry":
            return Outcome("retry", delay=delay, envelope=next_attempt(one.envelope))
        case "later":
            return Outcome("later", delay=delay, envelope=one.envelope)
        case "cancelled":
            return Outcome("cancelled", CANCELLED, ttl)
    return Outcome("release")
