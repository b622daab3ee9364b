"""No password and no argument is in any output: canaries go in everywhere, and all that is written is searched."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenworker import App, keys
from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.server import Server

PASSWORD, ARGUMENT, KEY = "c4n4ry-passw0rd", "c4n4ry-argument", "c4n4ry-signing-key"

TASKS = """
    @app.task
    def echo(value): return value

    @app.task
    def nested(value): return echo.delay(value).get(timeout=20, allow_in_task=True)

    @app.task(timeout=0.1)
    def hang(value): time.sleep(60)

    @app.task(retries=1, backoff=0.01)
    def fail(value):
        here = {"secret": value}
        raise ValueError

    @app.task(retries=1, backoff=0.01)
    def chained(value):
        try:
            {}[value]
        except KeyError:
            raise OSError("in a chain") from None

    @app.task(sensitive=True, retries=1, backoff=0.01)
    def careless(value): raise ValueError(f"cannot use {value}")

    @app.task
    def unencodable(value): return {value}

    @app.task
    def too_large(value): return value * 100_000

    @app.task
    def narrow(value, more=None): ...

    @app.task
    def gone(value): ...

    @app.task
    def hold(value):
        note("holds")
        wait_for("go")

    @app.task
    def blocks(value):
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            pass
"""


@pytest.fixture
def secret_server() -> Iterator[Server]:
    with Server(config={"requirepass": PASSWORD}) as server:
        yield server


@pytest.fixture
def secret_project(tmp_path: Path, secret_server: Server, namespace: str) -> Iterator[Project]:
    project = Project(tmp_path, secret_server.admin_url, namespace)
    yield project
    project.close()


def send_everything(project: Project) -> None:
    """A call for each way that a message can go, with canaries in it, to a worker of other code."""
    tasks = project.module(TASKS)
    tasks.narrow.delay(ARGUMENT, ARGUMENT)
    for task in (
        tasks.echo, tasks.nested, tasks.hang, tasks.fail, tasks.chained, tasks.careless,
        tasks.unencodable, tasks.too_large, tasks.gone, tasks.hold, tasks.blocks,
    ):  # fmt: skip
        task.delay(ARGUMENT)
        task.delay(value=ARGUMENT)
    tasks.echo.apply_async((ARGUMENT,), expires=0.0)
    # The worker's code is another one: two tasks have changed
    file = project.folder / "tasks.py"
    file.write_text(file.read_text().replace(", more=None", "").replace("gone", "come"))
    # What nobody has sent: no JSON, no call, no envelope, too large, and no text
    head = "1 0 0 5 1 0 3600000 default tasks.echo"
    envelopes = {
        "no-json": f'{head}\n[["{ARGUMENT}"',
        "bad-escape": f'{head}\n[["{ARGUMENT}\\x"],{{}}]',
        "no-call": f'{head}\n"{ARGUMENT}"',
        "no-signature": f'{head}\n[["{ARGUMENT}","{ARGUMENT}"],{{}}]',
        "unknown": f'1 0 0 5 1 0 3600000 default no.such unknown=1\n[["{ARGUMENT}"],{{}}]',
        "not-at-all": ARGUMENT,
        "too-large": f'{head}\n[["{ARGUMENT}{"x" * 1_000_000}"],{{}}]',
        "far-too-large": f'{head}\n[["{ARGUMENT}{"x" * 2_000_000}"],{{}}]',
    }
    project.redis.hset(keys.messages(project.root), mapping=envelopes)
    ready = keys.ready(project.root, "default", 5)
    project.redis.lpush(ready, *envelopes, "no-such-message")


def assert_silent(*outputs: str) -> None:
    for output in outputs:
        found = [line for line in output.splitlines() if "c4n4ry" in line]
        assert found == []


@pytest.mark.parametrize("how", [("-l", "debug"), ("-l", "debug", "--log-json")])
def test_what_a_worker_says(secret_project: Project, how: tuple[str, ...]) -> None:
    project = secret_project
    send_everything(project)
    worker = project.worker(*how, "--block-warn", "0.2", "-c", "50")
    # When all of it has happened
    for told in (
        "put off", "TaskTimeout", "BadArguments", "NotEncodable", "PayloadTooLarge", "retry in",
        "s: ValueError", "OSError: in a chain", "MalformedMessage", "UnknownTask", "blocks the loop",
    ):  # fmt: skip
        worker.wait_for(told)
    eventually(lambda: len(project.notes) == 2 and len(project.dead()) == 22, within=60)
    # … and it was asked what runs, quieted, resumed and told to stop, with tasks under way
    worker.signal(signal.SIGTTIN)
    worker.wait_for("running")
    worker.wait_for("wait_for(")
    for number in (signal.SIGTSTP, signal.SIGCONT, signal.SIGTERM):
        worker.signal(number)
    worker.wait_for("stopping: ")  # of two at once it may hear one
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert_silent(worker.output)
    assert "redis://:***@127.0.0.1" in worker.output


def test_what_is_said_of_what_is_left(secret_project: Project) -> None:
    project = secret_project
    send_everything(project)
    project.allow("go")
    project.worker("-q", "-c", "50", ready=False)
    eventually(lambda: len(project.dead()) == 22, within=60)
    status, *others = (
        project.run(*args, "-A", "tasks")
        for args in (
            ("status", "--json"), ("check", "--json"), ("dead", "list"), ("dead", "list", "--json"),
            ("dead", "show", *project.dead()), ("dead", "show", "--json", *project.dead()),
        )
    )  # fmt: skip
    assert '"dead": 22' in status.stdout
    assert "ValueError" in others[1].stdout
    for done in (status, *others):
        # The text of an error is the task's own, and people ask for it: of `careless` it is a canary.
        lines = [line for line in done.stdout.splitlines() if "cannot use" not in line]
        assert_silent("\n".join(lines), done.stderr)


def test_a_worker_that_checks_signatures(secret_project: Project) -> None:
    project = secret_project
    send_everything(project)
    env = {"GREENWORKER_SIGNING_KEYS": f"{KEY},{KEY}-of-before"}
    worker = project.worker("-l", "debug", "--log-values", env=env)
    worker.wait_for("BadSignature", times=10)
    # --log-values shows what is run, and none of this is.
    assert_silent(worker.output)


def test_log_values_shows_nothing_of_a_sensitive_task(secret_project: Project) -> None:
    tasks = secret_project.module(TASKS)
    worker = secret_project.worker("-l", "debug", "--log-values")
    tasks.careless.delay(ARGUMENT)
    worker.wait_for("failed in")
    assert_silent(worker.output)
    tasks.echo.delay(ARGUMENT)
    assert ARGUMENT in worker.wait_for("received (")


def bad_servers(server: Server) -> list[str]:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    return [
        f"redis://:{PASSWORD}@127.0.0.1:{port}/0",  # nobody listens
        f"redis://someone:{PASSWORD}@127.0.0.1:{server.port}/0",  # a wrong password
        f"redis://:{PASSWORD}x@127.0.0.1:{server.port}/0",
        f"redis://:{PASSWORD}@127.0.0.1:{server.port}/99",  # no such database
        f"rediss://:{PASSWORD}@127.0.0.1:{server.port}/0",  # no TLS there
        f"redis://:{PASSWORD}@no-such-host.invalid/0",
        f"redis://:{PASSWORD}@127.0.0.1:port/0",
        f"redis://:{PASSWORD}/x#y?z@127.0.0.1:{port}/0",  # what should have been quoted
        f"redis://127.0.0.1:{port}/0?password={PASSWORD}",
        f"redis://127.0.0.1:{port}/0?pasword={PASSWORD}",
        f"http://:{PASSWORD}@127.0.0.1/",
        f":{PASSWORD}@127.0.0.1",
        f"unix://:{PASSWORD}@/no/such/socket",
    ]


def test_a_server_that_cannot_be_used(secret_server: Server, secret_project: Project) -> None:
    secret_project.write(TASKS)
    for number, url in enumerate(bad_servers(secret_server)):
        calls = [("--burst", "-l", "debug", "tasks"), ("status", "-A", "tasks")]
        for args in calls if number < 4 else calls[number % 2 :][:1]:
            done = secret_project.run("-u", url, *args)
            assert done.returncode in (1, 2), (url, done.stderr)
            assert done.stderr, url
            assert_silent(done.stdout, done.stderr)


def test_tracebacks_of_a_program_that_sends(secret_server: Server, secret_project: Project) -> None:
    for url in bad_servers(secret_server):
        program = secret_project.script(
            """
            import logging, sys
            logging.basicConfig(level=0)
            from greenworker import App
            app = App(sys.argv[1], patience=0.2, signing_keys=[sys.argv[3]])
            app.task(name="t")(print)
            try:
                app.tasks["t"].delay(sys.argv[2], key=sys.argv[2])
            except Exception as error:
                print(repr(error), repr(app), repr(app.signer), error.args, vars(error))
                raise
            """,
            url, ARGUMENT, KEY,
        )  # fmt: skip
        assert program.wait() == 1
        assert "Traceback" in program.output
        assert_silent(program.output)


def test_errors_of_a_call_do_not_quote_arguments(secret_project: Project) -> None:
    tasks = secret_project.module(TASKS)
    value = {ARGUMENT: {ARGUMENT}}
    for call in (
        lambda: tasks.echo.delay(value),
        lambda: tasks.echo.delay(value=value),
        lambda: tasks.echo.delay(2**70, ARGUMENT),
        lambda: tasks.echo.delay(ARGUMENT * 100_000),
        lambda: tasks.echo.delay_many(ARGUMENT),
        lambda: tasks.echo.delay_many([ARGUMENT]),
        lambda: tasks.echo.delay_many([(value,)]),
        lambda: tasks.echo.delay_many([{"valeu": ARGUMENT}]),
    ):
        with pytest.raises(Exception, match="echo") as caught:
            call()
        assert_silent(
            str(caught.value), repr(caught.value), *getattr(caught.value, "__notes__", [])
        )


def test_a_mistaken_command_does_not_show_the_url_that_it_was_given(project: Project) -> None:
    project.write(TASKS)
    url = f"redis://:{PASSWORD}@127.0.0.1:1/0"
    for args in (
        ("tasks", url),
        (url,),
        ("status", url),
        ("check", url),
        ("dead", url),
        ("dead", "show", url),
        ("-c", url, "tasks"),
        ("-l", url, "tasks"),
        ("--workdir", url, "tasks"),
        ("status", "-u", url, "and", "more"),
        ("status", f"--url={url}", "and", "more"),
        ("worker", "--nope", "-u", url),
        (f"--url{url}",),
        (f"-u{url}", "--burst", "nowhere"),
    ):
        done = project.run(*args)
        assert done.returncode in (1, 2), args
        assert_silent(done.stdout, done.stderr)


def test_what_is_shown_of_objects(secret_project: Project) -> None:
    app = App(secret_project.url, signing_keys=[KEY])
    app.task(name="t")(print)
    result = app.result("x")
    for thing in (
        app,
        app.endpoint,
        app.endpoint.target,
        app.client,
        app.client.pool,
        app.signer,
        result,
    ):
        assert_silent(repr(thing), str(thing))
    app.close()
