"""Limits by key at work: what code declares and people set, and what a Throttled task brings about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from greenworker.app import App
from greenworker.errors import ConfigError
from greenworker.verdicts import Throttled
from tests.support.eventually import eventually
from tests.support.state import Space
from tests.worker.builders import reap_the_living
from tests.worker.conftest import Start


def patterns(app: App) -> dict[str, str]:
    return {
        one.pattern: f"{'code' if one.declared else 'people'}: {one}" for one in app.limits.list()
    }


def test_what_code_declares_workers_tell_before_they_claim(
    app: App, start: Start, space: Space
) -> None:
    app.limit("host:*", concurrency=2, delay=0.25)
    app.limit("ä:*", rate="100/min", burst=20)
    before = app.limits.list()
    assert [(one.pattern, one.changed, one.declared) for one in before] == [("host:*", 0, True), ("ä:*", 0, True)]  # fmt: skip
    worker = start()
    assert patterns(app) == {
        "host:*": "code: concurrency 2, delay 0.25 s",
        "ä:*": "code: rate 100/min, burst 20",
    }
    assert all(one.changed > 1e9 for one in app.limits.list())
    (told,) = {*map(tuple, app.limits.declarers().values())}
    assert told == (space.redis.zrange(f"{space.root}workers", 0, -1)[0],)
    assert set(app.limits.declarers()) == {"host:*", "ä:*"}
    worker.stop()
    assert space.redis.hgetall(f"{space.root}limits:by") == {}


def test_who_declares_nothing_sends_nothing(app: App, start: Start, space: Space) -> None:
    start()
    assert not space.redis.exists(f"{space.root}limits", f"{space.root}limits:by")


def test_a_worker_that_was_reaped_tells_again(app: App, start: Start, space: Space) -> None:
    app.limit("host:*", concurrency=2)
    start()
    (first,) = app.limits.declarers()["host:*"]
    reap_the_living(space, first)
    eventually(lambda: app.limits.declarers().get("host:*", [first]) != [first])
    assert patterns(app) == {"host:*": "code: concurrency 2"}


def test_what_people_set_stands_until_they_drop_it(app: App, start: Start) -> None:
    app.limit("host:*", concurrency=2)
    start().stop()
    assert app.limits.set("host:*", rate="5/s").spec == "rate=5/1000"
    start().stop()
    assert patterns(app) == {"host:*": "people: rate 5/s"}
    assert app.limits.drop("host:*")
    assert app.limits.drop("host:*") is False
    start()
    assert patterns(app) == {"host:*": "code: concurrency 2"}


def test_and_then_what_code_declares_counts_again(app: App, start: Start) -> None:
    app.limit("host:*", concurrency=2)
    start()
    app.limits.set("host:*", rate="5/s")
    start()
    (limit,) = app.limits.list()
    assert str(limit.over) == "concurrency 2"
    assert app.limits.drop("host:*")
    assert app.limits.drop("host:*") is False, "code's is not dropped"
    (limit,) = app.limits.list()
    assert (str(limit), limit.declared, limit.over) == ("concurrency 2", True, None)
    assert limit.changed > 1e9


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("host:*", "s 1 concurrency=many"),
        ("host:a", "d 1 burst=5"),
        ("tenant:*", "junk"),
        ("two words", "s 1 none"),
        (b"\xff*", b"\xfe"),
    ],
)
def test_what_cannot_be_read_is_listed_and_dropped(
    app: App, space: Space, field: str | bytes, line: str | bytes
) -> None:
    app.limits.set("tenant:1", concurrency=1)
    space.register("w")
    space.redis.hset(f"{space.root}limits:by", "w", "host:* host:a")
    space.redis.hset(f"{space.root}limits", field, line)
    (limit,) = (one for one in app.limits.list() if one.damaged)
    assert (str(limit), limit.is_none) == ("cannot be read", False)
    assert limit.pattern == (field if isinstance(field, str) else "\\xff*")
    assert app.limits.drop(limit.pattern)
    assert patterns(app) == {"tenant:1": "people: concurrency 1"}
    assert space.redis.hkeys(f"{space.root}keys") == ["tenant:1"]


def test_beneath_what_cannot_be_read_is_what_code_declares(
    app: App, start: Start, space: Space
) -> None:
    app.limit("host:*", concurrency=2)
    start()
    app.limits.set("host:*", rate="5/s")
    space.redis.hset(f"{space.root}limits", "host:*", "s 1 rate=fast")
    assert app.limits.drop("host:*")
    assert patterns(app) == {"host:*": "code: concurrency 2"}
    space.redis.hset(f"{space.root}limits", "host:*", "s 1 rate=fast")
    app.limits.set("host:*", rate="5/s")
    assert patterns(app) == {"host:*": "people: rate 5/s"}, "set mends it as well"


def test_a_pattern_more_specific_lifts_it(app: App) -> None:
    app.limits.set("host:*", concurrency=0)
    app.limits.set("host:a", none=True)
    assert patterns(app) == {"host:*": "people: concurrency 0", "host:a": "people: no limit"}


def test_never_more_at_once_than_allowed(app: App, start: Start) -> None:
    running: dict[str, int] = {}
    most: dict[str, int] = {}

    @app.task(key="host:{host}")
    def page(host: str) -> None:
        running[host] = running.get(host, 0) + 1
        most[host] = max(most.get(host, 0), running[host])
        gevent.sleep(0.002)
        running[host] -= 1

    app.limit("host:*", concurrency=2)
    app.limit("host:free", concurrency=5)
    start()
    results = page.delay_many([(host,) for _ in range(30) for host in ("a", "b", "free")])
    for result in results:
        result.get(timeout=30)
    assert most["a"] == most["b"] == 2
    assert 2 < most["free"] <= 5


def test_none_until_it_is_changed_and_then_at_once(app: App, start: Start) -> None:
    """What is parked is looked at again when a pattern changes, by whoever changes it."""

    @app.task(key="host:{host}")
    def page(host: str) -> str:
        return host

    app.limits.set("host:*", concurrency=0)
    start()
    results = [page.delay(f"h{n}") for n in range(30)]
    free = page.apply_async(("x",), key=())
    assert free.get(timeout=10) == "x"
    keys = app.limits.keys
    eventually(lambda: [one.state for one in keys()] == ["stopped"] * 30)
    assert [one.waiting for one in app.limits.keys("host:h3")] == [1]
    assert [one.limit and one.limit.pattern for one in app.limits.keys("host:h3")] == ["host:*"]
    assert app.limits.keys("host:none") == []
    app.limits.set("host:h3", none=True)
    assert results[3].get(timeout=10) == "h3"
    assert results[4].state == "PENDING"
    app.limits.set("host:*", concurrency=1)
    assert [result.get(timeout=10) for result in results] == [f"h{n}" for n in range(30)]


def test_a_key_is_held_by_hand_and_goes_on(app: App, start: Start) -> None:
    @app.task(key="host:{host}")
    def page(host: str) -> str:
        return host

    start()
    assert app.limits.hold("host:a") is False
    a, b = page.delay("a"), page.delay("b")
    assert b.get(timeout=10) == "b"
    assert a.state == "PENDING"
    (state,) = app.limits.keys("host:a")
    assert (state.state, state.waiting, state.running, state.due_in) == ("held", 1, 0, None)
    assert app.limits.hold("host:a", 1000)
    (state,) = app.limits.keys("host:a")
    assert state.due_in is not None
    assert 900 < state.due_in <= 1000
    assert app.limits.resume("host:a")
    assert a.get(timeout=10) == "a"
    (state,) = app.limits.keys("host:a")
    assert (state.state, state.limit, state.pattern) == ("open", None, "")


def test_a_throttled_task_holds_its_key_and_costs_no_attempt(app: App, start: Start) -> None:
    attempts: list[int] = []
    refusing = Event()

    @app.task(bind=True, key="host:{host}", retries=0)
    def page(run: Any, host: str) -> str:
        if host == "ä" and not refusing.is_set():
            attempts.append(run.attempt)
            raise Throttled(1000)
        return host

    start()
    first = page.delay("ä")
    eventually(lambda: [one.state for one in app.limits.keys("host:ä")] == ["throttled"])
    others = page.delay_many([("ä",), ("b",)])
    assert others[1].get(timeout=10) == "b"
    (state,) = app.limits.keys("host:ä")
    assert (state.key, state.waiting, state.refused, state.running) == ("host:ä", 2, 1, 0)
    assert state.due_in is not None
    assert 900 < state.due_in <= 1000
    assert first.info().attempt == 0
    refusing.set()
    assert app.limits.resume("host:ä")
    assert first.get(timeout=10) == others[0].get(timeout=10) == "ä"
    assert attempts == [0]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda limits: limits.set("host:*"), r"limit host:\* limits nothing: give concurrency="),
        (
            lambda limits: limits.set("a", none=True, rate="1/s"),
            r"limit a: give none, or rate 1/s, not both",
        ),
        (lambda limits: limits.set("a", burst=2), r"limit a: burst= says nothing without rate="),
        (lambda limits: limits.set("a", colour=1), r"limit a: no option 'colour'"),
        (lambda limits: limits.drop("a,b"), r"limit 'a,b': a pattern is"),
        (lambda limits: limits.keys("host:*"), r"key 'host:\*': use 1 to 200"),
        (lambda limits: limits.hold("a b"), r"key 'a b': use 1 to 200"),
        (lambda limits: limits.hold("a", -1), r"seconds=-1: give seconds, 0 or more"),
        (lambda limits: limits.resume(""), r"key '': use 1 to 200"),
    ],
)
def test_what_makes_no_sense_is_told(app: App, call: Callable[[Any], object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        call(app.limits)
