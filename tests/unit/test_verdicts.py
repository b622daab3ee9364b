"""What a task may say of its own run, and what it may not."""

from __future__ import annotations

import pytest

from greenworker import CurrentTask, Retry, Snooze
from greenworker.errors import BadArguments

HUGE = pytest.param(10**400, id="huge")  # no float holds it


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), HUGE, "5", None, True])
def test_a_snooze_is_for_so_many_seconds(seconds: object) -> None:
    with pytest.raises(BadArguments, match=r"Snooze: seconds=.*: give seconds from 0 on"):
        Snooze(seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize("countdown", [-1, float("nan"), HUGE, "5", False])
def test_so_is_a_countdown(countdown: object) -> None:
    current = CurrentTask("id", "t", "default", 0, 1, None)
    with pytest.raises(BadArguments, match=r"retry: countdown=.*: give seconds from 0 on"):
        current.retry(countdown)  # type: ignore[arg-type]


def test_a_retry_is_raised_from_the_error_that_it_is_told() -> None:
    current, error = CurrentTask("id", "t", "default", 0, 1, None), OSError("busy")
    with pytest.raises(Retry, match=r"asked for another attempt in 5 s") as caught:
        current.retry(countdown=5, error=error)
    assert caught.value.__cause__ is error
