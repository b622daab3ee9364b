"""What stands around sends and runs, tasks in threads, and children, as a user of the command meets them."""

from __future__ import annotations

import signal

import pytest

from greenworker.errors import TaskFailed
from tests.e2e.conftest import Project
from tests.support.eventually import eventually

AROUND = """
    from dataclasses import replace
    from greenworker import Middleware

    class Around(Middleware):
        def send(self, message, call_next):
            call_next(replace(message, headers={"from": "the sender"}))

        def run(self, message, call_next):
            note(f"in {message.headers['from']} {current_task().attempt}")
            try:
                return call_next(message)
            finally:
                note("out")

        def on_start(self, worker): note(f"start {worker.config.concurrency}")
        def on_quiet(self, worker): note("quiet")
        def on_shutdown(self, worker): note("shutdown")

    app.middleware(Around())
"""


def test_headers_travel_from_send_to_run_and_a_worker_says_how_it_begins_and_ends(
    project: Project,
) -> None:
    tasks = project.module(
        AROUND
        + """
    @app.task(retries=1, backoff=0)
    def t(n):
        note(f"run {n}")
        if not current_task().attempt:
            raise OSError
        wait_for("go")
        return n
    """
    )
    worker = project.worker("-c", "7")
    sent = tasks.t.delay(5)
    eventually(lambda: project.notes.count("run 5") == 2)
    # When it is told to stop while the task runs
    worker.signal(signal.SIGTERM)
    eventually(lambda: "quiet" in project.notes)
    project.allow("go")
    assert worker.wait() == 0
    # Then the shutdown comes after the last task
    assert sent.get(timeout=10) == 5
    assert project.notes == [
        "start 7",
        *("in the sender 0", "run 5", "out"),
        *("in the sender 1", "run 5", "quiet", "out"),
        "shutdown",
    ]


def test_a_start_that_fails_ends_the_worker_and_shuts_down_what_had_begun(project: Project) -> None:
    project.write(
        AROUND
        + """
    class Broken(Middleware):
        def on_start(self, worker): raise OSError("no such database")

    app.middleware(Broken())

    @app.task
    def t(): pass
    """
    )
    worker = project.worker(ready=False)
    assert worker.wait() == 1
    assert "OSError: no such database" in worker.output
    assert project.notes == ["start 100", "shutdown"]


def test_who_failed_for_good_is_told(project: Project) -> None:
    tasks = project.module("""
        @app.on_failure
        def tell(letter):
            note(f"{letter.task} {letter.args} {letter.error} {letter.attempt}")
            if letter.args == [3]:
                raise OSError("no mail server")
            assert app.dead.get(letter.id) == letter

        @app.task(retries=2, backoff=0)
        def t(n):
            if n % 2:
                raise ValueError("odd")
    """)
    worker = project.worker()
    for n in range(4):
        tasks.t.delay(n)
    eventually(lambda: len(project.notes) == 2)
    assert sorted(project.notes) == ["tasks.t [1] ValueError 2", "tasks.t [3] ValueError 2"]
    worker.wait_for("on_failure, of tasks.t[")
    assert "no mail server" in worker.output
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert project.audit().well


BLOCKS = """
    from gevent.monkey import get_original
    block = get_original("time", "sleep")  # as C code would

    def blocks_until(file):
        note("blocks")
        while not Path(file).exists():
            block(0.01)

    @app.task
    def quick():
        return "quick"
"""


def test_what_blocks_in_a_thread_keeps_nobody_waiting(project: Project) -> None:
    tasks = project.module(
        BLOCKS
        + """
    @app.task(thread=True)
    def slow(n):
        print("printed", n)
        print("and", end=" ", flush=True)
        logging.getLogger("shop").info("logged")
        blocks_until("go")
        return [n, current_task().name]

    @app.task(thread=True)
    def breaks():
        raise ValueError("in a thread")
    """
    )
    worker = project.worker("--threads", "2")
    slow = [tasks.slow.delay(n) for n in range(5)]
    eventually(lambda: project.notes == ["blocks"] * 2)
    # The loop goes on, and more than two wait for a thread, in their slots
    assert tasks.quick.delay().get(timeout=10) == "quick"
    assert [one.state for one in slow] == ["STARTED"] * 5
    # TTIN shows where the threads stand
    worker.signal(signal.SIGTTIN)
    worker.wait_for("in blocks_until", times=2)
    worker.wait_for("waiting for a thread:", times=3)
    project.allow("go")
    assert [one.get(timeout=20) for one in slow] == [[n, "tasks.slow"] for n in range(5)]
    with pytest.raises(TaskFailed, match="in a thread") as failed:
        tasks.breaks.delay().get(timeout=10)
    assert "in breaks" in failed.value.traceback
    assert "worker/" not in failed.value.traceback
    for n, one in enumerate(slow):
        worker.wait_for(f"tasks.slow[{one.id}] printed {n}")
        worker.wait_for(f"tasks.slow[{one.id}] and ")
        said = {f"tasks.slow[{one.id}] printed {n}", f"tasks.slow[{one.id}] and "}
        assert said <= set(worker.stdout)
        worker.wait_for(f"tasks.slow[{one.id}] logged")


def test_threads_that_log_and_greenlets_that_log_wait_for_nobody(project: Project) -> None:
    tasks = project.module(
        BLOCKS
        + """
    log = logging.getLogger("shop")

    @app.task(thread=True)
    def threaded():
        for _ in range(50):
            log.warning("from a thread")
            block(0.0002)
        for _ in range(20_000):
            logging.getLogger("shop")

    @app.task
    def green():
        for _ in range(50):
            log.warning("from a greenlet")
            for _ in range(400):
                logging.getLogger("shop")
            time.sleep(0)

    class Slow(logging.Handler):
        def emit(self, record):
            block(0.0002)  # gives the GIL away, and holds the handler's lock

    logging.getLogger().addHandler(Slow())
    """
    )
    project.worker()
    sent = [task.delay() for _ in range(10) for task in (tasks.threaded, tasks.green)]
    for one in sent:
        one.get(timeout=60)


def test_a_thread_past_its_timeout_goes_on_beside_its_slot_and_keeps_no_worker(
    project: Project,
) -> None:
    tasks = project.module(
        BLOCKS
        + """
    @app.task(thread=True, timeout=0.2, retries=5)
    def stuck():
        blocks_until("never")
    """
    )
    worker = project.worker("--threads", "1", "-c", "1", "--max-stuck", "5")
    sent = tasks.stuck.delay()
    with pytest.raises(TaskFailed, match=r"ran longer than 0\.2 s; its thread goes on"):
        sent.get(timeout=20)
    assert project.dead() == {sent.id: "stuck"}
    # Both its slot and its thread are there for others
    with pytest.raises(TaskFailed, match="its thread goes on"):
        tasks.stuck.delay().get(timeout=20)
    assert tasks.quick.delay().get(timeout=20) == "quick"
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_a_thread_that_runs_at_the_grace_is_released_and_ends_with_the_process(
    project: Project,
) -> None:
    tasks = project.module(
        BLOCKS
        + """
    @app.task(thread=True)
    def slow():
        blocks_until("go")
        return "done"
    """
    )
    worker = project.worker("--grace", "0.2", "--threads", "1")
    first, second = tasks.slow.delay(), tasks.slow.delay()
    eventually(lambda: project.notes == ["blocks"])
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    # Nothing is charged: another worker runs both
    project.allow("go")
    project.worker()
    assert [first.get(timeout=20), second.get(timeout=20)] == ["done", "done"]
    assert project.notes == ["blocks"] * 3


def test_children_know_their_task_and_die_with_it(project: Project) -> None:
    tasks = project.module("""
        from greenworker import spawn

        def child(n):
            print(f"child {n}")
            try:
                if n == 2:
                    raise ValueError("a child's")
                wait_for("never")
            finally:
                note(f"{n} ends in {current_task().name}")

        @app.task
        def parent():
            children = [spawn(child, n) for n in range(3)]
            assert spawn(lambda: 6 * 7).get() == 42
            try:
                children[2].get()
            except ValueError as error:
                return str(error)
    """)
    worker = project.worker()
    sent = tasks.parent.delay()
    assert sent.get(timeout=10) == "a child's"
    eventually(lambda: sorted(project.notes) == [f"{n} ends in tasks.parent" for n in range(3)])
    worker.wait_for(f"tasks.parent[{sent.id}] child 1")
    worker.wait_for(f"tasks.parent[{sent.id}]: its child failed: ValueError")
