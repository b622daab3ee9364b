"""The main job: `greenworker -c 1000 tasks` on tasks that wait, and what it says meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from signal import SIGTERM

import pytest

from greenworker.endpoint import redact
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.process import Command

# Answers when a thousand requests are open at once, or else after 30 s, and says which.
SITE = """
from gevent import monkey; monkey.patch_all()
import gevent, resource
from gevent.event import Event
from gevent.pywsgi import WSGIServer

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 5000), hard))
opened, crowd = 0, Event()

def page(environ, start_response):
    global opened
    opened += 1
    if opened == 1000:
        crowd.set()
    here = crowd.wait(30)
    start_response("200 OK", [])
    return [b"%s %d" % (environ["PATH_INFO"].encode(), here)]

server = WSGIServer(("127.0.0.1", 0), page, log=None, spawn=5000)
server.init_socket()
server.socket.listen(2000)
server.start()
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_a_thousand_fetches_wait_at_once(project: Project) -> None:
    # Given a site that answers nobody before a thousand ask
    with Command(program=("-c", SITE)) as site:
        port = site.wait_for("").strip()
        tasks = project.module("""
            from urllib.request import ProxyHandler, build_opener

            fetcher = build_opener(ProxyHandler({}))

            @app.task(timeout=60)
            def fetch(url):
                with fetcher.open(url) as answer:
                    return answer.read().decode()
        """)
        # When one worker fetches 2,000 pages
        worker = project.worker("-c", "1000")
        results = tasks.fetch.delay_many((f"http://127.0.0.1:{port}/{n}",) for n in range(2000))
        # Then every result is that of its call, and a thousand were fetched at once
        assert [result.get(timeout=60) for result in results] == [f"/{n} 1" for n in range(2000)]
        # And each task has logged its two lines
        worker.wait_for("] succeeded in ", times=2000)
        for result in results[:20]:
            lines = [line for line in worker.stderr if result.id in line]
            assert len(lines) == 2
            assert lines[0].endswith(f" INFO    tasks.fetch[{result.id}] received")
            assert f" INFO    tasks.fetch[{result.id}] succeeded in " in lines[1]


def test_the_banner(project: Project) -> None:
    project.write("""
        @app.task(queue="mail", timeout=7, retries=2)
        def send(): ...

        @app.task
        def add(a, b): return a + b
    """)
    worker = project.worker("-c", "1000", "-n", "first")
    banner = worker.output
    assert ", first\n" in banner
    assert f"server       {redact(project.url)} (from App(url)), Valkey " in banner
    assert "queues       default, mail" in banner
    assert "concurrency  1000" in banner
    assert "workers      no other on these queues" in banner
    assert "tasks        tasks.add\n" in banner
    assert "tasks.send (timeout 7 s, 2 retries, queue mail)" in banner
    # It is told on stderr, and `ready` is its end
    assert worker.stdout == []
    assert worker.stderr[-1] == "ready"
    # The next worker sees the first one; one on other queues does not
    second = project.worker("-Q", "mail")
    assert "queues       mail\n" in second.output
    assert "workers      1 other on these queues: first" in second.output
    assert "no other on these queues" in project.worker("-Q", "elsewhere").output


def test_an_app_of_several_modules(project: Project) -> None:
    # Given an App whose tasks are in four modules of a package
    shop = project.folder / "src" / "shop"
    shop.mkdir(parents=True)
    (shop / "__init__.py").touch()
    (shop / "base.py").write_text(
        f"from greenworker import App\n"
        f"queue = App({project.url!r}, namespace={project.namespace!r}, include=['shop.orders'])\n"
    )
    for module in ("orders", "mail", "pay"):
        (shop / f"{module}.py").write_text(
            f"from shop.base import queue\n@queue.task\ndef {module}_task(): ...\n"
        )
    # Then they are found wherever they are named, and the folder is the one that is said
    for args, tasks in (
        (("shop.base",), ["orders"]),
        (("shop.base:queue",), ["orders"]),
        (("-A", "shop.base"), ["orders"]),
        (("shop.mail",), ["mail", "orders"]),
        (("shop.mail", "shop.pay"), ["mail", "orders", "pay"]),
    ):
        done = project.run("--burst", "--workdir", "src", *args)
        assert done.returncode == 0, done.stderr
        found = [line.split()[-1] for line in done.stderr.splitlines() if "_task" in line]
        assert found == [f"shop.{name}.{name}_task" for name in tasks]


def test_quiet_says_nothing(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def add(a, b): return a + b
    """)
    worker = project.worker("-q", ready=False)
    assert tasks.add.delay(1, 2).get(timeout=20) == 3
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    assert worker.output == ""


@pytest.mark.parametrize(
    ("declared", "flags", "variable", "source"),
    [
        (True, True, True, "--url"),
        (True, False, True, "App(url)"),
        (False, True, True, "--url"),
        (False, False, True, "GREENWORKER_URL"),
        (False, False, False, "embedded"),
    ],
)
def test_flag_then_app_then_environment_then_embedded(
    tmp_path: Path, url: str, declared: bool, flags: bool, variable: bool, source: str
) -> None:
    """The one that is to be taken is a server; the ones after it are none."""
    nowhere = "redis://127.0.0.1:1/0"
    place = {"--url": flags, "App(url)": declared, "GREENWORKER_URL": variable}
    value = {name: url if name == source else nowhere for name, there in place.items() if there}
    app = f"App({value['App(url)']!r})" if declared else "App()"
    (tmp_path / "tasks.py").write_text(
        f"from greenworker import App\napp = {app}\n@app.task\ndef f(): ...\n"
    )
    args = ["-u", value["--url"]] if flags else []
    env = {"GREENWORKER_URL": value["GREENWORKER_URL"]} if variable else {}
    with Command("--burst", *args, "tasks", cwd=tmp_path, env=env) as worker:
        assert worker.wait() == 0
        assert f"(from {source})" in worker.output


def test_lines_of_the_tasks_own_code_carry_its_name_and_id(project: Project) -> None:
    tasks = project.module("""
        logging.getLogger("shop").info("importing")
        print("imported")

        @app.task
        def talk(word):
            print(word, "printed")
            time.sleep(0.01)
            print("two\\nlines", end="")
            print()
            logging.getLogger("shop").warning("%s logged", word)
            return current_task().id
    """)
    worker = project.worker()
    results = tasks.talk.delay_many([(word,) for word in "abc"])
    for word, result in zip("abc", results, strict=True):
        name = f"tasks.talk[{result.get(timeout=20)}]"
        assert worker.wait_for(f"WARNING {name} {word} logged")
        # What is read of two pipes comes in no order
        said = [f"{name} {word} printed", f"{name} two", f"{name} lines"]
        eventually(lambda said=said: set(said) <= set(worker.stdout))  # type: ignore[misc]
        assert [worker.stdout.count(line) for line in said] == [1, 1, 1]
    assert "imported" in worker.stdout
    assert any(line.endswith("INFO    importing") for line in worker.stderr)


def test_stdout_in_a_task_is_a_stdout(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def talk():
            sys.stdout.writelines(["one\\n", "two\\n"])
            sys.stdout.flush()
            sys.stdout.buffer.write(b"bytes\\n")
            sys.stdout.buffer.flush()
            return [sys.stdout.encoding.lower(), sys.stdout.isatty(), sys.stdout.fileno()]
    """)
    worker = project.worker(env={"PYTHONIOENCODING": "utf-8"})
    result = tasks.talk.delay()
    assert result.get(timeout=20) == ["utf-8", False, 1]
    worker.wait_for(f"tasks.talk[{result.id}] two")
    worker.wait_for("bytes")
    assert worker.stdout == [f"tasks.talk[{result.id}] {word}" for word in ("one", "two")] + [
        "bytes"
    ]


def test_log_json(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def talk():
            logging.getLogger("shop").info("hello %s", "you\\udcff")
            return 1

        @app.task
        def fail():
            raise ValueError("no")
    """)
    worker = project.worker("--log-json")
    talk, fail = tasks.talk.delay(), tasks.fail.delay()
    assert talk.get(timeout=20) == 1
    worker.wait_for(f"tasks.fail[{fail.id}] failed in ")
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    # Every line of stderr is a JSON object, the banner's too
    lines = [json.loads(line) for line in worker.stderr]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    (own,) = (line for line in lines if line["logger"] == "shop")
    assert (own["message"], own["level"]) == ("hello you\\udcff", "info")
    assert (own["task"], own["id"]) == ("tasks.talk", talk.id)
    messages = [line["message"] for line in lines]
    assert f"tasks.talk[{talk.id}] received" in messages
    assert "ready" in messages


def test_log_values(project: Project) -> None:
    tasks = project.module("""
        @app.task
        def add(a, b): return a + b
    """)
    worker = project.worker("--log-values")
    result = tasks.add.apply_async((40,), {"b": 2})
    assert result.get(timeout=20) == 42
    assert worker.wait_for("received").endswith(f"tasks.add[{result.id}] received (40, b=2)")
    assert worker.wait_for("succeeded").endswith(": 42")
