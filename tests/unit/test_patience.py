"""An outage of whatever kind ends a call within its patience, and says refused or unknown.

The upper bounds are far above what they measure, and below what a timeout that is not bounded
by the patience would take.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from greenworker.client import Client
from greenworker.endpoint import Endpoint
from greenworker.errors import BrokerUnavailable, SendUnknown
from greenworker.message import Message
from tests.support.fake_server import DeafServer, FakeServer
from tests.support.server import Server
from tests.support.tcp_proxy import TcpProxy

PATIENCE = 0.6
AT_MOST = 3.0  # the shortest of our own timeouts: whoever waits for one fails


@pytest.fixture
def client(proxy: TcpProxy, namespace: str) -> Iterator[Client]:
    """A client with one connection that is open."""
    client = Client(Endpoint(proxy.url), namespace, connections=1, patience=5.0)
    with closing(client):
        client.send(Message("first", "t"))
        client.pool.patience = PATIENCE
        yield client


def error_of(call: Callable[[], object]) -> BrokerUnavailable:
    """What a call raises in an outage; it may not take longer than its patience, about."""
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        call()
    assert time.monotonic() - began < AT_MOST
    return caught.value


def send(client: Client) -> BrokerUnavailable:
    return error_of(lambda: client.send(Message("second", "t")))


def test_nobody_listens(client: Client, proxy: TcpProxy) -> None:
    proxy.refuse()
    proxy.cut()
    error = send(client)
    # Its connection was open before: that it has ended is seen before anything is sent.
    assert not isinstance(error, SendUnknown)
    assert not error.maybe_done


def test_connections_open_and_nothing_comes(client: Client, proxy: TcpProxy) -> None:
    proxy.freeze()
    assert isinstance(send(client), SendUnknown)
    client.close()
    error = send(client)
    assert not isinstance(error, SendUnknown), "nothing was sent: it did not get past the greeting"


def test_a_stopped_server(namespace: str) -> None:
    with Server() as server:
        client = Client(Endpoint(server.url), namespace, connections=1, patience=5.0)
        with closing(client):
            client.send(Message("first", "t"))
            server.stop_process()
            client.pool.patience = PATIENCE
            assert isinstance(send(client), SendUnknown)
            server.cont()
            client.pool.patience = 5.0
            client.send(Message("third", "t"))
            assert {client.result(id).state for id in ("first", "third")} == {"PENDING"}


def test_a_server_whose_queue_of_connections_is_full(namespace: str) -> None:
    """Nobody answers the first packet: connecting hangs."""
    with DeafServer() as deaf:
        client = Client(Endpoint(deaf.url), namespace, connections=1, patience=PATIENCE)
        with closing(client):
            assert not isinstance(send(client), SendUnknown)


def test_a_reply_that_trickles(namespace: str) -> None:
    """A byte within each timeout: the timeout is for all of them."""
    over = threading.Event()

    def trickle() -> None:
        while not over.wait(0.1):
            for end in list(server.ends):
                with suppress(OSError):
                    end.sendall(b"1")

    with FakeServer(lambda command: b":") as server:
        client = Client(Endpoint(server.url), namespace, connections=1, patience=PATIENCE)
        thread = threading.Thread(target=trickle)
        with closing(client):
            thread.start()
            try:
                send(client)
            finally:
                over.set()
                thread.join()


def test_a_connection_that_is_half_open_does_not_take_all_the_time(namespace: str) -> None:
    """The other side has forgotten it without a word, and welcomes a new one."""

    def answer(command: list[bytes]) -> bytes | None:
        return b":1\r\n" if len(server.ends) > 1 or len(server.commands) < 3 else None

    with FakeServer(answer) as server:
        client = Client(Endpoint(server.url), namespace, connections=1, patience=2.0)
        with closing(client):
            client.send(Message("first", "t"))
            client.send(Message("second", "t"))
    assert len(server.ends) == 2


def test_who_waits_for_a_connection_is_not_patient_twice(client: Client, proxy: TcpProxy) -> None:
    proxy.freeze()
    errors: list[BrokerUnavailable] = []
    crowd = [threading.Thread(target=lambda: errors.append(send(client))) for _ in range(8)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(30)
    assert len(errors) == 8


def test_a_wait_for_a_result_ends_at_its_timeout(client: Client, proxy: TcpProxy) -> None:
    client.pool.patience = 60.0
    proxy.freeze()
    error_of(lambda: client.result("first").get(timeout=0.5))
    # … and when its reader is busy connecting:
    error_of(lambda: client.result("first").get(timeout=0.5))
