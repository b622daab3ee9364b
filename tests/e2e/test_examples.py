"""Every example, run as its first lines say, and what comes out of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import ProxyHandler, build_opener

import pytest
import redis

from greenworker.embedded import EmbeddedServer
from tests.support.eventually import eventually
from tests.support.examples import copy_to, environ, script, stop, worker
from tests.support.process import Command
from tests.support.server import Server

# A proxy set in the environment has no business with 127.0.0.1.
urlopen = build_opener(ProxyHandler({})).open

databases = count(1)


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    return copy_to(tmp_path)


@pytest.fixture
def url(server: Server) -> str:
    """A database of the test's own: the examples use the default namespace, as users do."""
    return urlsplit(server.url)._replace(path=f"/{next(databases)}").geturl()


def test_hello_prints_what_the_worker_answers(examples: Path) -> None:
    # Given a worker, and no server but the one that the two share in their folder
    server = urlsplit(EmbeddedServer(examples / ".greenworker").url).path
    # When the program runs, Then it prints the result
    with worker("hello", cwd=examples), Command(cwd=examples, program=("hello.py",)) as hello:
        assert hello.wait() == 0
        assert hello.stdout == ["Hello, world!"]
        assert listens(server)
    eventually(lambda: not listens(server), message="the embedded server stayed")


def test_crawl_saves_each_page_and_fetches_it_once(examples: Path, url: str) -> None:
    pages = examples / "pages"
    with site(pages=80) as root:
        # Given two workers, which know nothing of each other
        one = worker("crawl", "-c", "20", cwd=examples, url=url)
        two = worker("crawl", "-c", "20", cwd=examples, url=url)
        # When the first page is sent
        with one, two, Command(root, str(pages), **script("crawl.py", examples, url)) as crawl:
            assert crawl.wait(60) == 0
        counts = get(urljoin(root, "/__stats"))
    # Then every page is there, and was fetched once but for the failures of the site
    assert crawl.stdout[-1] == f"80 pages in {pages}, 0 given up"
    files = list(pages.iterdir())
    assert len(files) == counts["served"] == counts["pages"] == 80
    assert all("<title>" in file.read_text() for file in files)
    assert counts["failures"] > 0
    assert counts["requests"] == counts["pages"] + counts["failures"]


def test_requests_to_the_web_server_wait_on_one_connection(examples: Path, url: str) -> None:
    with Command("0", **script("web_server.py", examples, url)) as web:
        root = web.wait_for("http://")
        # Given 400 requests that wait, since there is no worker yet
        waiting = [ask(root, "teapot") for _ in range(400)]
        eventually(lambda: subscriptions(url) == [400], message="all wait on one connection")
        # When a worker comes
        with worker("web_server", "-c", "500", cwd=examples, url=url):
            # Then each has its answer
            for request in waiting:
                assert answer(request) == {"item": "teapot", "price": 18}
            # Then a task's error is the answer, too
            with pytest.raises(HTTPError) as failed:
                get(f"{root}/404")
            with failed.value as error:
                assert (error.code, json.load(error)) == (502, {"error": "there is no '404'"})
        stop(web)


def test_embedded_worker_ends_cleanly_with_its_server(examples: Path, url: str) -> None:
    with (
        Command("0", **script("embedded_worker.py", examples, url)) as web,
        ThreadPoolExecutor() as threads,
    ):
        root = web.wait_for("http://")
        assert get(f"{root}/teapot") == {"item": "teapot", "price": 18}
        # Given a request whose task runs
        request = threads.submit(get, f"{root}/cup")
        web.wait_for("received", times=2)
        # When the process is told to end, Then the request is answered first
        stop(web)
        assert request.result() == {"item": "cup", "price": 9}
    assert web.stdout[-1] == "stopped"
    eventually(lambda: clients(url) == [])


def test_gunicorn_workers_open_connections_of_their_own(examples: Path, url: str) -> None:
    folder = examples / "gunicorn_app"
    # Given a master that has used the app before it forked
    with gunicorn("wsgi:application", cwd=folder, url=url) as (root, web):
        (masters,) = clients(url)
        # When both of its workers have answered requests
        with worker("tasks", cwd=folder, url=url), ThreadPoolExecutor(10) as threads:
            pids: set[int] = set()

            def both_answered() -> bool:
                for answer in threads.map(get, [f"{root}/teapot"] * 10):
                    pids.add(answer.pop("pid"))
                    assert answer == {"item": "teapot", "price": 18}
                return len(pids) == 2

            eventually(both_answered, within=30)
            # Then each awaits on a connection of its own, and none has used the master's
            now = {client["id"]: client for client in clients(url)}
            assert [one["name"] for one in now.values()].count("greenworker-results") == 2
            assert now[masters["id"]]["tot-cmds"] == masters["tot-cmds"]
            assert web.pid not in pids
        stop(web)


def test_a_trace_goes_through_all_that_a_task_sends(examples: Path, url: str) -> None:
    # Given two workers that share a file of spans: the task waits for others
    one, two = (worker("tracing", cwd=examples, url=url) for _ in range(2))
    with one, two, Command("shelf", **script("tracing.py", examples, url)) as program:
        assert program.wait() == 0
    price, _, _, trace = program.stdout[-1].split()
    assert price == "10"
    lines = (examples / "spans.jsonl").read_text().splitlines()
    first, *asked = sorted(map(json.loads, lines), key=lambda span: span["task"] != "tracing.price")
    # Then one trace holds the task, what it sent, and the retry of that
    assert {span["trace"] for span in (first, *asked)} == {trace}
    assert {span["parent"] for span in asked} == {first["span"]}
    assert sorted((span["attempt"], span["error"]) for span in asked if span["error"]) == [
        (0, "ConnectionError")
    ]
    assert len(asked) == 3


def test_a_session_is_committed_or_rolled_back_with_its_run(examples: Path, url: str) -> None:
    with (
        worker("database", cwd=examples, url=url),
        Command(**script("database.py", examples, url)) as program,
    ):
        assert program.wait() == 0
    assert program.stdout == ["bob has too little", "{'ann': 70, 'bob': 130}"]


def test_errors_are_reported_once_an_attempt_and_for_good(examples: Path, url: str) -> None:
    with (
        worker("error_reports", cwd=examples, url=url) as running,
        Command(**script("error_reports.py", examples, url)) as program,
    ):
        assert program.wait() == 0
        running.wait_for("succeeded", times=2)
        running.wait_for(" failed in")
    # Then what was still waiting to be posted has been posted at the end
    lines = (examples / "reports.jsonl").read_text().splitlines()
    reports = [json.loads(line) for line in lines]
    lost = [report for report in reports if "lost" in report]
    assert [(one["reason"], one["error"]) for one in lost] == [
        ("failed", "ValueError: the bank says no")
    ]
    seen = sorted((one["error"], one["attempt"]) for one in reports if "lost" not in one)
    assert seen == [
        *[("ConnectionError: the bank is busy", 0)] * 2,
        *[("ValueError: the bank says no", attempt) for attempt in (0, 1)],
    ]
    assert len({one["issue"] for one in reports if "lost" not in one}) == 2


def test_flasks_context_is_there_in_tasks(examples: Path, url: str) -> None:
    flask = {"program": ("-m", "flask"), "cwd": examples, "env": environ(url)}
    options = ("--app", "flask_app", "run", "--port", "0")
    with worker("flask_app", cwd=examples, url=url), Command(*options, **flask) as web:
        root = web.wait_for("Running on http://").split()[-1]
        assert get(f"{root}/teapot") == {"item": "teapot", "price": "18 EUR"}


def test_django_sends_on_commit_and_packs_what_is_there(examples: Path, url: str) -> None:
    folder = examples / "django_app"
    with (
        worker("tasks", cwd=folder, url=url) as running,
        Command(**script("order.py", folder, url)) as program,
    ):
        assert program.wait(60) == 0
        assert program.stdout == ["nothing is no item", "teapot: packed, of 1 order"]
        # One was sent, and it was there
        running.wait_for("tasks.pack[")
        assert len([line for line in running.lines if "received" in line]) == 1


def test_a_shops_tests_need_neither_server_nor_worker(examples: Path) -> None:
    folder = examples / "tested_app"
    with Command("-q", "-p", "no:valkey", cwd=folder, program=("-m", "pytest")) as tests:
        assert tests.wait(100) == 0
    assert "6 passed" in tests.stdout[-1]


def test_every_example_is_in_the_table(examples: Path) -> None:
    table = (examples / "README.md").read_text(encoding="utf-8")
    shown = [path.name for path in examples.iterdir() if path.name != "README.md"]
    assert [name for name in shown if f"[{name}" not in table] == []


@contextmanager
def gunicorn(app: str, cwd: Path, url: str) -> Iterator[tuple[str, Command]]:
    """Run `gunicorn -k gevent --preload -w 2 app`; yield its address and itself, started."""
    # Its control socket goes to the home of the user: to this folder.
    env = {**environ(url), "HOME": str(cwd), "XDG_RUNTIME_DIR": str(cwd)}
    options = ("-k", "gevent", "--preload", "-w", "2", "-b", "127.0.0.1:0")
    with Command(*options, app, cwd=cwd, env=env, program=("-m", "gunicorn")) as command:
        root = command.wait_for("Listening at").split()[-2]
        command.wait_for("tasks waiting: 0")
        command.wait_for("Booting worker", times=2)
        yield root, command


@contextmanager
def site(pages: int) -> Iterator[str]:
    """Run the demo's web site, quicker than it is; yield its address."""
    options = ("--port=0", f"--pages={pages}", "--seed=7", "--pace=0.02")
    with Command(*options, program=("-m", "greenworker.demo.site")) as command:
        yield command.wait_for("http://")
        stop(command)


def get(url: str) -> Any:
    with urlopen(url, timeout=30) as response:
        return json.load(response)


def ask(root: str, item: str) -> HTTPConnection:
    """Send a request, and leave it at that."""
    connection = HTTPConnection(urlsplit(root).netloc, timeout=60)
    connection.request("GET", f"/{item}")
    return connection


def answer(connection: HTTPConnection) -> Any:
    """What came for a request that was sent by `ask`."""
    with connection.getresponse() as response:
        found = json.load(response)
    connection.close()
    return found


def clients(url: str) -> list[dict[str, str]]:
    """The connections that greenworker has open in this database."""
    with redis.Redis(port=urlsplit(url).port or 0) as client:
        listed: list[dict[str, str]] = client.client_list()
    database = urlsplit(url).path[1:]
    return [
        one for one in listed if one["db"] == database and one["name"].startswith("greenworker")
    ]


def subscriptions(url: str) -> list[int]:
    """How many results each connection that awaits some has been asked for; besides, it hears of marks."""
    return [int(client["sub"]) - 1 for client in clients(url) if client["sub"] != "0"]


def listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0
