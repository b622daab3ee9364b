"""A worker that has lost its server goes on soon after its return, however it was lost.

What is promised is two seconds; what is asserted leaves a slow machine its time, and the time that
it took is printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.fake_server import DeafServer
from tests.support.server import Server

TASK = """
    @app.task(ignore_result=True)
    def mark(text):
        note(text)
"""


def leave_and_refuse(server: Server, away: Callable[[], None]) -> None:
    server.kill()
    away()
    server.restart()


def leave_and_hang(server: Server, away: Callable[[], None]) -> None:
    """Nobody answers, not even with a refusal: connecting hangs."""
    server.kill()
    with DeafServer(server.port):
        away()
    server.restart()


def freeze(server: Server, away: Callable[[], None]) -> None:
    server.stop_process()
    away()
    server.cont()


@pytest.mark.parametrize("outage", [leave_and_refuse, leave_and_hang, freeze])
def test_a_worker_goes_on_soon_after_its_server_is_back(
    own_project: Project,
    own_server: Server,
    outage: Callable[[Server, Callable[[], None]], None],
) -> None:
    tasks = own_project.module(TASK)
    worker = own_project.worker("-c", "5")

    def away() -> None:
        worker.wait_for("trying again")
        # Long enough for its pauses to have grown to the longest.
        time.sleep(4)

    outage(own_server, away)
    back = time.monotonic()
    tasks.mark.delay("back")
    eventually(lambda: own_project.notes == ["back"], within=15)
    print(f"{outage.__name__}: {time.monotonic() - back:.2f} s")
    worker.wait_for("goes on")
