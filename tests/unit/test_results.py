"""Result: whatever happens to the announcement, who waits is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from greenworker import result, subscriber
from greenworker.app import App
from greenworker.client import Client
from greenworker.context import CURRENT, CurrentTask
from greenworker.endpoint import Endpoint
from greenworker.errors import (
    BrokerUnavailable,
    GreenworkerError,
    MalformedMessage,
    ResultGone,
    ResultTimeout,
    TaskExpired,
    TaskFailed,
)
from greenworker.message import Outcome, next_attempt
from greenworker.result import Result
from greenworker.wire import Wire
from tests.support.eventually import eventually
from tests.support.state import Space
from tests.support.tcp_proxy import TcpProxy


@pytest.fixture
def client(space: Space, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    # Closing waits for the reader's look at whether it may leave: let it look often.
    monkeypatch.setattr(subscriber, "_READ", 0.05)
    client = Client(space.endpoint, space.broker.namespace, connections=4, patience=2.0)
    with closing(client):
        yield client


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as threads:
        yield threads


def finish(space: Space, *ids: str, worker: str = "w") -> None:
    """Let a worker take all of the queue and end each of it with its own id as the value."""
    space.register(worker)
    for delivery in space.claim(worker, 1000).deliveries:
        payload = b'{"state":"SUCCESS","value":"%b"}' % delivery.id.encode()
        assert space.settle(worker, (delivery, Outcome("done", payload, 60.0))) == [True]


def subscribed(space: Space) -> int:
    """How many ids of this namespace are listened for at the server."""
    # One more channel is for all.
    return len(space.redis.pubsub_channels(space.key("done:?*")))


def waits(space: Space, threads: ThreadPoolExecutor, handle: Result[Any]) -> Future[Any]:
    """A thread in `.get()`, whose subscription the server has."""
    future = threads.submit(handle.get, 20.0)
    eventually(lambda: subscribed(space))
    return future


def noted_lookups(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that it looks up from now on: each one when its subscription is confirmed, too."""
    lookups: list[str] = []
    lookup = client.broker.lookup

    def noted(id: str, *rest: Any) -> Any:
        lookups.append(id)
        return lookup(id, *rest)

    monkeypatch.setattr(client.broker, "lookup", noted)
    return lookups


# The value


def test_get_after_the_end(space: Space, client: Client) -> None:
    space.push("m")
    finish(space)
    assert client.result("m").get(timeout=10) == "m"
    assert client.result("m").get(timeout=10) == "m", "it is kept until its time is over"


def test_get_before_the_end(space: Space, client: Client, threads: ThreadPoolExecutor) -> None:
    space.push("m")
    future = waits(space, threads, client.result("m"))
    finish(space)
    assert future.result(20) == "m"


def test_get_without_a_timeout(space: Space, client: Client, threads: ThreadPoolExecutor) -> None:
    space.push("m")
    future = threads.submit(client.result("m").get)
    eventually(lambda: subscribed(space))
    finish(space)
    assert future.result(20) == "m"


def test_a_failure_arrives_as_strings(space: Space, client: Client) -> None:
    (delivery,) = space.run("w", "m")
    failure = b'{"state":"FAILURE","error":{"type":"os.system","message":"no","traceback":"T"}}'
    space.settle("w", (delivery, Outcome("dead", failure, 60.0, reason="failed")))
    with pytest.raises(TaskFailed, match=r"^m failed: os\.system: no$") as caught:
        client.result("m").get(timeout=10)
    assert (caught.value.type, caught.value.traceback) == ("os.system", "T")


def test_an_expired_message(space: Space, client: Client) -> None:
    space.push("m", expires=0.0)
    finish(space)
    with pytest.raises(TaskExpired):
        client.result("m").get(timeout=10)


@pytest.mark.parametrize("due", [None, 60.0])
def test_who_waits_is_told_when_it_expires_though_nobody_claims(
    space: Space, client: Client, monkeypatch: pytest.MonkeyPatch, due: float | None
) -> None:
    monkeypatch.setattr(result, "_RECHECK", 3600.0)  # only the expiry itself makes it look
    space.push("m", due=due, expires=0.3)
    told: list[str] = []

    def wait() -> None:
        with pytest.raises(TaskExpired):
            client.result("m").get()  # with a timeout it would look once more at the end
        told.append("expired")

    threading.Thread(target=wait, daemon=True).start()
    eventually(lambda: told)
    assert client.result("m").state == "EXPIRED"
    assert client.result("m").ready()


# Waiting in vain


def test_get_gives_up_and_says_where_it_is(space: Space, client: Client) -> None:
    space.push("m")
    with pytest.raises(ResultTimeout, match=r"^m is still PENDING after 0\.05 s$") as caught:
        client.result("m").get(timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(ResultTimeout):
        client.result("m").get(timeout=0)


def test_get_with_no_time_takes_what_is_there(space: Space, client: Client) -> None:
    space.push("m")
    finish(space)
    assert client.result("m").get(timeout=0) == "m"


@pytest.mark.parametrize("timeout", [0, 10, None])
def test_of_an_unknown_id_nothing_will_come(client: Client, timeout: float | None) -> None:
    with pytest.raises(ResultGone):
        client.result("nobody").get(timeout)


def test_a_forgotten_result_is_gone(space: Space, client: Client) -> None:
    space.push("m")
    finish(space)
    client.result("m").forget()
    with pytest.raises(ResultGone):
        client.result("m").get(timeout=10)


def test_a_result_that_nobody_keeps_is_refused_at_once(url: str, namespace: str) -> None:
    app = App(url, namespace=namespace)

    @app.task(name="t", ignore_result=True)
    def task() -> None: ...

    with closing(app):
        for handle in (task.delay(), task.delay_many([()])[0]):
            with pytest.raises(GreenworkerError, match="t keeps no result: declare it without"):
                handle.get()
            assert handle.state == "PENDING"


def test_waiting_inside_a_task_is_refused(space: Space, client: Client) -> None:
    space.push("m")
    finish(space)
    token = CURRENT.set(SimpleNamespace(current=CurrentTask("x", "t", "default", 0, 1, None)))
    try:
        with pytest.raises(GreenworkerError, match="allow_in_task=True"):
            client.result("m").get(timeout=1)
        assert client.result("m").get(timeout=10, allow_in_task=True) == "m"
    finally:
        CURRENT.reset(token)


# Lost announcements


def test_a_killed_subscription_loses_no_result(
    space: Space, client: Client, threads: ThreadPoolExecutor
) -> None:
    space.push("m")
    future = waits(space, threads, client.result("m"))
    space.redis.client_kill_filter(_type="pubsub")
    finish(space)
    assert future.result(20) == "m"


def test_an_announcement_that_went_to_nobody_is_looked_up(
    space: Space, threads: ThreadPoolExecutor
) -> None:
    """Between the loss of the connection and the new one the message ends: nobody hears of it."""
    with TcpProxy(space.url) as proxy:
        client = Client(Endpoint(proxy.url), space.broker.namespace, connections=1, patience=5.0)
        with closing(client):
            space.push("m")
            future = waits(space, threads, client.result("m"))
            proxy.refuse()
            proxy.cut()
            eventually(lambda: not subscribed(space))
            finish(space)
            proxy.accept()
            assert future.result(20) == "m"


def test_an_outage_is_told_once_and_a_lost_connection_not_at_all(
    space: Space,
    threads: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG, "greenworker")

    def told() -> list[str]:
        return [it.getMessage() for it in caplog.records if it.levelno >= logging.WARNING]

    with TcpProxy(space.url) as proxy:
        client = Client(Endpoint(proxy.url), space.broker.namespace, connections=1, patience=5.0)
        with closing(client):
            lookups = noted_lookups(client, monkeypatch)
            space.push("m")
            future = threads.submit(client.result("m").get, 20.0)
            for times in range(1, 4):
                # It has heard of its connection, which the server knows a moment earlier
                eventually(lambda: len(lookups) >= times)  # noqa: B023
                proxy.cut()
                eventually(lambda: not subscribed(space))
            eventually(lambda: len(lookups) >= 4)
            assert told() == []
            proxy.refuse()
            proxy.cut()
            eventually(told)
            tries = len(caplog.records)
            eventually(lambda: len(caplog.records) > tries + 2, within=30)
            assert len(told()) == 1
            proxy.accept()
            finish(space)
            assert future.result(20) == "m"
        assert len(told()) == 1


def check_that_it_listens(
    space: Space, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits from now on is told by the announcement, and need not look it up."""
    lookups = noted_lookups(client, monkeypatch)
    space.push("last")
    future = waits(space, threads, client.result("last"))
    eventually(lambda: lookups)  # the confirmed subscription said so
    reader = client.subscriber._thread
    assert reader is not None
    assert reader.is_alive()
    finish(space)
    assert future.result(20) == "last"
    assert lookups == ["last"]


@pytest.mark.parametrize("error", [ValueError, AttributeError, OSError])
def test_a_connection_that_is_closed_under_the_readers_read_is_opened_again(
    space: Space,
    client: Client,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    """As a waiter does whose SUBSCRIBE fails; the socket then says so in its own words."""
    connection = client.subscriber._connection
    read, closed = connection.read, threading.Event()

    def read_once_closed(timeout: float) -> Any:
        if not closed.is_set():
            closed.set()
            connection.close()
            raise error("I/O operation on closed file")
        return read(timeout)

    monkeypatch.setattr(connection, "read", read_once_closed)
    check_that_it_listens(space, client, threads, monkeypatch)
    assert closed.is_set()


@pytest.mark.parametrize("command", [b"\r\nSUBSCRIBE", b"UNSUBSCRIBE"])
def test_a_waiter_that_is_killed_while_it_sends_costs_the_others_nothing(
    space: Space,
    client: Client,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    command: bytes,
) -> None:
    """As a greenlet may be, or one whose gevent.Timeout is over: what it had sent is not known."""

    class Killed(BaseException):
        pass

    # Given one that waits, and will not look by itself
    monkeypatch.setattr(result, "_RECHECK", 60.0)
    space.push("m", "other")
    future = threads.submit(client.result("m").get, 60.0)
    eventually(lambda: subscribed(space))
    connection = client.subscriber._connection
    send = Wire.send

    def kill(wire: Wire, packed: bytes, *rest: Any) -> None:
        if command in packed and b"done:other" in packed:
            raise Killed
        send(wire, packed, *rest)

    # When another one is killed
    with monkeypatch.context() as patch:
        patch.setattr(Wire, "send", kill)
        with pytest.raises(Killed):
            client.result("other").get(timeout=0.05)
    # Then the one is told
    assert connection is client.subscriber._connection
    eventually(lambda: subscribed(space) == 1)
    finish(space)
    assert future.result(20) == "m"


def test_subscriptions_that_are_killed_leave_a_reader_that_listens(
    space: Space, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = threading.Event()

    def kill_on() -> None:
        while not enough.is_set():
            space.redis.client_kill_filter(_type="pubsub")

    killer = threads.submit(kill_on)
    try:
        for n in range(10):
            ids = [f"m{n}-{i}" for i in range(40)]
            space.push(*ids)
            futures = [threads.submit(client.result(id).get, 60.0) for id in ids]
            finish(space)
            assert [future.result(60) for future in futures] == ids
    finally:
        enough.set()  # else the threads' end would wait for this one for ever
    killer.result(20)
    check_that_it_listens(space, client, threads, monkeypatch)


def test_a_silent_subscription_hangs_nobody(
    space: Space, client: Client, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is there, and no announcement was ever made."""
    monkeypatch.setattr(result, "_RECHECK", 0.2)
    space.push("m")
    future = waits(space, threads, client.result("m"))
    space.redis.set(space.key("result:m"), '{"state":"SUCCESS","value":1}')
    space.redis.hdel(space.key("msg"), "m")
    assert future.result(20) == 1


def test_when_the_server_is_gone_who_waits_is_told(namespace: str) -> None:
    with TcpProxy("redis://127.0.0.1:1") as proxy:
        proxy.refuse()
        client = Client(Endpoint(proxy.url), namespace, connections=1, patience=0.1)
        with closing(client), pytest.raises(BrokerUnavailable):
            client.result("m").get(timeout=0.2)


# Many


def test_many_threads_wait_on_one_connection(
    space: Space, client: Client, threads: ThreadPoolExecutor
) -> None:
    ids = [f"m{n}" for n in range(50)]
    space.push(*ids)
    eventually(lambda: not space.redis.client_list(_type="pubsub"))
    futures = [threads.submit(client.result(id).get, 60.0) for id in ids]
    eventually(lambda: subscribed(space) == 50, within=30)
    assert len(space.redis.client_list(_type="pubsub")) == 1
    finish(space)
    assert [future.result(60) for future in futures] == ids
    eventually(lambda: subscribed(space) == 0)


def test_several_wait_for_the_same(
    space: Space, client: Client, threads: ThreadPoolExecutor
) -> None:
    space.push("m")
    futures = [waits(space, threads, client.result("m")) for _ in range(5)]
    with pytest.raises(ResultTimeout):
        client.result("m").get(timeout=0.05)  # who leaves does not unsubscribe the others
    finish(space)
    assert [future.result(20) for future in futures] == ["m"] * 5


def test_a_closed_client_leaves_no_thread_and_can_be_used_again(
    space: Space, client: Client
) -> None:
    space.push("m")
    finish(space)
    before = threading.active_count()
    assert client.result("m").get(timeout=10) == "m"
    client.close()
    # It need not have waited for it: a busy machine lets the thread look a little later.
    eventually(lambda: threading.active_count() <= before)
    assert client.result("m").get(timeout=10) == "m"


# States


def test_the_states_of_a_life(space: Space, client: Client) -> None:
    handle = client.result("m")
    with pytest.raises(ResultGone):
        _ = handle.state
    space.push("m", due=60.0)
    assert (handle.state, handle.ready()) == ("SCHEDULED", False)
    space.make_due()
    space.broker.promote()
    assert handle.state == "PENDING"
    space.register("w")
    (delivery,) = space.claim("w").deliveries
    assert handle.state == "STARTED"
    again = Outcome("retry", delay=60.0, envelope=next_attempt(delivery.envelope))
    space.settle("w", (delivery, again))
    assert handle.state == "RETRY"
    space.make_due()
    space.broker.promote()
    assert handle.state == "PENDING"
    finish(space)
    assert (handle.state, handle.ready(), handle.successful(), handle.failed()) == (
        "SUCCESS",
        True,
        True,
        False,
    )
    space.check()


def test_a_failure_is_ready_and_failed(space: Space, client: Client) -> None:
    (delivery,) = space.run("w", "m")
    space.settle("w", (delivery, Outcome("dead", b'{"state":"FAILURE"}', 60.0, reason="failed")))
    handle = client.result("m")
    assert (handle.ready(), handle.successful(), handle.failed()) == (True, False, True)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"garbage", b"\xff\xfe", b"[" * 5000, b"5", b"{}", b'{"state":"SUCCESS"}',
        b'{"state":"FAILURE"}', b'{"state":"FAILURE","error":5}', b'{"state":"WON","value":1}',
        b'{"state":"SUCCESS","value":', b'{"state":["SUCCESS"]}',
    ],
)  # fmt: skip
def test_a_result_that_no_worker_has_stored(space: Space, client: Client, raw: bytes) -> None:
    handle = client.result("m")
    space.redis.set(space.key("result:m"), raw, px=60_000)
    with pytest.raises(MalformedMessage, match="no result of ours"):
        handle.get(timeout=10)


def test_what_is_known_once_it_has_ended(space: Space, client: Client) -> None:
    space.push("good", "bad", "odd")
    space.register("w")
    error = b'{"type":"OSError","message":"the line\\nis busy","traceback":""}'
    payloads = {
        "good": b'{"state":"SUCCESS","value":1}',
        "bad": b'{"state":"FAILURE","error":%b}' % error,
        "odd": b'{"state":"FAILURE","error":7}',
    }
    for delivery in space.claim("w", 3).deliveries:
        space.settle("w", (delivery, Outcome("done", payloads[delivery.id], 60.0)))
    infos = [client.result(id).info() for id in payloads]
    # How often it was tried is kept by dead letters alone: no number is better than a wrong one
    assert [(one.attempt, one.due_in) for one in infos] == [(None, None)] * 3
    assert [one.last_error for one in infos] == ["", "OSError: the line is busy", ""]


def test_handles_are_values(client: Client) -> None:
    one, same, other = (client.result(id) for id in ("m", "m", "n"))
    assert one == same
    assert one != other
    assert len({one, same, other}) == 2
    assert repr(one) == "<Result m>"


def test_results_are_a_sequence_of_handles(client: Client) -> None:
    results = client.results(["a", "b", "c"])
    assert [one.id for one in results] == ["a", "b", "c"]
    assert (results[0].id, results[-1].id, len(results)) == ("a", "c", 3)
    assert [one.id for one in results[1:]] == ["b", "c"]
    assert repr(results) == "<3 Results>"


def test_a_reader_that_is_closed_while_it_connects_ends(url: str, namespace: str) -> None:
    """It is not seen to at once: connecting to a frozen server takes its time."""
    with TcpProxy(url) as proxy:
        proxy.freeze()
        client = Client(Endpoint(proxy.url), namespace, connections=1, patience=0.1)
        with pytest.raises(BrokerUnavailable):
            client.result("m").get(timeout=0.1)
        reader = client.subscriber._thread
        client.close()
        assert reader is not None
        eventually(lambda: not reader.is_alive())
