"""Messages with two keys: who waits for which, and for how long, beside others of the same keys."""

from __future__ import annotations

from collections import Counter
from typing import Any

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
            fields += push_fields(Message(f"{prefix}.{n}", "t", options={"keys": key}))
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


def commands(limited: Limited) -> int:
    """So many have been carried out in scripts, and by them."""
    stats = limited.space.redis.info("commandstats")
    return sum(one["calls"] for one in stats.values())


# --- turns


@pytest.mark.parametrize(
    "own", [{}, {"concurrency": 1}, {"rate": "10/s"}, {"delay": 0.13}], ids=str
)
@pytest.mark.parametrize("order", ["api:x,tenant:{}", "tenant:{},api:x"])
def test_a_small_tenant_does_not_wait_for_a_large_one(
    limited: Limited, own: dict[str, Any], order: str
) -> None:
    """Whether the quota alone refuses, or the tenant's limit by turns with it; and whoever came first."""
    limited.limit("api:*", rate="20/s", burst=10)
    if own:
        limited.limit("tenant:*", **own)
    push(limited, "large", order.format(1), 20_000)
    push(limited, "small", order.format(2), 10)
    for prefix in ("small", "later"):
        started = work(limited, 2.0)
        mine = [ms for ms, id in started if id.startswith(prefix)]
        assert len(mine) == 10
        # Half of 20 a second, and what its own limit allows.
        assert max(mine) <= 10 * 130
        assert sum(id.startswith("large") for _, id in started) >= 15, "nobody is held up for it"
        push(limited, "later", order.format(3), 10)
    limited.check()


@pytest.mark.parametrize("order", ["api:x,tenant:{}", "tenant:{},api:x"])
def test_no_pair_is_handed_out_twice_while_another_waits_for_its_first(
    limited: Limited, order: str
) -> None:
    """The bound: whoever may start is passed by each other pair of the key that refuses it once at most."""
    tenants = 60
    limited.limit("api:*", rate="20/s", burst=1)
    for n in range(tenants):
        push(limited, f"{n}", order.format(n), 300 if n % 10 == 0 else 4)
    started = [id.partition(".")[0] for _, id in work(limited, 12.0, step=0.05)]
    assert len(started) >= tenants * 4 - 10
    for turn in range(4):
        round = started[turn * tenants : (turn + 1) * tenants]
        assert max(Counter(round).values()) == 1, f"turn {turn}"


def test_of_the_same_two_keys_the_oldest_is_first_whichever_refuses(limited: Limited) -> None:
    limited.limit("api:*", rate="20/s", burst=1)
    limited.limit("tenant:*", delay=0.07)
    for n in range(3):
        push(limited, f"{n}", f"api:x,tenant:{n}", 30)
    started = [id for _, id in work(limited, 4.0)]
    for n in range(3):
        mine = [id for id in started if id.startswith(f"{n}.")]
        assert mine == [f"{n}.{i}" for i in range(len(mine))]
        assert len(mine) >= 20
    limited.check()


def test_what_has_one_key_alone_and_pairs_take_turns_for_its_permit(limited: Limited) -> None:
    limited.limit("tenant:1", concurrency=1)
    push(limited, "alone", "tenant:1", 100)
    push(limited, "both", "api:x,tenant:1", 10)
    push(limited, "other", "tenant:1,api:y", 10)
    got = []
    for _ in range(40):
        (one,) = limited.claim(5)
        got.append(one.id.partition(".")[0])
        limited.done(one)
    assert Counter(got) == {"alone": 20, "both": 10, "other": 10}
    assert "both" in got[:4]
    assert "other" in got[:4]
    assert "alone" in got[:4]
    limited.check()


def test_what_it_costs_does_not_grow_with_those_that_wait(limited: Limited) -> None:
    """2,000 tenants of one quota, each of whose own limit refuses by turns with it: no more than a few commands a start."""
    limited.limit("api:*", rate="100/s", burst=1)
    limited.limit("tenant:*", delay=0.3)
    for n in range(2000):
        push(limited, f"{n}", f"api:x,tenant:{n}", 2)
    push(limited, "large", "api:x,tenant:large", 5000)
    before = commands(limited)
    started = work(limited, 3.0)
    assert len(started) >= 290
    # Claims that find nothing among them, and promotions: six calls for each start.
    assert (commands(limited) - before) / len(started) < 250
    limited.check()


def test_a_claim_moves_no_more_than_it_may(limited: Limited) -> None:
    """Each of 3,000 tenants is held: none of their pairs stays at the quota."""
    limited.limit("tenant:*", concurrency=0)
    for n in range(3000):
        push(limited, f"{n}", f"api:x,tenant:{n}", 1)
    push(limited, "free", "api:x", 1)
    got: list[str] = []
    for _ in range(8):
        before = commands(limited)
        got += limited.claim_ids(10)
        assert commands(limited) - before < 1000 * 12
        limited.goes_by(0.05)
    assert got == ["free.0"]
    before = commands(limited)
    assert limited.claim_ids(10) == []
    assert commands(limited) - before < 100, "it looks at them again"
    limited.check()


# --- throttled


@pytest.mark.parametrize("named", ["tenant:1", "api:x"])
def test_what_was_throttled_comes_again_with_the_first_of_that_key(
    limited: Limited, named: str
) -> None:
    for n in range(5):
        limited.push(f"a{n}", f"b{n}", key=f"api:{'x' if n == 0 else n},tenant:1")
    limited.push("c", key="api:x,tenant:2")
    first = limited.claim(1)
    assert [one.id for one in first] == ["a0"]
    limited.settle(first[0], Outcome("throttled", delay=10.0, reason=named))
    # What the other key has is not held.
    others = {one.id for one in limited.claim(3)}
    assert ("c" in others) == (named == "tenant:1")
    limited.check()
    limited.goes_by(10.0)
    limited.limit(named, concurrency=1)
    assert "a0" in limited.claim_ids(2)
    limited.check()


def test_of_many_pairs_the_throttled_one_is_the_first_of_its_second_key(limited: Limited) -> None:
    limited.limit("tenant:1", concurrency=1)
    for n in range(50):
        limited.push(f"a{n}", f"b{n}", key=f"api:{n},tenant:1")
    (one,) = limited.claim(60)
    limited.settle(one, Outcome("throttled", delay=5.0, reason="tenant:1"))
    assert limited.claim_ids(60) == []
    limited.goes_by(5.0)
    assert limited.claim_ids(60) == [one.id]
    limited.check()


# --- what empties lines, or damages them


def test_a_purge_takes_pairs_along(limited: Limited) -> None:
    limited.limit("api:*", rate="1/hour")
    for n in range(1500):
        push(limited, f"{n}", f"api:{n % 3},tenant:{n}", 2)
    limited.claim(10)
    assert limited.purge() == 3000 - 3
    limited.check()
    state = limited.space.state()
    assert not {name for name in state if name.startswith(("pairs", "line:", "turn:"))}
    limited.push("z", key="api:9,tenant:9")
    assert limited.claim_ids() == ["z"]


def test_a_purge_of_a_long_list_of_pairs_leaves_nothing_that_stays(limited: Limited) -> None:
    limited.limit("api:*", rate="1/hour")
    for n in range(1500):
        push(limited, f"{n}", f"api:x,tenant:{n}", 1)
    limited.done(limited.claim(10)[0])
    assert limited.purge() == 1499
    for _ in range(30):
        limited.sweep()
        limited.promote()
    limited.goes_by(4000.0)
    for _ in range(30):
        limited.claim(1)
        limited.sweep()
        limited.promote()
    state = limited.space.state()
    assert not {name for name in state if name.startswith(("pairs", "line:", "turn:", "keys"))}


@pytest.mark.parametrize(
    "hurt",
    [
        lambda r, key: r.delete(key("pairs")),
        lambda r, key: r.delete(key("pairs:5:default api:x")),
        lambda r, key: r.delete(key("pairs:5:default tenant:2")),
        lambda r, key: r.delete(key("keys")),
        lambda r, key: r.hset(key("pairs"), "5:default api:x,tenant:2", "1"),
        lambda r, key: r.hset(key("pairs"), "5:default api:x,tenant:3", "junk"),
        lambda r, key: r.hset(key("pairs"), "junk", "junk"),
        lambda r, key: r.hset(key("pairs"), "5:default a,b", "1"),
        lambda r, key: r.lpush(key("pairs:5:default api:x"), "junk", "a,b"),
        lambda r, key: r.lpush(key("pairs:5:default api:x"), "api:x,tenant:3"),
    ],
    ids=lambda how: "",
)  # fmt: skip
def test_damage_is_healed_by_sweeps(limited: Limited, hurt: Any) -> None:
    limited.limit("api:*", rate="2/s", burst=1)
    limited.limit("tenant:2", concurrency=1)
    limited.push("r1", "r2", "r3", key="api:x,tenant:2")
    (running,) = limited.claim(1)
    limited.goes_by(1.0)
    limited.push("s1", "s2", key="api:x,tenant:3")
    ended = {"r1", *limited.claim_ids(1)}
    assert ended == {"r1", "s1"}
    hurt(limited.space.redis, limited.space.key)
    limited.done(running)
    for _ in range(30):
        limited.sweep()
        limited.promote()
        for one in limited.claim(10):
            ended.add(one.id)
            limited.done(one)
        limited.goes_by(1.0)
    assert ended == {"r1", "r2", "r3", "s1", "s2"}


@pytest.mark.parametrize(
    "name",
    ["pairs", "pairs:5:default api:x", "pairs:5:default tenant:2", "line:5:default api:x,tenant:9"],
)
def test_a_key_of_a_wrong_type_loses_no_message(limited: Limited, name: str) -> None:
    redis, key = limited.space.redis, limited.space.key
    limited.limit("api:*", rate="2/s", burst=1)
    limited.limit("tenant:2", concurrency=1)
    limited.push("r1", "r2", key="api:x,tenant:2")
    (running,) = limited.claim(1)
    ended = {running.id}
    redis.delete(key(name))
    redis.set(key(name), "x")
    limited.push("s1", "s2", key="api:x,tenant:3")
    limited.goes_by(1.0)
    for one in limited.claim(10):
        ended.add(one.id)
        limited.done(one)
    redis.delete(key(name))
    limited.push("r3", key="api:x,tenant:2")
    limited.done(running)
    for _ in range(30):
        limited.sweep()
        limited.promote()
        for one in limited.claim(10):
            ended.add(one.id)
            limited.done(one)
        limited.goes_by(1.0)
    assert ended == {"r1", "r2", "r3", "s1", "s2"}


# --- seen


def test_what_waits_is_told_of_the_key_that_it_waits_for(limited: Limited) -> None:
    limited.limit("api:*", rate="2/s", burst=1)
    for n in range(4):
        push(limited, f"{n}", f"api:x,tenant:{n}", 10)
    limited.push("alone", key="api:x")
    limited.claim(10)
    assert limited.state_of("api:x").waiting == 40
    limited.hold("tenant:1")
    limited.goes_by(10.0)
    for _ in range(4):
        limited.claim(10)
        limited.goes_by(0.5)
    assert limited.state_of("tenant:1").waiting >= 9
