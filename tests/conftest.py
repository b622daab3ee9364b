"""What every test may ask for: a private server, its URL, a namespace of its own."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.support.server import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The session's server: shared, so nobody flushes, kills or stops it.

    A test that wants to hurt a server starts its own `Server()`.
    """
    with Server() as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    return server.url


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has: every key is in it, so nothing needs a flush."""
    return f"t{uuid4().hex[:8]}"
