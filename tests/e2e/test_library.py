"""A worker as a library: inside a program of the user's own."""

from __future__ import annotations

from tests.e2e.conftest import Project

ADD = """
    @app.task
    def add(a, b): return a + b

    @app.task
    def hold():
        wait_for("go")
        return current_task().delivery
"""


def test_a_worker_inside_a_patched_program(project: Project) -> None:
    project.write(ADD)
    program = project.script("""
        from gevent import monkey; monkey.patch_all()
        import gevent, signal
        from greenworker import Worker
        from tasks import Path, add, app, hold

        before = {number: signal.getsignal(number) for number in signal.valid_signals()}

        # start() returns, and the worker runs beside us
        worker = Worker(app, concurrency=200)
        assert worker.start() is None
        assert [add.delay(n, 1).get(timeout=30) for n in range(10)] == list(range(1, 11))
        assert worker.stats.succeeded == 10
        assert worker.start() is None  # again: nothing happens

        # stop(timeout) releases what does not end, and may be called again
        held = hold.delay()
        while not worker.stats.running:
            gevent.sleep(0.01)
        assert worker.stop(0.1) == 0
        assert worker.stop() == 0
        assert held.state == "PENDING"
        assert app.status().workers == []

        # It can be started again, and be a context manager
        Path("go").touch()
        with worker as same:
            assert same is worker
            assert held.get(timeout=30) == 1
            assert len(app.status().workers) == 1
        assert app.status().workers == []

        # It has left the program's signals alone
        assert before == {number: signal.getsignal(number) for number in signal.valid_signals()}
        app.close()
        print("done")
    """)
    assert program.wait() == 0, program.output
    assert program.lines == ["done"]


def test_two_workers_in_one_process(project: Project) -> None:
    project.write("""
        @app.task(queue="one")
        def first(): return current_task().queue

        @app.task(queue="two")
        def second(): return current_task().queue
    """)
    program = project.script("""
        from gevent import monkey; monkey.patch_all()
        from greenworker import Worker
        from tasks import app, first, second

        with Worker(app, queues=["one"]) as one, Worker(app, queues=["two"]) as two:
            ran = [task.delay().get(timeout=30) for task in (first, second) * 5]
            assert ran == ["one", "two"] * 5
            assert one.stats.succeeded == two.stats.succeeded == 5
            assert len(app.status().workers) == 2
            one.stop()
            assert len(app.status().workers) == 1
            assert second.delay().get(timeout=30) == "two"
        app.close()
        print("done")
    """)
    assert program.wait() == 0, program.output
    assert program.lines == ["done"]


def test_an_unpatched_program_is_told_the_mend(project: Project) -> None:
    project.write(ADD)
    program = project.script("""
        import socket, time
        from gevent import monkey
        from greenworker import Worker
        from greenworker.errors import NotPatched
        from tasks import app

        worker = Worker(app)
        try:
            worker.start()
        except NotPatched as error:
            print(error)
        # Nothing was patched, nothing was started
        assert not any(map(monkey.is_module_patched, ("socket", "time", "threading", "select")))
        assert worker.stop() == 0
    """)
    assert program.wait() == 0, program.output
    (line,) = program.lines
    assert "gevent has not patched socket, time, select, threading" in line
    assert "from gevent import monkey; monkey.patch_all()" in line
    assert "greenworker MODULE" in line


def test_options_are_checked(project: Project) -> None:
    project.write(ADD)
    program = project.script("""
        from gevent import monkey; monkey.patch_all()
        from greenworker import Worker
        from greenworker.errors import ConfigError
        from tasks import app

        for options in ({"concurrency": 0}, {"concurency": 5}, {"lease": 0.5}, {"queues": ["a b"]}):
            try:
                Worker(app, **options)
            except ConfigError as error:
                print(error)
    """)
    assert program.wait() == 0, program.output
    concurrency, misspelt, lease, queue = program.lines
    assert "concurrency 0: give a whole number" in concurrency
    assert "concurency" in misspelt
    assert "lease 0.5: give at least 1 second" in lease
    assert "queue 'a b': use 1 to 64" in queue
