"""What a worker writes (greenworker/commands/logs.py)."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from greenworker.commands import logs


@pytest.fixture(autouse=True)
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As it was before, in the end."""
    monkeypatch.setattr(logging, "logThreads", True)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("as_json", [False, True])
def test_no_line_of_ours_asks_for_its_thread(as_json: bool) -> None:
    logs.set_up(logging.INFO, as_json=as_json, bare_output=False)
    logs.after_the_apps()
    assert logging.logThreads is False


class Unknown(logging.Formatter):
    """Nobody knows what it reads."""


@pytest.mark.parametrize(
    "formatter",
    [logging.Formatter("%(threadName)s %(message)s"), logging.Formatter("%(thread)d"), Unknown()],
)
def test_where_a_handler_of_the_app_may_it_is_asked_for(formatter: logging.Formatter) -> None:
    logs.set_up(logging.INFO, as_json=False, bare_output=False)
    logger, handler = logging.getLogger("app.of.a.test"), logging.StreamHandler(io.StringIO())
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    try:
        logs.after_the_apps()
        assert logging.logThreads is True
    finally:
        logger.removeHandler(handler)


def test_one_that_does_not_changes_nothing() -> None:
    logs.set_up(logging.INFO, as_json=False, bare_output=False)
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logs.after_the_apps()
    assert logging.logThreads is False
