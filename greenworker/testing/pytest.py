"""Fixtures for pytest: `pytest_plugins = ["greenworker.testing.pytest"]` in the uppermost conftest.py.

greenworker_app      the App under test: override it, or name it in pytest's settings, greenworker_app = shop.tasks
greenworker_sent     app.testing(): what is sent runs at once, and this is what was sent
greenworker_clock    clock(app): on a private server, in a namespace of the test's own, where time stands
greenworker_drain    drain(app), there: what waits runs; greenworker_drain(hours=1) lets time pass
greenworker_server   the URL of that server, one for the whole run: override it for one that is there

@pytest.mark.greenworker(errors="keep", at=datetime(2026, 3, 29, tzinfo=UTC)) passes these on.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Unpack

import pytest

# What is under test may have to patch first, or may never use greenworker: nothing is imported here.
if TYPE_CHECKING:
    from greenworker.app import App
    from greenworker.testing.inline import Sent
    from greenworker.testing.moving import Clock
    from greenworker.testing.record import Ran, Span

_MARK = "greenworker"
_OPTIONS = ("errors", "at")


class Drain(Protocol):
    """`greenworker.testing.drain` with the app in it."""

    def __call__(self, **span: Unpack[Span]) -> list[Ran]: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("greenworker_app", "the App under test: module, or module:attribute", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{_MARK}(errors='raise', at=None): what becomes of tasks' errors ('raise' or 'keep'), and where the "
        "clock stands at first (a datetime with a time zone)",
    )


@pytest.fixture
def greenworker_app(pytestconfig: pytest.Config) -> App:
    """The App under test."""
    from greenworker.commands.find_app import find_app
    from greenworker.errors import ConfigError

    name = pytestconfig.getini("greenworker_app")
    if not name:
        pytest.fail(
            "which App is under test? In pytest's settings greenworker_app = shop.tasks, or a fixture "
            "greenworker_app of yours that returns it",
            pytrace=False,
        )
    try:
        return find_app([name])
    except ConfigError as error:
        pytest.fail(f"greenworker_app = {name}: {error}", pytrace=False)


@pytest.fixture
def greenworker_sent(greenworker_app: App, request: pytest.FixtureRequest) -> Iterator[Sent]:
    """What was sent; it has run by then."""
    with greenworker_app.testing(errors=_marked(request).get("errors", "raise")) as sent:
        yield sent


@pytest.fixture(scope="session")
def greenworker_server() -> Iterator[str]:
    """The URL of a private server."""
    from greenworker.testing.private import server

    with server() as url:
        yield url


@pytest.fixture
def greenworker_clock(
    greenworker_app: App, greenworker_server: str, request: pytest.FixtureRequest
) -> Iterator[Clock]:
    """Time, as the app's schedules and delays see it."""
    from greenworker.testing.moving import clock

    at = _marked(request).get("at")
    with clock(greenworker_app, url=greenworker_server, at=at) as standing:
        yield standing


@pytest.fixture
def greenworker_drain(
    greenworker_app: App,
    greenworker_clock: Clock,  # for what it does
    request: pytest.FixtureRequest,
) -> Drain:
    """Runs what waits, in this process."""
    from greenworker.testing.draining import drain

    return partial(drain, greenworker_app, errors=_marked(request).get("errors", "raise"))


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the marks of the test say, the nearest one first."""
    said: dict[str, Any] = {}
    for mark in request.node.iter_markers(_MARK):
        unknown = [*mark.args, *(name for name in mark.kwargs if name not in _OPTIONS)]
        if unknown:
            pytest.fail(
                f"@pytest.mark.{_MARK} takes {' and '.join(_OPTIONS)}, not {unknown[0]!r}",
                pytrace=False,
            )
        said = {**mark.kwargs, **said}
    return said
