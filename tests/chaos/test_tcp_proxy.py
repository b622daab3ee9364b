"""The proxy's misbehaviours, as a client meets them."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.tcp_proxy import TcpProxy


def connect(proxy: TcpProxy, timeout: float = 5.0) -> Any:
    return redis.Redis.from_url(proxy.url, socket_timeout=timeout, retry=Retry(NoBackoff(), 0))


def test_a_trickle_passes_all_bytes_slowly(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        client.ping()
        proxy.trickle(10)
        began = time.monotonic()
        assert client.echo("x" * 100) == b"x" * 100
        assert time.monotonic() - began > 0.2  # 100 bytes twice, ten of them in 20 ms
        proxy.trickle(0)
        assert client.echo("y" * 100_000) == b"y" * 100_000


def test_a_half_open_connection_never_answers_and_a_new_one_does(proxy: TcpProxy) -> None:
    with connect(proxy, timeout=0.3) as old, connect(proxy) as new:
        old.ping()
        proxy.swallow()
        with pytest.raises(redis.TimeoutError):
            old.ping()
        assert new.ping()


def test_a_dropped_request_never_arrives(proxy: TcpProxy, url: str, namespace: str) -> None:
    with connect(proxy) as client, redis.Redis.from_url(url) as direct:
        client.ping()
        trap = proxy.drop_next_request(namespace.encode())
        with pytest.raises(redis.ConnectionError):
            client.set(namespace, 1)
        assert trap.sprung
        assert direct.get(namespace) is None
        assert client.set(namespace, 1)
