"""Every scenario once, in its short variant: nothing lost, nothing twice without a cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.report import Report, load

SEED = 1
AT_ONCE = 4  # each has a server of its own, and most of their time is waiting for a lease


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Report]]:
    """What a scenario that was asked for reports; all those asked for begin with the first."""
    asked = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == Path(__file__)
    ]
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="scenario")

    def run(name: str) -> Report:
        return load()[name].run(tmp_path_factory.mktemp(name), SEED, short=True)

    load()  # here: an import in several threads at once is no test of ours
    runs: dict[str, Future[Report]] = {name: pool.submit(run, name) for name in asked}
    yield lambda name: runs[name].result()
    pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", load())
def test_scenario(name: str, played: Callable[[str], Report]) -> None:
    report = played(name)
    assert not report.verdict.problems
    assert report.verdict.sent > 0
