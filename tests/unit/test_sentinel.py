"""Sentinels tell who the master is, at every connect; what they say is checked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from greenworker.client import Client
from greenworker.connection import Connection
from greenworker.endpoint import Endpoint
from greenworker.errors import BrokerError, BrokerUnavailable, ConfigError, UnsuitableServer
from greenworker.message import Message
from tests.support.eventually import eventually
from tests.support.fake_server import Command, FakeServer
from tests.support.sentinel import SentinelSetup


@pytest.fixture(scope="module")
def setup() -> Iterator[SentinelSetup]:
    with SentinelSetup(password="c4n4ry") as setup:
        yield setup


# What a URL may say


def test_a_url_with_sentinels() -> None:
    url = (
        "rediss+sentinel://me:secret@a:1,b,[::1]:3/tasks/4?sentinel_username=s&sentinel_password=p"
    )
    endpoint = Endpoint(url)
    target = endpoint.target
    assert target.sentinels == (("a", 1), ("b", 26379), ("::1", 3))
    assert (target.master, target.db, target.username, target.password) == (
        "tasks",
        4,
        "me",
        "secret",
    )
    assert (target.sentinel_username, target.sentinel_password) == ("s", "p")
    assert target.tls is not None
    assert endpoint.redacted == "rediss+sentinel://me:***@a:1,b,[::1]:3/tasks/4"
    assert "secret" not in repr(endpoint) + repr(target)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+sentinel://h:1", "need redis\\+sentinel://host1,host2/master"),
        ("redis+sentinel:///tasks", "need redis\\+sentinel://"),
        ("unix+sentinel:///tasks", "need redis\\+sentinel://"),
        ("redis+cluster://h:1", "use redis://"),
        ("redis+sentinel://h:1/tasks/x", "must be a number, not 'x'"),
        ("redis://h:1,h:2/0", "several are for redis\\+sentinel"),
        ("redis://h:1/0?sentinel_password=c4n4ry", "sentinel_password is for redis\\+sentinel"),
    ],
)
def test_what_such_a_url_may_not_say(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        Endpoint(url)
    assert "c4n4ry" not in str(caught.value)


# With real ones


def test_they_lead_to_the_master(setup: SentinelSetup) -> None:
    with closing(Connection(Endpoint(setup.url))) as connection:
        assert connection.execute("ROLE")[0] == b"master"
        connection.execute("SET", "x", "y")


def test_a_sentinel_that_is_gone_is_passed_over(setup: SentinelSetup) -> None:
    url = setup.url.replace("redis+sentinel://", "redis+sentinel://127.0.0.1:1,")
    with closing(Connection(Endpoint(url))) as connection:
        assert connection.execute("ROLE")[0] == b"master"


def test_a_name_that_they_do_not_know(setup: SentinelSetup) -> None:
    url = setup.url.replace("/tasks", "/taks")
    with pytest.raises(UnsuitableServer, match="know no master 'taks': check the name"):
        Connection(Endpoint(url)).execute("PING")


def test_a_wrong_password_for_them(setup: SentinelSetup) -> None:
    for url in (setup.url.replace("c4n4ry", "m1st4ken"), setup.url.partition("?")[0]):
        with pytest.raises(UnsuitableServer, match=r"check \?sentinel_username=") as caught:
            Connection(Endpoint(url)).execute("PING")
        assert "m1st4ken" not in str(caught.value)


def test_nobody_there() -> None:
    url = "redis+sentinel://127.0.0.1:1,127.0.0.1:2/tasks"
    client = Client(Endpoint(url), "x", connections=1, patience=0.3)
    with closing(client), pytest.raises(BrokerUnavailable, match="no sentinel tells") as caught:
        client.send(Message("m", "t"))
    assert not caught.value.maybe_done


# With forged ones


def answer_with(port: int) -> bytes:
    text = str(port).encode()
    return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(text), text)


def role(name: bytes) -> bytes:
    return b"*1\r\n$%d\r\n%b\r\n" % (len(name), name)


def test_a_master_that_is_none_is_not_used_and_another_sentinel_is_asked() -> None:
    def old(command: Command) -> bytes:
        return role(b"slave") if command[0] == b"ROLE" else b"+old\r\n"

    def new(command: Command) -> bytes:
        return role(b"master") if command[0] == b"ROLE" else b"+new\r\n"

    with (
        FakeServer(old) as demoted,
        FakeServer(new) as master,
        FakeServer(lambda command: answer_with(demoted.port)) as cut_off,
        FakeServer(lambda command: answer_with(master.port)) as sentinel,
    ):
        url = f"redis+sentinel://127.0.0.1:{cut_off.port},127.0.0.1:{sentinel.port}/tasks"
        with closing(Connection(Endpoint(url))) as connection:
            with pytest.raises(BrokerUnavailable, match="and it is a replica"):
                connection.execute("GET", "x")
            assert connection.execute("GET", "x") == b"new"
        assert not any(command[0] == b"GET" for command in demoted.commands)


def test_a_master_that_has_become_read_only_is_left_for_the_new_one() -> None:
    replies = {b"ROLE": role(b"master"), b"GET": b"-READONLY You can't write\r\n"}
    with (
        FakeServer(lambda command: replies[command[0]]) as first,
        FakeServer(lambda c: role(b"master") if c[0] == b"ROLE" else b"+new\r\n") as second,
    ):
        master = [first.port, second.port]
        with FakeServer(lambda command: answer_with(master.pop(0))) as sentinel:
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/tasks"
            with closing(Connection(Endpoint(url))) as connection:
                with pytest.raises(BrokerUnavailable, match="READONLY"):
                    connection.execute("GET", "x")
                assert connection.execute("GET", "x") == b"new"


def test_a_user_who_may_not_ask_for_the_role_is_told(setup: SentinelSetup) -> None:
    with redis.Redis(port=setup.master_port()) as admin:
        admin.execute_command("ACL", "SETUSER", "me", "on", ">pw", "~*", "&*", "+ping", "+client")
    url = setup.url.replace("redis+sentinel://", "redis+sentinel://me:pw@")
    with pytest.raises(UnsuitableServer, match=r"'role' command; let its ACL allow this"):
        Connection(Endpoint(url)).execute("PING")


def test_a_sender_outlives_a_failover() -> None:
    with SentinelSetup() as setup:
        client = Client(Endpoint(setup.url), "x", connections=1, patience=30.0)
        with closing(client):
            client.send(Message("before", "t"))
            before = setup.master_port()
            eventually(lambda: _in_step(setup))
            setup.first.kill()
            client.send(Message("after", "t"))
            # The sentinel that is asked here may be the last to hear of it.
            eventually(lambda: setup.master_port() != before)
            assert {client.result(id).state for id in ("before", "after")} == {"PENDING"}


def _in_step(setup: SentinelSetup) -> bool:
    with redis.Redis(port=setup.first.port) as one, redis.Redis(port=setup.second.port) as other:
        return (
            one.info("replication")["master_repl_offset"]
            == other.info("replication")["slave_repl_offset"]
        )


def test_each_of_them_has_a_second() -> None:
    """One that answers slowly, and one that hangs, leave the others and the server their time."""
    with FakeServer(lambda c: role(b"master") if c[0] == b"ROLE" else b"+here\r\n") as master:

        def slow(_: Command) -> bytes:
            time.sleep(0.4)
            return answer_with(master.port)

        with FakeServer(slow) as one, FakeServer(slow) as two, FakeServer(slow) as three:
            hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in (one, two, three))
            with closing(Connection(Endpoint(f"redis+sentinel://{hosts}/tasks"))) as connection:
                assert connection.execute("GET", "x") == b"here"
                connection.close()
                assert connection.execute("GET", "x", patience=10.0) == b"here"
        with FakeServer(lambda command: None) as mute, FakeServer(slow) as sentinel:
            hosts = f"127.0.0.1:{mute.port},127.0.0.1:{sentinel.port}"
            with closing(Connection(Endpoint(f"redis+sentinel://{hosts}/tasks"))) as connection:
                assert connection.execute("GET", "x") == b"here"


def test_what_a_server_answers_to_auth_is_not_shown() -> None:
    """One that does not know AUTH repeats its arguments, perhaps cut short."""

    def repeat(command: Command) -> bytes:
        told = b" ".join(b"'%b'" % argument for argument in command[1:])[:100]
        return b"-ERR unknown command '%b', with args beginning with: %b\r\n" % (command[0], told)

    secret = "c4n4ry" * 30
    with FakeServer(repeat) as server:
        sentinel = f"redis+sentinel://127.0.0.1:{server.port}/tasks?sentinel_password={secret}"
        plain = f"redis://:{secret}@127.0.0.1:{server.port}/0"
        for url in (sentinel, plain):
            with pytest.raises(BrokerError, match="check user and password") as caught:
                Connection(Endpoint(url)).execute("PING")
            assert "c4n4" not in str(caught.value)
