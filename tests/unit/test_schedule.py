"""Schedules: declared, refused, and asked for from Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from greenworker import App, State
from greenworker.broker import push_fields
from greenworker.cli import main
from greenworker.commands.schedule import table
from greenworker.errors import ConfigError, DeclarationError
from greenworker.schedule import ScheduleInfo, tick_id
from greenworker.timetable import Entry, Tick, Timetable


@pytest.fixture
def app(url: str, namespace: str) -> Iterator[App]:
    app = App(url, namespace=namespace)
    yield app
    app.close()


@pytest.fixture
def times(app: App) -> Timetable:
    return Timetable(app.client.pool, app.namespace)


def declared(app: App) -> dict[str, tuple[str, str]]:
    return {
        name: (one.task.name, one.recurrence.text) for name, one in app.schedule.declared.items()
    }


def test_decorators_stand_above_the_tasks_and_upon_each_other(app: App) -> None:
    @app.every(30)
    @app.cron("0 9 * * *", tz="Europe/Berlin", name="morning")
    @app.task(name="report")
    def report() -> int:
        return 7

    assert report() == 7
    assert app.tasks == {"report": report}
    assert declared(app) == {
        "report": ("report", "every 30"),
        "morning": ("report", "cron 0 9 * * * Europe/Berlin"),
    }


def test_a_task_with_arguments_is_scheduled_as_often_as_one_likes(app: App) -> None:
    @app.task(name="fetch", queue="web", priority=3, expires=60.0, result_ttl=5.0)
    def fetch(url: str, *, deep: bool = False) -> None: ...

    assert app.every(30, fetch, args=("a",), name="a") is fetch
    app.cron("0 3 * * *", fetch, args=["b"], kwargs={"deep": True}, name="b", queue="slow",
             priority=9, expires=5, result_ttl=1)  # fmt: skip
    a, b = (app.schedule.declared[name].tick(1_790_000_000.0) for name in "ab")
    assert (a.id, a.args, a.kwargs) == ("a@2026-09-21T14:13:20Z", ("a",), {})
    assert (a.queue, a.priority, a.expires, a.result_ttl) == ("web", 3, 60.0, 5.0)
    assert (b.args, b.kwargs) == (("b",), {"deep": True})
    assert (b.queue, b.priority, b.expires, b.result_ttl) == ("slow", 9, 5, 1.0)
    assert app.queues() == ["default", "slow", "web"]


@pytest.mark.parametrize(
    ("name", "at", "id"),
    [
        ("app.tasks.report", 1_790_000_000.0, "app.tasks.report@2026-09-21T14:13:20Z"),
        ("beat", 1_790_000_000.5, "beat@2026-09-21T14:13:20.500Z"),
        ("n\u00e4chtlich", 1_790_000_000.0, "f2"),
        ("x" * 44, 1_790_000_000.0, "1d"),
        ("a b", 1_790_000_000.0, "c8"),
    ],
)
def test_a_ticks_id_says_what_it_is_the_tick_of(name: str, at: float, id: str) -> None:
    found = tick_id(name, at)
    assert len(found) <= 64
    if len(id) > 2:
        assert found == id
    else:
        assert found.endswith("@2026-09-21T14:13:20Z")
        assert len(found) == 53
        assert found != tick_id(name + "x", at)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"nme": "x"}, "every 30: no option 'nme'; there are args, kwargs, name, misfire"),
    ({"countdown": 3}, "no option 'countdown'"),
    ({"name": ""}, "name='': give up to 1,000 printable characters"),
    ({"name": "a\nb"}, "give up to 1,000 printable"),
    ({"name": 5}, "give up to 1,000 printable"),
    ({"misfire": "all"}, "t: misfire='all': give 'once' or 'skip'"),
    ({"misfire": True}, "misfire=True"),
    (
        {"args": ()},
        "missing a required argument: 'url'; a schedule takes them as args= and kwargs=",
    ),
    ({"args": ("a", "b")}, "too many positional arguments"),
    ({"args": "a"}, "t: args='a': give a tuple, as in args=(1,)"),
    ({"args": 5}, "give a tuple"),
    ({"kwargs": [1]}, "t: kwargs=[1]: give a dict"),
    ({"args": ({1},)}, "cannot be encoded"),
    ({"args": ("x" * 2_000_000,)}, "the limit is"),
    ({"queue": "a b"}, "queue 'a b'"),
    ({"priority": 10}, "priority 10: give 0 to 9"),
    ({"expires": -1}, "expires=-1: give seconds"),
    ({"expires": datetime(2030, 1, 1, tzinfo=UTC)}, "expires=: give seconds, counted from"),
    ({"expires": timedelta(1)}, "expires="),
    ({"result_ttl": 0}, "result_ttl must be above 0"),
]


@pytest.mark.parametrize(("options", "says"), WRONG)
def test_what_is_declared_wrongly(app: App, options: dict[str, Any], says: str) -> None:
    @app.task(name="t")
    def t(url: str) -> None: ...

    with pytest.raises(DeclarationError) as caught:
        app.every(30, t, **{"args": ("a",), **options})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not app.schedule.declared


def test_what_is_no_task_of_this_app(app: App) -> None:
    def plain() -> None: ...

    with pytest.raises(DeclarationError, match=r"plain is no task: put this above @app.task"):
        app.every(30)(plain)  # type: ignore[arg-type]
    with pytest.raises(
        DeclarationError, match=r"'Europe/Rome' is no task; a time zone has its name, tz='Eu"
    ):
        app.cron("* * * * *", "Europe/Rome")  # type: ignore[call-overload]
    other = App("redis://127.0.0.1:1").task(name="o")(plain)
    with pytest.raises(DeclarationError, match="o is a task of another App: schedule it there"):
        app.every(30, other)
    with pytest.raises(DeclarationError, match="give seconds"):
        app.every(plain)  # type: ignore[call-overload]
    with pytest.raises(DeclarationError, match="give a line of text"):
        app.cron(plain)  # type: ignore[call-overload]
    with pytest.raises(DeclarationError, match="no such time zone"):
        app.cron("* * * * *", tz="Moon/Base")


def test_two_of_one_name_are_refused_unless_they_are_the_same(app: App) -> None:
    task = app.task(name="t")(lambda n=0: n)
    app.every(30, task)
    app.every(30, task)  # as a script that is run and imported again
    for options in ({"args": (1,)}, {"misfire": "skip"}, {"queue": "q"}):
        with pytest.raises(DeclarationError, match="two schedules are called t; give one of them"):
            app.every(30, task, **options)  # type: ignore[call-overload]
    with pytest.raises(DeclarationError, match="two schedules are called t"):
        app.cron("* * * * *", task)


def test_the_list_tells_what_is_declared_and_what_the_server_knows(
    app: App, times: Timetable
) -> None:
    task = app.task(name="t")(lambda: None)
    app.every(3600, task, name="declared")
    app.every(60, task, name="both")
    now = times.plan(None, [Entry("both", "every 60", "t"), Entry("gone", "every 5", "old")]).now
    due = now + 50.0
    times.tick([Tick("both", "every 60", None, due), Tick("gone", "every 5", None, now)])
    message = push_fields(app.schedule.declared["both"].tick(now))
    assert times.tick([Tick("gone", "every 5", now, now + 5, now, message)]) == "s"
    listed = app.schedule.list()
    # Who is first depends on the time of day
    assert listed == sorted(listed, key=lambda one: one.next or 0.0)
    alone, both, gone = sorted(listed, key=lambda one: ("declared", "both", "gone").index(one.name))
    assert both == ScheduleInfo("both", "t", "every 60", due, None, "", None, both.seen, True)
    assert gone == ScheduleInfo(
        "gone", "old", "every 5", round(now + 5, 3), now, tick_id("gone", now), None, gone.seen, False
    )  # fmt: skip
    assert alone.next is not None
    assert alone.next % 3600 == 0
    assert (alone.seen, alone.declared, alone.when) == (None, True, "every 3600")


def test_pause_and_resume(app: App, times: Timetable) -> None:
    task = app.task(name="t")(lambda: None)
    app.every(60, task)
    times.plan(None, [Entry("of-others", "every 5", "x")])
    app.schedule.pause("t", "of-others")
    (one,) = [one for one in app.schedule.list() if one.name == "t"]
    assert (one.task, one.when, one.next, one.seen) == ("t", "every 60", None, None)
    assert [one.paused is not None for one in app.schedule.list()] == [True, True]
    app.schedule.resume("t", "of-others", "t")
    assert [one.paused for one in app.schedule.list()] == [None, None]
    for change in (app.schedule.pause, app.schedule.resume):
        with pytest.raises(ConfigError, match="no schedule no, none; this app declares: t"):
            change("t", "no", "none", "no")


def test_run_sends_one_now_and_leaves_what_is_due(app: App, times: Timetable) -> None:
    task = app.task(name="t")(lambda n: n)
    app.every(60, task, args=(3,), name="s", queue="slow")
    before = times.known()[1]
    result = app.schedule.run("s")
    assert result.state is State.PENDING
    assert app.schedule.run("s").id != result.id
    assert [queue.name for queue in app.status().queues] == ["slow"]
    assert times.known()[1] == before
    with pytest.raises(ConfigError, match="no schedule t; this app declares: s"):
        app.schedule.run("t")


# --- the command


MODULE = """
from greenworker import App
app = App({url!r}, namespace={namespace!r})

@app.cron("0 3 * * *", tz="Europe/Berlin", name="nightly")
@app.every(30)
@app.task(name="beat")
def beat(): ...
"""


@pytest.fixture
def module(
    tmp_path: Path, url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    name = f"scheduled_{namespace}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(url=url, namespace=namespace))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_the_command_lists_pauses_resumes_and_runs(
    module: str, url: str, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(*args: str, code: int = 0) -> list[str]:
        assert main(["schedule", *args]) == code
        out, err = capsys.readouterr()
        return (out or err).splitlines()

    of_app = ("-A", module)
    for form in ((module,), ("list", module), of_app, ("list", *of_app)):
        head, beat, nightly = lines(*form)
        assert head.split() == ["schedule", "when", "next", "last", "task"]
        assert beat.startswith("beat      every 30  ")
        assert beat.endswith("never  beat  (no worker has declared it yet)")
        assert "cron 0 3 * * * Europe/Berlin" in nightly
    assert lines("pause", "nightly", *of_app) == ["nightly: paused"]
    # Known to the server by now; but what is said to be run, only an app can say
    at_url = ("-u", url, "--namespace", namespace)
    head, nightly = lines(*at_url)
    assert "paused 0s ago" in nightly
    assert lines("pause", "beat", *at_url, code=2) == [
        "greenworker: no schedule beat; this app declares: none"
    ]
    assert lines("run", "beat", *at_url, code=2) == [
        "greenworker: schedule run needs -A MODULE: the server knows nothing of arguments"
    ]
    assert lines("resume", "nightly", *at_url) == ["nightly: resumed"]
    (sent,) = lines("run", "beat", *of_app, "--json")
    told = json.loads(sent)
    assert (told["schedule"], told["done"], len(told["id"])) == ("beat", "run", 32)
    assert lines("run", "beat", *of_app)[0].startswith("beat: sent as ")
    beat, nightly = map(json.loads, lines("list", *of_app, "--json"))
    assert (beat["name"], beat["when"], beat["declared"]) == ("beat", "every 30", True)
    assert (nightly["name"], nightly["last"], nightly["last_id"]) == ("nightly", None, "")


def test_a_table_says_what_is_out_of_order() -> None:
    now = 1_790_000_000.0
    good = ScheduleInfo("good", "t", "every 5", now + 5, now, "x", None, now, True)
    late = ScheduleInfo("late", "t", "every 5", now - 7, now - 99, "x", None, now - 3600, True)
    odd = ScheduleInfo("odd\x1b[m", "\x1b", "cron", None, None, "", now - 60, None, False)
    _, *rows = table([good, late, odd], now)
    assert [row.split("  ")[-1].strip() for row in rows] == [
        "t", "(no worker declares it, since 1h)", "(no worker has declared it yet)",
    ]  # fmt: skip
    assert "2026-09-21 14:13:25 UTC, in 5s" in rows[0]
    assert "due since 7s" in rows[1]
    assert "paused 1m ago" in rows[2]
    assert "\x1b" not in "".join(rows)
    assert list(table([], now)) == ["(no schedule)"]
