"""The mix's schedule: a seed says all."""

from __future__ import annotations

from itertools import islice, pairwise

from tests.chaos.mix import LEASES, Mix
from tests.chaos.schedule import FAULTS, TASKS, faults, sends


def test_a_seed_decides_what_is_broken_and_sent() -> None:
    assert faults(7, 120, 4) == faults(7, 120, 4) != faults(8, 120, 4)
    assert list(islice(sends(7, 0), 500)) == list(islice(sends(7, 0), 500))
    assert list(islice(sends(7, 0), 500)) != list(islice(sends(7, 1), 500))


def test_every_fault_and_every_task_comes_and_all_is_over_in_time() -> None:
    steps = faults(7, 3600, len(LEASES))
    assert {(step.track, step.name) for step in steps} == {
        (track, name) for track, kinds in FAULTS.items() for name, *_ in kinds
    }
    assert max(step.at + step.lasts for step in steps) <= 3600
    assert {send.kind for send in islice(sends(7, 0), 20_000)} == {name for name, _ in TASKS}


def test_a_track_breaks_one_thing_at_a_time() -> None:
    for track in FAULTS:
        steps = [step for step in faults(7, 600, 4) if step.track == track]
        assert all(a.at + a.lasts < b.at for a, b in pairwise(steps))


def test_one_kind_of_fault_alone() -> None:
    steps = faults(7, 600, 4, only=("server.kill", "network.cut"))
    assert {f"{step.track}.{step.name}" for step in steps} == {"server.kill", "network.cut"}


def test_the_mix_knows_how_to_break_each() -> None:
    for track, kinds in FAULTS.items():
        for name, *_ in kinds:
            assert hasattr(Mix, f"_{track}_{name.replace('-', '_')}")
