"""The tasks of an arena: each ends in a way of its own, and journals its runs."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from greenworker import (
    App,
    Backoff,
    Ignore,
    Reject,
    Snooze,
    SoftTimeout,
    Throttled,
    current_task,
)
from tests.chaos.history import Journal
from tests.chaos.probe import noted
from tests.chaos.producer import Producer
from tests.support import failpoints

SITES, MOST_OF_A_SITE = "site:*", 3  # the limit of `polite` tasks, and how many of a site at once


class Failure(Exception):
    """What a task raises on purpose; its text is the fencing token of that run."""


def make_app(url: str, namespace: str, journal: Journal, **options: Any) -> App:
    """An App with every task of the arena; `url` is where its sends go."""
    app = App(url, namespace=namespace, **options)
    note = noted(journal)

    def task(**options: Any) -> Callable[[Callable[..., Any]], Any]:
        def declare(function: Callable[..., Any]) -> Any:
            return app.task(name=function.__name__, **options)(note(function))

        return declare

    @task()
    def nap(seconds: float = 0.05) -> None:
        time.sleep(seconds)

    @task()
    def effect(seconds: float = 0.02) -> None:
        """An effect on the world, which is this run's line in the journal, between two naps."""
        time.sleep(seconds)
        failpoints.hit("task.effect")
        time.sleep(seconds)

    @task(retries=5, backoff=Backoff(base=0.05, cap=0.3))
    def flaky(fails: int = 1, seconds: float = 0.02) -> None:
        """Fails so many times, then succeeds."""
        time.sleep(seconds)
        if current_task().attempt < fails:
            raise Failure(token())

    @task()
    def fails(seconds: float = 0.01) -> None:
        time.sleep(seconds)
        raise Failure(token())

    @task(timeout=0.3)
    def hangs() -> None:
        """Runs into its hard timeout."""
        time.sleep(600)

    @task(timeout=0.3)
    def swallows(times: int = 1) -> None:
        """Swallows its timeout so many times before it gives in."""
        for _ in range(times):
            try:
                time.sleep(600)
            except BaseException:
                continue
        time.sleep(600)

    @task(timeout=0.3)
    def stuck(file: str = "never") -> None:
        """Ignores its timeout until a file is there."""
        while not Path(file).exists():
            try:
                time.sleep(0.05)
            except BaseException:
                continue

    @task(soft_timeout=0.2, timeout=30)
    def softly() -> str:
        """Is told of its deadline, and ends."""
        try:
            time.sleep(600)
        except SoftTimeout:
            return "told"
        raise AssertionError("nobody told it")

    @task(retries=5)
    def asks_again(times: int = 1) -> None:
        """Asks for another attempt so many times."""
        if current_task().attempt < times:
            current_task().retry(countdown=0.1)

    @task()
    def snoozes() -> None:
        """Puts itself off, twice on average."""
        if random.random() < 2 / 3:
            raise Snooze(0.2)

    @task(unique=True)
    def only(key: int) -> None:
        """One at a time, of each key."""
        time.sleep(0.2)

    app.limit(SITES, concurrency=MOST_OF_A_SITE, delay=0.01)
    app.limit("tenant:*", concurrency=6)

    @task(key="site:{site}")
    def polite(site: int, seconds: float = 0.05) -> None:
        """Of each site so many at once; now and then that asks for less."""
        time.sleep(seconds)
        if random.random() < 0.03:
            raise Throttled(0.3)

    @task(key=lambda tenant, site, seconds=0.05: (f"tenant:{tenant}", f"site:{site}"))
    def of_a_tenant(tenant: int, site: int, seconds: float = 0.05) -> None:
        time.sleep(seconds)

    @task(retries=5)
    def rejects() -> None:
        raise Reject(token())

    @task()
    def ignores() -> None:
        raise Ignore

    @task()
    def poison(seconds: float = 0.1) -> None:
        """Kills its process whenever it runs."""
        time.sleep(seconds)
        journal.write("fault", name="poison", of=os.getpid())
        os._exit(9)

    @task()
    def big(size: int = 100_000) -> str:
        """A result of so many bytes."""
        return "x" * size

    @task(timeout=10)
    def chain() -> str:
        """Sends another task, whatever comes of that."""
        return Producer(app, journal).send("nap", 0.01)

    @task(timeout=0)
    def wait_for(file: str) -> None:
        """Runs until a file of the arena's folder is there."""
        while not Path(file).exists():
            time.sleep(0.01)

    @task()
    def block(seconds: float = 1.0) -> None:
        """Blocks the loop."""
        from gevent.monkey import get_original

        get_original("time", "sleep")(seconds)

    return app


def token() -> str:
    """The fencing token of the run that this code is part of."""
    from greenworker.worker.executor import run_of

    run = run_of(sys._getframe())
    assert run is not None
    return f"{run.delivery.worker}:{run.delivery.seq}"
