"""What the worker's tests may ask for; how they come to run patched: in_patched_process.py."""

from __future__ import annotations

import os
from collections.abc import Iterator

import gevent
import pytest

from greenworker.app import App
from tests.support.server import Server
from tests.support.state import Space
from tests.support.tcp_proxy import TcpProxy
from tests.worker import in_patched_process

TIME_LIMIT = 60.0  # seconds


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Never called for a conftest that is found while collecting: see pytest_itemcollected."""


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """pytest-timeout's signal mostly finds the hub running, where an exception is only printed.

    It still ends a test that blocks the loop; this ends one that waits.
    """
    with gevent.Timeout(TIME_LIMIT, AssertionError(f"still waiting after {TIME_LIMIT:g} s")):
        yield
