"""Results: pushed to whoever waits, true at every moment, and never waited for in vain."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from greenworker import State, keys
from greenworker.errors import (
    GreenworkerError,
    ResultGone,
    ResultTimeout,
    TaskExpired,
    TaskFailed,
)
from tests.e2e.conftest import Project
from tests.support.eventually import eventually

HOLD = """
    @app.task
    def hold(n):
        wait_for("go")
        return n
"""


def subscribers(project: Project) -> list[dict[str, Any]]:
    """The connections of this server that wait for announcements."""
    return project.redis.client_list(_type="pubsub")


def test_threads_of_an_unpatched_process_wait(own_project: Project) -> None:
    """This process is one."""
    tasks = own_project.module(HOLD)
    own_project.worker()
    with ThreadPoolExecutor(50) as threads:
        waiting = [
            threads.submit(lambda n: tasks.hold.delay(n).get(timeout=60), n) for n in range(50)
        ]
        channels = eventually(
            lambda: len(own_project.redis.pubsub_channels("*done:?*")) == 50 and 50
        )
        assert channels == 50
        assert len(subscribers(own_project)) == 1
        own_project.allow("go")
        assert [one.result(timeout=60) for one in waiting] == list(range(50))


def test_a_thousand_greenlets_wait_on_one_connection(own_project: Project) -> None:
    own_project.write(HOLD)
    own_project.worker("-c", "1000", "-q", ready=False)
    program = own_project.script("""
        from gevent import monkey; monkey.patch_all()
        import gevent
        from tasks import app, hold
        waiting = [gevent.spawn(hold.delay(n).get, timeout=60) for n in range(1000)]
        gevent.joinall(waiting, raise_error=True)
        assert [one.value for one in waiting] == list(range(1000))
        print("all")
        app.close()
    """)
    # When a thousand of one process wait
    eventually(lambda: len(own_project.redis.pubsub_channels("*done:?*")) == 1000, within=30)
    # Then one connection waits for all of them
    (connection,) = subscribers(own_project)
    assert connection["name"] == "greenworker-results"
    assert int(connection["sub"]) == 1000 + 1, "and for what is said to all"
    own_project.allow("go")
    assert program.wait() == 0
    assert program.stdout == ["all"]


def test_a_lost_announcement_delays_a_result_at_most(own_project: Project) -> None:
    tasks = own_project.module(HOLD)
    own_project.worker()
    results = tasks.hold.delay_many((n,) for n in range(20))
    with ThreadPoolExecutor(20) as threads:
        waiting = [threads.submit(result.get, timeout=60) for result in results]
        eventually(lambda: subscribers(own_project))
        # When the connection is cut again and again while the tasks end
        own_project.allow("go")
        while not all(result.ready() for result in results):
            own_project.redis.client_kill_filter(_type="pubsub")
        assert [one.result(timeout=60) for one in waiting] == list(range(20))


def test_waiting_outlives_a_server_that_restarts(own_project: Project, own_server: Any) -> None:
    """Its data is gone: a waiter hears that, and does not hang."""
    tasks = own_project.module(HOLD)
    waiter = threading.Thread(target=lambda: gone.append(result_or_error(tasks.hold.delay(1))))
    gone: list[Any] = []
    waiter.start()
    eventually(lambda: subscribers(own_project))
    own_server.kill()
    own_server.restart()
    waiter.join(30)
    assert isinstance(gone[0], ResultGone)


def result_or_error(result: Any) -> Any:
    try:
        return result.get(timeout=60)
    except GreenworkerError as error:
        return error


def test_the_state_at_each_stage(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def hold():
            wait_for("go")
            return 7

        @app.task(retries=1, backoff=Backoff(least=600))
        def retry(): raise ValueError

        @app.task
        def fail(): raise LookupError("nobody home")

        @app.task(ignore_result=True)
        def silent(): ...
    """)
    hold, delayed = tasks.hold.delay(), tasks.hold.apply_async(countdown=600)
    late = tasks.hold.apply_async(expires=0.001)
    assert [hold.state, delayed.state] == [State.PENDING, State.SCHEDULED]
    worker = project.worker()
    worker.wait_for(f"tasks.hold[{hold.id}] received")
    assert hold.state is State.STARTED
    assert (hold.ready(), hold.successful(), hold.failed()) == (False, False, False)
    with pytest.raises(ResultTimeout, match=r"still STARTED after 0\.01 s"):
        hold.get(timeout=0.01)

    project.allow("go")
    assert hold.get(timeout=20) == 7
    assert (hold.state, hold.ready(), hold.successful()) == (State.SUCCESS, True, True)

    retry, fail = tasks.retry.delay(), tasks.fail.delay()
    with pytest.raises(TaskFailed, match="LookupError: nobody home") as caught:
        fail.get(timeout=20)
    assert (caught.value.type, caught.value.message) == ("LookupError", "nobody home")
    assert 'raise LookupError("nobody home")' in caught.value.traceback
    assert (fail.state, fail.failed()) == (State.FAILURE, True)
    assert eventually(lambda: retry.state is State.RETRY)

    with pytest.raises(TaskExpired):
        late.get(timeout=20)
    assert late.state is State.EXPIRED
    with pytest.raises(GreenworkerError, match="silent keeps no result"):
        tasks.silent.delay().get()
    # From any process, the id says it all
    assert tasks.app.result(fail.id).state is State.FAILURE


def test_a_result_that_is_gone(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def add(a, b): return a + b
    """)
    with pytest.raises(ResultGone, match="nothing is known of"):
        tasks.app.result("never-sent").get(timeout=20)
    forgotten, brief = tasks.add.delay(1, 2), tasks.add.apply_async((1, 2), result_ttl=0.3)
    channel = keys.done(project.root, brief.id)
    with ThreadPoolExecutor(1) as threads:
        # It is waited for when it comes: a look at it may come too late.
        waiting = threads.submit(brief.get, timeout=60)
        eventually(lambda: project.redis.pubsub_numsub(channel)[0][1])
        project.worker()
        assert (forgotten.get(timeout=20), waiting.result(timeout=60)) == (3, 3)
    forgotten.forget()
    for result in (forgotten, brief):
        gone = eventually(lambda result=result: isinstance(result_or_error(result), ResultGone))
        assert gone
        with pytest.raises(ResultGone):
            _ = result.state
