"""Retry arithmetic: bounds, the draw, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from greenworker.backoff import Backoff, as_backoff
from greenworker.errors import DeclarationError

HUGE = pytest.param(10**400, id="huge")  # no float holds it


def test_the_bound_grows_by_the_factor_up_to_the_cap() -> None:
    backoff = Backoff(base=1.0, factor=2.0, cap=10.0)
    assert [backoff.bound(retry) for retry in (1, 2, 3, 4, 5, 6)] == [1, 2, 4, 8, 10, 10]


def test_the_delay_is_drawn_between_least_and_the_bound() -> None:
    backoff = Backoff(base=8.0, least=2.0)
    assert backoff.delay(1, lambda: 0.0) == 2.0
    assert backoff.delay(1, lambda: 0.5) == 5.0
    assert backoff.delay(1, lambda: 1.0) == 8.0


def test_a_least_above_the_bound_is_the_delay() -> None:
    assert Backoff(base=1.0, least=5.0).delay(1, lambda: 0.9) == 5.0


def test_random_delays_keep_the_bounds() -> None:
    backoff = Backoff(base=1.0, factor=3.0, cap=60.0, least=0.5)
    for retry in range(1, 20):
        assert 0.5 <= backoff.delay(retry) <= max(0.5, backoff.bound(retry))


@pytest.mark.parametrize("retry", [1_000, 10**6])
def test_a_huge_number_of_retries_waits_for_the_cap(retry: int) -> None:
    assert Backoff(base=1.0, factor=2.0, cap=600.0).bound(retry) == 600.0


def test_no_waiting_at_all() -> None:
    assert Backoff(base=0.0).delay(7) == 0.0
    assert Backoff(base=0.0).bound(10**6) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"base": -1},
        {"factor": 0.5},
        {"cap": -1},
        {"least": -0.1},
        {"base": float("nan")},
        {"factor": float("nan")},
        {"least": float("nan")},
        {"least": float("inf")},
        {"cap": float("inf")},
        {"base": "1"},
        {"base": 10**400},
        {"cap": True},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match="the factor is at least 1"):
        Backoff(**wrong)


def test_seconds_are_short_for_a_backoff() -> None:
    assert as_backoff(2) == as_backoff(2.0) == Backoff(base=2.0)
    given = Backoff(cap=1.0)
    assert as_backoff(given) is given


@pytest.mark.parametrize("value", ["2", True, None])
def test_what_is_no_backoff_is_refused_with_the_mend(value: Any) -> None:
    with pytest.raises(DeclarationError, match=r"greenworker\.Backoff"):
        as_backoff(value)


def test_a_list_is_one_of_delays_and_the_last_one_lasts() -> None:
    backoff = as_backoff([1, 5, 60.0])
    assert [backoff.delay(retry) for retry in (1, 2, 3, 4, 99)] == [1, 5, 60.0, 60.0, 60.0]


def test_a_function_computes_them() -> None:
    backoff = as_backoff(lambda retry: 10.0 * retry)
    assert [backoff.delay(retry) for retry in (1, 2)] == [10.0, 20.0]


@pytest.mark.parametrize("answer", ["1", None, -1, float("nan"), float("inf"), HUGE, True])
def test_what_it_answers_must_be_seconds(answer: object) -> None:
    with pytest.raises(ValueError, match=r"for retry 3, not seconds"):
        as_backoff(lambda _: answer).delay(3)


@pytest.mark.parametrize(
    "value", [[], [1, -1], [1, "2"], [10**400], "12", b"12", {1: 2}, True, None, -1, int, HUGE]
)
def test_what_is_no_backoff_is_refused(value: object) -> None:
    with pytest.raises(DeclarationError, match="backoff="):
        as_backoff(value)
