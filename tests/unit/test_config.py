"""WorkerConfig: what makes no sense is refused at once, in a line that says the mend."""

from __future__ import annotations

from typing import Any

import pytest

from greenworker.errors import ConfigError
from greenworker.worker import WorkerConfig

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("what", ["timeout", "grace", "block_warn", "max_block", "lease"])
@pytest.mark.parametrize("value", [NAN, INF, -1, 1e9, "3", None, True])
def test_seconds_that_are_none(what: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{what} {value!r}: give (seconds, 0|at least 1)"):
        WorkerConfig(**{what: value})


@pytest.mark.parametrize(
    ("what", "values"),
    [
        ("concurrency", (0, "3", 2.0, True, None)),
        ("threads", (0, "3", 2.0, True, None)),
        ("max_deliveries", (0, -5, "3", 3.0, True, None)),
        ("max_tasks", (-1, "3", 3.0, False, None)),
        ("max_memory", (-1, "500M", False, None)),
        ("max_stuck", (-1, "3", False)),
    ],
)
def test_numbers_that_are_none(what: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"^{what} {value!r}: give a whole number, "):
            WorkerConfig(**{what: value})


@pytest.mark.parametrize("what", ["burst", "solo", "log_values", "allow_eviction"])
@pytest.mark.parametrize("value", ["no", 0, None])
def test_switches_that_are_none(what: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{what} {value!r}: give True or False"):
        WorkerConfig(**{what: value})


def test_whole_seconds_will_do() -> None:
    config = WorkerConfig(timeout=0, grace=5, lease=1, block_warn=0, max_block=0, max_stuck=None)
    assert (config.grace, config.lease) == (5, 1)
