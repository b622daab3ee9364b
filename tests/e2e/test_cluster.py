"""On Redis Cluster a namespace is one slot, which may move while the real worker is at work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenworker import keys
from tests.e2e.conftest import Project
from tests.e2e.test_failover import TASKS, Sender
from tests.support.cluster import SLOTS, Cluster, ask
from tests.support.eventually import eventually
from tests.support.server import Server
from tests.support.state import check_whole, snapshot


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


def namespace_on(cluster: Cluster, node: Server) -> tuple[str, int]:
    """A namespace whose slot is that node's, and the slot."""
    for n in range(100):
        slot = ask(node, "CLUSTER", "KEYSLOT", keys.root(f"t{n}"))
        if (slot < SLOTS // 2) == (node is cluster.first):
            return f"t{n}", slot
    raise AssertionError("a coin that fell on one side a hundred times")


def test_a_slot_moves_there_and_back_under_a_worker(cluster: Cluster, tmp_path: Path) -> None:
    namespace, slot = namespace_on(cluster, cluster.second)
    project = Project(tmp_path, cluster.first.url, namespace)
    try:
        tasks = project.module(TASKS)
        worker = project.worker("-c", "20")  # it begins at the wrong node
        sender = Sender(tasks)
        try:
            for round in (1, 2):
                so_far = len(project.notes)
                eventually(lambda so_far=so_far: len(project.notes) > so_far + 100, within=30)
                cluster.begin_to_move(slot)
                cluster.move_keys(slot, most=3)
                # Half of it here, half of it there: nobody may touch it.
                worker.wait_for("cannot serve us now: ASK", times=round)
                cluster.move_keys(slot)
                cluster.end_to_move(slot)
                worker.wait_for("goes on", times=round)
                assert tasks.work.delay().get(timeout=30) == 1
        finally:
            sender.stop()
        owner = cluster.owner(slot)
        assert owner is cluster.second
        eventually(lambda: ask(owner, "EXISTS", f"{project.root}msg") == 0, within=30)
        runs = Counter(project.notes)
        print(f"{len(sender.acknowledged)} sent, {sender.failed}")
        assert sender.acknowledged.keys() <= runs.keys(), "some are lost"
        assert set(runs.values()) == {1}, "some ran twice"
        with Project(tmp_path, owner.url, namespace).redis as client:
            check_whole(snapshot(client, project.root))
    finally:
        project.close()


def test_a_node_that_is_gone_is_found_again_through_the_url(
    cluster: Cluster, tmp_path: Path
) -> None:
    namespace, _ = namespace_on(cluster, cluster.second)
    project = Project(tmp_path, cluster.first.url, namespace)
    try:
        tasks = project.module(TASKS)
        worker = project.worker("-c", "20")
        assert tasks.work.delay().get(timeout=30) == 1
        cluster.second.kill()
        worker.wait_for("trying again")
        cluster.second.restart()
        worker.wait_for("goes on")
        assert tasks.work.delay().get(timeout=30) == 1
    finally:
        project.close()
