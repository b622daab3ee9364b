"""The real worker command while its server is replaced by another one, or changes its role."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import redis

from greenworker.errors import BrokerError
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.sentinel import SentinelSetup
from tests.support.server import Server
from tests.support.state import check_whole, snapshot

TASKS = """
    @app.task
    def work():
        note(current_task().id)
        time.sleep(0.02)
        return 1
"""


class Sender:
    """Sends one task after the other, and remembers when each was acknowledged."""

    def __init__(self, tasks: Any) -> None:
        self.acknowledged: dict[str, float] = {}
        self.failed: list[BrokerError] = []
        self._tasks = tasks
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)

    def _send(self) -> None:
        while not self._over.wait(0.002):
            try:
                id = self._tasks.work.delay().id
                self.acknowledged[id] = time.monotonic()
            except BrokerError as error:
                self.failed.append(error)


class Scene:
    """A project on a SentinelSetup, with a worker at work and a sender that does not stop."""

    def __init__(self, setup: SentinelSetup, folder: Path, namespace: str) -> None:
        self.setup = setup
        self.project = Project(folder, setup.first.url, namespace)
        self.project.url = setup.url
        self.tasks = self.project.module(TASKS)
        self.worker = self.project.worker("-c", "20", "--lease", "5")
        self.sender = Sender(self.tasks)

    def more(self, count: int) -> None:
        """So many further runs have begun."""
        now = len(self.project.notes)
        eventually(lambda: len(self.project.notes) > now + count, within=40)

    def drain(self) -> set[str]:
        """Stop sending, wait until the new master is empty and whole; what was lost."""
        self.sender.stop()
        second: Any = redis.Redis.from_url(self.setup.second.url, decode_responses=True)
        with second:
            eventually(lambda: not second.exists(f"{self.project.root}msg"), within=40)
            check_whole(snapshot(second, self.project.root))
        lost = self.sender.acknowledged.keys() - set(self.project.notes)
        failed = Counter(type(error).__name__ for error in self.sender.failed)
        print(f"{len(self.sender.acknowledged)} sent, {len(lost)} lost, {dict(failed)}")
        return lost

    def close(self) -> None:
        self.sender.stop()
        self.project.close()


def test_a_worker_goes_on_with_the_new_master(tmp_path: Path, namespace: str) -> None:
    with SentinelSetup() as setup, closing(Scene(setup, tmp_path, namespace)) as scene:
        scene.more(200)
        setup.first.kill()
        killed = time.monotonic()
        eventually(lambda: setup.master_port() == setup.second.port, within=30)
        scene.more(200)
        for id in scene.drain():
            # The replica lags behind: what was acknowledged just before may be gone, and no more.
            assert killed - 1.0 < scene.sender.acknowledged[id] < killed + 0.1
        scene.worker.wait_for("goes on")
        result = scene.tasks.work.delay()
        assert result.get(timeout=30) == 1, "results are announced by the new master"


def test_a_master_that_becomes_a_replica_is_left_for_the_new_one(
    tmp_path: Path, namespace: str
) -> None:
    """A failover by hand: nobody dies, and the old master remains one for some seconds.

    `min-replicas-to-write` has it refuse meanwhile: else it would acknowledge what is lost later.
    """
    config = {"min-replicas-to-write": "1", "min-replicas-max-lag": "10"}
    with SentinelSetup(config=config) as setup, closing(Scene(setup, tmp_path, namespace)) as scene:
        scene.more(100)
        began = time.monotonic()
        setup.ask(0, "SENTINEL", "FAILOVER", "tasks")
        eventually(lambda: setup.master_port() == setup.second.port, within=30)
        switched = time.monotonic()
        scene.more(100)
        for id in scene.drain():
            # It looks once a second how many replicas it has.
            assert began < scene.sender.acknowledged[id] < switched + 2.0


def test_with_a_plain_url_a_worker_waits_until_its_server_is_a_master_again(
    own_project: Project, own_server: Server
) -> None:
    tasks = own_project.module(TASKS)
    worker = own_project.worker("-c", "5")
    assert tasks.work.delay().get(timeout=30) == 1
    own_project.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    worker.wait_for("cannot serve us now")
    own_project.redis.execute_command("REPLICAOF", "NO", "ONE")
    worker.wait_for("goes on")
    assert tasks.work.delay().get(timeout=30) == 1
    check_whole(snapshot(own_project.redis, own_project.root))
