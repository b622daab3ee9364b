"""Connections: bounded, never silently sending twice, and silent about passwords."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import redis

from greenworker.broker import push_fields
from greenworker.client import Client
from greenworker.connection import Connection
from greenworker.connection_pool import ConnectionPool
from greenworker.endpoint import Endpoint, redact, redact_all
from greenworker.errors import (
    BrokerError,
    BrokerUnavailable,
    ConfigError,
    GreenworkerError,
    NotEncodable,
    SendUnknown,
    UnsuitableServer,
)
from greenworker.message import Message
from greenworker.scripts import load
from tests.support.eventually import eventually
from tests.support.process import environment
from tests.support.server import Server
from tests.support.state import snapshot
from tests.support.tcp_proxy import TcpProxy

CANARY = "c4n4ry"
PUSH = load("push").sha


@pytest.fixture
def admin(url: str) -> Iterator[Any]:
    """A plain client, to look at the server from outside."""
    with redis.Redis.from_url(url, protocol=2, decode_responses=True) as client:
        yield client


@pytest.fixture
def client(proxy: TcpProxy, namespace: str) -> Iterator[Client]:
    """A client behind the proxy, with one connection that is open and a server that knows push."""
    client = Client(Endpoint(proxy.url), namespace, connections=1, patience=2.0)
    with closing(client):
        client.send(Message("first", "t"))
        yield client


def present(admin: Any, client: Client) -> list[str]:
    return sorted(snapshot(admin, client.broker.root)["msg"])


# Passwords


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:{}@h:1/2", "redis://:***@h:1/2"),
        ("redis://me:{}@h", "redis://me:***@h"),
        ("rediss://me:a@{}:b@h:1", "rediss://me:***@h:1"),
        ("redis://{}@h", "redis://h"),
        ("redis://h/0?password={}", "redis://h/0"),
        ("unix://me:{}@/run/redis.sock?db=1", "unix://me:***@/run/redis.sock"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        # Mistakes, in which anything may be the password:
        ("redis://:{}/x@h:1", "(unreadable URL)"),
        ("redis://:x/{}@h:1", "(unreadable URL)"),
        ("redis://:{}#x@h:1", "(unreadable URL)"),
        ("redis://:{}?x@h:1", "(unreadable URL)"),
        ("redis://me:1234/{}@h:1", "(unreadable URL)"),
        ("redis://h?password=a@{}", "(unreadable URL)"),
        ("redis://:{}", "(unreadable URL)"),
        ("http://:{}@h", "http://:***@h"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redact(url.format(CANARY)) == shown
    assert CANARY not in redact_all(f"no module {url.format(CANARY)!r}: found none")


def test_a_text_is_shown_without_the_passwords_in_it() -> None:
    text = f"-u redis://:{CANARY}@h/0, or unix://me:{CANARY}/x?y#z@w@/s and redis://me:***@h/1 a@b"
    assert redact_all(text) == "-u redis://:***@h/0, or (unreadable URL) and redis://me:***@h/1 a@b"


def test_an_endpoint_in_a_log_line_does_not_tell_its_password() -> None:
    assert CANARY not in repr(Endpoint(f"redis://:{CANARY}@h"))


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{}@127.0.0.1:1/0",
        "redis://me:{}@127.0.0.1:1",
        "redis://:{}/x@h:1",
        "redis://:{}?x@h:1",
        "redis://:{}#x@h:1",
        "redis://me:{}@h:port",
        "redis://:{}",
        "http://me:{}@h",
        "redis://me:{}@127.0.0.1:1?nonsense=1",
        "redis://127.0.0.1:1?password={}",
        "unix://me:{}@/nowhere/s",
    ],
)
def test_no_error_holds_the_password(url: str) -> None:
    with pytest.raises(GreenworkerError) as caught:
        Connection(Endpoint(url.format(CANARY))).execute("PING")
    assert CANARY not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_no_refusal_of_the_server_holds_the_password() -> None:
    with Server(config={"requirepass": "right"}) as server:
        for user in ("", "stranger"):
            url = f"redis://{user}:{CANARY}@127.0.0.1:{server.port}/0"
            with pytest.raises(UnsuitableServer, match="check user and password") as caught:
                Connection(Endpoint(url)).execute("PING")
            assert CANARY not in str(caught.value)
        with pytest.raises(UnsuitableServer, match="check user and password"):
            Connection(Endpoint(server.url)).execute("PING")


# What a URL may say


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h?foo=1", "no option 'foo'"),
        # Known to redis-py, but what replies look like and how long we wait is ours to say.
        ("redis://h?socket_timeout=1", "no option 'socket_timeout'"),
        ("redis://h?decode_responses=true", "no option 'decode_responses'"),
        ("unix:///run/redis.sock?protocol=3", "no option 'protocol'"),
        ("redis://h/x", "must be a number, not 'x'"),
    ],
)
def test_what_a_url_may_not_say_is_refused_before_anything_connects(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Endpoint(url)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://me:secret@h:1/2",
        "redis://h?db=2&username=me&password=secret",
        "rediss://h:1/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_what_a_url_may_say(url: str) -> None:
    assert Endpoint(url).url == url


# How many


def test_any_number_of_threads_shares_a_few_connections(
    url: str, admin: Any, namespace: str
) -> None:
    def mine() -> int:
        return sum(client["name"] == namespace for client in admin.client_list())

    most = 0
    with closing(ConnectionPool(Endpoint(url), size=4, name=namespace)) as pool:
        start = threading.Barrier(65)

        def ask(n: int) -> int:
            start.wait()
            return sum(int(pool.execute("ECHO", str(n))) for _ in range(20))

        with ThreadPoolExecutor(64) as threads:
            answers = [threads.submit(ask, n) for n in range(64)]
            start.wait()
            while not all(answer.done() for answer in answers):
                most = max(most, mine())
            assert [answer.result() for answer in answers] == [20 * n for n in range(64)]
        assert 1 <= mine() <= 4
    assert most <= 4


def test_who_gets_no_connection_in_time_is_told(url: str) -> None:
    with closing(ConnectionPool(Endpoint(url), size=1, patience=0.1)) as pool:
        long = threading.Thread(
            target=lambda: pool.execute("BLPOP", "gw:{nobody}:never", "1", patience=60)
        )
        long.start()
        eventually(lambda: pool._permits._value == 0)
        with pytest.raises(
            BrokerUnavailable, match=r"all 1 connections to .* are waiting"
        ) as caught:
            pool.execute("PING")
        long.join()
        assert not caught.value.maybe_done
        assert pool.execute("PING", patience=5.0) == b"PONG"


def test_a_fork_uses_connections_of_its_own(url: str) -> None:
    script = """
import os, sys
from greenworker.connection_pool import ConnectionPool
from greenworker.endpoint import Endpoint
pool = ConnectionPool(Endpoint(sys.argv[1]), size=4)
mine = pool.execute("CLIENT", "ID")
child = os.fork()
if child == 0:
    os._exit(0 if pool.execute("CLIENT", "ID") != mine else 1)
assert os.waitpid(child, 0)[1] == 0, "the child used its parent's connection"
assert pool.execute("CLIENT", "ID") == mine, "the parent lost its connection"
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, url],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


# What goes wrong on the way


def test_a_push_whose_reply_is_lost_arrives_once(
    client: Client, proxy: TcpProxy, admin: Any
) -> None:
    lost = proxy.drop_next_reply(PUSH)
    client.send(Message("second", "t"))
    assert lost.sprung
    assert present(admin, client) == ["first", "second"]
    assert client.status().waiting == 2
    assert client.status().counters == {"enqueued": 2}


def test_a_reply_that_breaks_off_is_not_taken_for_an_answer(
    client: Client, proxy: TcpProxy, admin: Any
) -> None:
    lost = proxy.truncate_next_reply(PUSH, at=2)
    client.send(Message("second", "t"))
    assert lost.sprung
    assert client.status().counters == {"enqueued": 2}


def test_a_push_whose_reply_never_comes_is_unknown(
    client: Client, proxy: TcpProxy, admin: Any
) -> None:
    proxy.refuse()
    proxy.drop_next_reply(PUSH)
    with pytest.raises(SendUnknown, match="message second may or may not have been sent") as caught:
        client.send(Message("second", "t"))
    assert caught.value.ids == ["second"]
    assert caught.value.maybe_done
    assert present(admin, client) == ["first", "second"]
    proxy.accept()
    assert client.result("second").state == "PENDING"


def test_when_many_are_unknown_what_was_sent_before_is_counted(
    client: Client, proxy: TcpProxy
) -> None:
    def messages() -> Iterator[Message]:
        yield from (Message(f"m{n}", "t") for n in range(1001))
        proxy.refuse()
        proxy.drop_next_reply(b"m1000")

    sent: list[str] = []
    with pytest.raises(SendUnknown) as caught:
        client.send_many(messages(), sent.append)
    assert caught.value.ids == ["m1000"]
    assert caught.value.sent == len(sent) == 1000


def test_when_the_callers_own_iterable_fails_it_says_what_was_sent(client: Client) -> None:
    def messages() -> Iterator[Message]:
        yield from (Message(f"m{n}", "t") for n in range(1500))
        raise ZeroDivisionError

    sent: list[str] = []
    with pytest.raises(ZeroDivisionError) as caught:
        client.send_many(messages(), sent.append)
    assert caught.value.__notes__ == ["1000 messages had been sent before"]
    assert len(sent) == 1000


def test_a_message_that_cannot_travel_ends_a_sending_of_many(client: Client) -> None:
    def messages() -> Iterator[Message]:
        yield from (Message(f"m{n}", "t") for n in range(1500))
        yield Message("bad", "t", [object()])

    with pytest.raises(NotEncodable) as caught:
        client.send_many(messages(), lambda id: None)
    assert caught.value.sent == 1000
    assert client.status().waiting == 1 + 1000


def test_nobody_listens(namespace: str) -> None:
    with TcpProxy("redis://127.0.0.1:1") as proxy:
        proxy.refuse()
        client = Client(Endpoint(proxy.url), namespace, connections=1, patience=0.1)
        with closing(client), pytest.raises(BrokerUnavailable, match="cannot be reached") as caught:
            client.send(Message("m", "t"))
    assert not isinstance(caught.value, SendUnknown)
    assert not caught.value.maybe_done


def test_a_connection_that_was_cut_is_opened_again(client: Client, proxy: TcpProxy) -> None:
    proxy.cut()
    client.send(Message("second", "t"))
    assert client.status().counters == {"enqueued": 2}


def test_a_server_that_forgot_the_scripts_learns_them_again(client: Client, admin: Any) -> None:
    admin.script_flush()
    client.send(Message("second", "t"))
    assert client.status().counters == {"enqueued": 2}
    assert admin.script_exists(PUSH.decode()) == [True]


def test_a_private_connection_tells_of_a_lost_reply_instead_of_repeating(
    proxy: TcpProxy, admin: Any, namespace: str
) -> None:
    key = f"gw:{{{namespace}}}:counter"
    with closing(Connection(Endpoint(proxy.url))) as connection:
        connection.execute("INCR", key)
        proxy.drop_next_reply(b"INCR")
        with pytest.raises(BrokerUnavailable) as caught:
            connection.execute("INCR", key)
        assert caught.value.maybe_done
        assert admin.get(key) == "2"
        assert connection.execute("INCR", key) == 3


def test_errors_of_the_server_keep_their_code(url: str, admin: Any, namespace: str) -> None:
    key = f"gw:{{{namespace}}}:text"
    admin.set(key, "x")
    with closing(Connection(Endpoint(url))) as connection:
        with pytest.raises(BrokerError, match="WRONGTYPE") as caught:
            connection.execute("LPUSH", key, "x")
        assert caught.value.code == "WRONGTYPE"
        assert not isinstance(caught.value, BrokerUnavailable)
        assert connection.execute("PING") == b"PONG"


def test_a_server_that_is_read_only_is_unavailable_for_now() -> None:
    with Server() as server, closing(Connection(Endpoint(server.url))) as connection:
        connection.execute("REPLICAOF", "127.0.0.1", "1")
        fields = push_fields(Message("m", "t"))
        with pytest.raises(BrokerUnavailable, match="read only") as caught:
            connection.run(load("push"), "gw:{x}:nil", "p", 1000, *fields)
        assert not caught.value.maybe_done


def test_a_closed_connection_is_not_opened_to_listen(url: str) -> None:
    """A new one would be subscribed to nothing, and nobody would notice."""
    connection = Connection(Endpoint(url))
    for step in (lambda: connection.send("SUBSCRIBE", "x"), lambda: connection.read(0.01)):
        with pytest.raises(BrokerUnavailable, match="the connection was closed"):
            step()
    assert not connection.is_open


def test_a_child_that_is_forked_while_a_thread_holds_the_subscribers_lock_closes(url: str) -> None:
    script = f"""
import os, signal, threading
from greenworker import App
app = App({url!r})
subscriber = app.client.subscriber
held, over = threading.Event(), threading.Event()

def hold():
    with subscriber._lock:
        held.set()
        over.wait(30)

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    app.close()
    with subscriber.watch("m"):
        pass
    app.close()
    print("closed", flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
over.set()
app.close()
print("parent", status)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "closed\nparent 0\n"), done.stderr
