"""When something is due: pure arithmetic, also where clocks change."""

from __future__ import annotations

import itertools
import subprocess
import sys
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from greenworker.errors import DeclarationError
from greenworker.recurrence import Cron, Every, Recurrence, last_until

BERLIN = "Europe/Berlin"


def moments(recurrence: Recurrence, after: str, count: int, tz: str = BERLIN) -> list[str]:
    """The next ones after a moment of that zone, by its clocks, with their distance to UTC."""
    zone = ZoneInfo(tz)
    moment = datetime.fromisoformat(after).replace(tzinfo=zone).timestamp()
    found = []
    for _ in range(count):
        moment = recurrence.after(moment)
        found.append(datetime.fromtimestamp(moment, zone).strftime("%d %H:%M:%S %z"))
    return found


def test_intervals_are_counted_from_1970() -> None:
    assert Every(30).after(1000.0) == 1020.0
    assert Every(30).after(1020.0) == 1050.0
    assert Every(0.5).after(1000.2) == 1000.5
    hour = Every(3600).after(datetime(2026, 11, 22, 16, 30, tzinfo=UTC).timestamp())
    assert hour == datetime(2026, 11, 22, 17, tzinfo=UTC).timestamp()
    assert Every(1 / 3).after(1_790_000_000.0) == pytest.approx(1_790_000_000.2, abs=0.2)


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (Every(30), "every 30"),
        (Every(30.0), "every 30"),
        (Every(0.25), "every 0.25"),
        (Every(604800), "every 604800"),
        (Cron("*/5  *\t* * * ", BERLIN), "cron */5 * * * * Europe/Berlin"),
        (Cron("0 3 * * mon-fri"), "cron 0 3 * * mon-fri UTC"),
        (Cron("0 3 * * *", ZoneInfo(BERLIN)), "cron 0 3 * * * Europe/Berlin"),
    ],
)
def test_what_is_the_same_has_the_same_text(one: Recurrence, text: str) -> None:
    assert one.text == text


@pytest.mark.parametrize(
    "seconds", [0, -1, -0.5, 0.05, float("nan"), float("inf"), 1e9, True, "30", None, [1]]
)
def test_seconds_that_are_none(seconds: object) -> None:
    with pytest.raises(DeclarationError, match=r"give seconds, 0\.1 or more") as caught:
        Every(seconds)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "wrong number of fields"),
        ("* * * *", "wrong number of fields"),
        ("@daily", "wrong number of fields"),
        ("* * * * * * *", "wrong number of fields"),
        ("60 * * * *", "bad minute"),
        ("* 24 * * *", "bad hour"),
        ("* * 0 * *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * * * 8", "bad day-of-week"),
        ("* * * * fry", "bad day-of-week"),
        ("/5 * * * *", "bad minute"),
        ("*/0 * * * *", "bad minute"),
        ("9-5 * * * *", "bad minute"),
        ("61 * * * * *", "bad second"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("x\ny", "wrong number of fields"),
        ("0," * 500 + "0 * * * *", "more than 1,000 characters"),
    ],
)
def test_a_line_that_is_none(line: str, says: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        Cron(line)
    assert says in str(caught.value)
    assert "give minute hour day-of-month month day-of-week, as in '*/5 * * * *'" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", [None, 5, b"* * * * *", print])
def test_a_line_that_is_no_text(line: object) -> None:
    with pytest.raises(DeclarationError, match="give a line of text"):
        Cron(line)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tz", ["Europe/Berln", "Europe", "../x", "/etc/passwd", "x\0", "", None, UTC, 1]
)
def test_a_zone_that_is_none(tz: object) -> None:
    with pytest.raises(DeclarationError, match=r"^tz=.*as in 'Europe/Berlin'") as caught:
        Cron("* * * * *", tz)
    assert "\n" not in str(caught.value)


def test_lines_follow_the_clocks_of_their_zone() -> None:
    assert moments(Cron("0 3 * * *", BERLIN), "2026-01-05T04:00", 2) == [
        "06 03:00:00 +0100", "07 03:00:00 +0100",
    ]  # fmt: skip
    assert moments(Cron("0 3 * * *", "UTC"), "2026-07-05T04:00", 1) == ["05 05:00:00 +0200"]
    assert moments(Cron("30 12 * * MON#1", BERLIN), "2026-07-01T00:00", 2) == [
        "06 12:30:00 +0200", "03 12:30:00 +0200",
    ]  # fmt: skip
    assert moments(Cron("*/20 0 12 * * *", BERLIN), "2026-07-01T12:00:20", 2) == [
        "01 12:00:40 +0200", "02 12:00:00 +0200",
    ]  # fmt: skip


# On 29 March 2026 the clocks of Berlin go from 2:00 to 3:00, on 25 October from 3:00 back to 2:00.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # Left out: it comes right after the gap, and only on that day
        ("30 2 * * *", ["28 02:30:00 +0100", "29 03:00:00 +0200", "30 02:30:00 +0200"]),
        # Two that meet there are one
        ("15,45 2 * * *", ["28 02:15:00 +0100", "28 02:45:00 +0100", "29 03:00:00 +0200",
                           "30 02:15:00 +0200"]),
        ("0 2,3 * * *", ["28 02:00:00 +0100", "28 03:00:00 +0100", "29 03:00:00 +0200",
                         "30 02:00:00 +0200"]),
        # With seconds it is left out indeed
        ("0 30 2 * * *", ["28 02:30:00 +0100", "30 02:30:00 +0200"]),
    ],
)  # fmt: skip
def test_a_time_that_spring_leaves_out(line: str, expected: list[str]) -> None:
    assert moments(Cron(line, BERLIN), "2026-03-27T12:00", len(expected)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # Comes twice: the first one counts
        ("30 2 * * *", ["24 02:30:00 +0200", "25 02:30:00 +0200", "26 02:30:00 +0100"]),
        ("0,30 2-3 25 * *", ["25 02:00:00 +0200", "25 02:30:00 +0200", "25 03:00:00 +0100",
                             "25 03:30:00 +0100"]),
        # With seconds it is twice indeed
        ("0 30 2 * * *", ["24 02:30:00 +0200", "25 02:30:00 +0200", "25 02:30:00 +0100",
                          "26 02:30:00 +0100"]),
    ],
)  # fmt: skip
def test_a_time_that_comes_twice_in_autumn(line: str, expected: list[str]) -> None:
    assert moments(Cron(line, BERLIN), "2026-10-23T12:00", len(expected)) == expected


def test_what_is_each_so_many_minutes_follows_real_time() -> None:
    every = Cron("*/30 * * * *", BERLIN)
    assert moments(every, "2026-03-29T01:10", 3) == [
        "29 01:30:00 +0100", "29 03:00:00 +0200", "29 03:30:00 +0200",
    ]  # fmt: skip
    assert moments(every, "2026-10-25T01:40", 5) == [
        "25 02:00:00 +0200", "25 02:30:00 +0200", "25 02:00:00 +0100", "25 02:30:00 +0100",
        "25 03:00:00 +0100",
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["2026-03-29T01:00:00+00:00", "2026-10-25T01:00:00+00:00"])
@pytest.mark.parametrize(
    "line",
    ["30 2 * * *", "0,30 1-3 * * *", "*/20 * * * *", "5 * * * *", "*/15 2 * * *", "0 30 2,3 * * *"],
)
def test_whoever_asks_from_whatever_moment_is_told_the_same(line: str, change: str) -> None:
    """Workers ask at other times, and after a restart: there is one answer."""
    one = Cron(line, BERLIN)
    at = datetime.fromisoformat(change).timestamp()
    walked = [at - 7200]
    while walked[-1] < at + 90000:
        walked.append(one.after(walked[-1]))
    assert walked == sorted(set(walked))
    for moment in itertools.count(at - 7200, 97.3):
        if moment > at + 7200:
            break
        assert one.after(moment) == next(found for found in walked[1:] if found > moment), moment


# When clocks change: not on the hour, by half an hour, by two, and as usual
CHANGES = [
    ("Pacific/Chatham", "2026-04-04T14:00:00+00:00"),
    ("Pacific/Chatham", "2026-09-26T14:00:00+00:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00+00:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30:00+00:00"),
    ("Antarctica/Troll", "2026-03-29T01:00:00+00:00"),
    ("Antarctica/Troll", "2026-10-25T01:00:00+00:00"),
    (BERLIN, "2026-03-29T01:00:00+00:00"),
    (BERLIN, "2026-10-25T01:00:00+00:00"),
]


@pytest.mark.parametrize(("tz", "change"), CHANGES)
@pytest.mark.parametrize(
    "line",
    [
        "* * * * *",
        "*/10 */3 * * *",
        "*/20 2 * * *",
        "* 1,2 * * *",
        "0 19 0 * * *",
        "0 0,30 1-3 * * *",
    ],
)
def test_what_follows_real_time_is_when_the_clocks_show_it(line: str, tz: str, change: str) -> None:
    """No more and no less, in whatever zone, from whatever moment it is asked; and it comes back."""
    zone, one = ZoneInfo(tz), Cron(line, tz)
    at = round(datetime.fromisoformat(change).timestamp())
    assert (
        datetime.fromtimestamp(at - 1, zone).utcoffset()
        != datetime.fromtimestamp(at, zone).utcoffset()
    )

    def shows_it(minute: int) -> bool:
        by_the_clock = datetime.fromtimestamp(minute, zone).replace(tzinfo=UTC).timestamp()
        return Cron(line, "UTC").after(by_the_clock - 1) == by_the_clock

    minutes = range(at - 5 * 3600, at + 30 * 3600, 60)
    expected = [minute for minute in minutes if shows_it(minute)]
    for moment in range(minutes[0] - 30, expected[-1], 617):
        assert one.after(moment) == next(it for it in expected if it > moment)


def test_a_day_that_is_years_away_is_no_work() -> None:
    one = Cron("*/30 0 29 2 *", "Pacific/Chatham")
    moment = datetime(2028, 2, 29, 0, 30, tzinfo=ZoneInfo("Pacific/Chatham")).timestamp()
    assert (
        one.after(moment) == datetime(2032, 2, 29, tzinfo=ZoneInfo("Pacific/Chatham")).timestamp()
    )
    assert last_until(one, moment + 3e8, moment) > moment + 1e8


@pytest.mark.parametrize(
    "one",
    [Every(30), Every(0.5), Cron("*/5 * * * *"), Cron("* 2 * * *", BERLIN), Cron("30 2 * * 1")],
)
def test_the_last_one_until_a_moment_is_found_without_walking_to_it(one: Recurrence) -> None:
    now = 1_790_000_123.456
    least = one.after(now - 30 * 86400)
    last = last_until(one, now, least)
    assert last <= now < one.after(last)
    assert last_until(one, last, least) == last
    assert last_until(one, least, least) == least
    assert last_until(one, one.after(least) - 0.001, least) == least


def test_a_month_of_seconds_is_no_work() -> None:
    asked = 0

    class Counted(Cron):
        def after(self, moment: float) -> float:
            nonlocal asked
            asked += 1
            return super().after(moment)

    one = Counted("* * * * * *")
    asked = 0
    assert last_until(one, 1_790_000_000.5, 1_787_000_000.0) == 1_790_000_000.0
    assert asked < 50


def test_cronsim_is_imported_by_whoever_declares_a_line() -> None:
    script = """
import sys
from greenworker import App
app = App("redis://127.0.0.1:1")
@app.every(30)
@app.task(name="t")
def task(): ...
assert not {"cronsim", "zoneinfo"} & set(sys.modules)
app.cron("* * * * *", task, name="c")
assert "cronsim" in sys.modules
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
