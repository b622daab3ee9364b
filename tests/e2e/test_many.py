"""Many at once: sent in flat memory, spread over workers, in the order of queues and priorities."""

from __future__ import annotations

from tests.e2e.conftest import Project
from tests.support.eventually import eventually


def test_a_generator_is_sent_in_flat_memory(own_project: Project) -> None:
    own_project.write("""
        @app.task
        def add(a, b): return a + b
    """)

    def growth(count: int) -> int:
        """By how many MB the peak of a process' memory grows when it sends so many."""
        program = own_project.script(
            """
            import resource, sys
            from tasks import add, app

            def peak():
                size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                return size // (1_000_000 if sys.platform == "darwin" else 1000)

            add.delay_many([(n, 1) for n in range(1000)], results=False)
            before = peak()
            count = int(sys.argv[1])
            assert add.delay_many(((n, 1) for n in range(count)), results=False) == count
            print(peak() - before)
            app.close()
            """,
            str(count),
        )
        assert program.wait(60) == 0, program.output
        return int(program.stdout[0])

    # 270,000 messages more, some 90 MB of them, cost nothing; 10 MB is for the allocator.
    assert growth(300_000) - growth(30_000) < 10


def test_a_burst_is_spread_over_idle_workers(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def hold():
            wait_for("go")
            return os.getpid()
    """)
    workers = [project.worker("-c", "1000", "-n", name) for name in ("one", "two")]
    results = tasks.hold.delay_many([()] * 1000)
    # Each could hold all of them, and each takes its share
    busy = eventually(lambda: (s := tasks.app.status()).running == 1000 and s.workers, within=20)
    shares = {worker.name: worker.running for worker in busy}
    assert min(shares.values()) >= 300, shares
    project.allow("go")
    assert {result.get(timeout=30) for result in results} == {worker.pid for worker in workers}


def test_no_worker_holds_more_than_it_runs(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def hold(): wait_for("go")
    """)
    worker = project.worker("-c", "7")
    tasks.hold.delay_many([()] * 100, results=False)
    worker.wait_for("received", times=7)
    status = tasks.app.status()
    assert (status.running, status.waiting) == (7, 93)
    project.allow("go")


def test_queues_in_their_order_and_priorities_inside_them(project: Project) -> None:
    tasks = project.module("""
        @app.task(ignore_result=True)
        def say(what): note(what)
    """)
    for priority in (1, 9, 5, 0):
        for queue in ("low", "high"):
            for n in (1, 2):
                tasks.say.apply_async((f"{queue}-{priority}-{n}",), queue=queue, priority=priority)
    assert project.run("--burst", "-c", "1", "-Q", "high,low", "tasks").returncode == 0
    assert project.notes == [
        f"{queue}-{priority}-{n}"
        for queue in ("high", "low")
        for priority in (9, 5, 1, 0)
        for n in (1, 2)
    ]
