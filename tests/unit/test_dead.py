"""Dead letters from Python: found by every filter, read whatever they hold, retried, deleted."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from greenworker import App, DeadLetter, State
from greenworker.broker import Broker, Link
from greenworker.cli import parse
from greenworker.commands import dead as command
from greenworker.connection_pool import ConnectionPool
from greenworker.dead import DeadLetters
from greenworker.errors import BrokerUnavailable, ConfigError
from greenworker.scripts import Script
from tests.support.state import Space


@pytest.fixture
def dead(space: Space) -> DeadLetters:
    return DeadLetters(space.broker)


def bury(
    space: Space,
    *ids: str,
    task: str = "shop.pay",
    reason: str = "failed",
    error: str = "ValueError",
    message: str = "no",
    traceback: str = "Traceback:\n  here",
    age: float = 60.0,
    body: str = '[["canary"],{"to":"canary"}]',
    head: str = "1 2 3 5 {sent} 0 3600000 mail {task} x=1",
    report: str | None = None,
) -> None:
    """Dead letters as the scripts leave them."""
    died = round((space.broker.time() - age) * 1000)
    told = {"type": error, "message": message, "traceback": traceback}
    report = report or orjson.dumps({"state": "FAILURE", "error": told}).decode()
    envelope = head.format(sent=died - 5000, task=task) + f"\n{body}"
    record = f"{died} {reason} 77ab 0\nbusy bee\n{report}\n{envelope}"
    space.redis.zadd(space.key("dead"), dict.fromkeys(ids, died))
    space.redis.hset(space.key("dead:record"), mapping=dict.fromkeys(ids, record))


def ids(letters: Iterator[DeadLetter]) -> list[str]:
    return [letter.id for letter in letters]


def test_a_letter_tells_all_that_is_known(space: Space, dead: DeadLetters) -> None:
    bury(space, "m")
    (letter,) = dead.list()
    assert letter == dead.get("m")
    assert letter.died == pytest.approx(space.broker.time() - 60, abs=30)
    assert letter.sent == pytest.approx(letter.died - 5)
    assert dataclasses.asdict(letter) == {
        "id": "m", "task": "shop.pay", "queue": "mail", "reason": "failed", "error": "ValueError",
        "message": "no", "traceback": "Traceback:\n  here", "sent": letter.sent,
        "died": letter.died, "deliveries": 2, "attempt": 3, "worker": "busy bee",
        "incarnation": "77ab", "args": ["canary"], "kwargs": {"to": "canary"},
        "raw": None,
    }  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        letter.id = "other"  # type: ignore[misc]


def test_arguments_are_in_no_repr_and_are_left_alone_when_not_wanted(
    space: Space, dead: DeadLetters
) -> None:
    bury(space, "m")
    (letter,) = dead.list()
    assert "canary" not in f"{letter!r} {letter}"
    (letter,) = dead.list(values=False)
    assert (letter.args, letter.kwargs) == (None, None)
    assert (letter.task, letter.queue) == ("shop.pay", "mail")


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, "abcd"),
        ({"task": "shop.pay"}, "acd"),
        ({"task": "pay"}, ""),
        ({"error": "OSError"}, "b"),
        ({"error": "Error"}, ""),
        ({"reason": "poison"}, "c"),
        ({"text": "refused"}, "b"),
        ({"text": "line 7"}, "d"),
        ({"text": "LINE 7"}, ""),
        ({"older": 100.0}, "ab"),
        ({"newer": 100.0}, "cd"),
        ({"older": 100.0, "newer": 1000.0}, "b"),
        ({"older": 0.0}, "abcd"),
        ({"newer": 0.0}, ""),
        ({"ids": ["d", "x", "a", "d"]}, "da"),
        ({"ids": ["d", "a"], "newer": 100.0}, "d"),
        ({"ids": ["d", "a"], "older": 100.0}, "a"),
        ({"ids": ["a", "b"], "task": "shop.pay"}, "a"),
        ({"ids": []}, ""),
        ({"limit": 3}, "abc"),
        ({"limit": 0}, ""),
        ({"limit": 2, "task": "shop.pay"}, "ac"),
        ({"task": "shop.pay", "error": "ValueError", "reason": "failed", "text": "line"}, "d"),
    ],
)
def test_filters(space: Space, dead: DeadLetters, filters: dict[str, Any], found: str) -> None:
    bury(space, "a", age=5000.0)
    bury(space, "b", age=500.0, task="shop.mail", error="OSError", message="connection refused")
    bury(space, "c", age=50.0, reason="poison")
    bury(space, "d", age=5.0, traceback="File x, line 7")
    assert ids(dead.list(**filters, values=False)) == list(found)
    assert ids(dead.list(**filters)) == list(found)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\n\n\n",
        b"no record",
        b"1 failed w 0",
        b"x failed w 0\nw\n[]\n1 2 3",
        b"9999999999999999999999 failed w 0\nw\n7\n\xff",
        b'1 malformed w 0\n\xff\n{"state":"FAILURE","error":[]}\n\xff\xfe\n\x00',
        b'1 malformed w 0\nw\n{"error":{"type":7,"message":null,"traceback":{}}}\n2 0 0 5 1 0 0 q t\n[]',
        b"1 malformed w 0\nw\n" + b"[" * 5000 + b"\n1 0 0 5 1 0 0 q t\n" + b"[" * 5000,
        b"1 malformed w 0\nw\n{}\n1 0 0 5 1 0 0 q t\n[7,8]",
        b"1 malformed w 2000000\nw\n{}\n1 0 0 5 1 0 0 q t\n[[],{}]",
        b"1 malformed w 0\nw\n{}\n1 " + b"9" * 5000 + b" 0 5 1 0 0 q t\n[[],{}]",
    ],
)
@pytest.mark.parametrize("values", [True, False])
def test_whatever_a_record_holds_it_is_read(
    space: Space, dead: DeadLetters, record: bytes, values: bool
) -> None:
    space.redis.zadd(space.key("dead"), {"m": 1})
    space.redis.hset(space.key("dead:record"), "m", record)
    (letter,) = dead.list(values=values)
    assert (letter.id, letter.args, letter.kwargs) == ("m", None, None)
    # What there is of the message, for people
    assert (letter.raw is not None) is values
    assert "raw" not in repr(letter)
    assert all(
        isinstance(getattr(letter, name), str)
        for name in ("task", "queue", "reason", "error", "message", "traceback", "worker")
    )
    assert dead.delete(letter) == 1


def test_an_id_that_is_no_text_can_be_named_all_the_same(space: Space, dead: DeadLetters) -> None:
    bury(space, b"\xff\x00\n")  # type: ignore[arg-type]
    (letter,) = dead.list()
    assert dead.get(letter.id) == letter
    assert dead.retry(letter, dry_run=True) == {letter.id: "retried"}
    assert dead.delete(letter.id) == 1


def test_a_letter_that_leaves_while_it_is_read_is_left_out(space: Space, dead: DeadLetters) -> None:
    space.redis.zadd(space.key("dead"), {"m": 1})
    assert ids(dead.list()) == []
    assert dead.get("m") is None


def test_retry_says_what_became_of_each(space: Space, dead: DeadLetters) -> None:
    bury(space, "m1", "m2")
    bury(space, "bad", head="no envelope", age=50.0)
    (m1,) = dead.list(ids=["m1"])
    fates = {"m1": "retried", "bad": "unreadable", "nobody": "gone"}
    assert dead.retry(m1, "bad", "nobody", "m1", dry_run=True) == fates
    assert ids(dead.list()) == ["m1", "m2", "bad"]
    assert dead.retry(m1, "bad", "nobody", "m1") == fates
    assert ids(dead.list()) == ["m2", "bad"]
    assert space.waiting("mail") == ["m1"]
    assert dead.retry() == {}
    assert dead.delete() == 0


def test_a_letter_that_has_died_again_is_left_and_an_id_means_any(
    space: Space, dead: DeadLetters
) -> None:
    bury(space, "a", "b")
    read = list(dead.list(error="ValueError"))
    bury(space, "a", error="KeyError", age=5.0)  # somebody has sent it again
    assert dead.retry(*read, dry_run=True) == {"a": "gone", "b": "retried"}
    assert dead.retry(read[0]) == {"a": "gone"}
    assert dead.delete(*read) == 1
    (left,) = dead.list()
    assert (left.id, left.error) == ("a", "KeyError")
    assert dead.retry("a", dry_run=True) == dead.retry(left, dry_run=True) == {"a": "retried"}
    assert dead.delete(left) == 1


@pytest.mark.parametrize("name", ["task", "error", "reason", "text"])
def test_an_empty_text_is_no_filter(dead: DeadLetters, name: str) -> None:
    """`text=os.environ.get("ERR", "")` would fit all of them."""
    with pytest.raises(ConfigError, match=f"{name}='': give a text"):
        dead.list(**{name: ""})


def test_the_filtered_ones_can_be_retried_at_once(space: Space, dead: DeadLetters) -> None:
    bury(space, *(f"m{n}" for n in range(1200)), error="OSError")
    bury(space, "other")
    fates = dead.retry(*dead.list(error="OSError", values=False))
    assert list(fates.values()) == ["retried"] * 1200
    assert ids(dead.list()) == ["other"]
    assert dead.delete(*dead.list(), *fates) == 1


def test_any_number_is_read_in_flat_memory(space: Space, dead: DeadLetters) -> None:
    for start in range(0, 20_000, 10_000):
        bury(space, *(f"m{n}" for n in range(start, start + 10_000)), traceback="x" * 300)
    tracemalloc.start()
    count = sum(1 for _ in dead.list())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 6_000_000  # a page; all of them are 25 MB


def test_an_app_has_them(space: Space) -> None:
    app = App(space.url, namespace=space.broker.namespace)
    bury(space, "m")
    assert ids(app.dead.list()) == ["m"]
    assert app.result("m").state is State.FAILURE
    assert app.dead.retry("m") == {"m": "retried"}
    assert app.result("m").state is State.PENDING
    app.close()


# What is no filter, and what is no letter


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"ids": "abc"}, "ids='abc': give several, as in"),
        ({"ids": b"abc"}, "ids=b'abc': give several"),
        ({"ids": 5}, "ids=5: give several"),
        ({"ids": [5]}, "an id is a text, not 5"),
        ({"ids": [["a"]]}, "an id is a text, not "),
        ({"ids": ["\ud800"]}, r"'\\ud800' can be no id; give one as"),
        *(({"limit": limit}, "limit=.*: give a whole number") for limit in (-1, 1.5, "5", True)),
        *(
            ({name: age}, f"{name}=.*: give seconds, 0 or more")
            for name in ("older", "newer")
            for age in (math.nan, math.inf, -1, "5", True, [1])
        ),
        *(({name: 5}, f"{name}=5: give a text") for name in ("task", "error", "reason", "text")),
    ],
)
def test_what_is_no_filter_is_refused_at_once(
    dead: DeadLetters, filters: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{said}") as caught:
        dead.list(**filters)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("age", [1e11, 1e300, 10**400])
def test_an_age_before_all_times(space: Space, dead: DeadLetters, age: float) -> None:
    bury(space, "m")
    assert ids(dead.list(newer=age, limit=10**30)) == ["m"]
    assert ids(dead.list(older=age)) == []
    assert ids(dead.list(ids=["m"], newer=age)) == ["m"]


@pytest.mark.parametrize("what", [["a"], 5, None, b"a", "\ud800"])
def test_what_is_no_letter_is_refused_and_nothing_is_done(
    space: Space, dead: DeadLetters, what: Any
) -> None:
    bury(space, "m")
    for verb in (dead.retry, dead.delete):
        with pytest.raises(ConfigError, match=r"^.+; give .+$"):
            verb("m", what)
    with pytest.raises(ConfigError):
        dead.get(what)
    assert ids(dead.list()) == ["m"]


class Failing:
    """A link that fails at its third call of a script that changes dead letters."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.calls = 0

    def run(self, script: Script, key: str, *args: Any, **options: Any) -> Any:
        self.calls += script.name in ("revive", "dead_delete")
        if self.calls == 3:
            self.calls = 0
            raise BrokerUnavailable("cannot be reached")
        return self._link.run(script, key, *args, **options)

    def execute(self, *command: Any) -> Any:
        return self._link.execute(*command)

    def close(self) -> None: ...


@pytest.mark.parametrize("verb", ["retry", "delete"])
def test_an_error_in_the_middle_says_what_had_been_done(space: Space, verb: str) -> None:
    bury(space, *(f"m{n:04}" for n in range(2500)))
    failing = DeadLetters(Broker(Failing(space.broker._link), space.broker.namespace))
    letters = list(failing.list(values=False))
    with pytest.raises(BrokerUnavailable) as caught:
        getattr(failing, verb)("nobody", *letters)
    fates = {"retry": "retried", "delete": "deleted"}
    done = dict.fromkeys((letter.id for letter in letters[:1999]), fates[verb])
    assert caught.value.fates == {"nobody": "gone"} | done
    assert caught.value.__notes__ == ["2000 of 2501 dead letters had been seen to before"]
    assert ids(failing.list(values=False)) == [letter.id for letter in letters[1999:]]
    assert BrokerUnavailable().fates == {}


@pytest.mark.parametrize("verb", ["retry", "delete"])
def test_the_command_says_how_many_are_done_and_how_many_perhaps(
    space: Space, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    bury(space, *(f"m{n}" for n in range(1200)))
    run = ConnectionPool.run
    calls = 0

    def lose_the_third(pool: ConnectionPool, script: Script, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += script.name in ("revive", "dead_delete")
        if calls == 3:
            calls = 0
            lost = BrokerUnavailable("cannot be reached")
            lost.maybe_done = True
            raise lost
        return run(pool, script, *args, **options)

    monkeypatch.setattr(ConnectionPool, "run", lose_the_third)
    words = ["dead", verb, "--all", "-u", space.url, "--namespace", space.broker.namespace]
    with pytest.raises(BrokerUnavailable):
        command.run(parse(words))
    done = {"retry": "retried", "delete": "deleted"}[verb]
    said = f"1,000 {done}; perhaps 200 more, whose reply did not arrive\n"
    assert capsys.readouterr().out == said
    bury(space, *(f"n{n}" for n in range(1200)))
    with pytest.raises(BrokerUnavailable):
        command.run(parse([*words, "--json"]))
    told = orjson.loads(capsys.readouterr().out)
    assert told == {done: 1000, "unknown": 400, "dry_run": False, "interrupted": False}
