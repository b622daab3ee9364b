"""reap: what a dead worker held comes back once, and only the guilty is buried."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from greenworker import broker
from greenworker.broker import Sweep
from tests.support.state import Space, envelope

NOTHING = Sweep(extended=False, corpses=0, returned=0, buried=0, left=0, shortest=30.0)


def crash_with(space: Space, worker: str) -> Sweep:
    """That worker claims all there is, dies, and is reaped; what comes back is ready again."""
    space.register(worker)
    space.claim(worker)
    space.crash(worker)
    sweep = space.reap()
    space.make_due()
    space.broker.promote()
    return sweep


def deliveries(space: Space) -> dict[str, int]:
    """How many crashes each present message was charged with."""
    return {id: int(text.split(" ")[1]) for id, text in space.state()["msg"].items()}


def test_what_a_corpse_held_comes_back_a_little_later_charged_once(space: Space) -> None:
    space.run("w", "m1", "m2")
    space.crash("w")
    assert space.reap() == Sweep(
        extended=False, corpses=1, returned=2, buried=0, left=0, shortest=30.0
    )
    assert space.state("push:", "wake") == {
        "msg": {"m1": envelope(deliveries=1), "m2": envelope(deliveries=1)},
        "scheduled": {"m1": "now", "m2": "now"},
        "stats": {"enqueued": "2", "reaped": "2"},
        "sweep": "now",
    }
    space.check()


def test_it_comes_back_within_half_a_second_and_not_all_at_one_moment(space: Space) -> None:
    space.run("w", *(f"m{n}" for n in range(10)))
    space.crash("w")
    space.reap()
    due = [score for _, score in space.redis.zrange(space.key("scheduled"), 0, -1, withscores=True)]
    assert len(set(due)) == 10
    assert max(due) - min(due) < 500


def test_the_living_are_left_alone(space: Space) -> None:
    (one,) = space.run("w", "m")
    space.sweep_was(10.0)
    assert space.reap() == NOTHING
    assert space.done("w", one) == [True]
    space.check()


@pytest.mark.parametrize("seconds_ago", [None, 61.0])
def test_after_a_quiet_time_leases_are_lengthened_and_nobody_is_reaped(
    space: Space, seconds_ago: float | None
) -> None:
    """The server, or every worker, was away: old leases say nothing."""
    (one,) = space.run("w", "m")
    space.crash("w")
    if seconds_ago is None:
        space.redis.delete(space.key("sweep"))
    else:
        space.sweep_was(seconds_ago)
    assert space.reap() == Sweep(
        extended=True, corpses=0, returned=0, buried=0, left=0, shortest=30.0
    )
    lease = space.redis.zscore(space.key("workers"), "w") - space.redis.time()[0] * 1000
    assert 50_000 < lease <= 61_000
    assert space.reap() == NOTHING
    assert space.done("w", one) == [True]


def test_a_long_lease_is_not_shortened_by_a_quiet_time(space: Space) -> None:
    space.register("w", lease=3600)
    before = space.redis.zscore(space.key("workers"), "w")
    assert space.reap().extended
    assert space.redis.zscore(space.key("workers"), "w") >= before


def test_an_outage_is_measured_by_the_shortest_lease(space: Space) -> None:
    """Away for 2.5 s: that is nothing for a lease of 60 s, but one of 2 s ran out meanwhile."""
    space.register("short", lease=2)
    space.register("long", lease=60)
    space.sweep_was(2.5)
    space.redis.zadd(space.key("workers"), {"short": space.redis.time()[0] * 1000 - 100}, xx=True)
    sweep = space.broker.reap(60.0, 40.0, 3)
    assert (sweep.extended, sweep.corpses, sweep.shortest) == (True, 0, 2.0)
    assert space.broker.beat("short", 2.0)
    space.broker.release("short")
    assert space.broker.reap(60.0, 40.0, 3).shortest == 60.0


# Blame


def test_all_are_charged_and_from_the_second_crash_on_they_are_suspects(space: Space) -> None:
    space.push("m1", "m2")
    crash_with(space, "w1")
    assert deliveries(space) == {"m1": 1, "m2": 1}
    assert sorted(space.waiting()) == ["m1", "m2"]
    crash_with(space, "w2")
    assert deliveries(space) == {"m1": 2, "m2": 2}
    assert sorted(space.state()["suspects:default"]) == ["m1", "m2"]
    space.check()


def test_only_the_suspect_that_ran_is_charged(space: Space) -> None:
    space.push_suspect("s1", "s2", deliveries=3)
    space.push("m")
    crash_with(space, "w")
    assert deliveries(space) == {"s1": 4, "s2": 3, "m": 0}
    space.check()


def test_the_few_suspects_that_ran_are_charged_together(space: Space) -> None:
    few = [f"s{n}" for n in range(32)]
    space.push_suspect(*few, "other")
    space.push("m")
    space.register("w")
    space.claim("w", 100)
    space.crash("w")
    space.reap()
    assert deliveries(space) == {**dict.fromkeys(few, 3), "other": 2, "m": 0}
    space.check()


def test_a_process_that_is_known_to_be_gone_is_reaped_whatever_its_lease(space: Space) -> None:
    space.run("w", "m")
    space.register("other")
    space.sweep_was(0.0)
    sweep = space.broker.reap(30.0, 60.0, 3, gone=["w", "nobody"])
    assert sweep == Sweep(extended=False, corpses=1, returned=1, buried=0, left=0, shortest=30.0)
    assert deliveries(space) == {"m": 1}
    assert set(space.state()["workers"]) == {"other"}
    space.check()


def test_a_quiet_time_says_nothing_of_who_is_known_to_be_gone(space: Space) -> None:
    space.run("w", "m")
    sweep = space.broker.reap(30.0, 60.0, 3, gone=["w"])
    assert sweep == Sweep(extended=True, corpses=1, returned=0, buried=0, left=1, shortest=30.0)
    assert space.reap() == Sweep(
        extended=False, corpses=0, returned=1, buried=0, left=0, shortest=30.0
    )
    space.check()


def test_a_message_that_kills_three_times_alone_is_buried(space: Space) -> None:
    space.push_suspect("poison")
    assert [crash_with(space, f"w{n}").buried for n in range(3)] == [0, 0, 1]
    error = (
        '{"state":"FAILURE","error":{"type":"WorkerCrashed",'
        '"message":"the worker died 5 times while it ran","traceback":""}}'
    )
    assert space.state("push:", "wake", "queues", "sweep") == {
        "dead": {"poison": "now"},
        "dead:record": {"poison": f"now poison w2 0\nw2\n{error}\n{envelope(deliveries=5)}"},
        "result:poison": error,
        "stats": {"enqueued": "1", "reaped": "2", "dead": "1"},
    }
    space.check()


def test_the_poison_is_buried_alone_among_healthy_messages(space: Space) -> None:
    """Whoever holds `poison` dies; all others end when it is their turn."""
    space.push("poison", *(f"m{n}" for n in range(300)))
    for n in range(60):
        worker = f"w{n}"
        space.register(worker)
        held = space.claim(worker, 1000).deliveries
        if any(one.id == "poison" for one in held):
            space.crash(worker)
            space.reap()
        else:
            if held:
                space.done(worker, *held)
            space.broker.release(worker)
        space.make_due()
        space.broker.promote()
    state = space.state()
    assert list(state["dead"]) == ["poison"]
    assert "msg" not in state
    assert space.stats()["done"] == 300
    space.check()


def test_a_deploy_that_kills_four_times_buries_nothing(space: Space) -> None:
    space.push("m1", "m2", "m3")
    for n in range(4):
        crash_with(space, f"w{n}")
    assert "dead" not in space.state()
    assert set(deliveries(space)) == {"m1", "m2", "m3"}
    space.check()


# How much, and by how many


def test_a_corpse_is_drained_in_chunks(space: Space) -> None:
    ids = [f"m{n}" for n in range(1500)]
    space.push(*ids[:1000])
    space.push(*ids[1000:])
    space.register("w")
    space.claim("w", 1000)
    space.claim("w", 1000)
    space.crash("w")
    first = space.reap()
    assert (first.corpses, first.left) == (1, 1)
    assert 0 < first.returned < 1500
    assert not space.broker.register("w", 60.0, {}, ["default"])
    space.check()
    sweeps = [space.reap() for _ in range(3)]
    assert sum(sweep.returned for sweep in [first, *sweeps]) == 1500
    assert sweeps[-1] == NOTHING
    assert not {"corpses", "processing:w", "seq", "about", "leases"} & set(space.state())
    assert set(deliveries(space).values()) == {1}
    space.check()


@pytest.mark.parametrize(("held", "left"), [(3000, 1500), (3000, 50)])
def test_a_corpse_whose_hash_is_large_and_sparse_is_emptied(
    space: Space, held: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan from the start finds only empty slots there once the first have been taken."""
    space.hold("w", held, left)
    space.crash("w")
    monkeypatch.setattr(broker, "MAX_COUNT", 10)
    returned = 0
    for _ in range(left):
        returned += (sweep := space.reap()).returned
        if not sweep.left:
            break
    assert returned == left
    assert not {"corpses", "processing:w"} & set(space.state())
    space.check()


def test_five_reapers_move_each_message_of_a_corpse_once(space: Space) -> None:
    ids = [f"m{n}" for n in range(1000)]
    space.push(*ids)
    space.register("w")
    space.claim("w", 1000)
    space.crash("w")

    def reap_on(_: int) -> int:
        with closing(space.another_broker()) as broker:
            return sum(broker.reap(30.0, 60.0, 3).returned for _ in range(5))

    with ThreadPoolExecutor(5) as threads:
        assert sum(threads.map(reap_on, range(5))) == 1000
    assert set(deliveries(space).values()) == {1}
    assert space.stats() == {"enqueued": 1000, "reaped": 1000}
    space.check()


def test_an_id_whose_message_is_gone_is_dropped(space: Space) -> None:
    space.run("w", "m")
    space.redis.hset(space.key("processing:w"), "nobody", 1)
    space.crash("w")
    assert space.reap().returned == 1
    assert "corpses" not in space.state()
    space.check()


def test_it_goes_on_without_memory(own_space: Space) -> None:
    own_space.run("w", "m")
    own_space.push_suspect("poison", deliveries=4)
    own_space.claim("w")
    own_space.crash("w")
    own_space.redis.config_set("maxmemory", 1)
    sweep = own_space.reap()
    assert (sweep.returned, sweep.buried) == (1, 1)
    own_space.check()
