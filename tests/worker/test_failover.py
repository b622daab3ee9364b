"""A worker whose connections reach the new master one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from gevent.event import Event

from greenworker.app import App
from greenworker.task import Task
from greenworker.worker import Worker
from tests.support.eventually import eventually
from tests.support.fake_server import Command, FakeServer
from tests.support.server import Server


class Split:
    """Two servers, of which `second` follows `first`, and a sentinel that names whom a test says."""

    def __init__(self, first: Server, second: Server) -> None:
        self.first: Any = redis.Redis(port=first.port, decode_responses=True)
        self.second: Any = redis.Redis(port=second.port, decode_responses=True)
        self.ports = first.port, second.port
        self.master = first.port
        eventually(lambda: self.second.info("replication")["master_link_status"] == "up", within=30)

    def answer(self, _: Command) -> bytes:
        text = str(self.master).encode()
        return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(text), text)

    def in_step(self) -> bool:
        one, other = (server.info("replication") for server in (self.first, self.second))
        return bool(one["master_repl_offset"] == other["slave_repl_offset"])

    def promote(self) -> None:
        """The second is the master now, and nobody has told the first."""
        eventually(self.in_step)
        self.second.execute_command("REPLICAOF", "NO", "ONE")
        self.master = self.ports[1]

    def cut(self, name: str) -> None:
        """This connection to the first breaks, and is made again with the second."""
        for client in self.first.client_list():
            if client["name"] == name:
                self.first.client_kill_filter(_id=client["id"])
        eventually(lambda: any(one["name"] == name for one in self.second.client_list()))

    def depose(self) -> None:
        """The first is told, and closes its connections."""
        self.first.execute_command("REPLICAOF", "127.0.0.1", str(self.ports[1]))
        self.first.execute_command("CLIENT", "KILL", "TYPE", "normal")

    def is_asked(self, name: str) -> bool:
        """Whether the first has a connection of this name."""
        return any(one["name"] == name for one in self.first.client_list())


@contextmanager
def split() -> Iterator[tuple[Split, str]]:
    config = {"repl-diskless-sync-delay": "0"}
    with Server(config=config) as first:
        replica = {**config, "replicaof": f"127.0.0.1 {first.port}"}
        with Server(config=replica) as second:
            both = Split(first, second)
            with FakeServer(both.answer) as sentinel, both.first, both.second:
                yield both, f"redis+sentinel://127.0.0.1:{sentinel.port}/tasks"


def declare(url: str) -> tuple[App, Task[[int], None], list[int], Event]:
    """An app, its task, what that has run, and the event that ends its runs."""
    app, runs, go = App(url, namespace="x"), list[int](), Event()

    @app.task
    def work(number: int) -> None:
        runs.append(number)
        go.wait(30)

    return app, work, runs, go


def test_the_settler_goes_along_with_the_consumer() -> None:
    with split() as (both, url):
        app, work, runs, go = declare(url)
        with Worker(app, lease=60.0, concurrency=5) as worker:
            assert worker.ready.wait(10)
            go.set()
            work.delay(0).get(timeout=30)  # the settler is with the first now
            go.clear()
            work.delay(1)
            work.delay(2)
            eventually(lambda: sorted(runs) == [0, 1, 2])
            both.promote()
            both.cut("greenworker-consumer")
            go.set()
            eventually(lambda: not both.second.exists("gw:{x}:msg"))
            both.depose()
            assert sorted(runs) == [0, 1, 2]
            assert app.check().findings == []
        app.close()


def test_what_was_settled_on_a_deposed_master_runs_again() -> None:
    with split() as (both, url):
        app, work, runs, go = declare(url)
        with Worker(app, lease=2.0, concurrency=5) as worker:
            assert worker.ready.wait(10)
            work.delay(1)
            work.delay(2)
            eventually(lambda: sorted(runs) == [1, 2])
            both.promote()
            both.cut("greenworker-consumer")
            both.master = both.ports[0]  # a sentinel that is cut off
            go.set()
            eventually(lambda: not both.first.exists("gw:{x}:msg"))
            both.master = both.ports[1]
            both.depose()
            # Nothing more is to be settled: that its connection broke the settler does not learn.
            eventually(lambda: not both.second.exists("gw:{x}:msg"), within=30)
            assert sorted(runs) == [1, 1, 2, 2]
            assert app.check().findings == []
        app.close()


def test_what_was_claimed_on_the_new_master_and_settled_on_the_old_one_runs_again() -> None:
    with split() as (both, url):
        app, work, runs, go = declare(url)
        with Worker(app, lease=60.0, concurrency=5) as worker:
            assert worker.ready.wait(10)
            both.promote()
            both.cut("greenworker-consumer")
            both.cut("greenworker")  # what sends
            work.delay(1)
            eventually(lambda: len(runs) == 1)
            both.master = both.ports[0]  # a sentinel that is cut off
            go.set()
            eventually(lambda: both.is_asked("greenworker-settler"))
            both.master = both.ports[1]
            eventually(lambda: not both.second.exists("gw:{x}:msg"), within=30)
            assert len(runs) > 1, "the first verdict was: not yours"
        app.close()
