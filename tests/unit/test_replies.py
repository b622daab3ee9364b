"""Error replies: each code ends in a retry, a refusal, or the end (I15)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from greenworker.client import Client
from greenworker.connection import Connection
from greenworker.endpoint import Endpoint
from greenworker.errors import BrokerError, BrokerUnavailable, SendUnknown, UnsuitableServer
from greenworker.message import Message
from greenworker.replies import Meaning, code_of, meaning_of
from tests.support.eventually import eventually
from tests.support.fake_server import FakeServer
from tests.support.server import Server

# As servers say it, outside and inside a script, new and old.
REPLIES = {
    "LOADING Redis is loading the dataset in memory": ("LOADING", Meaning.ELSEWHERE),
    "READONLY You can't write against a read only replica.": ("READONLY", Meaning.ELSEWHERE),
    "READONLY You can't write against a read only replica. script: 5d0e, on @user_script:1.": (
        "READONLY",
        Meaning.ELSEWHERE,
    ),
    "ERR Error running script (call to f_5d0e): @user_script:1: @user_script: 1: "
    "-READONLY You can't write against a read only replica.": ("READONLY", Meaning.ELSEWHERE),
    "ERR Error running script (call to f_5d0e): @user_script:57: "
    "GWTYPE gw:{shop}:ready:default:5 is a string, not a list": ("GWTYPE", Meaning.REFUSED),
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": (
        "MASTERDOWN",
        Meaning.ELSEWHERE,
    ),
    "UNBLOCKED force unblock from blocking operation, instance state changed": (
        "UNBLOCKED",
        Meaning.ELSEWHERE,
    ),
    "CLUSTERDOWN The cluster is down": ("CLUSTERDOWN", Meaning.ELSEWHERE),
    "ERR max number of clients reached": ("MAXCLIENTS", Meaning.ELSEWHERE),
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL": (
        "BUSY",
        Meaning.LATER,
    ),
    "TRYAGAIN Multiple keys request during rehashing of slot": ("TRYAGAIN", Meaning.LATER),
    # Half of our keys may still be on the other side: what follows it would see half a namespace.
    "ASK 3999 127.0.0.1:6381": ("ASK", Meaning.LATER),
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist": (
        "MISCONF",
        Meaning.LATER,
    ),
    "NOREPLICAS Not enough good replicas to write. script: 5d0e, on @user_script:1.": (
        "NOREPLICAS",
        Meaning.LATER,
    ),
    "MOVED 3999 127.0.0.1:6381": ("MOVED", Meaning.MOVED),
    "OOM command not allowed when used memory > 'maxmemory'. script: 5d0e, on @user_script:1.": (
        "OOM",
        Meaning.REFUSED,
    ),
    "ERR Error running script (call to f_5d0e): @user_script:31: @user_script: 31: "
    "-OOM command not allowed when used memory > 'maxmemory'.": ("OOM", Meaning.REFUSED),
    "NOSCRIPT No matching script. Please use EVAL.": ("NOSCRIPT", Meaning.REFUSED),
    "WRONGTYPE Operation against a key holding the wrong kind of value": (
        "WRONGTYPE",
        Meaning.REFUSED,
    ),
    "EXECABORT Transaction discarded because of previous errors.": ("EXECABORT", Meaning.REFUSED),
    "ERR unknown command 'EVALSHA'": ("ERR", Meaning.REFUSED),
    "NOAUTH Authentication required.": ("NOAUTH", Meaning.FATAL),
    "ERR AUTH <password> called without any password configured for the default user.": (
        "NOAUTH",
        Meaning.FATAL,
    ),
    "WRONGPASS invalid username-password pair or user is disabled.": ("WRONGPASS", Meaning.FATAL),
    "NOPERM User me has no permissions to run the 'evalsha' command": ("NOPERM", Meaning.FATAL),
    "ERR ACL failure in script: User me has no permissions to run the 'del' command": (
        "NOPERM",
        Meaning.FATAL,
    ),
    "ERR The user executing the script can't access at least one of the keys script: 5d0e, on "
    "@user_script:1.": ("NOPERM", Meaning.FATAL),
    "DENIED Redis is running in protected mode because protected mode is enabled": (
        "DENIED",
        Meaning.FATAL,
    ),
    "ERR DB index is out of range": ("BADDB", Meaning.FATAL),
}

RAISED = {
    Meaning.LATER: BrokerUnavailable,
    Meaning.ELSEWHERE: BrokerUnavailable,
    Meaning.REFUSED: BrokerError,
    Meaning.FATAL: UnsuitableServer,
}


@pytest.mark.parametrize("text", REPLIES, ids=lambda text: text[:60])
def test_what_an_error_reply_means(text: str) -> None:
    code, meaning = REPLIES[text]
    assert code_of(text) == code
    assert meaning_of(code) is meaning


@pytest.mark.parametrize(
    "text", [text for text in REPLIES if "MOVED" not in text], ids=lambda text: text[:60]
)
def test_every_error_reply_becomes_one_of_our_errors(text: str) -> None:
    code, meaning = REPLIES[text]
    with (
        FakeServer(lambda command: f"-{text}\r\n".encode()) as server,
        closing(Connection(Endpoint(server.url))) as connection,
        pytest.raises(RAISED[meaning]) as caught,
    ):
        connection.execute("EVALSHA", "5d0e", "0")
    assert len(str(caught.value).splitlines()) == 1
    if isinstance(caught.value, BrokerError):
        assert caught.value.code == code
    if isinstance(caught.value, BrokerUnavailable):
        assert not caught.value.maybe_done


@pytest.mark.parametrize(
    "text", [text for text in REPLIES if not text.startswith(("NOSCRIPT", "MOVED"))][::2]
)
def test_a_send_that_is_answered_with_an_error_was_refused_and_not_lost(text: str) -> None:
    _, meaning = REPLIES[text]
    with FakeServer(lambda command: f"-{text}\r\n".encode()) as server:
        client = Client(Endpoint(server.url), "x", connections=1, patience=0.5)
        with closing(client), pytest.raises(RAISED[meaning]) as caught:
            client.send(Message("m", "t"))
    assert not isinstance(caught.value, SendUnknown)
    # What may pass is tried again as long as the client is patient.
    pushes = sum(command[0] == b"EVALSHA" for command in server.commands)
    assert (pushes > 1) == (RAISED[meaning] is BrokerUnavailable)


def test_what_passes_while_the_client_is_patient_is_no_error() -> None:
    replies = iter([b"-LOADING wait\r\n", b"-BUSY wait\r\n", b"-NOREPLICAS wait\r\n", b":1\r\n"])
    with FakeServer(lambda command: next(replies)) as server:
        client = Client(Endpoint(server.url), "x", connections=1, patience=30.0)
        with closing(client):
            client.send(Message("m", "t"))


def test_a_refusal_after_a_lost_reply_is_unknown() -> None:
    """The first try may have been carried out: OOM says nothing of that."""
    replies = iter([b":1\r\n", None, b"-OOM command not allowed\r\n"])
    with FakeServer(lambda command: next(replies)) as server:
        client = Client(Endpoint(server.url), "x", connections=1, patience=1.0)
        with closing(client):
            client.send(Message("first", "t"))
            with pytest.raises(SendUnknown, match="OOM") as caught:
                client.send(Message("m", "t"))
    assert caught.value.ids == ["m"]


def test_a_server_that_repeats_the_password_in_its_error_does_not_get_it_into_ours() -> None:
    def answer(command: list[bytes]) -> bytes:
        return b"-ERR unknown command 'AUTH', with args beginning with: '%b'\r\n" % command[1]

    with FakeServer(answer) as server:
        url = server.url.replace("redis://", "redis://:c4n4ry@")
        with pytest.raises(BrokerError) as caught:
            Connection(Endpoint(url)).execute("PING")
    assert "c4n4ry" not in str(caught.value)


def test_a_request_that_is_another_nodes_is_asked_there_within_the_same_call() -> None:
    with FakeServer(lambda command: b"+there\r\n") as there:
        moved = b"-MOVED 3999 127.0.0.1:%d\r\n" % there.port
        with (
            FakeServer(lambda command: moved) as here,
            closing(Connection(Endpoint(here.url))) as connection,
        ):
            assert connection.execute("GET", "x") == b"there"
            assert connection.execute("GET", "x") == b"there"
            gets = [command for command in here.commands if command[0] == b"GET"]
            assert len(gets) == 1, "it is remembered"
            # That one is gone: the URL's host is asked again, and may name another one.
            there.close()
            with FakeServer(lambda command: b"+elsewhere\r\n") as elsewhere:
                moved = b"-MOVED 3999 127.0.0.1:%d\r\n" % elsewhere.port
                assert eventually(lambda: _answer(connection)) == b"elsewhere"


def test_nodes_that_send_us_to_one_another_are_an_outage() -> None:
    with FakeServer(lambda command: b"-MOVED 3999 :%d\r\n" % server.port) as server:
        connection = Connection(Endpoint(server.url))
        with closing(connection), pytest.raises(BrokerUnavailable, match="sends us on") as caught:
            connection.execute("GET", "x")
        assert not caught.value.maybe_done
        assert len(server.ends) < 10


def _answer(connection: Connection) -> Any:
    try:
        return connection.execute("GET", "x")
    except BrokerUnavailable:
        return None


# The same from real servers: what they say inside a script differs with their age.


@pytest.fixture
def client(own: Server) -> Iterator[Client]:
    client = Client(Endpoint(own.url), "x", connections=1, patience=5.0)
    with closing(client):
        client.send(Message("first", "t"))
        yield client


@pytest.fixture
def own() -> Iterator[Server]:
    with Server(config={"dbfilename": "snapshot"}) as server:
        yield server


def refused(client: Client) -> BrokerError:
    before, client.pool.patience = client.pool.patience, 0.6
    with pytest.raises(BrokerError) as caught:
        client.send(Message("second", "t"))
    client.pool.patience = before
    assert not isinstance(caught.value, SendUnknown)
    return caught.value


def config(client: Client, *pairs: str) -> None:
    client.pool.execute("CONFIG", "SET", *pairs)


def test_out_of_memory(client: Client) -> None:
    config(client, "maxmemory", "1")
    error = refused(client)
    assert error.code == "OOM"
    assert not isinstance(error, BrokerUnavailable)
    config(client, "maxmemory", "0")
    client.send(Message("second", "t"))


def test_too_few_replicas(client: Client) -> None:
    config(client, "min-replicas-to-write", "1")
    error = refused(client)
    assert error.code == "NOREPLICAS"
    assert isinstance(error, BrokerUnavailable)
    config(client, "min-replicas-to-write", "0")
    client.send(Message("second", "t"))


def test_a_replica(client: Client) -> None:
    client.pool.execute("REPLICAOF", "127.0.0.1", "1")
    error = refused(client)
    assert error.code == "READONLY"
    assert isinstance(error, BrokerUnavailable)
    client.pool.execute("REPLICAOF", "NO", "ONE")
    client.send(Message("second", "t"))


def test_a_replica_that_has_lost_its_master(client: Client) -> None:
    config(client, "replica-serve-stale-data", "no")
    client.pool.execute("REPLICAOF", "127.0.0.1", "1")
    assert refused(client).code in ("MASTERDOWN", "READONLY")


def test_a_disk_that_takes_no_snapshot(client: Client, own: Server) -> None:
    config(client, "save", "3600 1")
    # A folder where the file belongs: what is renamed to it fails.
    (own.folder / "snapshot").mkdir()
    client.pool.execute("BGSAVE")
    eventually(lambda: b"rdb_last_bgsave_status:err" in client.pool.execute("INFO", "persistence"))
    error = refused(client)
    assert error.code == "MISCONF"
    assert isinstance(error, BrokerUnavailable)
    config(client, "stop-writes-on-bgsave-error", "no")
    client.send(Message("second", "t"))


def test_a_script_that_runs_on_and_on(client: Client, own: Server) -> None:
    config(client, "lua-time-limit", "1")
    with closing(Connection(Endpoint(own.url))) as other:
        other.connect()
        other.send("EVAL", "while true do end", "0")
        error: Any = eventually(lambda: _tried(client))
        assert error.code == "BUSY"
        assert isinstance(error, BrokerUnavailable)
        client.pool.execute("SCRIPT", "KILL")
    client.send(Message("second", "t"))


def _tried(client: Client) -> BrokerError | None:
    try:
        client.pool.execute("SET", "x", "y")
    except SendUnknown:
        raise
    except BrokerError as error:
        return error if error.code else None
    return None


def test_a_user_whose_acl_forbids_what_a_script_does(client: Client, own: Server) -> None:
    client.pool.execute("ACL", "SETUSER", "me", "on", ">pw", "~*", "&*", "+eval", "+evalsha")
    url = own.url.replace("redis://", "redis://me:pw@")
    other = Client(Endpoint(url), "x", connections=1, patience=0.2)
    with closing(other), pytest.raises(UnsuitableServer, match="let its ACL allow this"):
        other.send(Message("second", "t"))


def test_a_server_with_too_many_clients(client: Client, own: Server) -> None:
    config(client, "maxclients", "1")
    other = Client(Endpoint(own.url), "x", connections=1, patience=0.2)
    with closing(other):
        error = refused(other)
    assert error.code == "MAXCLIENTS"
    assert isinstance(error, BrokerUnavailable)
    assert not error.maybe_done
