"""What a worker under test says about itself: its journal lines beside those of its tasks.

Installed by the app's module, and so in the real command; greenworker knows nothing of it.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

from tests.chaos.history import Journal


def install(journal: Journal) -> None:
    """Journal what this process' workers register, settle, give up and warn of."""
    from greenworker.broker import Broker
    from greenworker.worker.incarnation import Membership

    settle, register, release = Broker.settle, Broker.register, Broker.release
    renew = Membership.renew

    def settled(self: Broker, worker: str, outcomes: Any) -> list[bool]:
        verdicts = settle(self, worker, outcomes)
        lines = [
            (delivery.id, delivery.seq, outcome.kind, ours)
            for (delivery, outcome), ours in zip(outcomes, verdicts, strict=True)
        ]
        journal.write("settled", worker=worker, outcomes=lines)
        return verdicts

    def registered(self: Broker, worker: str, *args: Any, **options: Any) -> bool:
        welcome = register(self, worker, *args, **options)
        journal.write("registered", worker=worker, welcome=bool(welcome))
        return welcome

    def released(self: Broker, worker: str, *args: Any, **options: Any) -> Any:
        answer = release(self, worker, *args, **options)
        journal.write("left", worker=worker)
        return answer

    def renewed(self: Membership, worker: str) -> None:
        if self.is_current(worker):
            journal.write("renewed", worker=worker)
        renew(self, worker)

    Broker.settle, Broker.register, Broker.release = settled, registered, released  # type: ignore[method-assign]
    Membership.renew = renewed  # type: ignore[method-assign]
    log = logging.getLogger("greenworker.worker")
    log.addHandler(_Says(journal))
    log.setLevel(logging.INFO)


class _Says(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.write("says", level=record.levelname, text=record.getMessage()[:500])


def noted(journal: Journal) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator below `@app.task`: journals each run's start and end with its fencing token.

    The task's value becomes `{"token": …, "value": …}`: a result tells which run it is of.
    """
    from greenworker.message import keys_of
    from greenworker.worker.executor import run_of
    from greenworker.worker.run import HardTimeout, Release

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def body(*args: Any, **kwargs: Any) -> Any:
            run = run_of(sys._getframe())
            assert run is not None, "a task of the arena runs in a worker"
            delivery = run.delivery
            token = {"id": delivery.id, "worker": delivery.worker, "seq": delivery.seq}
            journal.write(
                "start",
                **token,
                task=run.task.name,
                attempt=run.message.attempt,
                delivery=run.message.deliveries + 1,
                keys=keys_of(run.message.options),
            )
            how = "returned"
            try:
                value = function(*args, **kwargs)
            except Release:
                how = "Release"
                raise
            except HardTimeout:
                how = "HardTimeout"
                raise
            except BaseException as error:
                how = type(error).__name__
                raise
            finally:
                journal.write("end", **token, how=how)
            return {"token": f"{delivery.worker}:{delivery.seq}", "value": value}

        return body

    return decorate
