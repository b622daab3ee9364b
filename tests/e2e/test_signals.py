"""Signals to the real command, and how it ends."""

from __future__ import annotations

from pathlib import Path
from signal import SIGCONT, SIGINT, SIGTERM, SIGTSTP, SIGTTIN

import pytest

from greenworker import State, keys
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.server import Server

TASKS = """
    @app.task
    def hold(n):
        wait_for("go")
        return [n, current_task().delivery, current_task().attempt, os.getpid()]

    @app.task
    def who():
        return os.getpid()
"""


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_an_idle_worker_ends_at_once(project: Project, number: int) -> None:
    project.write(TASKS)
    worker = project.worker("--grace", "600")
    worker.signal(number)
    assert worker.wait() == 0
    assert "stopping: 0 running, 600 s to finish" in worker.output
    assert "Traceback" not in worker.output
    # It has said goodbye: nobody has to wait for its lease to run out
    assert "(no worker)" in project.run("status", "-A", "tasks").stdout


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_after_the_end_changes_nothing(project: Project, number: str) -> None:
    """The interpreter has given up its handlers, and collects its garbage a last time."""
    project.write(
        TASKS
        + f"""
    import atexit, signal

    class Late:
        def __init__(self):
            self.me = self

        def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.{number}):
            note("late")
            kill(pid, number)

    atexit.register(Late)
    """
    )
    worker = project.worker()
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    assert project.notes == ["late"]


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_what_runs_is_finished(project: Project, number: int) -> None:
    # Given 20 tasks that run, and 20 that wait
    tasks = project.module(TASKS)
    worker = project.worker("-c", "20", "--grace", "600")
    sent = tasks.hold.delay_many((n,) for n in range(40))
    worker.wait_for("received", times=20)
    # When the signal comes while they run
    worker.signal(number)
    worker.wait_for("stopping: 20 running")
    project.allow("go")
    # Then these 20 have ended, and of the others none was begun
    assert worker.wait() == 0
    project.check()
    states = [result.state for result in sent]
    assert states == [State.SUCCESS] * 20 + [State.PENDING] * 20
    assert [result.get(timeout=5)[0] for result in sent[:20]] == list(range(20))
    assert worker.output.count("received") == 20


def test_what_never_ends_is_released_at_the_grace_and_charged_nothing(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("--grace", "0.3")
    sent = tasks.hold.delay_many((n,) for n in range(50))
    worker.wait_for("received", times=50)
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    project.check()
    assert {result.state for result in sent} == {State.PENDING}
    # They run elsewhere, as if they had never been claimed
    project.allow("go")
    other = project.worker()
    assert [result.get(timeout=20) for result in sent] == [[n, 1, 0, other.pid] for n in range(50)]


def test_a_second_signal_releases_now(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("--grace", "600")
    sent = tasks.hold.delay_many((n,) for n in range(50))
    worker.wait_for("received", times=50)
    worker.signal(SIGTERM)
    worker.wait_for("stopping: 50 running, 600 s to finish")
    worker.signal(SIGINT)
    worker.wait_for("stopping now: what runs is released")
    assert worker.wait() == 0
    project.check()
    assert {result.state for result in sent} == {State.PENDING}
    project.allow("go")
    project.worker()
    assert {tuple(result.get(timeout=20)[1:3]) for result in sent} == {(1, 0)}


def test_a_task_that_swallows_its_release_cannot_hold_up_the_end(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def stubborn():
            while not Path("go").exists():
                try:
                    time.sleep(600)
                except BaseException:
                    pass
            return current_task().delivery
    """)
    worker = project.worker("--grace", "0")
    stubborn = tasks.stubborn.delay()
    worker.wait_for("received")
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    project.allow("go")
    project.worker()
    assert stubborn.get(timeout=20) == 1


def test_quiet_and_resume(project: Project) -> None:
    # Given a worker that is quiet, with a task under way
    tasks = project.module(TASKS)
    first = project.worker()
    held = tasks.hold.delay(1)
    first.wait_for("received")
    first.signal(SIGTSTP)
    first.wait_for("quiet: claiming nothing more")
    # Then what is sent runs elsewhere, and what was under way goes on
    second = project.worker()
    ran = [result.get(timeout=20) for result in tasks.who.delay_many([()] * 20)]
    assert set(ran) == {second.pid}
    project.allow("go")
    assert held.get(timeout=20)[3] == first.pid
    # When it resumes, it works again
    second.kill()
    first.signal(SIGCONT)
    first.wait_for("resuming")
    assert tasks.who.delay().get(timeout=20) == first.pid
    # And a quiet worker can be stopped
    first.signal(SIGTSTP)
    first.signal(SIGTERM)
    assert first.wait() == 0


def test_ttin_shows_what_runs(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def outer():
            inner()

        def inner():
            wait_for("go")

        @app.task
        def other():
            wait_for("go")
    """)
    worker = project.worker()
    sent = [tasks.outer.delay(), tasks.other.delay()]
    worker.wait_for("received", times=2)
    worker.signal(SIGTTIN)
    worker.wait_for("2 running")
    dump = eventually(lambda: worker.output.count("in wait_for") == 2 and worker.output)
    assert f"tasks.outer[{sent[0].id}]:" in dump
    assert f"tasks.other[{sent[1].id}]:" in dump
    assert "in inner" in dump
    # And it goes on
    project.allow("go")
    assert [result.get(timeout=20) for result in sent] == [None, None]


@pytest.mark.parametrize("stopped", [False, True])
def test_an_end_while_the_server_is_away(
    own_server: Server, own_project: Project, stopped: bool
) -> None:
    # Given five tasks that end while the server is away: dead, or silent
    tasks = own_project.module(TASKS)
    worker = own_project.worker("--grace", "1")
    tasks.hold.delay_many([(n,) for n in range(5)], results=False)
    worker.wait_for("received", times=5)
    own_server.stop_process() if stopped else own_server.kill()
    own_project.allow("go")
    worker.wait_for("succeeded", times=5)
    # When it is told to stop, it ends, and says what could not be settled
    worker.signal(SIGTERM)
    assert worker.wait() == 1
    worker.wait_for("5 outcomes could not be settled: their tasks will run again")
    assert "Traceback" not in worker.output


def test_a_second_signal_does_not_wait_for_a_server_that_is_silent(
    own_server: Server, own_project: Project
) -> None:
    # Given five tasks that end while the server is frozen, and a stop with all the time there is
    tasks = own_project.module(TASKS)
    worker = own_project.worker("--grace", "600")
    tasks.hold.delay_many([(n,) for n in range(5)], results=False)
    worker.wait_for("received", times=5)
    own_server.stop_process()
    own_project.allow("go")
    worker.wait_for("succeeded", times=5)
    worker.signal(SIGTERM)
    worker.wait_for("stopping: 0 running, 600 s to finish")
    # When a second signal comes, it ends while the server is still frozen
    worker.signal(SIGTERM)
    worker.wait_for("stopping now")
    assert worker.wait() == 1
    worker.wait_for("5 outcomes could not be settled: their tasks will run again")
    assert "Traceback" not in worker.output


def test_a_stop_while_it_starts_on_a_server_that_is_silent(
    own_server: Server, own_project: Project
) -> None:
    own_project.write(TASKS)
    own_server.stop_process()
    worker = own_project.worker("--grace", "600", ready=False)
    eventually(lambda: handles_signals(worker.pid))
    worker.signal(SIGTERM)
    worker.wait_for("stopping: 0 running")
    assert worker.wait() == 0
    assert "Traceback" not in worker.output


def test_a_stop_before_the_server_ever_answered(own_server: Server, own_project: Project) -> None:
    own_project.write(TASKS)
    own_server.kill()
    worker = own_project.worker(ready=False)
    worker.wait_for("trying until it can")
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    assert "Traceback" not in worker.output


def handles_signals(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM: what comes before ends it as any process."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (SIGTERM - 1) & 1)


def deliveries(project: Project) -> dict[str, str]:
    """What each message that is present has been charged, by its envelope."""
    envelopes = project.redis.hgetall(keys.messages(project.root))
    return {id: envelope.split(" ")[1] for id, envelope in envelopes.items()}


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stop_under_load_loses_charges_and_repeats_nothing(
    project: Project, signals: int
) -> None:
    # Given a thousand short tasks under way, with more and more of them done
    tasks = project.module("""
        @app.task
        def work(n):
            time.sleep(0.02)
            note(n)
            return n
    """)
    sent = tasks.work.delay_many((n,) for n in range(1000))
    worker = project.worker("-c", "20", "-q", ready=False)
    eventually(lambda: len(project.notes) > 100)
    for _ in range(signals):
        worker.signal(SIGTERM)
    assert worker.wait() == 0
    # Then what was not done waits as if it had never been claimed
    waiting = deliveries(project)
    assert set(waiting.values()) <= {"0"}
    assert len(waiting) == 1000 - [one.state for one in sent].count(State.SUCCESS)
    project.worker("-q", ready=False)
    assert [result.get(timeout=60) for result in sent] == list(range(1000))
    if signals == 1:
        assert sorted(map(int, project.notes)) == list(range(1000))


BLOCK = """
    from gevent.monkey import get_original
    native_sleep = get_original("time", "sleep")

    @app.task
    def block():
        note(current_task().delivery)
        if current_task().delivery == 1:
            native_sleep(600)
"""


def test_a_blocked_loop_cannot_outlive_the_grace(project: Project) -> None:
    tasks = project.module(BLOCK)
    worker = project.worker("--grace", "1", "--max-block", "500", "--lease", "2")
    block = tasks.block.delay()
    eventually(lambda: project.notes)
    worker.signal(SIGTERM)
    assert worker.wait() == 3
    worker.wait_for("the loop is blocked and a stop is overdue")
    assert f"tasks.block[{block.id}] blocks the loop" in worker.output
    # Nobody could release it: it runs again after the lease
    project.worker("--lease", "2")
    block.get(timeout=30)
    assert project.notes == ["1", "2"]


def test_a_clean_up_that_takes_cpu_is_no_blocked_loop(project: Project) -> None:
    # Given tasks that need a while to clean up, one after the other
    tasks = project.module("""
        from gevent.monkey import get_original
        native_sleep = get_original("time", "sleep")

        @app.task
        def careful():
            note("begun")
            try:
                time.sleep(600)
            finally:
                native_sleep(0.5)
                note("clean")
    """)
    worker = project.worker("--grace", "0.2", "--block-warn", "0.1")
    tasks.careful.delay_many([()] * 3, results=False)
    eventually(lambda: len(project.notes) == 3)
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    assert project.notes.count("clean") == 3
    # Then they are charged nothing
    project.check()
    assert not project.redis.exists(f"{project.root}corpses")


def test_a_second_signal_ends_a_blocked_loop_at_once(project: Project) -> None:
    tasks = project.module(BLOCK)
    worker = project.worker("--grace", "500", "--max-block", "500")
    tasks.block.delay()
    eventually(lambda: project.notes)
    worker.signal(SIGTERM)
    worker.wait_for("blocks the loop")
    worker.signal(SIGTERM)
    assert worker.wait() == 3


def test_a_loop_that_runs_again_in_time_hears_of_the_signal(project: Project) -> None:
    tasks = project.module("""
        from gevent.monkey import get_original
        native_sleep = get_original("time", "sleep")

        @app.task
        def block():
            note("begun")
            while not Path("go").exists():
                native_sleep(0.01)
            return "done"
    """)
    worker = project.worker("--grace", "500")
    block = tasks.block.delay()
    eventually(lambda: project.notes)
    worker.signal(SIGTERM)
    worker.wait_for("blocks the loop")
    project.allow("go")
    assert worker.wait() == 0
    assert block.get(timeout=5) == "done"


def test_children_of_tasks_have_the_signals_of_any_process(project: Project) -> None:
    # Given a task that waits for a forked child, which a TERM ends
    tasks = project.module("""
        import signal

        @app.task
        def fork():
            pid = os.fork()
            if not pid:
                os.write(os.open("child", os.O_CREAT | os.O_WRONLY), b"x")
                while True:
                    signal.pause()
            wait_for("child")
            os.unlink("child")
            os.kill(pid, signal.SIGTERM)
            return os.waitpid(pid, 0)[1]
    """)
    worker = project.worker()
    assert tasks.fork.delay().get(timeout=20) == SIGTERM
    # Then the worker has heard nothing of it
    assert tasks.fork.delay().get(timeout=20) == SIGTERM
    assert "stopping" not in worker.output


def test_a_thread_of_the_app_cannot_keep_the_process(project: Project) -> None:
    project.write("""
        def forever():
            while True:
                time.sleep(60)

        threading.Thread(target=forever, name="pusher").start()

        @app.task
        def nothing(): pass
    """)
    worker = project.worker()
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    worker.wait_for("not waiting for the app's threads that still run: pusher")

    # Nor when an error ends it
    late = project.worker("-u", "redis://127.0.0.1:1/0", "--burst", ready=False)
    assert late.wait() == 1
    late.wait_for("greenworker: ")
