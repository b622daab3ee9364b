"""app.testing(): tasks run where they are sent; no server anywhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import gevent
import pytest

from greenworker import (
    App,
    DeadLetter,
    Ignore,
    Message,
    Middleware,
    Reject,
    Snooze,
    SoftTimeout,
    Throttled,
    Worker,
    current_task,
    spawn,
)
from greenworker.errors import (
    ConfigError,
    GreenworkerError,
    NotEncodable,
    ResultGone,
    ResultTimeout,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskTimeout,
    UnknownTask,
)

NOWHERE = "redis://127.0.0.1:1"


@pytest.fixture
def app() -> Iterator[App]:
    """An app whose server is not there."""
    app = App(NOWHERE, patience=0.1)
    yield app
    assert app._stand_in is None
    app.close()


def test_a_send_runs_its_task_and_the_result_is_there(app: App) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with app.testing() as sent:
        result = add.delay(1, y=2)
        assert (result.state, result.ready(), result.get()) == ("SUCCESS", True, 3)
        assert result.info().attempt is None, "as of all that has ended"
        assert app.result(result.id).get(timeout=0) == 3
        assert [one.get() for one in add.delay_many([(1, 1), {"x": 2, "y": 2}])] == [2, 4]
        assert add.delay_many([(1, 1)], results=False) == 1
    (first, *_) = sent
    assert (first.id, first.task, first.args, first.kwargs) == (result.id, add.name, (1,), {"y": 2})
    assert (first.queue, first.priority, first.countdown, first.expires) == (
        "default",
        5,
        0.0,
        None,
    )
    assert len(sent) == len(sent.of(add)) == len(sent.of(add.name)) == len(sent.ran) == 4
    assert result.get() == 3, "a test may look at what there was"
    result.forget()
    with pytest.raises(ResultGone):
        result.get()


def test_what_cannot_travel_fails_here_too(app: App) -> None:
    @app.task
    def take(value: Any) -> Any:
        return type(value).__name__

    @app.task
    def give() -> Any:
        return {1, 2}

    with app.testing() as sent:
        with pytest.raises(NotEncodable, match="argument 'value'"):
            take.delay({1, 2})
        assert not sent
        assert take.delay((1, 2)).get() == "list", "as it arrives at a worker"
        assert take.delay(datetime.now(UTC)).get() == "str"
        with pytest.raises(NotEncodable, match=r"the result of .*give"):
            give.delay()
        assert [letter.reason for letter in sent.dead] == ["result"]


def test_the_error_itself_is_raised_at_the_send(app: App) -> None:
    @app.task
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    with app.testing() as sent:
        with pytest.raises(ZeroDivisionError, match="by zero") as failed:
            fail.delay()
        assert f"{fail.name}[{sent[0].id}] has failed for good" in failed.value.__notes__[0]
        # Where the task stood comes last, without what ran it.
        names = [frame.name for frame in failed.traceback]
        assert names[-1] == "fail"
        assert "_call" not in names
        (letter,) = sent.dead
        assert (letter.task, letter.error, letter.message) == (
            fail.name,
            "ZeroDivisionError",
            "by zero",
        )
        assert [letter.id for letter in app.dead.list(error="ZeroDivisionError")] == [sent[0].id]


def test_or_it_is_kept_in_the_result(app: App) -> None:
    @app.task
    def fail() -> None:
        raise ZeroDivisionError("by zero")

    with app.testing(errors="keep"):
        result = fail.delay()
        assert (result.state, result.failed()) == ("FAILURE", True)
        with pytest.raises(TaskFailed, match="ZeroDivisionError: by zero"):
            result.get()


def test_retries_run_at_once_and_are_written_down(app: App) -> None:
    @app.task(retries=3, backoff=[10, 600])
    def flaky(fails: int) -> int:
        run = current_task()
        assert run.last_error == ("" if run.attempt == 0 else "OSError: no")
        if run.attempt < fails:
            raise OSError("no")
        return run.attempt

    with app.testing() as sent:
        before = sent.now
        assert flaky.delay(2).get() == 2
        told = [(ran.attempt, ran.delay, str(ran.error)) for ran in sent.retries]
        assert told == [(0, 10, "no"), (1, 600, "no")]
        with pytest.raises(OSError, match="no") as failed:
            flaky.delay(9)
        assert "after 3 retries" in failed.value.__notes__[0]
        assert sent.now == before


def test_what_expires_before_its_retry_is_due_does_not_run_again(app: App) -> None:
    @app.task(retries=3, backoff=[600], expires=60)
    def flaky() -> None:
        raise OSError("no")

    with app.testing() as sent:
        result = flaky.delay()
        assert (result.state, len(sent.ran)) == ("EXPIRED", 1)
        with pytest.raises(TaskExpired):
            result.get()


def test_verdicts(app: App) -> None:
    @app.task(retries=3)
    def judge(verdict: str) -> str:
        if verdict == "retry" and current_task().attempt == 0:
            current_task().retry(countdown=7, error=OSError("busy"))
        if verdict == "reject":
            raise Reject("no such customer")
        if verdict == "ignore":
            raise Ignore
        if verdict == "snooze" and verdict not in slept:
            slept.append(verdict)
            raise Snooze(60)
        return verdict

    slept: list[str] = []
    with app.testing(errors="keep") as sent:
        assert judge.delay("retry").get() == "retry"
        assert [(ran.delay, str(ran.error)) for ran in sent.retries] == [(7, "busy")]
        assert judge.delay("reject").state == "FAILURE"
        assert [letter.reason for letter in sent.dead] == ["rejected"]
        with pytest.raises(ResultGone):
            assert judge.delay("ignore").state
        snoozed = judge.delay("snooze")
        assert (snoozed.state, snoozed.info().due_in) == ("SCHEDULED", 60)
        assert [one.id for one in sent.waiting] == [snoozed.id]
        sent.drain(minutes=1)
        assert snoozed.get() == "snooze"
    with app.testing(), pytest.raises(Reject, match="no such customer"):
        judge.delay("reject")


def test_what_is_throttled_comes_again_and_limits_are_not_applied(app: App) -> None:
    busy = [Throttled("90"), Throttled(), Throttled(7200)]

    @app.task(key="host:{name}")
    def page(name: str) -> str:
        if busy and name == "a":
            raise busy.pop(0)
        return name

    with app.testing() as sent:
        first, other = page.delay("a"), page.delay("b")
        assert other.get() == "b"
        assert (first.state, first.info().due_in, first.info().attempt) == ("SCHEDULED", 90, 0)
        # Its host is not held: that is the server's to do.
        assert page.delay("b").get() == "b"
        assert [one.id for one in sent.waiting] == [first.id]
        sent.drain(seconds=90)
        assert first.info().due_in == 30
        sent.drain(seconds=30)
        assert first.info().due_in == 3600
        sent.drain(hours=1)
        assert first.get() == "a"
    told = [(ran.outcome, ran.delay, ran.reason) for ran in sent.ran if ran.id == first.id]
    assert told == [
        ("throttled", 90, ""),
        ("throttled", -1, ""),
        ("throttled", 7200, ""),
        ("done", 0, ""),
    ]


def test_delays_are_kept_until_time_passes_and_nothing_is_early(app: App) -> None:
    order: list[str] = []

    @app.task
    def note(text: str) -> None:
        order.append(text)
        if text == "a":
            note.apply_async(("a again",), countdown=30)

    with app.testing() as sent:
        a = note.apply_async(("a",), countdown=60)
        note.apply_async(("b",), countdown=75)
        note.apply_async(("c",), eta=sent.now + timedelta(hours=1))
        note.apply_async(("d",), countdown=100, expires=70)
        assert (a.state, a.info().due_in) == ("SCHEDULED", 60)
        assert [one.countdown for one in sent] == [60, 75, 3600, 100]
        assert sent[3].expires == 70
        with pytest.raises(ResultTimeout, match=r"in app.testing\(\) time stands"):
            a.get(timeout=5)
        assert sent.drain(seconds=59.999) == []
        (ran,) = sent.drain(seconds=0.001)
        assert ran.args == ("a",)
        sent.drain(minutes=1)
        assert order == ["a", "b", "a again"], "each at its moment"
        assert [one.args for one in sent.waiting] == [("c",)]
        sent.drain(hours=1)
        assert order == ["a", "b", "a again", "c"]
        with pytest.raises(TypeError, match="give a number from 0 on"):
            sent.drain(hours=-1)


def test_schedules_tick_as_time_passes(app: App) -> None:
    ticks: list[str] = []

    @app.every(600)
    @app.cron("0 3 * * *", tz="Europe/Berlin", name="night")
    @app.task
    def report() -> None:
        ticks.append(current_task().id)

    with app.testing() as sent:
        assert report.delay().ready()
        sent.drain(days=1)
        sent.drain(days=1)
    assert len(ticks) == len(set(ticks)) == 1 + 2 * 144 + 2


def test_what_a_task_sends_runs_when_that_task_has_ended(app: App) -> None:
    order: list[str] = []

    @app.task
    def parent(children: int) -> list[str]:
        results = child.delay_many([(n,) for n in range(children)])
        order.append("parent")
        return [result.state for result in results]

    @app.task
    def child(n: int) -> None:
        order.append(f"child {n}")
        if n == 1:
            raise OSError("the second child")

    with app.testing() as sent:
        with pytest.raises(OSError, match="the second child"):
            parent.delay(3)
        # A child's failure is not its parent's, nor its siblings'.
        assert order == ["parent", "child 0", "child 1", "child 2"]
        assert app.result(sent[0].id).get() == ["PENDING"] * 3
        assert [one.sender for one in sent] == ["", *[sent[0].id] * 3]


def test_a_long_chain_is_no_deep_stack(app: App) -> None:
    @app.task
    def crawl(n: int) -> int:
        if n:
            crawl.delay(n - 1)
        return len(stack_of(sys._getframe()))

    with app.testing() as sent:
        crawl.delay(3000)
        assert len(sent.ran) == 3001
        depths = {app.result(one.id).get() for one in sent}
        assert len(depths) == 1


def test_who_sends_itself_for_ever_is_found(app: App) -> None:
    @app.task
    def forever() -> None:
        forever.delay()

    @app.task
    def asleep() -> None:
        raise Snooze(0)

    with app.testing(limit=50) as sent:
        with pytest.raises(GreenworkerError, match=r"50 runs at one moment, .*forever"):
            forever.delay()
        assert asleep.delay().state == "SCHEDULED"
        with pytest.raises(GreenworkerError, match=r"50 runs at one moment, .*asleep"):
            sent.drain()
        # Nobody runs it any more, nor waits for it in vain.
        left = app.result(sent.of(forever)[-1].id)
        with pytest.raises(ResultTimeout, match="is PENDING, and nobody runs it any more"):
            left.get()
    with pytest.raises(ConfigError, match="limit=0"), app.testing(limit=0):
        pass


def test_a_task_that_waits_for_its_child_gets_it(app: App) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    @app.task
    def quadruple(n: int) -> int:
        assert double.delay(1).state == "PENDING"
        half = double.delay(n).get(allow_in_task=True)
        assert current_task().name.endswith("quadruple")
        return double.delay(half).get(allow_in_task=True)

    @app.task
    def careless() -> int:
        return double.delay(1).get()

    with app.testing():
        assert quadruple.delay(3).get() == 12
        with pytest.raises(GreenworkerError, match="inside a task"):
            careless.delay()


def test_each_run_is_in_a_context_of_its_own(app: App) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")

    @app.task(bind=True)
    def whose(self: Any, kind: str) -> list[str]:
        seen = tenant.get()
        tenant.set("task's own")
        return [seen, self.name, self.queue]

    tenant.set("the test's")
    with app.testing():
        result = whose.apply_async(("x",), queue="web")
        assert result.get() == ["nobody", whose.name, "web"], "as in a worker"
    assert tenant.get() == "the test's"
    with pytest.raises(RuntimeError, match="current_task"):
        current_task()


class Tenants(Middleware):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def send(self, message: Message, call_next: Callable[[Message], None]) -> None:
        self.seen.append("send")
        call_next(replace(message, headers={"tenant": "a"}, queue="tenant-a"))
        self.seen.append("sent")

    def run(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
        self.seen.append(message.headers["tenant"])
        return f"<{call_next(message)}>"


def test_both_onions_are_there() -> None:
    tenants = Tenants()
    app = App(NOWHERE, middleware=[tenants], signing_keys=["k" * 32])

    @app.task
    def hello() -> str:
        return "hello"

    with app.testing() as sent:
        assert hello.delay().get() == "<hello>"
        assert (sent[0].headers, sent[0].queue) == ({"tenant": "a"}, "tenant-a")
        assert tenants.seen == ["send", "sent", "a"], "the run comes after the send"
        hello.delay_many([(), ()])
        assert len(sent.ran) == 3


def test_on_failure_is_told(app: App) -> None:
    told: list[DeadLetter] = []

    @app.task
    def fail(n: int) -> None:
        raise OSError(str(n))

    @app.on_failure
    def tell(letter: DeadLetter) -> None:
        told.append(letter)
        if letter.args == [2]:
            raise ValueError("who tells me?")

    with app.testing(errors="keep") as sent:
        fail.delay(1)
        fail.delay(2)
        assert told == sent.dead
    with app.testing(), pytest.raises(OSError, match="3"):
        fail.delay(3)


def test_dead_letters_are_retried_and_deleted(app: App) -> None:
    broken = True

    @app.task
    def fail() -> str:
        if broken:
            raise OSError("broken")
        return "mended"

    with app.testing(errors="keep") as sent:
        one, other = fail.delay(), fail.delay()
        assert app.dead.retry("nobody", *app.dead.list(), dry_run=True) == {
            "nobody": "gone",
            one.id: "retried",
            other.id: "retried",
        }
        broken = False
        assert app.dead.retry(one.id) == {one.id: "retried"}
        assert one.get() == "mended"
        assert app.dead.delete(*app.dead.list()) == 1
        assert sent.dead == []


def test_an_id_is_present_once_at_a_time(app: App) -> None:
    @app.task
    def note(text: str) -> str:
        return text

    with app.testing() as sent:
        first = note.apply_async(("first",), id="note", countdown=60)
        note.apply_async(("second",), id="note")
        assert (len(sent), first.state) == (1, "SCHEDULED")
        sent.drain(minutes=1)
        assert first.get() == "first"
        assert note.apply_async(("third",), id="note").get() == "third"


def test_a_message_that_no_task_takes(app: App) -> None:
    with app.testing() as sent:
        with pytest.raises(UnknownTask, match="no task 'gone'"):
            app.client.send(Message("order-17", "gone"))
        assert [letter.reason for letter in sent.dead] == ["unknown"]


def test_timeouts_hold_where_a_task_waits_as_greenlets_do(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenworker.worker.run._THROW_AGAIN", (0.01, 0.01))

    @app.task(timeout=0.05)
    def hangs() -> None:
        begun.append(time.monotonic())
        gevent.sleep(60)

    @app.task(soft_timeout=0.05)
    def tidies() -> str:
        try:
            gevent.sleep(60)
        except SoftTimeout:
            return "tidied"
        return "never"

    @app.task(timeout=0.01)
    def cannot_be_ended() -> None:
        while True:
            try:
                gevent.sleep(0.001)
            except BaseException as error:
                swallowed.append(error)
                if len(swallowed) == 3:
                    gevent.sleep(0.5)
                    return

    swallowed: list[BaseException] = []
    begun: list[float] = []
    time.sleep(0.1)  # nobody runs the loop meanwhile
    with app.testing() as sent:
        with pytest.raises(TaskTimeout, match=r"longer than 0\.05 s"):
            hangs.delay()
        assert time.monotonic() - begun[0] >= 0.04, "by a clock that goes"
        assert tidies.delay().get() == "tidied"
        with pytest.raises(GreenworkerError, match="stuck"):
            cannot_be_ended.delay()
        assert [letter.reason for letter in sent.dead] == ["failed", "stuck"]


def test_children_die_with_their_run(app: App) -> None:
    left: list[Any] = []

    @app.task
    def parent() -> Any:
        left.append(spawn(gevent.sleep, 60))
        return spawn(lambda: current_task().name).get()

    @app.task(thread=True)
    def in_thread() -> None:
        spawn(print)

    with app.testing():
        assert parent.delay().get() == parent.name
        gevent.sleep(0)
        assert left[0].dead
        with pytest.raises(RuntimeError, match="thread=True"):
            in_thread.delay()


def test_ctrl_c_is_the_testers(app: App) -> None:
    @app.task(retries=5, retry_for=BaseException)
    def interrupted(error: str) -> None:
        raise {"ctrl-c": KeyboardInterrupt, "exit": SystemExit}[error]

    with app.testing(errors="keep") as sent:
        with pytest.raises(KeyboardInterrupt):
            interrupted.delay("ctrl-c")
        assert len(sent.ran) == 1
        assert (app.result(sent[0].id).state, sent.dead) == ("PENDING", [])
        with pytest.raises(ResultTimeout, match="nobody runs it any more"):
            app.result(sent[0].id).get()
        assert interrupted.delay("exit").state == "FAILURE"
        with pytest.raises(pytest.fail.Exception):
            failing(app).delay()


def test_from_many_threads_each_in_its_own(app: App) -> None:
    @app.task
    def where(n: int) -> list[int]:
        inner.delay(n)
        return [n, threading.get_ident()]

    @app.task
    def inner(n: int) -> int:
        return threading.get_ident()

    def send(n: int) -> None:
        barrier.wait(30)
        for _ in range(20):
            ran = where.delay(n).get()
            got.append((threading.get_ident(), ran))

    got: list[tuple[int, list[int]]] = []
    barrier = threading.Barrier(8)
    with app.testing() as sent:
        threads = [threading.Thread(target=send, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 160
        assert all(ident == ran_in for ident, (_, ran_in) in got)
        assert len(sent) == len(sent.ran) == 320
        home = {one.id: one.sender for one in sent.of(inner)}
        assert all(
            app.result(id).get() == app.result(sender).get()[1] for id, sender in home.items()
        )


def test_a_thread_waits_for_what_another_one_runs(app: App) -> None:
    go, begun = threading.Event(), threading.Event()

    @app.task
    def slow() -> str:
        begun.set()
        assert go.wait(30)
        return "done"

    with app.testing():
        thread = threading.Thread(target=lambda: slow.apply_async(id="slow"))
        thread.start()
        assert begun.wait(30)
        result = app.result("slow")
        assert result.state == "STARTED"
        with pytest.raises(ResultTimeout):
            result.get(timeout=0.05)
        go.set()
        assert result.get(timeout=30) == "done"
        thread.join()


def test_what_a_task_leaves_behind_sends_for_itself(app: App) -> None:
    go = threading.Event()
    threads: list[threading.Thread] = []

    @app.task
    def leave() -> None:
        def later() -> None:
            assert go.wait(30)
            note.delay()

        # With the run's context, which knows what the run was part of.
        threads.append(threading.Thread(target=copy_context().run, args=(later,)))
        threads[0].start()

    @app.task
    def note() -> None: ...

    with app.testing() as sent:
        leave.delay()
        go.set()
        threads[0].join()
        assert [ran.task for ran in sent.ran] == [leave.name, note.name]


def test_what_is_cancelled_does_not_run(app: App) -> None:
    @app.task(retries=1, backoff=[0])
    def note(text: str) -> str:
        if text == "itself":
            assert app.result(current_task().id).cancel()
            raise OSError("would be retried")
        return text

    @app.task
    def parent() -> dict[str, str]:
        child = note.apply_async(("child",), id="child")
        return app.cancel("child", child.id, current_task().id, "nobody")

    with app.testing() as sent:
        delayed = note.apply_async(("delayed",), countdown=60)
        tagged = note.apply_async(("tagged",), countdown=60, tags=["a"])
        stays = note.apply_async(("stays",), countdown=60, tags=["b"])
        assert delayed.cancel()
        assert not delayed.cancel()
        assert app.cancel(tag="a", dry_run=True).waiting == 1
        app.cancel(tag="a")
        assert [one.state for one in (delayed, tagged, stays)] == [
            "CANCELLED",
            "CANCELLED",
            "SCHEDULED",
        ]
        with pytest.raises(TaskCancelled):
            tagged.get()
        (ran,) = sent.drain(minutes=1)
        assert ran.args == ("stays",)
        itself = note.delay("itself")
        assert (itself.state, sent.ran[-1].outcome, sent.dead) == ("CANCELLED", "cancelled", [])
        told = parent.delay()
        assert told.get() == {"child": "cancelled", told.id: "running", "nobody": "unknown"}
        assert sent.ran[-1].task == parent.name
        assert app.cancel(told.id) == {told.id: "ended"}
        app.cancel(task=note.name)


def test_two_apps_that_send_to_each_other(app: App) -> None:
    other = App(NOWHERE)

    @app.task
    def ping(n: int) -> None:
        if n:
            pong.delay(n)

    @other.task
    def pong(n: int) -> None:
        ping.delay(n - 1)

    with app.testing() as sent, other.testing() as others:
        ping.delay(3)
        assert (len(sent.ran), len(others.ran)) == (4, 3)
        assert not {ran.task for ran in others.ran} - {pong.name}


def test_nested_use_is_refused_and_all_is_as_before(app: App) -> None:
    @app.task
    def hello() -> str:
        return "hello"

    client = app.client
    with suppress(ZeroDivisionError), app.testing():
        with pytest.raises(ConfigError, match="being tested already"), app.testing():
            pass
        assert hello.delay().get() == "hello"
        app.close()  # what is under test may do so
        assert hello.delay().get() == "hello"
        raise ZeroDivisionError
    assert app.client is client
    with app.testing() as sent:
        assert len(sent) == 0, "each begins anew"


def test_what_needs_a_server_says_so(app: App) -> None:
    with app.testing():
        for ask in (app.status, app.check, app.schedule.list, lambda: app.pause("default")):
            with pytest.raises(ConfigError, match=r"app.testing\(\) has no server"):
                ask()  # type: ignore[operator]
        with pytest.raises(ConfigError, match="a worker would go past that"):
            Worker(app)
    with pytest.raises(ConfigError, match="give 'raise' or 'keep'"), app.testing(errors="x"):  # type: ignore[arg-type]
        pass


def failing(app: App) -> Any:
    @app.task
    def fails() -> None:
        pytest.fail("not like this")

    return fails


def stack_of(frame: Any) -> list[str]:
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names
