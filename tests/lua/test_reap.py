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
        "pulse": "now",
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
    space.pulse_was(10.0)
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
        space.redis.delete(space.key("pulse"))
    else:
        space.pulse_was(seconds_ago)
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


def test_beats_are_signs_of_life_for_sweeps_that_come_late(space: Space) -> None:
    """Tasks that block the loop make them late, and beats come from a thread."""
    space.run("w", "m")
    space.register("busy")
    space.crash("w")
    space.pulse_was(35.0)
    space.redis.set(space.key("sweep"), 1)
    assert space.broker.beat("busy", 60.0)
    assert space.reap().returned == 1


def test_the_first_beat_after_an_outage_speaks_for_all(space: Space) -> None:
    """Else the sweep behind it would see no gap, and take for dead whose beat is still to come."""
    space.register("early", "late")
    space.redis.zadd(space.key("workers"), {"early": 1, "late": 1}, xx=True)
    space.pulse_was(100.0)
    assert space.broker.beat("early", 60.0)
    assert space.reap() == NOTHING
    assert space.broker.beat("late", 60.0)


def test_an_outage_is_measured_by_the_shortest_lease(space: Space) -> None:
    """Away for 2.5 s: that is nothing for a lease of 60 s, but one of 2 s ran out meanwhile."""
    space.register("short", lease=2)
    space.register("long", lease=60)
    space.pulse_was(2.5)
    space.redis.zadd(space.key("workers"), {"short": space.redis.time()[0] * 1000 - 100}, xx=True)
    sweep = space.broker.reap(60.0, 40.0, 3)
    assert (sweep.extended, sweep.corpses, sweep.shortest) == (True, 0, 2.0)
    # By one lease of its own: should it be dead, its tasks need not wait for another's
    left = space.redis.zscore(space.key("workers"), "short") - space.redis.time()[0] * 1000
    assert left <= 3_000
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
    assert deliveries(space) == {"s1": 4, "s2": 3, "m": 1}, "who ran beside it may be as guilty"
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
    space.pulse_was(0.0)
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
    sweeps = [crash_with(space, f"w{n}") for n in range(3)]
    assert [sweep.buried for sweep in sweeps] == [0, 0, 1]
    assert sweeps[-1].buried_ids == tuple(space.state()["dead"])
    error = (
        '{"state":"FAILURE","error":{"type":"WorkerCrashed",'
        '"message":"the worker died 5 times while it ran","traceback":""}}'
    )
    assert space.state("push:", "wake", "queues", "sweep", "pulse") == {
        "dead": {"poison": "now"},
        "dead:record": {"poison": f"now poison w2 0\nw2\n{error}\n{envelope(deliveries=5)}"},
        "result:poison": error,
        "stats": {"enqueued": "1", "reaped": "2", "dead": "1"},
    }
    space.check()


def test_who_is_about_to_be_buried_runs_without_anything_else(space: Space) -> None:
    space.push_suspect("s", deliveries=4)
    space.push("m")
    space.register("w")
    assert space.claim_ids("w") == ["s"]
    assert space.claim_ids("w") == []
    space.crash("w")
    assert space.reap().buried == 1
    assert deliveries(space) == {"m": 0}
    space.check()


def test_what_runs_in_company_is_not_buried_however_often_it_is_charged(space: Space) -> None:
    space.push("s", "m")
    space.register("w")
    assert space.claim_ids("w") == ["s", "m"]
    space.edit("s", "1 0 ", "1 9 ")
    space.redis.zadd(space.key("suspected:w"), {"s": 1})
    space.crash("w")
    assert space.reap().buried == 0
    space.check()


@pytest.mark.parametrize(("poisons", "workers"), [(1, 1), (5, 1), (20, 1), (20, 3)])
def test_poison_is_buried_and_nothing_else(space: Space, poisons: int, workers: int) -> None:
    """Whoever holds some of them dies; all others end when it is their turn."""
    healthy = [f"m{n}" for n in range(300)]
    poison = [f"p{n}" for n in range(poisons)]
    every = len(healthy) // poisons
    for n, one in enumerate(poison):
        space.push(one, *healthy[n * every : (n + 1) * every])
    crashes = 0
    for turn in range(400):
        fleet = [f"w{turn}-{n}" for n in range(workers)]
        space.register(*fleet)
        for worker in fleet:
            held = space.claim(worker, 50).deliveries
            if any(one.id.startswith("p") for one in held):
                space.crash(worker)
                crashes += 1
            else:
                space.done(worker, *held)
                space.broker.release(worker)
        while space.reap().left:
            pass
        space.make_due()
        space.broker.promote()
        if not space.redis.exists(space.key("msg")):
            break
    assert set(space.state("result", "push").get("dead", {})) == set(poison)
    assert space.stats()["done"] == 300 // poisons * poisons
    assert crashes <= 6 * poisons + 12  # five each, and a few in company
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


def test_the_sweeps_that_drain_a_corpse_charge_alike(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspect that is returned by the first of them counts one crash more for the next."""
    space.push(*(f"m{n}" for n in range(600)))  # too many to be kept in order, and returned at once
    space.register("w")
    space.claim("w", 1000)
    _, first = space.redis.hscan(space.key("processing:w"), count=20)
    suspect = next(iter(first))
    space.edit(suspect, "1 0 ", "1 2 ")
    space.redis.zadd(space.key("suspected:w"), {suspect: 1})
    space.crash("w")
    monkeypatch.setattr(broker, "MAX_COUNT", 20)
    while space.reap().left:
        pass
    charged = deliveries(space)
    assert charged.pop(suspect) == 3
    assert set(charged.values()) == {0}
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


def test_what_cannot_be_read_waits_to_be_buried(space: Space) -> None:
    space.run("w", "m1", "m2")
    space.redis.hset(space.key("msg"), "m2", "damaged")
    space.crash("w")
    assert space.reap().returned == 1
    assert space.waiting() == ["m2"]
    assert space.take_token()
    space.check()


def test_a_call_reads_a_few_mb_and_goes_on_in_the_next(space: Space) -> None:
    ids = [f"m{n}" for n in range(20)]
    for id in ids:
        space.push(id, args=["x" * 900_000])
    space.register("w")
    held: list[str] = []
    while found := space.claim_ids("w", 100):
        held += found
    assert sorted(held) == sorted(ids)
    space.crash("w")
    first = space.reap()
    assert (first.left, 1 <= first.returned <= 6) == (1, True)
    while space.reap().left:
        space.check()
    assert set(deliveries(space).values()) == {1}
    space.make_due()
    assert space.broker.promote()[0] <= 6
    while space.broker.promote()[0]:
        pass
    assert len(space.waiting()) == 20
    space.check()


@pytest.mark.parametrize("lease", ["x", "-5", "1", ""])
def test_a_lease_that_is_none_stops_no_sweep(space: Space, lease: str) -> None:
    space.run("w", "m")
    space.redis.hset(space.key("leases"), "odd", lease)
    space.crash("w")
    assert space.reap().returned == 1


@pytest.mark.parametrize(
    "key",
    [
        "ready:other:3",
        "suspects:other",
        "consumers:other",
        "wake:other",
        "suspected:w2",
        "solitary:w2",
    ],
)
def test_a_key_of_a_wrong_type_elsewhere_stops_no_sweep(space: Space, key: str) -> None:
    """What was buried is counted, and has left; what came back, too."""
    space.register("w")
    space.redis.sadd(space.key("queues"), "other")
    space.push_suspect("s", deliveries=4)
    assert space.claim_ids("w") == ["s"]
    space.run("w2", "m")
    space.redis.set(space.key(key), "x")
    space.crash("w", "w2")
    sweeps = [space.reap(), space.reap()]
    assert [
        sum(column) for column in zip(*((s.returned, s.buried) for s in sweeps), strict=True)
    ] == [1, 1]
    assert space.stats() == {"enqueued": 2, "dead": 1, "reaped": 1}
    space.redis.delete(space.key(key))
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
    own_space.register("w2")
    own_space.claim("w2")
    own_space.crash("w", "w2")
    own_space.redis.config_set("maxmemory", 1)
    sweeps = [own_space.reap(), own_space.reap()]
    assert sorted((sweep.returned, sweep.buried) for sweep in sweeps) == [(0, 1), (1, 0)]
    own_space.check()
