"""Deliveries as a claim would bring them, without a server, and what else several tests need."""

from __future__ import annotations

import itertools
from typing import Any

from gevent.event import Event

from greenworker.app import App
from greenworker.message import Delivery, Message, encode_tail
from greenworker.task import Task
from tests.support.eventually import eventually
from tests.support.state import Space

_ids = itertools.count(1)


def delivery_of(
    task: str,
    *args: Any,
    attempt: int = 0,
    deliveries: int = 0,
    claimed_at: float = 1_000_000.0,
    result_ttl: float = 3600.0,
    worker: str = "w",
    seq: int = 1,
    keys: str = "",
    **kwargs: Any,
) -> Delivery:
    """One call of a task, claimed by `worker`; `keys` with a comma between."""
    id = f"m{next(_ids)}"
    message = Message(
        id, task, args, kwargs, result_ttl=result_ttl, options={"keys": keys} if keys else {}
    )
    head = f"1 {deliveries} {attempt} 5 {round(claimed_at * 1000)} 0 ".encode()
    return Delivery(id, seq, worker, head + encode_tail(message), claimed_at)


def raw(envelope: bytes) -> Delivery:
    """Whatever may lie in Redis."""
    return Delivery(f"m{next(_ids)}", 1, "w", envelope, 1_000_000.0)


def declare_nothing(app: App) -> Task[[], None]:
    """A task that does nothing, and keeps no result."""

    @app.task(ignore_result=True)
    def nothing() -> None:
        pass

    return nothing


def reap_the_living(space: Space, worker: str) -> None:
    """Have a worker's incarnation reaped as if it had died; a beat of its own may come in between."""

    def is_reaped() -> bool:
        space.crash(worker)
        space.reap()
        # (Not by a look at all keys: an ACL user may not SCAN.)
        return worker not in space.redis.zrange(space.key("workers"), 0, -1)

    eventually(is_reaped)


def connections(space: Space) -> list[str]:
    """The names of this process' connections to the server."""
    names = (client["name"] for client in space.redis.client_list())
    return sorted(name for name in names if name.startswith("greenworker"))


def declare_immortal(app: App) -> tuple[Task[[], str], Event]:
    """A task with a timeout of 0.02 s that swallows all it is thrown, and the event that ends it."""
    end = Event()

    @app.task(timeout=0.02, retries=5)
    def immortal() -> str:
        while not end.is_set():
            try:
                end.wait(60)
            except BaseException:
                continue
        return "alive"

    return immortal, end
