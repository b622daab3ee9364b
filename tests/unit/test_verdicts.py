"""What a task may say of its own run, and what it may not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from greenworker import CurrentTask, Retry, Snooze, Throttled
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


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), HUGE, True, [5]])
def test_throttled_is_for_so_many_seconds(seconds: object) -> None:
    with pytest.raises(BadArguments, match=r"Throttled: retry_after=.*: give seconds from 0 on"):
        Throttled(seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(30, 30.0), ("120", 120.0), (None, None), (0, None), (-3.5, None), ("soon", None), ("", None)],
)
def test_throttled_takes_what_the_other_side_says(
    told: float | str | None, seconds: float | None
) -> None:
    assert Throttled(told).retry_after == seconds
    assert Throttled(retry_after=told, key="a").key == "a"
    assert Throttled(told).key is None


def test_throttled_reads_a_date() -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    seconds = Throttled(soon.strftime("%a, %d %b %Y %H:%M:%S GMT")).retry_after
    assert seconds is not None
    assert 3500 < seconds <= 3600


@pytest.mark.parametrize("key", ["", "a b", "host:*", 5, ("a",)])
def test_throttled_names_a_key(key: object) -> None:
    with pytest.raises(BadArguments, match=r"Throttled: key .*: use 1 to 200 printable"):
        Throttled(key=key)  # type: ignore[arg-type]


def test_a_retry_is_raised_from_the_error_that_it_is_told() -> None:
    current, error = CurrentTask("id", "t", "default", 0, 1, None), OSError("busy")
    with pytest.raises(Retry, match=r"asked for another attempt in 5 s") as caught:
        current.retry(countdown=5, error=error)
    assert caught.value.__cause__ is error
