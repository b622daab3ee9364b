"""The panel of `greenworker top`: what keys do; and how samples come about. No terminal and no server."""

from __future__ import annotations

import os
import pty
import re
import termios
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson
import pytest

from greenworker.admission import KeyState
from greenworker.control import Switched
from greenworker.errors import ConfigError, UnsuitableServer
from greenworker.limit import Limit, make_limit
from greenworker.running import Vitals
from greenworker.status import QueueStatus, Status, WorkerStatus
from greenworker.top.keyboard import Keyboard, keys_in
from greenworker.top.keys import as_key, written
from greenworker.top.orders import Orders, limit_options
from greenworker.top.panel import Panel, prompt_line
from greenworker.top.sample import Key, Keys, Sample, rates
from greenworker.top.source import BUSIEST, CHUNK, Busiest
from greenworker.top.survey import Survey
from greenworker.top.table import plain


class Acts:
    """Notes what is asked for."""

    def __init__(self) -> None:
        self.done: list[tuple[str, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.done.append((name, *args)) or f"{name} {args[0]}"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sample(*keys: Key, paused: bool = False) -> Sample:
    queues = [QueueStatus("default", 0, 0, 1), QueueStatus("mail", 3, 0, 1, paused)]
    return Sample(Status(queues, [], 0, 0, None, {}), keys=Keys(keys))


KEYS = (
    Key("a", "rate=100/min", waiting=9, state="busy"),
    Key("b", waiting=8, state="throttled", until=9.0),
    Key("c", "concurrency=0", waiting=7, state="stopped", concurrency=0),
    Key("d", waiting=6, state="held"),
)


class Session:
    def __init__(self, seen: Sample) -> None:
        self.acts, self.clock = Acts(), Clock()
        self.panel = Panel("top", self.acts, self.clock)
        self.panel.see(seen)

    def press(self, *keys: str) -> list[tuple[str, ...]]:
        self.acts.done.clear()
        for key in keys:
            act = self.panel.press(key)
            if act is not None:
                self.panel.say(act())
        return list(self.acts.done)

    @property
    def lines(self) -> list[str]:
        return [plain(line) for line in self.panel.draw(80, 30)]

    @property
    def chosen(self) -> str:
        """The row that is shown in reverse."""
        for line in self.panel.draw(80, 30):
            if line and line[0][1] == "chosen":
                return line[0][0].split()[0]
        return ""


def test_rows_are_chosen_from_the_first_queue_to_the_last_key() -> None:
    at = Session(sample(*KEYS[:2]))
    assert at.chosen == ""
    seen = []
    for _ in range(6):
        at.press("j")
        seen.append(at.chosen)
    assert seen == ["default", "mail", "a", "b", "b", "b"]
    at.press("up")
    assert at.chosen == "a"
    # It stays chosen wherever its row goes, and leaves its place to the next one when it has gone
    at.panel.see(sample(replace(KEYS[1], waiting=99), KEYS[0]))
    assert at.chosen == "a"
    at.panel.see(sample(KEYS[1], KEYS[2], KEYS[3]))
    assert at.chosen == ""
    at.press("j")
    assert at.chosen == "c"
    at.press("escape")
    assert at.chosen == ""
    at.press("k")
    assert at.chosen == "d", "from below"


def test_p_pauses_what_goes_on_and_resumes_what_does_not() -> None:
    at = Session(sample(*KEYS, paused=True))
    assert at.press("p") == []
    assert at.lines[-1] == "choose a row first, with j and k"
    done = [at.press("j", "p") for _ in range(6)]
    assert done == [
        [("pause", "default")], [("resume", "mail")],
        [("hold", "a")], [("let_go", "b")], [("hold", "c")], [("let_go", "d")],
    ]  # fmt: skip
    assert at.lines[-1] == "let_go d"
    at.clock.now += 10
    assert "q quit" in at.lines[-1], "what was said is over"


def test_l_changes_a_limit() -> None:
    at = Session(sample(*KEYS))
    assert at.press("j", "l") == []
    assert at.lines[-1] == "limits are for keys: choose one, with j and k"
    assert at.press("j", "j", "l") == []
    assert at.lines[-1] == "limit of a (e.g. rate=100/min, or drop): rate=100/min_"
    # What is typed are no orders, until it is entered
    assert at.press("backspace", "backspace", "backspace", *"sjpq") == []
    assert at.lines[-1].endswith(": rate=100/sjpq_")
    assert at.press("clear", *"rate=5/s  burst=2 ", "enter") == [("limit", "a", "rate=5/s burst=2")]
    assert at.lines[-1] == "limit a"
    for keys in (("escape",), ("quit",), ("clear", " ", "enter")):
        assert at.press("l", *keys) == []
        assert "limit of" not in at.lines[-1]
    assert not at.panel.quits


def rows(at: Session) -> list[str]:
    return [line.split()[0] for line in at.lines if line.startswith(("a ", "b "))]


def test_s_sorts_keys() -> None:
    at = Session(sample(Key("a", waiting=9), Key("b", waiting=1, running=5)))
    assert rows(at) == ["a", "b"]
    at.press("s")
    assert at.lines[-1] == "keys by running, the most of it first"
    assert rows(at) == ["b", "a"]


@pytest.mark.parametrize("key", ["q", "quit"])
def test_quit(key: str) -> None:
    at = Session(sample())
    at.press(key)
    assert at.panel.quits


def test_while_the_server_is_away_the_last_sample_stays() -> None:
    at = Session(sample(*KEYS))
    at.panel.is_away("refused")
    assert at.lines[1] == "the server does not answer: refused: shown is what was there last"
    assert any(line.startswith("mail ") for line in at.lines)
    at.panel.see(sample())
    assert "does not answer" not in at.lines[1]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "limit of host:a (e.g. rate=100/min, or drop): rate=100/min burst=20_"),
        (50, "limit of host:a: rate=100/min burst=20_"),
        (36, "limit: rate=100/min burst=20_"),
        (20, "limit: …in burst=20_"),
    ],
)
def test_what_is_typed_has_its_end_in_sight(width: int, line: str) -> None:
    assert prompt_line("host:a", "rate=100/min burst=20", width) == line


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]), (b"jjk", ["j", "j", "k"]), (b"\x1b[A\x1b[B\x1bOA\x1bOB", ["up", "down", "up", "down"]),
        (b"\x1b", ["escape"]), (b"\x1b[1;5C\x1b[15~x", ["x"]), (b"\r\n\x7f\x08", ["enter", "enter", "backspace", "backspace"]),
        (b"\x15\x03\x04", ["clear", "quit", "quit"]), ("é漢".encode(), ["é", "漢"]), (b"\xff\xfe\x00\x01", []),
    ],
)  # fmt: skip
def test_keys_as_terminals_send_them(data: bytes, keys: list[str]) -> None:
    assert keys_in(data) == keys


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Its two ends: the one that types, and the program's."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


def test_keys_come_as_they_are_pressed(terminal: tuple[int, int]) -> None:
    typing, reading = terminal
    with Keyboard(reading) as keyboard:
        flags = termios.tcgetattr(reading)[3]
        assert not flags & (termios.ECHO | termios.ICANON)
        assert flags & termios.ISIG
        # One that comes in two parts is one
        os.write(typing, b"\x1b[")
        os.write(typing, b"A")
        assert keyboard.read() == ["up"]
        os.write(typing, b"\x1b")
        assert keyboard.read() == ["escape"]


def test_a_terminal_is_given_back_as_it_was(terminal: tuple[int, int]) -> None:
    _, reading = terminal
    before = termios.tcgetattr(reading)

    def fail() -> None:
        with Keyboard(reading) as keyboard:
            keyboard.take()  # again, after a shell has had it
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert termios.tcgetattr(reading) == before


class Told:
    """An App, as far as orders go."""

    def __init__(self, known: bool = True) -> None:
        self.limits, self._known = self, known
        self.done: list[Any] = []

    def pause(self, queue: str) -> list[Switched]:
        return [Switched(queue, self._known, True)]

    resume = pause

    def hold(self, *args: Any) -> bool:
        self.done.append(args)
        return True

    def drop(self, key: str) -> bool:
        return self._known

    def set(self, key: str, *, none: bool = False, **options: Any) -> Limit:
        self.done.append({"none": none, **options})
        return make_limit(key, options)


@pytest.mark.parametrize(
    ("order", "says", "else_says"),
    [
        (lambda orders: orders.pause("q"), "q: paused", "q: was paused already"),
        (lambda orders: orders.resume("q"), "q: resumed", "q: was not paused"),
        (lambda orders: orders.limit("k", "drop"), "k: its own limit is dropped; what code says counts, or a pattern", "k: nobody has set a limit of its own"),
        (lambda orders: orders.limit("k", "none"), "k: no limit", "k: no limit"),
        (lambda orders: orders.limit("k", "rate=5/s burst=2 delay=0.5"), "k: delay 0.5 s, rate 5/s, burst 2", ""),
        (lambda orders: orders.limit("k", "concurrency=0"), "k: concurrency 0", ""),
        (lambda orders: orders.hold("k"), "k: held until it is resumed; what runs goes on", ""),
    ],
)  # fmt: skip
def test_orders_say_what_they_did(order: Any, says: str, else_says: str) -> None:
    assert order(Orders(Told())) == says  # type: ignore[arg-type]
    if else_says:
        assert order(Orders(Told(known=False))) == else_says  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("concurrency=2 delay=0.25", {"concurrency": 2, "delay": 0.25}),
        ("rate=100/min burst=20", {"rate": "100/min", "burst": 20}),
        ("adaptive floor=1/min", {"adaptive": True, "floor": "1/min"}),
        ("adaptive=0", {"adaptive": False}),
        ("nonsense=1", {"nonsense": "1"}),
    ],
)
def test_a_limit_as_it_is_typed(text: str, options: dict[str, Any]) -> None:
    assert limit_options(text) == options


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fast", "'fast': write name=value, as in concurrency=2 rate=100/min"),
        ("concurrency=x", "concurrency=x: give a whole number"),
        ("burst=1.5", "burst=1.5: give a whole number"),
        ("delay=soon", "delay=soon: give seconds"),
        ("adaptive=perhaps", "adaptive=perhaps: give 1 or 0"),
        ("nonsense=1", "limit k: no option 'nonsense'"),
        ("rate=fast", "limit k: rate='fast'"),
    ],
)
def test_a_limit_that_is_none(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        Orders(Told()).limit("k", text)  # type: ignore[arg-type]


def test_a_limit_is_written_as_it_can_be_typed() -> None:
    said = {
        "concurrency": 2, "delay": 0.25, "rate": "100/min", "burst": 20, "adaptive": True, "floor": "1/min", "ceiling": "10/s",
    }  # fmt: skip
    limit = make_limit("k", said)
    text = "concurrency=2 delay=0.25 rate=100/min burst=20 adaptive=1 floor=1/min ceiling=10/s"
    assert written(limit) == text
    assert make_limit("k", limit_options(text)) == limit


def test_a_key_as_the_server_tells_it() -> None:
    state = KeyState(
        "k",
        "k*",
        make_limit("k*", {"delay": 0.25, "rate": "60/min"}),
        1,
        2,
        "later",
        0.5,
        3.0,
        0.1,
        None,
        4,
        None,
    )
    assert as_key(state) == Key(
        "k", "delay=0.25 rate=60/min", 1, 2, "later", 0.5, 3.0, 0.1, None, 4, 1.0
    )
    assert as_key(replace(state, interval=9.0)).interval == 9.0, "what was learnt counts"
    bare = as_key(replace(state, limit=None, due_in=1e12, state="held"))
    assert (bare.limit, bare.interval, bare.until) == ("", None, None)


# --- how samples come about

VITALS = Vitals(
    size=10, used=2, stuck=0, begun=0, succeeded=100, failed=10, retried=0, throttled=0,
    lag=0.0, worst_lag=0.0, memory=1, cpu=1.0, up=10.0,
)  # fmt: skip


def says(vitals: Vitals | None = None, *tasks: dict[str, Any]) -> bytes:
    more = {} if vitals is None else {"vitals": asdict(vitals)}
    return orjson.dumps({"total": 0, "tasks": tasks, **more})


class Workers:
    """Those that are asked, and what they have said so far."""

    def __init__(self, *names: str) -> None:
        self.alive = [WorkerStatus(name, name, [], 10, 0, 20.0) for name in names]
        self.asked = 0
        self.said: dict[str, bytes] = {}
        self.refuses = ""

    def ask(self, limit: int, timeout: float = 10.0) -> tuple[int, list[WorkerStatus]]:
        if self.refuses:
            raise UnsuitableServer(self.refuses)
        assert limit == 0, "of what runs nothing is asked"
        self.asked, self.said = self.asked + 1, {}
        return self.asked, list(self.alive)

    def answers(self, asked: int, workers: Sequence[str]) -> Iterable[tuple[str, bytes]]:
        assert asked == self.asked
        return [(name, self.said[name]) for name in workers if name in self.said]


def test_workers_are_asked_again_when_all_have_answered() -> None:
    workers, clock = Workers("a", "b"), Clock()
    survey = Survey(workers, clock)
    assert survey.look() == {}
    workers.said["a"] = says(VITALS)
    found = survey.look()
    assert (found["a"].vitals, found["a"].cpu, found.keys()) == (VITALS, None, {"a"})
    assert workers.asked == 1, "b has time"
    workers.said["b"] = says()
    assert survey.look()["b"].vitals is None, "a worker of an older version"
    assert workers.asked == 2
    # Half a core for two seconds, and 30 runs
    later = replace(VITALS, cpu=2.0, up=12.0, succeeded=125, failed=15)
    workers.said["a"] = says(later)
    heard = survey.look()["a"]
    assert (heard.cpu, heard.per_second) == (0.5, 15.0)
    assert survey.look()["a"] == heard, "what is known stays until there is more"


def test_who_does_not_answer_is_silent_until_it_does() -> None:
    workers, clock = Workers("a"), Clock()
    survey = Survey(workers, clock)
    survey.look()
    clock.now += 1.0
    assert survey.look() == {}
    clock.now += 1.5
    assert survey.look()["a"].silent
    assert workers.asked == 2
    assert survey.look()["a"].silent, "no less for being asked again"
    blocks = {
        "task": "t", "id": "x", "seconds": 4.5, "where": "-", "stuck": False, "blocks": True, "call": "",
    }  # fmt: skip
    workers.said["a"] = says(VITALS, blocks)
    heard = survey.look()["a"]
    assert (heard.silent, heard.blocks) == (False, "t")
    # Who has gone is forgotten
    workers.alive = []
    survey.look()
    clock.now += 3
    assert survey.look() == {}


def test_one_look_waits_for_answers() -> None:
    workers = Workers("a", "b")
    survey = Survey(workers)

    class Answering(Workers):
        def answers(self, asked: int, names: Sequence[str]) -> Iterable[tuple[str, bytes]]:
            self.said["a"] = says(VITALS)
            return super().answers(asked, names)

    survey = Survey(Answering("a"))
    assert survey.look(wait=60)["a"].vitals == VITALS
    survey = Survey(Answering("a", "b"))
    found = survey.look(wait=0.1)
    assert (found["a"].silent, found["b"].silent) == (False, True)


def test_who_may_not_ask_sees_the_rest() -> None:
    workers = Workers("a")
    survey = Survey(workers)
    workers.refuses = "NOPERM"
    assert (survey.look(), survey.refused) == ({}, "NOPERM")
    workers.refuses = ""
    survey.look()
    survey._asked_at -= 5
    survey.look()
    assert survey.refused == ""


def test_rates_are_what_counters_gained() -> None:
    before = Status([], [], 0, 0, None, {"done": 10, "reset": 5})
    now = Status([], [], 0, 0, None, {"done": 30, "reset": 1, "new": 4})
    assert rates(before, now, 2.0) == {"done": 10.0, "reset": 0.0, "new": 2.0}
    assert rates(before, now, 0.0) == {}


class ManyKeys:
    """So many keys, of which some wait; what was read of them is counted."""

    def __init__(self, count: int) -> None:
        self.keys = {f"k{n}": Key(f"k{n}", waiting=n % 7) for n in range(count)}
        self.read = 0

    def some(self, cursor: str, count: int) -> tuple[str, list[Key]]:
        names = list(self.keys)
        first = int(cursor)
        some = names[first : first + count]
        self.read += len(some)
        end = first + count
        return ("0" if end >= len(names) else str(end)), [self.keys[name] for name in some]

    def these(self, names: Sequence[str]) -> list[Key]:
        self.read += len(names)
        return [self.keys[name] for name in names if name in self.keys]


def test_a_few_keys_are_all_read_each_time() -> None:
    keys = ManyKeys(200)
    busiest = Busiest(keys)
    for _ in range(2):
        found = busiest.look()
        assert (len(found.rows), found.all) == (200, True)
    assert found.rows[0].waiting == 6


def test_of_many_keys_the_busiest_are_found_within_a_round() -> None:
    keys = ManyKeys(20_000)
    busiest = Busiest(keys)
    keys.keys["k15000"] = Key("k15000", waiting=1_000_000)
    for _ in range(20_000 // CHUNK):
        keys.read = 0
        found = busiest.look()
        assert keys.read <= CHUNK + BUSIEST, "each look costs the same"
        assert (len(found.rows), found.all) == (BUSIEST, False)
    assert found.rows[0].name == "k15000"
    # It is looked at each time, and forgotten when it has gone
    keys.keys["k15000"] = Key("k15000", waiting=2_000_000)
    assert busiest.look().rows[0].waiting == 2_000_000
    del keys.keys["k15000"]
    assert busiest.look().rows[0].waiting == 6
