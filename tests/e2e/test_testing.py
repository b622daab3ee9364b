"""greenworker.testing as users have it: their tests, run by pytest in a process of its own; and drain(), in
this one, which nobody has patched."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import redis
from gevent import monkey

from greenworker import App, Message, Snooze, Throttled, Worker, current_task
from greenworker.errors import BadArguments, ConfigError, GreenworkerError, TaskFailed
from greenworker.scripts import load
from greenworker.testing import Clock, clock, drain
from greenworker.testing import server as private_server
from greenworker.testing.moving import by_clock
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.process import environment
from tests.support.scripts import NAMES
from tests.support.server import Server

SHOP = """
    from greenworker import App
    app = App()

    @app.task
    def add(x, y):
        return x + y

    @app.task
    def fail():
        raise ZeroDivisionError("by zero")

    @app.every(60)
    @app.task
    def tick(): ...
"""
PLUGIN = 'pytest_plugins = ["greenworker.testing.pytest"]'


class UsersTests:
    """A project with tests of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("shop.py", SHOP)
        self.write("conftest.py", PLUGIN)
        self.write("pytest.ini", "[pytest]\ngreenworker_app = shop\naddopts = --strict-markers")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(dedent(text))

    def run(self, tests: str, *args: str) -> subprocess.CompletedProcess[str]:
        self.write("test_shop.py", tests)
        return pytest_in(self.folder, *args)


def pytest_in(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:valkey", *args],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def tests(tmp_path: Path) -> UsersTests:
    return UsersTests(tmp_path)


def test_a_users_tests_pass(tests: UsersTests) -> None:
    ended = tests.run(
        """
        import sys
        import pytest
        from shop import add, app, fail, tick

        def test_inline(greenworker_sent):
            assert add.delay(1, 2).get() == 3
            assert [one.args for one in greenworker_sent.of(add)] == [(1, 2)]

        @pytest.mark.greenworker(errors="keep")
        class TestKept:
            def test_inline(self, greenworker_sent):
                assert fail.delay().failed()

            @pytest.mark.greenworker(errors="raise")
            def test_the_nearest_mark_counts(self, greenworker_sent):
                with pytest.raises(ZeroDivisionError):
                    fail.delay()

            def test_on_a_server(self, greenworker_drain):
                result = fail.delay()
                (ran,) = greenworker_drain()
                assert (ran.outcome, result.state) == ("dead", "FAILURE")

        @pytest.mark.parametrize("n", [1, 2])
        def test_each_on_its_own(greenworker_drain, greenworker_clock, n):
            assert greenworker_drain() == []
            add.delay(n, n)
            add.apply_async((n, n), countdown=3600)
            before = greenworker_clock.now
            ran = greenworker_drain(hours=1)
            assert len(ran) == 2 + 60
            assert (greenworker_clock.now - before).total_seconds() == 3600

        def test_nothing_was_patched():
            from gevent import monkey
            assert not monkey.saved
        """,
        "-v",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "7 passed" in ended.stdout


def test_a_users_tests_fail_where_their_tasks_do(tests: UsersTests) -> None:
    ended = tests.run(
        """
        from shop import add, fail

        def test_fail(greenworker_sent):
            fail.delay()

        def test_fail_on_a_server(greenworker_drain):
            fail.delay()
            greenworker_drain()
        """
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "2 failed" in ended.stdout
    # Of what runs the task nothing is to be seen.
    assert ended.stdout.count('raise ZeroDivisionError("by zero")') == 2
    assert ended.stdout.count("has failed for good") == 2
    assert "executor.py:1" not in ended.stdout
    assert "runner.py:" not in ended.stdout


def test_what_is_wrong_is_said_in_a_line(tests: UsersTests) -> None:
    body = """
        import pytest

        @pytest.mark.greenworker(error="keep")
        def test_mark(greenworker_sent): ...

        def test_twice(greenworker_sent, greenworker_clock): ...
    """
    told = tests.run(body).stdout
    assert "@pytest.mark.greenworker takes errors and at, not 'error'" in told
    assert "this app is being tested already" in told
    tests.write("pytest.ini", "[pytest]\ngreenworker_app = nowhere")
    told = tests.run(body).stdout
    assert "greenworker_app = nowhere: no module 'nowhere'" in told
    tests.write("pytest.ini", "[pytest]")
    told = tests.run(body).stdout
    assert "which App is under test? In pytest's settings greenworker_app = shop.tasks" in told


def test_who_does_not_ask_for_the_plugin_gets_none_of_it(tests: UsersTests) -> None:
    (tests.folder / "conftest.py").unlink()
    tests.write("pytest.ini", "[pytest]")
    ended = tests.run(
        """
        import sys

        def test_nothing_of_it_is_here(request):
            assert not [name for name in sys.modules if name.startswith("greenworker")]
            assert not request.config.pluginmanager.has_plugin("greenworker.testing.pytest")
        """
    )
    assert ended.returncode == 0, ended.stdout
    # And whoever does loads nothing that gevent may have to patch.
    tests.write("conftest.py", PLUGIN)
    ended = tests.run(
        """
        import sys

        def test_nothing_else_is_here():
            assert not {"gevent", "redis", "greenworker.app"} & set(sys.modules)
        """
    )
    assert ended.returncode == 0, ended.stdout


# drain() in this process


@pytest.fixture
def app() -> Iterator[App]:
    assert not monkey.is_module_patched("socket")
    app = App("redis://127.0.0.1:1", patience=0.1)  # clock() says where the server is
    yield app
    app.close()


@pytest.fixture
def standing(app: App, url: str) -> Iterator[Clock]:
    with clock(app, url=url) as standing:
        yield standing


def check(app: App, server: Server) -> None:
    """What `greenworker check` says of the namespace in which the app is tested."""
    looking = App(server.admin_url, namespace=app.client.broker.namespace)
    report = looking.check()
    assert report.well, report.findings
    looking.close()


def test_what_waits_runs_here(app: App, url: str, namespace: str, server: Server) -> None:
    app.use(url, "test")
    order: list[str] = []

    @app.task(retries=1, backoff=[0])
    def note(text: str) -> str:
        order.append(text)
        if text == "first":
            note.delay("from the first")
        if text == "again" and current_task().attempt == 0:
            raise OSError
        return text

    with clock(app, namespace=namespace) as standing:
        first = note.delay("first")
        note.apply_async(("urgent",), priority=9)
        note.delay("again")
        note.apply_async(("elsewhere",), queue="elsewhere")
        assert order == []
        ran = drain(app)
        assert [one.args[0] for one in ran] == order
        assert order == ["urgent", "first", "again", "from the first", "again"]
        assert [one.outcome for one in ran] == ["done", "done", "retry", "done", "done"]
        assert first.get() == "first"
        # As a worker without -Q it leaves alone what no task declares.
        for wrong in ("elsewhere", ["else where"]):
            with pytest.raises(ConfigError, match=r"give a list of names|else where"):
                drain(app, queues=wrong)
        with pytest.raises(BadArguments, match="a hundred years at most"):
            drain(app, days=1e300)
        assert [one.args for one in drain(app, queues=["elsewhere"])] == [("elsewhere",)]
        assert drain(app) == []
        check(app, server)
        assert app.status().workers == []
        assert abs(standing.now - datetime.now(UTC)) < timedelta(minutes=10)


def test_without_a_clock_the_servers_counts(url: str, namespace: str) -> None:
    app = App(url, namespace=namespace)

    @app.every(1)
    @app.task
    def note() -> None: ...

    note.delay()
    note.apply_async(countdown=3600)
    soon = note.apply_async(countdown=0.001)
    eventually(lambda: len(drain(app)) or soon.ready())
    drain(app)
    assert soon.ready()
    assert app.status().scheduled == 1
    assert app.status().counters["enqueued"] == 3, "no schedule ticks"
    with pytest.raises(ConfigError, match=r"drain.. lets time pass where it stands"):
        drain(app, hours=1)
    app.close()


def test_what_is_sent_once_in_some_seconds_goes_by_that_clock(app: App, standing: Clock) -> None:
    @app.task(unique=True, unique_for=3600)
    def note() -> None: ...

    first = note.delay()
    drain(app, seconds=3599.999)
    assert note.delay() == first
    drain(app, seconds=0.001)
    assert note.delay() != first
    assert len(drain(app)) == 1


@pytest.mark.parametrize("seed", range(3))
def test_each_at_its_moment_and_none_early(
    app: App, standing: Clock, seed: int, server: Server
) -> None:
    chance = random.Random(seed)
    ran_at: dict[int, datetime] = {}

    @app.task
    def note(n: int, more: int) -> None:
        assert n not in ran_at
        ran_at[n] = standing.now
        if more:
            delay = chance.choice([0, 0.001, 1, 59.999, 3600])
            due[100 * n] = standing.now + timedelta(seconds=delay)
            note.apply_async((100 * n, more - 1), countdown=delay)

    due: dict[int, datetime] = {}
    for n in range(1, 30):
        delay = chance.choice([0, 0.001, 0.5, 1, 60, 3600, 86400]) * chance.randrange(1, 5)
        due[n] = standing.now + timedelta(seconds=delay)
        note.apply_async((n, chance.randrange(3)), countdown=delay)
    while app.status().scheduled:
        drain(app, seconds=chance.choice([0, 0.001, 1, 59.999, 3600, 100_000]))
        assert all(at <= standing.now for at in ran_at.values())
    assert ran_at == due
    check(app, server)


def test_each_tick_once_and_a_downtime_as_misfire_says(app: App, standing: Clock) -> None:
    ticks: list[tuple[str, datetime]] = []

    def note() -> None:
        ticks.append((current_task().id, standing.now))

    minutely = app.task(name="minutely")(note)
    app.every(60, minutely)
    app.every(60, minutely, name="skips", misfire="skip")
    drain(app)  # declared after the clock began: from here on
    begun = standing.now
    drain(app, minutes=30)
    drain(app)
    drain(app, minutes=30)
    assert len(ticks) == len({id for id, _ in ticks}) == 120
    assert all(at.second == at.microsecond == 0 for _, at in ticks), "at its very moment"
    assert {id for id, _ in ticks} == {
        f"{name}@{moment:%Y-%m-%dT%H:%M:00Z}"
        for name in ("minutely", "skips")
        for moment in (begun + timedelta(minutes=n) for n in range(1, 61))
    }
    assert {one.name: one.last is not None for one in app.schedule.list()} == {
        "minutely": True,
        "skips": True,
    }
    ticks.clear()
    standing.move(hours=2)
    drain(app)
    assert [id.partition("@")[0] for id, _ in ticks] == ["minutely"]
    app.schedule.pause("minutely", "skips")
    assert drain(app, hours=1) == []


def test_a_clock_begins_where_it_is_told_to(app: App, url: str) -> None:
    @app.cron("30 2 * * *", tz="Europe/Berlin")
    @app.task
    def night() -> None: ...

    spring = datetime(2026, 3, 28, 12, tzinfo=UTC)
    with clock(app, url=url, at=spring) as standing:
        assert standing.now == spring
        # Half past two is skipped that night: right after the gap, and on the next day as ever.
        assert [ran.id.partition("@")[2] for ran in drain(app, days=2)] == [
            "2026-03-29T01:00:00Z",
            "2026-03-30T00:30:00Z",
        ]
    with clock(app, url=url, at=spring) as standing:
        # Schedules count from where it begins, whether anybody has worked since or not.
        standing.move(days=2)
        assert [ran.id.partition("@")[2] for ran in drain(app)] == ["2026-03-30T00:30:00Z"]
    with (
        pytest.raises(BadArguments, match="give a datetime with a time zone"),
        clock(app, url=url, at=spring.replace(tzinfo=None)),
    ):
        pass


def test_retries_expiry_and_snoozes_by_the_clock(app: App, standing: Clock) -> None:
    @app.task(retries=2, backoff=[60])
    def flaky(fails: int) -> int:
        if current_task().attempt < fails:
            raise OSError("no")
        return current_task().attempt

    @app.task(expires=30)
    def fleeting() -> None: ...

    @app.task
    def sleeper(until: float) -> str:
        if standing.now.timestamp() < until:
            raise Snooze(600)
        return "awake"

    asleep = sleeper.delay(standing.now.timestamp() + 3000)
    result = flaky.delay(1)
    gone = fleeting.delay()
    standing.move(seconds=31)
    assert gone.state == "EXPIRED"
    ran = drain(app)
    assert [(one.outcome, one.delay) for one in ran] == [("later", 600), ("retry", 60)]
    assert (result.state, result.info().due_in) == ("RETRY", 60)
    assert drain(app, seconds=59) == []
    drain(app, seconds=1)
    assert result.get() == 1
    drain(app, hours=1)
    assert asleep.get() == "awake"
    assert app.status().counters["expired"] == 1


def test_what_is_throttled_waits_with_all_of_its_key(app: App, standing: Clock) -> None:
    busy = [Throttled("600")]

    @app.task(key="host:{host}")
    def page(host: str) -> str:
        if host == "a" and busy:
            raise busy.pop()
        return host

    app.limit("host:*", concurrency=0)  # what code declares is for workers
    first, second, other = (page.delay(host) for host in "aab")
    ran = drain(app)
    assert [(one.outcome, one.delay, one.args) for one in ran] == [
        ("throttled", 600, ("a",)),
        ("done", 0, ("b",)),
    ]
    assert other.get() == "b"
    assert drain(app, seconds=599) == []
    assert [one.id for one in drain(app, seconds=1)] == [first.id, second.id]
    assert [one.state for one in app.limits.keys("host:a")] == ["open"]


def test_limits_that_were_set_count_by_the_clock(app: App, standing: Clock) -> None:
    @app.task(key="host:{host}")
    def page(host: str) -> str:
        return host

    app.limits.set("host:*", delay=60)
    page.delay_many([("a",), ("a",), ("b",), ("a",)])
    assert sorted(one.args for one in drain(app)) == [("a",), ("b",)]
    assert len(drain(app, seconds=60)) == 1
    assert len(drain(app, seconds=60)) == 1
    assert standing.now.timestamp() == pytest.approx(app.client.broker.time())


def test_errors_are_raised_in_the_end_or_kept(app: App, standing: Clock) -> None:
    told: list[str] = []
    app.on_failure(lambda letter: told.append(letter.id))

    @app.task
    def fail(text: str) -> None:
        if text == "exit":
            raise SystemExit(3)
        raise OSError(text)

    fail.delay("one")
    fail.delay("two")
    with pytest.raises(OSError, match="one") as failed:
        drain(app)
    assert "2 tasks have failed, this is the first" in failed.value.__notes__[0]
    assert len(told) == app.status().dead == 2
    result = fail.delay("three")
    (ran,) = drain(app, errors="keep")
    assert (ran.outcome, ran.reason, repr(ran.error)) == ("dead", "failed", "OSError('three')")
    with pytest.raises(TaskFailed, match="OSError: three"):
        result.get()
    assert app.dead.get(result.id) is not None
    fail.delay("exit")
    assert drain(app, errors="keep")[0].outcome == "dead"


def test_ctrl_c_gives_back_what_ran(app: App, standing: Clock) -> None:
    @app.task
    def interrupted() -> None:
        if interrupt:
            raise KeyboardInterrupt

    interrupt = True
    result = interrupted.delay()
    with pytest.raises(KeyboardInterrupt):
        drain(app, errors="keep")
    assert (result.state, app.status().workers) == ("PENDING", [])
    interrupt = False
    drain(app)
    assert result.state == "SUCCESS"


def test_what_is_cancelled_does_not_run(app: App, standing: Clock, server: Server) -> None:
    @app.task
    def note(n: int) -> int:
        return n

    one, other = note.delay(1), note.apply_async((2,), countdown=60)
    assert one.cancel()
    app.cancel(task=note.name)
    later = note.delay(3)  # by a clock that stands: what comes after a mark is not hit
    assert [ran.args for ran in drain(app, minutes=1)] == [(3,)]
    assert (one.state, other.state, later.get()) == ("CANCELLED", "CANCELLED", 3)
    assert app.status().counters["cancelled"] == 2
    assert app.purge("default").total == 0
    note.delay_many([(4,), (5,)])
    assert app.purge("default").purged == 2
    check(app, server)


def test_what_has_no_end_is_found(app: App, standing: Clock) -> None:
    @app.task
    def forever() -> None:
        forever.delay()

    forever.delay()
    with pytest.raises(GreenworkerError, match=r"20 runs at one moment, .*forever"):
        drain(app, limit=20)
    app.client.send(Message("order-17", "gone"))
    with pytest.raises(ConfigError, match="limit=True"):
        drain(app, limit=True)


def test_it_is_refused_where_it_would_do_harm(project: Project, app: App, url: str) -> None:
    project.write("@app.task\ndef hello(): ...")
    theirs = App(url, namespace=project.namespace)
    with project.worker("-n", "somebody"):
        for use in (
            lambda: drain(theirs),
            lambda: clock(theirs, namespace=theirs.namespace).__enter__(),
        ):
            with pytest.raises(
                ConfigError, match=r"workers are at work .*: somebody; clock.app. gives"
            ):
                use()
        with clock(theirs):  # beside them, in a namespace of its own
            with pytest.raises(ConfigError, match="being tested already"), clock(theirs):
                pass
            with pytest.raises(ConfigError, match="a worker would go past that"):
                Worker(theirs)
            assert drain(theirs) == []
    # One that was killed is none that is at work: its lease runs on, and its process is gone.
    dead = project.worker()
    dead.kill()
    assert drain(theirs) == []
    with app.testing(), pytest.raises(ConfigError, match=r"sent.drain\(\)"):
        drain(app)
    assert not theirs.is_tested
    theirs.close()


def test_nothing_is_left_of_it(app: App, server: Server) -> None:
    # A worker's user may not look at all keys (docs/security.md): then they stay.
    with redis.Redis.from_url(server.admin_url) as admin:
        with clock(app, url=server.admin_url):
            root = app.client.broker.root

            @app.task
            def fail() -> None:
                raise OSError

            fail.delay_many([()] * 1500)
            fail.apply_async(countdown=60)
            drain(app, errors="keep")
            assert admin.keys(f"{root}*")
        assert admin.keys(f"{root}*") == []
    assert not app.is_tested


def test_nobody_else_goes_by_that_clock(app: App, url: str, namespace: str) -> None:
    @app.task
    def hello() -> None: ...

    with clock(app, url=url, namespace=namespace) as standing:
        other = App(url, namespace=namespace)
        standing.move(days=365)
        assert app.client.broker.time() - other.client.broker.time() > 364 * 86400
        result = hello.apply_async(countdown=60)
        assert other.client.broker.promote().moved == 0
        assert (other.result(result.id).info().due_in or 0) > 364 * 86400
        assert (result.info().due_in or 0) == 60
        drain(app, seconds=60)
        assert other.result(result.id).state == "SUCCESS"
        other.close()


def test_scripts_differ_in_nothing_but_where_they_have_the_time_from() -> None:
    asking = [name for name in NAMES if b"'TIME'" in load(name).source]
    assert {"push", "claim", "settle", "beat"} < set(asking)
    for name in NAMES:
        script = load(name)
        lines, moved = script.source.splitlines(), by_clock(script).source.splitlines()
        first, *rest = moved
        assert first == b"local CLOCK = tonumber(table.remove(ARGV))"
        changed = [before for before, now in zip(lines, rest, strict=True) if before != now]
        assert changed == [b"local time = redis.call('TIME')"] * (name in asking)
        assert b"CLOCK" not in script.source, "what production runs knows of no other clock"


def test_a_private_server_leaves_nothing_behind(app: App, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    @app.task
    def hello() -> str:
        return "hello"

    with private_server() as url, clock(app, url=url):
        result = hello.delay()
        drain(app)
        assert result.get(timeout=30) == "hello"
        assert list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []
    with redis.Redis.from_url(url) as nobody, pytest.raises(redis.ConnectionError):
        nobody.ping()
