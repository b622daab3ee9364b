"""TLS: who cannot prove to be the server gets nothing; what is unsafe is said once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from greenworker import connection
from greenworker.client import Client
from greenworker.connection import Connection
from greenworker.endpoint import Endpoint
from greenworker.errors import BrokerUnavailable, ConfigError, UnsuitableServer
from greenworker.message import Message
from tests.support.server import Server
from tests.support.state import Space
from tests.support.tls import Certificate, TlsProxy


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("ours"), "IP:127.0.0.1", "DNS:localhost")


@pytest.fixture(scope="module")
def anothers(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("anothers"), "DNS:elsewhere.example")


@pytest.fixture
def proxy(server: Server, ours: Certificate) -> Iterator[TlsProxy]:
    with TlsProxy(server.port, ours) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def not_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_warned", set())


def ping(url: str) -> bytes:
    with closing(Connection(Endpoint(url))) as one:
        answer: bytes = one.execute("PING")
        return answer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_certificate_that_is_trusted(proxy: TlsProxy, ours: Certificate, host: str) -> None:
    assert ping(f"rediss://{host}:{proxy.port}/0?ssl_ca_certs={ours.file}") == b"PONG"


def test_a_self_signed_certificate_is_refused_with_the_mend(proxy: TlsProxy) -> None:
    with pytest.raises(UnsuitableServer, match=r"do not trust.*ssl_ca_certs=/path") as caught:
        ping(f"rediss://127.0.0.1:{proxy.port}/0")
    assert len(str(caught.value).splitlines()) == 1


def test_a_certificate_for_another_host_is_refused(server: Server, anothers: Certificate) -> None:
    with TlsProxy(server.port, anothers) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={anothers.file}"
        with pytest.raises(UnsuitableServer, match="IP address mismatch"):
            ping(url)
        assert ping(url + "&ssl_check_hostname=false") == b"PONG"


@pytest.mark.parametrize("off", ["ssl_cert_reqs=none", "ssl_check_hostname=false&ssl_ca_certs={}"])
def test_without_verification_there_is_one_warning(
    proxy: TlsProxy, ours: Certificate, off: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"rediss://127.0.0.1:{proxy.port}/0?{off.format(ours.file)}"
    for _ in range(2):
        assert ping(url) == b"PONG"
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "is not asked who it is" in warning


def test_a_password_in_plain_text_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        client = Client(Endpoint("redis://:c4n4ry@192.0.2.1:1/0"), "x", 1, patience=0.05)
        with closing(client), pytest.raises(BrokerUnavailable):
            client.send(Message("m", "t"))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    (text,) = {record.getMessage() for record in warnings}
    assert len(warnings) == 1
    assert "to 192.0.2.1 in plain text: use rediss://" in text
    assert "c4n4ry" not in text


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p@127.0.0.1/0",
        "redis://:p@localhost/0",
        "redis://:p@[::1]/0",
        "unix://:p@/run/s",
        "redis://192.0.2.1/0",
        "rediss://:p@192.0.2.1/0",
        "rediss+sentinel://:p@192.0.2.1/m",
    ],
)
def test_what_is_safe_is_not_warned_of(url: str) -> None:
    assert Endpoint(url).target.risks() == []


def test_the_risk_of_a_sentinels_password() -> None:
    (risk,) = Endpoint("redis+sentinel://h/m?sentinel_password=p").target.risks()
    assert "to h in plain text" in risk


def test_a_port_that_speaks_no_tls(server: Server) -> None:
    client = Client(Endpoint(f"rediss://127.0.0.1:{server.port}/0"), "x", 1, patience=0.3)
    with closing(client), pytest.raises(BrokerUnavailable, match="no TLS on that port") as caught:
        client.send(Message("m", "t"))
    assert len(str(caught.value).splitlines()) == 1


def test_sends_and_results_go_through_it(
    proxy: TlsProxy, ours: Certificate, namespace: str
) -> None:
    url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={ours.file}"
    client = Client(Endpoint(url), namespace, connections=2, patience=5.0)
    with closing(client):
        client.send(Message("first", "t", ["x" * 500_000]))
        assert client.pool._idle[0].is_open, "what TLS itself has sent is no end"
        client.send(Message("second", "t"))
        proxy.cut()
        client.send(Message("third", "t"))
        assert client.status().counters == {"enqueued": 3}


def test_many_threads_wait_for_results_over_it(
    proxy: TlsProxy, ours: Certificate, space: Space
) -> None:
    """One thread reads while others send on the same connection."""
    url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={ours.file}"
    client = Client(Endpoint(url), space.broker.namespace, connections=4, patience=20.0)
    running = space.run("w", *(f"m{n}" for n in range(200)))
    with closing(client), ThreadPoolExecutor(16) as threads:
        waits = [threads.submit(client.result(one.id).get, 30) for one in running]
        for one in running:
            space.done("w", one)
        assert [wait.result(60) for wait in waits] == [1] * 200


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("ssl_ca_certs=/nowhere/ca.pem", "there is no '/nowhere/ca.pem'"),
        ("ssl_cert_reqs=maybe", "one of required, optional and none"),
        ("ssl_context=x", "no option 'ssl_context'"),
    ],
)
def test_what_a_url_may_not_say_of_tls(query: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Endpoint(f"rediss://h/0?{query}")
    with pytest.raises(ConfigError, match="use rediss://"):
        Endpoint("redis://h/0?ssl_cert_reqs=none")


def test_the_hosts_name_is_asked_for_whatever_redis_py_does_by_itself(tmp_path: Path) -> None:
    tls = Endpoint("rediss://h/0").target.tls
    assert tls == {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    unsafe = Endpoint("rediss://h/0?ssl_cert_reqs=none").target.tls
    assert unsafe == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
