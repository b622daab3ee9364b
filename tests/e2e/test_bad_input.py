"""Bad input: a clear error in one line, the right exit code, no traceback, and nothing is lost."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from greenworker import State, keys
from greenworker.errors import (
    BadArguments,
    DeclarationError,
    NotEncodable,
    PayloadTooLarge,
    TaskFailed,
)
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.server import Server
from tests.support.tcp_proxy import TcpProxy

ADD = """
    @app.task
    def add(a, b): return a + b
"""


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """It ended with this code and one line on stderr that holds the words."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("greenworker: ")
    for word in words:
        assert word in line


# --- the call


@pytest.mark.parametrize("value", ["0", "-3", "x"])
def test_a_concurrency_that_is_none(project: Project, value: str) -> None:
    project.write(ADD)
    refused(project.run("-c", value, "tasks"), 2, f"--concurrency {value}: give a whole number")
    env = {"GREENWORKER_CONCURRENCY": value}
    refused(project.run("tasks", env=env), 2, f"GREENWORKER_CONCURRENCY {value}")


@pytest.mark.parametrize("name", ["a{b}", "a b", "a\nb", "", "x" * 65])
def test_a_queue_name_that_is_none(project: Project, name: str) -> None:
    tasks = project.module(ADD)
    refused(project.run("-Q", f"default,{name}", "tasks"), 2, f"queue {name!r}: use 1 to 64")
    with pytest.raises(BadArguments, match=r"queue .*: use 1 to 64"):
        tasks.add.apply_async((1, 2), queue=name)
    project.write(f"@app.task(queue={name!r})\ndef f(): ...")
    refused(project.run("tasks"), 2, f"queue {name!r}: use 1 to 64")


@pytest.mark.parametrize(
    "args", [(), ("--nope", "tasks"), ("-l", "loud", "tasks"), ("--workdir", "nowhere", "tasks")]
)
def test_a_call_that_makes_no_sense(project: Project, args: tuple[str, ...]) -> None:
    project.write(ADD)
    refused(project.run(*args), 2)


def test_a_name_that_no_terminal_shows(project: Project) -> None:
    project.write(ADD)
    refused(project.run("--name", "w\udcff", "tasks"), 2, "name 'w\\udcff': give up to 200")


# --- the app


def test_an_unknown_module(project: Project) -> None:
    project.write(ADD, name="shop")
    refused(project.run("shpo"), 2, "no module 'shpo'", str(project.folder), "modules here: shop")
    for path in ("shop.py", "./shop.py"):
        refused(project.run(path), 2, f"no module {path!r}: it takes a module's name: shop")
    refused(project.run("status", "-A", "shpo"), 2, "no module 'shpo'")


def test_a_module_without_an_app(project: Project) -> None:
    (project.folder / "bare.py").write_text("number = 7\n")
    refused(project.run("bare"), 2, "no App in bare", "app = greenworker.App()")
    refused(project.run("bare:number"), 2, "bare:number is no App: it is a int")
    refused(project.run("bare:app"), 2, "bare:app is no App: there is none")


def test_an_app_without_tasks(project: Project) -> None:
    project.write("def add(a, b): return a + b")
    refused(project.run("tasks"), 2, "no tasks", "@app.task", "include")


def test_several_apps(project: Project) -> None:
    project.write("first, second = App(), App()\ndel app")
    refused(project.run("tasks"), 2, "several Apps: say tasks:first or tasks:second")
    project.write(ADD, name="shop")
    project.write(ADD, name="mail")
    refused(project.run("shop", "mail"), 2, "shop and mail have an App each")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("sys.exit('enough')", "SystemExit: enough"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("@app.task\nasync def f(): ...", "tasks.f is async"),
        ("@app.task(timeout=-1)\ndef f(): ...", "timeout=-1: give seconds"),
        ("@app.task(tmeout=1)\ndef f(): ...", "tmeout"),
        ("@app.task(priority=10)\ndef f(): ...", "priority 10: give 0 to 9"),
        ("@app.task(name='x')\ndef f(): ...\n@app.task(name='x')\ndef g(): ...", "two tasks are"),
    ],
)
def test_an_error_while_the_app_is_imported(project: Project, body: str, says: str) -> None:
    project.write(body)
    refused(project.run("tasks"), 2, "tasks", says)


def test_an_error_in_an_included_module(project: Project) -> None:
    for include, says in (("nowhere", "no module 'nowhere'"), ("broken", "ZeroDivisionError")):
        (project.folder / "broken.py").write_text("1 / 0\n")
        (project.folder / "tasks.py").write_text(
            f"from greenworker import App\napp = App({project.url!r}, include=[{include!r}])\n"
        )
        for command in (("tasks",), ("status", "-A", "tasks")):
            refused(project.run(*command), 2, include, says)


def test_an_async_task_is_refused_where_it_is_declared(project: Project) -> None:
    tasks = project.module(ADD)

    async def fetch() -> None: ...

    with pytest.raises(DeclarationError, match=r"fetch is async: .* write `def`"):
        tasks.app.task(fetch)


# --- the server


@pytest.mark.parametrize("bad", ["nonsense", "http://h/0", "redis://h:port/0", "redis://h/0?db=x"])
def test_a_bad_url(project: Project, bad: str) -> None:
    project.write(ADD)
    refused(project.run("-u", bad, "tasks"), 2, "bad server URL", "from --url")
    refused(project.run("status", "-u", bad), 2, "bad server URL", "from --url")


def test_an_unreachable_server_is_tried_until_it_answers(
    own_server: Server, own_project: Project
) -> None:
    # Given a server that is away
    tasks = own_project.module(ADD)
    own_server.kill()
    # When a worker starts, it says so and stays
    worker = own_project.worker(ready=False)
    worker.wait_for("cannot be reached")
    worker.wait_for("workers      unknown, the server does not answer")
    assert "trying until it can" in worker.output
    assert "ready" not in worker.lines
    # Then it works as soon as the server is there
    own_server.restart()
    worker.wait_for("ready")
    assert tasks.add.delay(1, 2).get(timeout=20) == 3
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("command", [("--burst", "tasks"), ("status", "-A", "tasks")])
def test_a_burst_and_status_give_up(project: Project, command: tuple[str, ...]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        project.write(ADD)
        refused(project.run("-u", url, *command), 1, url, "cannot be reached")


def test_a_wrong_password(project: Project) -> None:
    project.write(ADD)
    with Server(config={"requirepass": "right"}) as server:
        wrong = server.url.replace("redis://", "redis://:wrong@")
        for url in (server.url, wrong):
            for command in (("tasks",), ("--burst", "tasks"), ("status", "-A", "tasks")):
                done = project.run("-u", url, *command)
                refused(done, 2, "refuses us", "check user and password")
                assert "wrong@" not in done.stderr


def test_a_server_that_evicts(project: Project) -> None:
    tasks = project.module(ADD)
    with Server(config={"maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"}) as server:
        done = project.run("-u", server.url, "tasks")
        refused(done, 2, "maxmemory-policy is allkeys-lru", "noeviction", "--allow-eviction")
        tasks.app.use(server.url, "the test")
        sum_ = tasks.add.delay(1, 2)
        assert project.run("-u", server.url, "--allow-eviction", "--burst", "tasks").returncode == 0
        assert sum_.get(timeout=10) == 3


def test_a_server_that_evicts_and_was_away_at_the_start(project: Project) -> None:
    project.write(ADD)
    with (
        Server(config={"maxmemory-policy": "allkeys-lru"}) as server,
        TcpProxy(server.url) as proxy,
    ):
        proxy.refuse()
        worker = project.worker("-u", proxy.url, ready=False)
        worker.wait_for("trying until it can")
        proxy.accept()
        assert worker.wait() == 2
    (line,) = [line for line in worker.lines if "allkeys-lru" in line]
    assert line.startswith("greenworker: the server's maxmemory-policy is allkeys-lru")
    assert "Traceback" not in worker.output
    assert "ready" not in worker.lines


class OldServer(socketserver.StreamRequestHandler):
    """Redis 6.0, as far as a worker gets with it."""

    def handle(self) -> None:
        while head := self.rfile.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(size + 2)[:-2])
            info = b"redis_version:6.0.0\r\n"
            reply = b"$%d\r\n%b\r\n" % (len(info), info) if words[0] == b"INFO" else b"+OK\r\n"
            self.wfile.write(reply)


@pytest.fixture
def old_server() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OldServer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()


def test_a_server_that_is_too_old(project: Project, old_server: str) -> None:
    project.write(ADD)
    refused(project.run("-u", old_server, "tasks"), 2, "Redis 6.0.0", "needs 6.2 or newer")


# --- what is sent


def test_what_is_refused_at_the_call(project: Project) -> None:
    tasks = project.module(ADD)
    with pytest.raises(PayloadTooLarge, match="the limit is 1,000,000"):
        tasks.add.delay("x" * 1_000_001, 1)
    with pytest.raises(NotEncodable, match=r"argument 'b' of tasks\.add"):
        tasks.add.delay(1, {2})
    with pytest.raises(BadArguments, match="missing a required argument: 'b'"):
        tasks.add.delay(1)
    with pytest.raises(BadArguments, match="delay_many takes an iterable"):
        tasks.add.delay_many("ab")
    for deep_or_large in (deep(100_000), 2**64, -(2**63) - 1):
        with pytest.raises(NotEncodable, match=r"^argument 'a' of tasks\.add cannot be encoded: "):
            tasks.add.delay(deep_or_large, 1)
    with pytest.raises(PayloadTooLarge, match="64,000,011 bytes, the limit is 1,000,000"):
        tasks.add.delay("x" * 64_000_000, 1)
    assert tasks.app.status().waiting == 0


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def test_what_is_found_in_a_queue_and_is_no_message(project: Project) -> None:
    # Given rubbish in the queue, and messages between it
    tasks = project.module(ADD)
    before = tasks.add.delay(1, 2)
    ready = keys.ready(project.root, "default", 5)
    envelopes = {
        "not-utf-8": b"\xff\xfe\x00",
        "empty": b"",
        "version-2": b"2 0 0 5 1 0 3600000 default tasks.add\n[[1,2],{}]",
        "not-json": b"1 0 0 5 1 0 3600000 default tasks.add\n[[1,2",
        "not-a-call": b"1 0 0 5 1 0 3600000 default tasks.add\n7",
        "deep": b"1 0 0 5 1 0 3600000 default tasks.add\n" + b"[" * 100_000,
        "huge": b"1 0 0 5 1 0 3600000 default tasks.add\n[[1,2],{}," + b" " * 1_000_000 + b"]",
        "vast": b"1 0 0 5 1 0 3600000 default tasks.add\n[[1,2],{}," + b" " * 64_000_000 + b"]",
        "too-many-bits": b"1 0 0 5 1 0 3600000 default tasks.add\n[[1,18446744073709551616],{}]",
        # a time to live that is no float to Python, before a body that is no JSON
        "endless": b"1 0 0 5 1 0 %b default tasks.add\n[[1,2" % (b"9" * 400),
        "\u00e4 id": b"1 0 0 5 1 0 3600000 default tasks.add\n[[1,2],{}]",
    }
    project.redis.hset(keys.messages(project.root), mapping=envelopes)
    project.redis.lpush(ready, *envelopes, "no-such-message", b"\xff\xfe{}\x00\n")
    after = tasks.add.delay(3, 4)
    # When a worker meets it
    worker = project.worker()
    # Then all of it becomes dead letters with their reason, and the worker goes on
    assert (before.get(timeout=20), after.get(timeout=20)) == (3, 7)
    dead = eventually(lambda: len(found := records(project)) == 13 and found)
    assert {record.split(b" ")[1] for record in dead.values()} == {b"malformed"}
    del envelopes["\u00e4 id"]  # which is a dead letter under another name
    assert set(map(str.encode, envelopes)) < set(dead)
    assert sum(map(len, dead.values())) < 1_200_000
    with pytest.raises(TaskFailed, match="version") as caught:
        tasks.app.result("version-2").get(timeout=5)
    assert caught.value.type == "MalformedMessage"
    assert tasks.app.result("not-json").state is State.FAILURE
    assert tasks.add.delay(5, 6).get(timeout=20) == 11
    assert "Traceback" not in worker.output


def records(project: Project) -> dict[bytes, bytes]:
    """The dead letters' records as bytes: what is in them may be no text."""
    with redis.Redis.from_url(project.admin_url) as client:
        return dict(client.hgetall(keys.dead_records(project.root)))


def test_a_call_that_the_workers_code_does_not_fit(project: Project) -> None:
    # Given a message of a former version of the code
    tasks = project.module("""
        @app.task
        def add(a, b, c=0): return a + b
    """)
    old = tasks.add.delay(1, 2, 3)
    tasks = project.module(ADD)
    # When a worker of today's code claims it, it is a dead letter, and the worker goes on
    project.worker()
    with pytest.raises(TaskFailed, match="too many positional arguments") as caught:
        old.get(timeout=20)
    assert caught.value.type == "BadArguments"
    assert project.dead() == {old.id: "arguments"}
    assert tasks.add.delay(1, 2).get(timeout=20) == 3


def test_the_name_of_a_task_is_looked_up_and_nothing_else(project: Project) -> None:
    # Given calls of what is in every Python, and a name that would write a log line of its own
    tasks = project.module(ADD)
    names = ("os.system", "builtins.eval", "subprocess.run", "tasks.os", "a%0AERROR%1B[2J")
    for n, name in enumerate(names):
        envelope = f'1 0 0 5 1 0 3600000 default {name} unknown=1\n[["touch broken-in"],{{}}]'
        project.redis.hset(keys.messages(project.root), f"m{n}", envelope)
        project.redis.lpush(keys.ready(project.root, "default", 5), f"m{n}")
    # When a worker meets them, they are put off, and (a deploy has had its time) dead letters
    worker = project.worker()
    dead = eventually(lambda: len(found := project.dead()) == len(names) and found)
    assert set(dead.values()) == {"unknown"}
    assert tasks.add.delay(1, 2).get(timeout=20) == 3
    assert not (project.folder / "broken-in").exists()
    assert not [line for line in worker.lines if line.startswith("ERROR") or "\x1b" in line]


def test_an_unknown_task_is_put_off_until_a_deploy_brings_it(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def add(a, b): return a + b

        @app.task
        def new(): return "new"
    """)
    project.write(ADD)
    old_worker = project.worker()
    new = tasks.new.delay()
    old_worker.wait_for(f"tasks.new[{new.id}]")
    assert tasks.add.delay(1, 2).get(timeout=20) == 3
    assert new.state in (State.SCHEDULED, State.PENDING, State.STARTED)
    assert project.dead() == {}
    old_worker.kill()
    project.module("""
        @app.task
        def new(): return "new"
    """)
    project.worker()
    assert new.get(timeout=20) == "new"


@pytest.mark.parametrize(
    ("body", "type_", "message"),
    [
        ("sys.exit(3)", "SystemExit", "3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise GeneratorExit", "GeneratorExit", ""),
        ("import gevent; raise gevent.GreenletExit", "GreenletExit", ""),
        ("return {1, 2}", "NotEncodable", "the result of tasks.bad cannot be encoded"),
        ("return 2 ** 64", "NotEncodable", "Integer exceeds 64-bit range"),
        ("return deep(300)", "NotEncodable", "the result of tasks.bad cannot be encoded"),
        ("return 'x' * 1_000_001", "PayloadTooLarge", "1,000,003 bytes, the limit is 1,000,000"),
        ("raise Rude", "Rude", "(its text cannot be had)"),
    ],
)
def test_a_task_that_ends_badly_ends_alone(
    project: Project, body: str, type_: str, message: str
) -> None:
    tasks = project.module(f"""
        class Rude(Exception):
            def __str__(self): raise ValueError

        def deep(levels): return [deep(levels - 1)] if levels else []

        @app.task
        def bad():
            {body}

        @app.task
        def healthy():
            wait_for("go")
            return "well"
    """)
    # Given a healthy task that runs beside it
    worker = project.worker()
    healthy = tasks.healthy.delay()
    worker.wait_for("tasks.healthy")
    # When it ends badly, it fails
    with pytest.raises(TaskFailed) as caught:
        tasks.bad.delay().get(timeout=20)
    assert caught.value.type == type_
    assert message in caught.value.message
    # Then the other one, and the worker, go on
    project.allow("go")
    assert healthy.get(timeout=20) == "well"
    assert worker.running
