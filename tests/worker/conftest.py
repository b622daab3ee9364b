"""What the worker's tests may ask for; how they come to run patched: in_patched_process.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gevent
import pytest

from greenworker.app import App
from greenworker.worker import Worker
from tests.support.server import Server
from tests.support.tcp_proxy import TcpProxy
from tests.worker import in_patched_process

TIME_LIMIT = 60.0  # seconds

Start = Callable[..., Worker]


def pytest_configure(config: pytest.Config) -> None:
    in_patched_process.register(config)


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """pytest-timeout's signal mostly finds the hub running, where an exception is only printed.

    It still ends a test that blocks the loop; this ends one that waits.
    """
    with gevent.Timeout(TIME_LIMIT, AssertionError(f"still waiting after {TIME_LIMIT:g} s")):
        yield


@pytest.fixture(autouse=True)
def stray_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What ended a greenlet or a callback of the loop by an exception: nothing may.

    gevent only prints it. A test that expects some takes them out of this list.
    """
    errors: list[str] = []

    def handle_error(context: object, kind: type[BaseException], error: object, _: object) -> None:
        if not issubclass(kind, gevent.GreenletExit):
            errors.append(f"{kind.__name__}: {error} in {context!r}")

    monkeypatch.setattr(gevent.get_hub(), "handle_error", handle_error)
    yield errors
    assert not errors


@pytest.fixture
def app(url: str, namespace: str) -> Iterator[App]:
    """An app of its own namespace, for tests to declare tasks in."""
    app = App(url, namespace=namespace)
    yield app
    app.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[TcpProxy]:
    """A way to the session's server that can be disturbed."""
    proxy = TcpProxy(server.url)
    yield proxy
    with suppress(OSError):  # its thread may have ended, pipe and all, before it was woken to
        proxy.close()


@pytest.fixture
def start(app: App) -> Iterator[Start]:
    """Start a worker of the app and wait until it is registered; at the end it is stopped."""
    workers: list[Worker] = []

    def start(which: App = app, **options: Any) -> Worker:
        worker = Worker(which, **{"concurrency": 10, "lease": 1.0, **options})
        workers.append(worker)
        worker.start()
        assert worker.ready.wait(10)
        return worker

    yield start
    for worker in workers:
        worker.stop(timeout=0)
