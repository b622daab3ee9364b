"""Messages with two keys: who waits for which, and for how long, beside others of the same keys."""

from __future__ import annotations

import pytest

from greenworker.broker import push_fields
from greenworker.message import Message, Outcome
from tests.support.limits import Limited
from tests.support.state import Space


@pytest.fixture
def limited(own_space: Space) -> Limited:
    limited = Limited(own_space)
    limited.space.register("w")
    return limited


def push(limited: Limited, prefix: str, key: str, count: int) -> None:
    for start in range(0, count, 1000):
        fields: list[bytes | str | int] = []
        for n in range(start, min(start + 1000, count)):
            fields += push_fields(Message(f"{prefix}{n}", "t", options={"keys": key}))
        limited.space.broker.push(f"{prefix}{start}", fields)


def work(limited: Limited, seconds: float, step: float = 0.01) -> list[tuple[int, str]]:
    """What is handed out, and at which ms from now, by a worker that ends all at once."""
    began, started = limited.clock.ms, []
    while limited.clock.ms - began < seconds * 1000:
        limited.promote()
        while got := limited.claim(100):
            for one in got:
                started.append((limited.clock.ms - began, one.id))
                limited.done(one)
        limited.goes_by(step)
    return started


def when(started: list[tuple[int, str]], prefix: str) -> list[int]:
    return [ms for ms, id in started if id.startswith(prefix)]


@pytest.mark.parametrize("own", [{}, {"rate": "10/s"}, {"concurrency": 1}, {"delay": 0.13}], ids=str)
@pytest.mark.parametrize("order", ["api:x,tenant:{}", "tenant:{},api:x"])
def test_a_small_tenant_does_not_wait_for_a_large_one(
    limited: Limited, own: dict[str, str], order: str
) -> None:
    """Whether the quota alone refuses, or the tenant's limit by turns with it."""
    limited.limit("api:*", rate="20/s", burst=10)
    if own:
        limited.limit("tenant:*", **own)
    push(limited, "large", order.format(1), 20_000)
    push(limited, "small", order.format(2), 10)
    print()
    first = when(work(limited, 4.0), "small")
    print("small at", first)
    push(limited, "later", order.format(3), 10)
    then = when(work(limited, 4.0), "later")
    print("later at", then)
