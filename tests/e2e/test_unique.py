"""Unique tasks with the real command: never two at once, never a lock left behind, whoever is killed."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest

from greenworker import Message, Middleware, Result, State
from greenworker.errors import TaskCancelled
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.server import Server
from tests.support.tcp_proxy import TcpProxy

KEYS = 8


def locks(project: Project) -> dict[str, str]:
    held: dict[str, str] = project.redis.hgetall(f"{project.root}unique")
    return held


def test_workers_are_killed_and_never_are_two_at_once(project: Project) -> None:
    """Until done: of each key one message after the other, each to its end; and no lock is left."""
    tasks = project.module("""
        @app.task(unique="key", retries=2, backoff=0.0)
        def work(key, n):
            run = current_task()
            note(f"start {key} {run.id}")
            time.sleep(0.02)
            if n % 3 == 0 and run.attempt == 0:
                raise OSError("once more")
            note(f"end {key} {run.id}")
            return n
    """)
    workers = [project.worker("--lease", "2", "-c", "20", "-q", ready=False) for _ in range(3)]
    sent: dict[str, int] = {}
    stopped = threading.Event()

    def send() -> None:
        for n in count():
            if stopped.is_set():
                return
            sent.setdefault(tasks.work.delay(n % KEYS, n).id, n)

    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    try:
        for kill in range(6):
            eventually(lambda least=60 * kill + 60: len(project.notes) >= least, within=60)
            workers.pop(0).kill()
            workers.append(project.worker("--lease", "2", "-c", "20", "-q", ready=False))
    finally:
        stopped.set()
        for sender in senders:
            sender.join()
    for id, n in sent.items():
        assert tasks.app.result(id).get(timeout=60) % KEYS == n % KEYS  # whoever sent it
    # Nothing of another message comes before the one that holds the lock has ended
    of_key = defaultdict(list)
    for line in project.notes:
        what, key, id = line.split()
        of_key[key].append((what, id))
    assert len(of_key) == KEYS
    for events in of_key.values():
        order = list(dict.fromkeys(id for _, id in events))
        assert [id for _, id in events] == sorted((id for _, id in events), key=order.index)
        assert {id for what, id in events if what == "end"} == set(order)
    assert {id for events in of_key.values() for _, id in events} == set(sent)
    assert locks(project) == {}
    project.check()


def test_until_started_the_next_may_wait_while_one_runs(project: Project) -> None:
    tasks = project.module("""
        @app.task(unique=True, unique_until="started")
        def work(key):
            note(current_task().id)
            wait_for("go")
    """)
    first = tasks.work.delay("a")
    assert tasks.work.delay("a") == first
    worker = project.worker("-c", "1", "--lease", "2")
    eventually(lambda: project.notes == [first.id])
    second = tasks.work.delay("a")
    assert tasks.work.delay("a") == second != first
    # The first one comes back, and takes nothing away from the second
    worker.kill()
    project.worker("-c", "1", "--lease", "2")
    eventually(lambda: len(project.notes) >= 2)
    project.allow("go")
    for result in (first, second):
        result.get(timeout=60)
    eventually(lambda: locks(project) == {})
    project.check()


def test_the_last_of_many_runs_once_it_is_quiet(project: Project) -> None:
    tasks = project.module("""
        @app.task(unique="doc", on_conflict="replace")
        def index(doc, version):
            note(f"{doc} {version}")
            return version
    """)
    project.worker()
    versions = [tasks.index.apply_async(("a", n), countdown=3600) for n in range(20)]
    other = tasks.index.apply_async(("b", 1), countdown=0.1)
    last = tasks.index.apply_async(("a", 20), countdown=0.1)
    assert (last.get(timeout=60), other.get(timeout=60)) == (20, 1)
    assert sorted(project.notes) == ["a 20", "b 1"]
    for earlier, later in zip(versions, [*versions[1:], last], strict=True):
        assert earlier.state is State.CANCELLED
        with pytest.raises(TaskCancelled, match=f"it was replaced by {later.id}"):
            earlier.get(timeout=60)
    assert locks(project) == {}
    project.check()


def test_who_waits_for_what_is_replaced_is_told_at_once(project: Project) -> None:
    tasks = project.module("""
        @app.task(unique="doc", on_conflict="replace")
        def index(doc, version): return version
    """)
    told: list[object] = []

    def wait(result: Result[int]) -> None:
        try:
            told.append(result.get(timeout=60))
        except TaskCancelled as error:
            told.append(error.message)

    for first in ({"countdown": 3600}, {}):
        told.clear()
        waiting = tasks.index.apply_async(("a", 1), **first)
        waiter = threading.Thread(target=wait, args=(waiting,))
        waiter.start()
        later = tasks.index.apply_async(("a", 2), countdown=3600)
        waiter.join(20)
        assert told == [f"it was replaced by {later.id}"]


def test_a_duplicate_gets_what_the_first_one_returns(project: Project) -> None:
    tasks = project.module("""
        @app.task(unique=lambda url: url.lower(), unique_for=3600)
        def fetch(url):
            note(url)
            return len(url)
    """)
    project.worker()
    results = [tasks.fetch.delay(url) for url in ("http://A/", "http://a/")]
    many = tasks.fetch.delay_many([("http://a/",), ("http://b/",), ("HTTP://B/",)])
    assert [result.get(timeout=60) for result in (*results, *many)] == [9] * 5
    assert [one.id for one in many] == [results[0].id, many[1].id, many[1].id]
    # It has ended long since
    assert tasks.fetch.delay("http://a/").get(timeout=60) == 9
    assert sorted(project.notes) == ["http://A/", "http://b/"]


def test_a_send_whose_reply_is_lost_is_answered_as_it_was(project: Project) -> None:
    with TcpProxy(project.url) as proxy:
        tasks = project.module("""
            @app.task(unique=True)
            def work(x): ...
        """)
        tasks.app.use(proxy.url, "the test")
        first = tasks.work.delay(1)
        lost = proxy.drop_next_reply(b"EVALSHA")
        assert tasks.work.delay(1) == first
        assert lost.sprung
        lost = proxy.drop_next_reply(b"EVALSHA")
        seen = tasks.app.seen("crawl")
        assert len(tasks.work.delay_many([(2,), (1,), (3,)], seen=seen)) == 3
        assert lost.sprung
        assert seen.count() == 2
        project.check()
        tasks.app.close()


def test_a_tick_of_what_still_runs_is_left_out(project: Project) -> None:
    """The schedule goes on, and tells truthfully what was sent last."""
    tasks = project.module("""
        @app.every(0.5, name="beat")
        @app.task(unique=True)
        def tick():
            note(current_task().id)
            wait_for("go")
    """)
    project.worker()
    eventually(lambda: len(project.notes) == 1)

    def info() -> dict[str, object]:
        done = project.run("schedule", "list", "-A", "tasks", "--json")
        (one,) = [json.loads(line) for line in done.stdout.splitlines()]
        assert one["last_id"] == project.notes[0]
        return dict(one)

    first = info()
    eventually(lambda: info()["next"] > first["next"], within=30)
    assert tasks.app.schedule.run("beat").id == project.notes[0]
    assert len(project.notes) == 1
    assert tasks.app.status().counters["enqueued"] == 1
    project.allow("go")
    eventually(lambda: len(project.notes) >= 3, within=30)
    project.check()


def test_what_middleware_adds_makes_no_difference(project: Project) -> None:
    """What was said at the call counts."""

    class Stamp(Middleware):
        def send(self, message: Message, call_next: Callable[[Message], None]) -> None:
            call_next(replace(message, kwargs={**message.kwargs, "stamp": message.id}))

    tasks = project.module("""
        @app.task(unique=True)
        def work(x, stamp=""): return stamp
    """)
    tasks.app.middleware(Stamp())
    first = tasks.work.delay(1)
    assert tasks.work.delay(1) == first
    assert [one.id for one in tasks.work.delay_many([(1,), (1,)])] == [first.id, first.id]
    project.worker("--burst")
    assert first.get(timeout=60) == first.id


def test_signed_and_unique(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENWORKER_SIGNING_KEYS", "a key of sixteen bytes")
    tasks = project.module("""
        @app.task(unique=True, retries=1, backoff=0.0)
        def work(x):
            if current_task().attempt == 0:
                raise OSError
            return x

        @app.task(unique=True, on_conflict="replace")
        def index(x): return x
    """)
    first = tasks.work.delay(1)
    assert tasks.work.delay(1) == first
    replaced = [tasks.index.delay(2) for _ in range(3)]
    project.worker(env={"GREENWORKER_SIGNING_KEYS": "a key of sixteen bytes"})
    assert (first.get(timeout=60), replaced[-1].get(timeout=60)) == (1, 2)
    assert locks(project) == {}
    project.check()


def test_many_crawlers_send_each_page_once(project: Project) -> None:
    """Each page links to others, of which most were seen: from all workers at once, and under kills."""
    tasks = project.module("""
        from greenworker import current_task

        @app.task(ignore_result=True)
        def page(n):
            note(f"{n} {current_task().id}")
            links = [((n * 7 + k) % 400,) for k in range(12)]
            page.delay_many(links, seen=app.seen("crawl-7"), results=False)
    """)
    workers = [project.worker("--lease", "2", "-c", "10", "-q", ready=False) for _ in range(3)]
    seen = tasks.app.seen("crawl-7")
    assert len(tasks.page.delay_many([(0,), (0,)], seen=seen)) == 1
    for kill in range(3):
        eventually(lambda least=40 * kill + 40: len(project.notes) >= least, within=60)
        workers.pop(0).kill()
        workers.append(project.worker("--lease", "2", "-c", "10", "-q", ready=False))
    eventually(lambda: tasks.app.status().counters.get("done") == 400, within=60)
    # One message each, whatever ran twice
    ids = {line.split()[1] for line in project.notes}
    assert Counter(line.split()[0] for line in {*project.notes}) == Counter(map(str, range(400)))
    assert (len(ids), seen.count()) == (400, 400)
    assert tasks.app.status().counters["enqueued"] == 400
    assert tasks.page.delay_many([(n,) for n in range(400)], seen=seen, results=False) == 0
    # Dropped, it begins anew; and what it held goes with sweeps
    assert seen.drop() == 400
    assert tasks.page.delay_many([(n,) for n in range(400)], seen=seen, results=False) == 400
    eventually(lambda: not project.redis.exists(f"{project.root}seen:dropped"), within=30)
    project.check()


def test_a_filter_is_where_its_app_is(project: Project) -> None:
    """A worker is told its server after the module was imported."""
    tasks = project.module("""
        seen = app.seen("crawl")

        @app.task
        def page(url): ...
    """)
    with Server() as other:
        tasks.app.use(other.url, "the test")
        tasks.page.delay_many([("a",)], seen=tasks.seen)
        assert "a" in tasks.seen
        tasks.app.close()
    assert not project.redis.exists(f"{project.root}seen")
