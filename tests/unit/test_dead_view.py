"""What the command line prints of dead letters: readable, harmless, and no argument unasked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from greenworker.commands import dead_view, text
from greenworker.dead import DeadLetter

NOW = 1_700_000_000.0
LETTER = DeadLetter(
    id="m1", task="shop.pay", queue="mail", reason="failed", error="ValueError",
    message="no", traceback="Traceback:\n\tline 7\n", sent=NOW - 3700, died=NOW - 100,
    deliveries=2, attempt=3, worker="busy bee", incarnation="77ab",
    args=["canary"], kwargs={"to": "canary"},
)  # fmt: skip
HOSTILE = "a\x1b[31m\x00\x07\x7f\x9b2J\u202e\u200b\u2028\ud800\r\nb"


@pytest.mark.parametrize(
    ("said", "harmless"),
    [
        ("plain, caf\u00e9 \u20ac \u65e5\u672c", "plain, caf\u00e9 \u20ac \u65e5\u672c"),
        ("", ""),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\udcff", "\\udcff"),
        ("\r\n", "\\r\\n"),
    ],
)
def test_what_a_terminal_may_obey_is_shown_as_an_escape(said: str, harmless: str) -> None:
    assert text.harmless(said) == harmless
    assert text.harmless(said).isprintable()


def test_one_line() -> None:
    assert text.one_line("two\n  lines\tof\x1b text ") == "two lines of\\x1b text"
    assert text.one_line("0123456789", 10) == "0123456789"
    assert text.one_line("0123456789", 9) == "01234567…"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0s"), (0.5, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"),
        (86399, "23h"), (86400, "1d"), (2e6, "23d"),
    ],
)  # fmt: skip
def test_ages(seconds: float, said: str) -> None:
    assert text.age(seconds) == said


def test_moments() -> None:
    assert text.moment(NOW) == "2023-11-14 22:13:20 UTC"
    assert text.moment(1e12) == "1000000000000"


def test_a_table_is_as_wide_as_it_needs_to_be() -> None:
    long = replace(LETTER, id="m" * 12, task="t", died=NOW - 9e4, message="two\nlines")
    table = dead_view.Table([LETTER, long], NOW, None)
    assert [table.header, table.row(LETTER), table.row(long)] == [
        "id            age  task      reason  error",
        "m1            1m   shop.pay  failed  ValueError: no",
        "mmmmmmmmmmmm  1d   t         failed  ValueError: two lines",
    ]


def test_the_error_is_cut_to_the_terminals_width() -> None:
    letter = replace(LETTER, message="x" * 500)
    assert len(dead_view.Table([letter], NOW, 80).row(letter)) == 80
    # However narrow: the id is there to be copied
    assert (
        dead_view.Table([letter], NOW, 5).row(letter).startswith("m1  1m   shop.pay  failed  Val")
    )
    assert len(dead_view.Table([letter], NOW, None).row(letter)) > 500


def test_a_page() -> None:
    assert dead_view.page(LETTER, NOW, values=True) == [
        "id          m1",
        "task        shop.pay",
        "queue       mail",
        "reason      failed",
        "error       ValueError: no",
        "died        2023-11-14 22:11:40 UTC, 1m ago",
        "sent        2023-11-14 21:11:40 UTC, 1h before",
        "attempt     3",
        "deliveries  2",
        "worker      busy bee (77ab)",
        'args        ["canary"]',
        'kwargs      {"to":"canary"}',
        "traceback",
        "  Traceback:",
        "          line 7",
    ]


def test_a_page_of_what_is_no_message() -> None:
    letter = replace(
        LETTER, args=None, kwargs=None, raw=b"\xff\x1b rubbish", sent=0.0, traceback=""
    )
    page = dead_view.page(letter, NOW, values=True)
    assert "sent        ?" in page
    assert page[-1] == "envelope    \\xff\\x1b rubbish"


def test_no_argument_is_shown_unasked() -> None:
    raw = replace(LETTER, args=None, kwargs=None, raw=b"canary")
    for letter in (LETTER, raw):
        page = dead_view.page(letter, NOW, values=False)
        assert "arguments   not shown without --values" in page
        assert "canary" not in "\n".join(page)
        assert "canary" not in json.dumps(dead_view.as_json(letter, values=False))
        assert "canary" in "\n".join(dead_view.page(letter, NOW, values=True))
        assert "canary" in json.dumps(dead_view.as_json(letter, values=True))


def test_nothing_that_others_wrote_reaches_the_terminal_as_it_is() -> None:
    letter = replace(
        LETTER, id=HOSTILE, task=HOSTILE, queue=HOSTILE, reason=HOSTILE, error=HOSTILE,
        message=HOSTILE, traceback=HOSTILE, worker=HOSTILE, incarnation=HOSTILE,
        args=[HOSTILE[:-4]], kwargs={HOSTILE[:-4]: HOSTILE[:-4]}, sent=1e12,
    )  # fmt: skip
    table = dead_view.Table([letter], NOW, 200)
    printed = [table.header, table.row(letter), *dead_view.page(letter, NOW, values=True)]
    raw = replace(letter, args=None, kwargs=None, raw=HOSTILE.encode("utf-8", "surrogatepass"))
    printed += dead_view.page(raw, NOW, values=True)
    printed += [json.dumps(dead_view.as_json(one, values=True)) for one in (letter, raw)]
    assert all(line.isprintable() for line in printed)


def test_json_tells_all() -> None:
    told = json.loads(json.dumps(dead_view.as_json(LETTER, values=True)))
    assert told == {
        "id": "m1", "task": "shop.pay", "queue": "mail", "reason": "failed", "error": "ValueError",
        "message": "no", "traceback": "Traceback:\n\tline 7\n", "sent": NOW - 3700,
        "died": NOW - 100, "deliveries": 2, "attempt": 3, "worker": "busy bee",
        "incarnation": "77ab", "args": ["canary"], "kwargs": {"to": "canary"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "fates", "dry_run", "said"),
    [
        ("retry", {"retried": 1200}, False, "1,200 retried"),
        ("retry", {}, False, "0 retried"),
        ("delete", {"deleted": 3}, False, "3 deleted"),
        ("delete", {"deleted": 3}, True, "would delete 3; nothing was changed"),
        (
            "retry",
            {"retried": 3, "present": 2, "unreadable": 1},
            True,
            "would retry 3; left: 2 present again, 1 unreadable; nothing was changed",
        ),
        (
            "retry",
            {"retried": 500, "gone": 1, "unknown": 499},
            False,
            "500 retried; left: 1 already gone; perhaps 499 more, whose reply did not arrive",
        ),
    ],
)
def test_summaries(verb: str, fates: dict[str, int], dry_run: bool, said: str) -> None:
    assert dead_view.summary(verb, fates, dry_run) == said
