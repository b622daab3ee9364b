"""What every test may ask for: a private server, its URL, a namespace of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.support.server import Server
from tests.support.state import Space
from tests.support.tcp_proxy import TcpProxy

# Random tests are the same ones each time; `--hypothesis-profile=long` looks further, and anew.
with contextlib.suppress(ModuleNotFoundError):  # the command line's tests run without it
    from hypothesis import HealthCheck, settings

    always = settings(
        deadline=None,  # a slow machine is no failure
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.register_profile(
        "same", always, derandomize=True, max_examples=100, stateful_step_count=40
    )
    settings.register_profile("long", always, max_examples=3000, stateful_step_count=60)
    settings.load_profile("same")
# GREENWORKER_TEST_ACL=1: what runs under test may do what docs/security.md lets a worker do, and no more.
SERVER_USER = "worker" if os.environ.get("GREENWORKER_TEST_ACL") else None


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The session's server: shared, so nobody flushes, kills or stops it.

    A test that wants to hurt a server starts its own `Server()`.
    """
    with Server(user=SERVER_USER) as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    return server.url


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has: every key is in it, so nothing needs a flush."""
    return f"t{uuid4().hex[:8]}"


@pytest.fixture
def space(url: str, namespace: str) -> Iterator[Space]:
    """This namespace, to seed and to look into."""
    with Space(url, namespace) as space:
        yield space


@pytest.fixture
def proxy(url: str) -> Iterator[TcpProxy]:
    """A way to the session's server that can be disturbed."""
    with TcpProxy(url) as proxy:
        yield proxy
