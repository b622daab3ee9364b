"""What `greenworker top` draws, at several widths, with colours and without: nothing is ever wider."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from textwrap import dedent

import pytest

from greenworker.running import Vitals
from greenworker.status import QueueStatus, Status, WorkerStatus
from greenworker.top.frame import HELP, KEY, QUEUE, SORTS, Choice, Look, choices, frame, shares
from greenworker.top.sample import Heard, Key, Keys, Sample, Worker
from greenworker.top.table import cells, cut, middle_cut, pad, plain
from greenworker.top.verdict import away, verdict
from greenworker.top.view import console, text_of
from greenworker.top.words import age, memory, number, rate

VITALS = Vitals(
    size=10, used=2, stuck=0, begun=0, succeeded=0, failed=0, retried=0, throttled=0,
    lag=0.001, worst_lag=0.003, memory=112 << 20, cpu=1.0, up=10.0,
)  # fmt: skip
QUEUES = [
    QueueStatus("crawl", 12_345, 0, 2, keyed=12_345),
    QueueStatus("default", 0, 0, 2),
    QueueStatus("mail", 7, 0, 1, paused=True),
]
WORKERS = (
    Worker(
        WorkerStatus("a", "web-1.4711", ["crawl", "default"], 100, 12, 25.0),
        Heard(VITALS, cpu=0.45, per_second=61.2),
    ),
    Worker(
        WorkerStatus("b", "web-2.993", ["crawl", "mail"], 100, 0, 25.0),
        Heard(replace(VITALS, worst_lag=3.2), cpu=0.97, blocks="tasks.parse"),
    ),
    # One of a version that says no vitals, and one that says nothing.
    Worker(WorkerStatus("c", "old", ["default"], 10, 0, 25.0), Heard()),
    Worker(WorkerStatus("d", "mute", ["default"], 10, 0, 25.0), Heard(silent=True)),
)
KEYS = Keys(
    (
        Key("host:a.example", "concurrency=2 rate=100/min", 2, 812, "busy", None, 99.5, 0.12, 1.3, 3, 0.6, 2),
        Key("host:b.example", "delay=0.25", 1, 11_000, "later", 0.2, 240.0, 0.01, 0.02, 0, 0.25),
        Key("host:kein.example", "", 0, 533, "throttled", 28.0, 0.0, None, None, 41),
    )
)  # fmt: skip
SAMPLE = Sample(
    Status(QUEUES, [worker.status for worker in WORKERS], 3, 1, 12.0, {"done": 1, "throttled": 4}),
    WORKERS,
    {"done": 61.2, "retried": 0.5, "throttled": 1.0},
    KEYS,
)
TITLE = "greenworker top  redis://10.0.0.5:6379/0  namespace default"


def drawn(width: int, sample: Sample = SAMPLE, **look: object) -> str:
    lines = frame(sample, verdict(sample), Look(TITLE, width, **look))  # type: ignore[arg-type]
    assert all(cells(plain(line)) <= width for line in lines)
    return "\n".join(plain(line) for line in lines) + "\n"


FRAMES = {
    122: """
        greenworker top  redis://10.0.0.5:6379/0  namespace default
        limited by keys: host:b.example (one each 250 ms), host:a.example (2 at once) and 1 more; 12,345 wait: they allow no more;
          l changes one
        12,352 waiting · 12 running · 61 done/s · 0 failed/s · 0.5 retried/s · 1.0 throttled/s · 3 scheduled · 1 dead

        queue    waiting  workers  state
        crawl     12,345        2  ok
        default        0        2  ok
        mail           7        1  paused

        worker        slots  runs/s     lag   cpu  memory  state    queues
        mute           0/10       -       -     -       -  silent   default
        web-2.993     0/100       -   3.2 s   97%    112M  blocked  crawl,mail
        old            0/10       -       -     -       -  ok       default
        web-1.4711   12/100      61    3 ms   45%    112M  ok       crawl,default

        key                waiting*  running  per min     p50     p95  refused   delay  state           limit
        host:b.example       11,000        1      240   10 ms   20 ms        0  250 ms  later 200 ms    delay=0.25
        host:a.example          812        2      100  120 ms   1.3 s        3  600 ms  busy            concurrency=2 rate=100/min
        host:kein.example       533        0        0       -       -       41       -  throttled 28 s
    """,
    80: """
        greenworker top  redis://10.0.0.5:6379/0  namespace default
        limited by keys: host:b.example (one each 250 ms), host:a.example (2 at once)
          and 1 more; 12,345 wait: they allow no more; l changes one
        12,352 waiting · 12 running · 61 done/s · 0 failed/s · 0.5 retried/s

        queue    waiting  workers  state
        crawl     12,345        2  ok
        default        0        2  ok
        mail           7        1  paused

        worker        slots  runs/s     lag   cpu  memory  state    queues
        mute           0/10       -       -     -       -  silent   default
        web-2.993     0/100       -   3.2 s   97%    112M  blocked  crawl,mail
        old            0/10       -       -     -       -  ok       default
        web-1.4711   12/100      61    3 ms   45%    112M  ok       crawl,default

        key                waiting*  running  per min     p95  refused  state
        host:b.example       11,000        1      240   20 ms        0  later 200 ms
        host:a.example          812        2      100   1.3 s        3  busy
        host:kein.example       533        0        0       -       41  throttled 28 s
    """,
    60: """
        greenworker top  redis://10.0.0.5:6379/0  namespace default
        limited by keys: host:b.example (one each 250 ms),
          host:a.example (2 at once) and 1 more; 12,345 wait: they
          allow no more; l changes one
        12,352 waiting · 12 running · 61 done/s · 0 failed/s

        queue    waiting  workers  state
        crawl     12,345        2  ok
        default        0        2  ok
        mail           7        1  paused

        worker        slots  runs/s     lag   cpu  memory  state
        mute           0/10       -       -     -       -  silent
        web-2.993     0/100       -   3.2 s   97%    112M  blocked
        old            0/10       -       -     -       -  ok
        web-1.4711   12/100      61    3 ms   45%    112M  ok

        key                waiting*  running  state
        host:b.example       11,000        1  later 200 ms
        host:a.example          812        2  busy
        host:kein.example       533        0  throttled 28 s
    """,
    40: """
        greenworker top  redis://10.0.0.5:6379/…
        limited by keys: host:b.example (one
          each 250 ms), host:a.example (2 at
          once) and 1 more; 12,345 wait: they
          allow no more; l changes one
        12,352 waiting · 12 running · 61 done/s

        queue    waiting  workers  state
        crawl     12,345        2  ok
        default        0        2  ok
        mail           7        1  paused

        worker        slots   cpu  state
        mute           0/10     -  silent
        web-2.993     0/100   97%  blocked
        old            0/10     -  ok
        web-1.4711   12/100   45%  ok

        key             waiting*  state
        host:b.example    11,000  later 200 ms
        host:a.example       812  busy
        host:ke…xample       533  throttled 28 s
    """,
}


@pytest.mark.parametrize("width", FRAMES)
def test_a_frame(width: int) -> None:
    assert drawn(width) == dedent(FRAMES[width]).lstrip("\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(
    monkeypatch: pytest.MonkeyPatch, width: int, colours: bool = True, **environ: str
) -> str:
    """A frame as a terminal gets it."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(width), **environ}.items():
        monkeypatch.setenv(name, value)
    file = Terminal()
    look = Look(TITLE, width, chosen=Choice(KEY, "host:a.example"))
    lines = frame(SAMPLE, verdict(SAMPLE), look)
    console(colours, file).print(text_of(lines), no_wrap=True, crop=False)
    return file.getvalue()


@pytest.mark.parametrize("width", FRAMES)
def test_colours_change_no_text(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = printed(monkeypatch, width)
    assert "\x1b[1;31mblocked" in told.replace("  blocked", "blocked")
    bare = re.sub(r"\x1b\[[\d;]*m", "", told)
    assert [line.rstrip() for line in bare.splitlines()] == drawn(width).splitlines()


@pytest.mark.parametrize("how", [{"colours": False}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_there_are_none(
    how: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = printed(monkeypatch, 80, **how)  # type: ignore[arg-type]
    codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", told) for code in found.split(";")}
    assert codes <= {"0", "1", "2", "7"}, "bold, dim and reverse are no colours"


@pytest.mark.parametrize("width", [1, 2, 10, 23, 39, 61, 200])
@pytest.mark.parametrize("height", [1, 2, 5, 9, 14, 50, None])
def test_no_terminal_is_too_small(width: int, height: int | None) -> None:
    for chosen in (None, *choices(SAMPLE, "waiting")):
        text = drawn(width, height=height, chosen=chosen)
        assert height is None or len(text.splitlines()) == height


def test_what_has_no_room_says_how_much_it_is() -> None:
    many = [QueueStatus(f"q{n:03}", n, 0, 1) for n in range(200)]
    sample = replace(SAMPLE, status=replace(SAMPLE.status, queues=many))
    text = drawn(80, sample, height=30)
    assert re.search(r"\nqueue 1\d of 200 ", text)
    assert "\nq000 " in text
    # What is chosen is in sight, wherever it stands
    assert "\nq150 " in drawn(80, sample, height=30, chosen=Choice(QUEUE, "q150"))
    busiest = replace(SAMPLE, keys=replace(KEYS, all=False))
    assert "\nkey 3 busiest " in drawn(80, busiest)


def test_on_paper_twenty_keys_are_enough() -> None:
    many = tuple(Key(f"k{n}", waiting=n) for n in range(50))
    text = drawn(80, replace(SAMPLE, keys=Keys(many)))
    assert "key 20 of 50 " in text
    assert "\nk49 " in text
    assert "\nk1 " not in text


@pytest.mark.parametrize(
    ("needs", "height", "rooms"),
    [
        ((3, 4, 3), 100, [3, 4, 3]),
        ((3, 4, 30), 21, [3, 4, 8]),
        ((100, 100, 100), 21, [5, 5, 5]),
        ((0, 1, 9), 9, [0, 1, 4]),
        ((3, 4, 3), 5, [0, 0, 0]),
        ((3, 4, 3), -1, [0, 0, 0]),
    ],
)
def test_shares_of_a_screen(needs: tuple[int, ...], height: int, rooms: list[int]) -> None:
    assert shares(needs, height) == rooms


def test_keys_are_sorted_as_it_pleases() -> None:
    first = {sort: choices(SAMPLE, sort)[len(QUEUES)].name for sort in SORTS}
    assert first == {
        "waiting": "host:b.example", "running": "host:a.example", "per min": "host:b.example",
        "p95": "host:a.example", "refused": "host:kein.example",
    }  # fmt: skip
    assert "p95*" in drawn(120, sort="p95")


def test_the_last_line_says_what_keys_do_or_what_they_have_done() -> None:
    assert drawn(80, height=30).splitlines()[-1] == "  ".join(HELP)
    assert drawn(80, height=30, footer="mail: paused").splitlines()[-1] == "mail: paused"
    # However narrow it is, it says how to get out
    assert drawn(24, height=30).splitlines()[-1] == "j/k choose  q quit"


def test_who_may_not_ask_workers_is_told_so() -> None:
    assert "\nthis user of the server may not ask workers" in drawn(
        60, replace(SAMPLE, mute="NOPERM")
    )


def test_before_the_first_sample_and_while_the_server_is_away() -> None:
    lines = frame(None, away("refused"), Look(TITLE, 60, 6))
    assert plain(lines[1]) == "the server does not answer: refused: shown is what was there"
    assert len(lines) == 6


def test_what_others_are_called_is_as_wide_as_it_is() -> None:
    assert (cells("漢字"), cells("é"), cells("a")) == (4, 1, 1)
    assert cut("漢字x", 4) == "漢…"
    assert pad("漢", 4) == "漢  "
    # What differs in many names is their ends.
    assert middle_cut("host:127.0.0.1:8391", 14) == "host:12…1:8391"
    assert middle_cut("host:127.0.0.1:8391", 19) == "host:127.0.0.1:8391"
    assert [middle_cut("abcdef", width) for width in range(6)] == [
        "",
        "…",
        "a…",
        "a…f",
        "ab…f",
        "ab…ef",
    ]
    assert middle_cut("漢字漢字", 6) == "漢…字"
    assert pad("漢", 4, right=True) == "  漢"
    wide = tuple(Key("漢字" * 20, waiting=1) for _ in range(2))
    drawn(40, replace(SAMPLE, keys=Keys(wide)))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (number(99_999), "99,999"), (number(123_456), "123k"), (number(12_345_678), "12M"),
        (rate(None), "-"), (rate(0.0), "0"), (rate(0.013), "0.01"), (rate(2.26), "2.3"), (rate(1234.5), "1,234"),
        (age(None), "-"), (age(0.0), "0 ms"), (age(0.9999), "1.0 s"), (age(59.6), "60 s"), (age(600.0), "10 min"),
        (age(7200.0), "2 h"), (age(1e6), "12 d"),
        (memory(None), "-"), (memory(112 << 20), "112M"), (memory(3 << 30), "3.0G"),
    ],
)  # fmt: skip
def test_numbers_that_fit_into_a_column(told: str, words: str) -> None:
    assert told == words
