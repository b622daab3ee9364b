"""Client in a patched process: greenlets, and native threads beside them, send and wait."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from greenworker import subscriber
from greenworker.app import App
from tests.support.eventually import eventually
from tests.support.process import environment
from tests.support.state import Space
from tests.worker.builders import connections, declare_nothing
from tests.worker.conftest import Start


@pytest.fixture
def small_app(url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An app with two connections."""
    # Closing waits for the reader's look at whether it may leave: let it look often.
    monkeypatch.setattr(subscriber, "_READ", 0.05)
    app = App(url, namespace=namespace, connections=2)
    yield app
    app.close()


def test_a_thousand_greenlets_that_send_at_once_use_sixteen_connections(
    app: App, space: Space
) -> None:
    task = declare_nothing(app)
    senders = [gevent.spawn(task.delay) for _ in range(1000)]
    most = 0
    while not all(one.ready() for one in senders):
        most = max(most, connections(space).count("greenworker"))
        gevent.sleep(0.001)
    assert [one.exception for one in senders if not one.successful()] == []
    assert space.stats() == {"enqueued": 1000}
    assert 1 <= most <= 16


def test_native_threads_send_beside_greenlets_on_a_bounded_number_of_connections(
    small_app: App, space: Space
) -> None:
    """A connection that was opened in one native thread cannot be used in another."""
    task = declare_nothing(small_app)
    task.delay()  # a connection of this thread is idle from now on
    threadpool = gevent.get_hub().threadpool
    most = 0

    def send_here() -> None:
        for _ in range(20):
            task.delay()

    here = [gevent.spawn(send_here) for _ in range(10)]
    there = [threadpool.spawn(task.delay) for _ in range(50)]
    while not all(one.ready() for one in (*here, *there)):
        most = max(most, connections(space).count("greenworker"))
        gevent.sleep(0.001)
    for one in (*here, *there):
        one.get()
    assert threadpool.apply(task.delay).state == "PENDING"
    task.delay()
    assert space.stats() == {"enqueued": 1 + 200 + 50 + 2}
    assert 1 <= most <= 2 + threadpool.maxsize  # another native thread opens one for itself
    eventually(lambda: connections(space).count("greenworker") <= 2)


def test_a_native_thread_that_comes_first_does_not_own_what_is_shared(
    small_app: App, space: Space
) -> None:
    task = declare_nothing(small_app)
    gevent.get_hub().threadpool.apply(task.delay)
    before = space.redis.info("stats")["total_connections_received"]
    for _ in range(20):
        task.delay()
    assert space.redis.info("stats")["total_connections_received"] - before <= 1
    with small_app.client.subscriber.watch("some") as waiter:
        assert type(waiter) is subscriber.Waiter


def test_a_native_thread_waits_for_its_result(small_app: App, start: Start) -> None:
    @small_app.task
    def double(n: int) -> int:
        return 2 * n

    start(small_app)
    threadpool = gevent.get_hub().threadpool
    results = [threadpool.spawn(lambda n=n: double.delay(n).get(timeout=30)) for n in range(5)]
    assert [one.get() for one in results] == [0, 2, 4, 6, 8]


def test_subscriptions_that_are_killed_leave_a_reader_that_listens(
    small_app: App, space: Space, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    @small_app.task
    def echo(n: int) -> int:
        return n

    # Given connections that are killed while many greenlets send and get
    worker = start(small_app)

    def kill_on() -> None:
        while True:
            space.redis.client_kill_filter(_type="pubsub")

    killer = gevent.spawn(kill_on)
    try:
        for _ in range(10):
            waiting = [gevent.spawn(lambda n=n: echo.delay(n).get(30)) for n in range(50)]
            assert [one.get(timeout=40) for one in waiting] == list(range(50))
    finally:
        killer.kill()
    # When one more waits
    client = small_app.client
    lookups: list[str] = []
    lookup = client.broker.lookup

    def counted(id: str, *rest: Any) -> Any:
        lookups.append(id)
        return lookup(id, *rest)

    monkeypatch.setattr(client.broker, "lookup", counted)
    worker.quiet()
    result = echo.delay(7)
    waiting = [gevent.spawn(result.get, 30)]
    eventually(lambda: lookups)  # the confirmed subscription said so
    assert client.subscriber._thread is not None
    assert client.subscriber._thread.is_alive()
    # Then the announcement tells it, and it need not look again
    worker.resume()
    assert waiting[0].get(timeout=40) == 7
    assert lookups == [result.id]


FORKED = """
from gevent import monkey; monkey.patch_all()
import os, sys
import gevent
from greenworker import App
from greenworker.message import Outcome

app = App(sys.argv[1], namespace=sys.argv[2])

@app.task(name="t")
def task(): ...

# Who waits looks once, when the server has confirmed the subscription
broker, lookups, lookup = app.client.broker, [], app.client.broker.lookup
broker.lookup = lambda id, *rest: lookups.append(id) or lookup(id, *rest)

def wait_for_looks(count):
    while len(lookups) < count:
        gevent.sleep(0.01)

waiting = gevent.spawn(task.delay().get, 60)
wait_for_looks(1)
child = os.fork()
if not child:
    gevent.sleep(60)  # it never uses the app
    os._exit(0)
waits = [gevent.spawn(task.delay().get, 60) for _ in range(20)]
wait_for_looks(21)
broker.register("w", 30, {}, ["default"])
for one in broker.claim("w", 1, 100, ["default"]).deliveries:
    broker.settle("w", [(one, Outcome("done", b'{"state":"SUCCESS","value":7}', 60))])
    gevent.sleep(0.02)
print([one.get() for one in [waiting, *waits]].count(7), max(map(lookups.count, lookups)))
os.kill(child, 9)
os.waitpid(child, 0)
"""


def test_a_forked_child_takes_no_announcement_from_its_parent(url: str, namespace: str) -> None:
    """Its copy of the reader is a greenlet, and runs on: what is announced would go to it."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, url, namespace],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # One look when the subscription began; a second one only where the announcement went astray
    assert done.stdout == "21 1\n", done.stderr
