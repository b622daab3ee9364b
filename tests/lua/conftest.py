"""Each test of a script gets a namespace to seed, and hands it back whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import Server
from tests.support.state import Space


@pytest.fixture
def own_space(namespace: str) -> Iterator[Space]:
    """A namespace on a server of this test alone, whose settings it may change."""
    with Server() as server, Space(server.url, namespace) as space:
        yield space
