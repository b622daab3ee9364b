"""What calls cost where there are many keys: in commands that the server carries out, on whatever machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from greenworker.broker import push_fields
from greenworker.message import Message
from tests.support.limits import Limited
from tests.support.state import Space

OF_KEYS = (
    "limits",
    "limits:by",
    "limits:under",
    "keys",
    "keyed",
    "later",
    "idle",
    "held",
    "line",
    "turn",
)


@pytest.fixture
def limited(own_space: Space) -> Limited:
    limited = Limited(own_space)
    limited.space.register("w")
    return limited


def cost(limited: Limited, call: Callable[[], Any]) -> int:
    """How many commands the server carries out for it, in scripts as well."""
    limited.space.redis.config_resetstat()
    call()
    stats = limited.space.redis.info("commandstats")
    return sum(one["calls"] for one in stats.values())


def touched(limited: Limited, call: Callable[[], Any]) -> list[str]:
    """Commands that touch what is kept of keys."""
    redis, found = limited.space.redis, []
    with redis.monitor() as monitor:
        call()
        redis.echo("that was all")
        while "that was all" not in (command := monitor.next_command()["command"]):
            words = command.replace('"', "").split(" ")
            name = words[1].removeprefix(limited.space.root) if len(words) > 1 else ""
            if name in OF_KEYS or name.partition(":")[0] in OF_KEYS:
                found.append(f"{words[0].upper()} {name}")
    return found


def push(limited: Limited, keys: list[str], prefix: str = "m") -> None:
    """A message for each."""
    for start in range(0, len(keys), 1000):
        fields: list[bytes | str | int] = []
        for n, key in enumerate(keys[start : start + 1000], start):
            fields += push_fields(Message(f"{prefix}{n}", "t", options={"keys": key}))
        limited.space.broker.push(f"{prefix}{start}", fields)


def hosts(count: int) -> list[str]:
    return [f"host:{n}" for n in range(count)]


def test_what_has_no_key_costs_one_look_more(limited: Limited) -> None:
    limited.limit("*", concurrency=1)
    limited.push("k1", "k2", key="host:a", queue="other")
    assert touched(limited, lambda: limited.push("p1", "p2")) == []
    found: list[Any] = []
    assert touched(limited, lambda: found.extend(limited.claim(2))) == ["HMGET keyed"]
    assert touched(limited, lambda: limited.done(found[0])) == []


@pytest.mark.parametrize("how", ["concurrency", "stopped", "delay"])
def test_a_claim_costs_the_same_however_many_keys_are_parked(limited: Limited, how: str) -> None:
    costs = []
    for count in (100, 1200):
        if how == "concurrency":
            limited.limit("*", concurrency=0)
        elif how == "delay":
            limited.limit("*", delay=600)
        elif how == "stopped":
            for start in range(0, count, 1000):
                limited._run("limit_hold", -1, *hosts(count)[start : start + 1000])
        push(limited, hosts(count), f"{count}.")
        for _ in range(count // 50 if how == "delay" else 0):
            for one in limited.claim(100):
                limited.done(one)
            if not limited.claim(0):
                break
        push(limited, hosts(count), f"{count}again.")
        # The first claims look at each once, and park it.
        while limited.space.claim("w", 1000).deliveries:
            pass
        limited.promote()
        costs.append((cost(limited, lambda: limited.claim(10)), cost(limited, limited.promote)))
    assert costs[0][0] == costs[1][0]
    assert costs[1][1] <= costs[0][1] + 10
    limited.check()


def test_what_comes_due_all_at_once_is_fetched_soon_and_in_bounded_calls(limited: Limited) -> None:
    count = 3000
    for start in range(0, count, 1000):
        limited._run("limit_hold", 1000, *hosts(count)[start : start + 1000])
    push(limited, hosts(count))
    limited.goes_by(1.0)
    # A claim fetches some, whatever it has room for.
    assert cost(limited, lambda: limited.claim(0)) < 200 * 10
    calls = 0
    while (told := limited.space.broker.promote()).next_due == 0.0:
        calls += 1
        assert told.moved == 1000, "it would go round for nothing"
        assert calls <= count / 1000
    assert limited.space.redis.zcard(limited.space.key("later")) == 0
    assert len(limited.claim(1000)) == 500, "two looks each"
    limited.check()


def test_two_keys_of_which_the_second_refuses_are_moved_once(limited: Limited) -> None:
    """3,000 messages of one host whose tenant is held, and one of the host alone behind them."""
    limited.hold("tenant:1", 3600.0)
    push(limited, ["host:a,tenant:1"] * 3000)
    limited.push("a1", key="host:a")
    got, claims, costs = [], 0, []
    while not got:
        claims += 1
        assert claims < 20
        costs.append(cost(limited, lambda: got.extend(limited.claim_ids(10))))
        limited.goes_by(0.05)
    assert got == ["a1"]
    assert max(costs) < 1000 * 8
    assert cost(limited, lambda: limited.claim(10)) < 100, "it looks at them again"
    limited.check()


def test_keys_that_refuse_by_turns_do_not_send_their_messages_round_and_round(
    limited: Limited,
) -> None:
    """What has either key alone keeps both busy at other times."""
    limited.limit("host:a", delay=0.01)
    limited.limit("tenant:1", delay=0.013)
    for n in range(20):
        limited.push(f"a.{n}", key="host:a")
        limited.push(f"b.{n}", key="tenant:1")
    push(limited, ["host:a,tenant:1"] * 2000)
    commands = claims = 0
    rounds = 100

    def work() -> None:
        nonlocal claims
        while True:
            claims += 1
            claim = limited.space.claim("w", 10)
            for one in claim.deliveries:
                limited.done(one)
            if not claim.more:
                return

    for n in range(rounds):
        limited.push(f"a{n}", key="host:a")
        limited.push(f"b{n}", key="tenant:1")
        limited.goes_by(0.005)
        commands += cost(limited, work)
    # 50 messages start here at most; each of the 2,000 moves a few times.
    assert commands < rounds * 400
    assert claims <= rounds * 3
    limited.check()


def test_a_purge_of_many_keys_is_done_in_bounded_calls(limited: Limited) -> None:
    push(limited, hosts(3000))
    assert limited.purge() == 3000
    assert not limited.space.redis.exists(limited.space.key("turn:default:5"))
    limited.goes_by(60.0)
    for _ in range(31):
        limited.promote()
    assert limited.known() == set()
