"""The users of docs/security.md: what their lines allow is enough for greenworker, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError, ResponseError

from greenworker import App, State, keys
from greenworker.errors import ResultGone, TaskFailed, UnsuitableServer
from tests.e2e.conftest import Project
from tests.support import acl, scripts
from tests.support.eventually import eventually
from tests.support.server import Server
from tests.support.terminal import Terminal

# Scripts by who calls them, and what is called besides.
FILTERS = ("seen_add", "seen_look", "seen_drop")
LOOKS = (
    "seen_look",
    "status",
    "dead_ids",
    "dead_records",
    "schedule_list",
    "limit_list",
    "limit_keys",
)
EVERYBODY = {"CLIENT|SETNAME", "EVAL", "EVALSHA"}
SENDING = {"SUBSCRIBE", "UNSUBSCRIBE", "DEL"}
WORKING = {"INFO", "BRPOP", "HGETALL", "TIME"}

TASKS = """
    @app.every(0.5, args=(1, 2), name="beat", result_ttl=1)
    @app.task
    def add(a, b): return a + b

    @app.task
    def nested(a, b): return add.delay(a, b).get(timeout=20, allow_in_task=True)

    @app.task(retries=1, backoff=Backoff(base=0.01, least=0.0))
    def flaky():
        if current_task().attempt == 0:
            raise OSError
        return "well"

    @app.task
    def fails():
        if not Path("mended").exists():
            raise ValueError("broken")
        return "mended"

    @app.task
    def hold(file):
        note(os.getpid())
        wait_for(file)
        return current_task().delivery
"""


class Guarded:
    """A server whose default user has a password, with the three users of the document."""

    def __init__(self, server: Server, namespace: str) -> None:
        self.server = server
        self.admin: Any = redis.Redis.from_url(server.admin_url, protocol=2, decode_responses=True)
        for role, rules in acl.rules(namespace).items():
            self.admin.execute_command("ACL", "SETUSER", f"gw-{role}", *rules)

    def url(self, role: str) -> str:
        return acl.url_of(role, self.server.url)

    def known(self) -> set[str]:
        # By hand: redis-py would take the answer for that of COMMAND.
        connection = self.admin.connection_pool.make_connection()
        connection.send_command("COMMAND", "LIST")
        names = {name.upper() for name in connection.read_response()}
        connection.disconnect()
        return names


@pytest.fixture
def guarded(namespace: str) -> Iterator[Guarded]:
    with Server(config={"requirepass": "of-the-admin"}) as server:
        guarded = Guarded(server, namespace)
        yield guarded
        guarded.admin.close()


@pytest.fixture
def guarded_project(tmp_path: Path, guarded: Guarded, namespace: str) -> Iterator[Project]:
    """What is sent here, is sent as the producer."""
    project = Project(tmp_path, guarded.url("producer"), namespace, guarded.server.admin_url)
    yield project
    project.close()


@pytest.mark.parametrize("role", ["producer", "worker", "dashboard"])
def test_the_lines_allow_what_is_called_and_no_more(guarded: Guarded, role: str) -> None:
    audits = {name for name in scripts.NAMES if name.startswith("audit_")}
    every = {*scripts.NAMES} - audits
    called, direct = {
        "producer": (
            {"push", "push_once", "lookup", "cancel", "cancel_mark", *FILTERS},
            EVERYBODY | SENDING,
        ),
        "worker": (every, EVERYBODY | SENDING | WORKING),
        "dashboard": ({*LOOKS, *audits}, EVERYBODY | {"TIME"}),
    }[role]
    wanted = direct | acl.commands_of(called, guarded.known())
    allowed = {word[1:].upper() for word in acl.rules("x")[role] if word.startswith("+")}
    line = " ".join(f"+{command.lower()}" for command in sorted(wanted))
    assert allowed == wanted, f"docs/security.md should say for the {role}: {line}"


def test_a_day_in_the_life_of_three_users(guarded: Guarded, guarded_project: Project) -> None:
    project = guarded_project
    tasks = project.module(TASKS)
    working = ("-u", guarded.url("worker"), "--lease", "1")
    worker = project.worker(*working)
    assert "NOPERM" not in worker.output
    # Send, work, nest, retry, delay, look, forget
    result = tasks.add.delay(1, 2)
    assert result.get(timeout=20) == 3
    assert result.state is State.SUCCESS
    result.forget()
    with pytest.raises(ResultGone):
        result.state  # noqa: B018
    assert tasks.nested.delay(3, 4).get(timeout=20) == 7
    assert tasks.flaky.delay().get(timeout=20) == "well"
    assert tasks.add.apply_async((5, 6), countdown=0.1).get(timeout=20) == 11
    assert [one.get(timeout=20) for one in tasks.add.delay_many([(n, 1) for n in range(50)])] == [
        n + 1 for n in range(50)
    ]
    # A task that fails is a dead letter; the worker's user sends it again, the dashboard looks on
    failed = tasks.fails.delay()
    with pytest.raises(TaskFailed, match="broken"):
        failed.get(timeout=20)
    looking = App(guarded.url("dashboard"), namespace=project.namespace)
    assert [letter.message for letter in looking.dead.list()] == ["broken"]
    for args, says in (
        (("status",), "dead       1"),
        (("check",), "all is well"),
        (("dead", "list"), "ValueError: broken"),
        (("dead", "show", failed.id), "tasks.fails"),
        (("schedule", "list"), "beat      every 0.5"),
    ):
        done = project.run(*args, "-A", "tasks", "-u", guarded.url("dashboard"))
        assert (done.returncode, done.stderr) == (0, "")
        assert says in done.stdout
    retry = ("dead", "retry", "-A", "tasks", failed.id, "-u")
    done = project.run(*retry, guarded.url("dashboard"))
    assert done.returncode == 2
    assert "let its ACL allow this" in done.stderr
    project.allow("mended")
    done = project.run(*retry, guarded.url("worker"))
    assert (done.returncode, done.stdout) == (0, "1 retried\n")
    assert failed.get(timeout=20) == "mended"
    done = project.run("dead", "delete", "-A", "tasks", "--all", "-u", guarded.url("worker"))
    assert (done.returncode, done.stdout) == (0, "0 deleted\n")
    done = project.run("schedule", "pause", "-A", "tasks", "beat", "-u", guarded.url("dashboard"))
    assert (done.returncode, "let its ACL allow this" in done.stderr) == (2, True)
    for verb in ("pause", "resume", "run"):
        done = project.run("schedule", verb, "-A", "tasks", "beat", "-u", guarded.url("worker"))
        assert (done.returncode, done.stderr) == (0, "")
    # A worker that is killed: another one reaps it
    held = tasks.hold.delay("go")
    eventually(lambda: project.notes)
    worker.kill()
    second = project.worker(*working, "-n", "second")
    eventually(lambda: len(project.notes) == 2)
    project.allow("go")
    assert held.get(timeout=20) == 2
    # A stop in the middle of a task gives it back, and a message that waits too long expires
    late = tasks.hold.delay("later")
    eventually(lambda: len(project.notes) == 3)
    second.signal(15)
    second.wait_for("stopping: ")  # of two at once it may hear one
    second.signal(15)
    assert second.wait() == 0
    expired = tasks.add.apply_async((1, 2), expires=0.05)
    project.allow("later")
    third = project.worker(*working)
    assert late.get(timeout=20) == 1
    eventually(lambda: expired.state is State.EXPIRED)
    for one in (worker, second, third):
        assert "NOPERM" not in one.output
        assert "ACL failure" not in one.output
    looking.close()


@pytest.mark.parametrize("role", ["producer", "worker", "dashboard"])
def test_what_they_may_not_do(guarded: Guarded, namespace: str, role: str) -> None:
    with redis.Redis.from_url(guarded.url(role), protocol=2) as user:
        root, other = keys.root(namespace), keys.root("another")
        for command in (
            ("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("SHUTDOWN",),
            ("ACL", "LIST"), ("CLIENT", "KILL", "ID", "1"), ("SCRIPT", "FLUSH"),
            ("REPLICAOF", "NO", "ONE"), ("MIGRATE", "h", "1", "k", "0", "1"), ("DUMP", f"{root}msg"),
        ):  # fmt: skip
            with pytest.raises(NoPermissionError, match="no permissions to run"):
                user.execute_command(*command)
            with pytest.raises(ResponseError, match=r"ACL failure|not allowed from script"):
                user.eval(f"return redis.call({str(command)[1:].rstrip(',)')})", 0)
        # Another namespace's keys, by commands of the line and from inside a script
        for key in (f"{other}msg", "of-another-program"):
            with pytest.raises(ResponseError, match="No permissions to access a key"):
                user.eval("return redis.call('HGET', KEYS[1], 'x')", 1, key)
            with pytest.raises(ResponseError, match="No permissions to access a key"):
                user.eval("return redis.call('HGET', ARGV[1], 'x')", 1, f"{root}nil", key)
        if role != "dashboard":
            with pytest.raises(NoPermissionError, match="channel"):
                user.execute_command("SUBSCRIBE", "news")
        else:
            for command in ("HSET", "LPUSH", "DEL"):
                with pytest.raises(NoPermissionError):
                    user.execute_command(command, f"{root}msg", "x", "y")


def test_a_user_that_lacks_something_is_told_the_mend(
    guarded: Guarded, guarded_project: Project
) -> None:
    project, worker = guarded_project, guarded.url("worker")
    project.write(TASKS)
    guarded.admin.execute_command("ACL", "SETUSER", "gw-worker", "-info")
    done = project.run("-u", worker, "tasks")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "refuses us: NOPERM" in line
    assert "'info'" in line
    assert "let its ACL allow this" in line
    assert "docs/security.md" in line
    # Likewise for what a script may not, before the first task is claimed
    guarded.admin.execute_command("ACL", "SETUSER", "gw-worker", "+info", "-sadd")
    done = project.run("-u", worker, "-q", "tasks")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "'sadd'" in line
    assert "let its ACL allow this" in line
    assert acl.PASSWORD not in line
    # … and for a sender.
    guarded.admin.execute_command("ACL", "SETUSER", "gw-producer", "-hset")
    app = App(project.url, namespace=project.namespace)
    app.task(name="t")(lambda: None)
    with pytest.raises(UnsuitableServer, match="let its ACL allow this"):
        app.tasks["t"].delay()
    app.close()


def test_top_for_who_may_only_look(guarded: Guarded, guarded_project: Project) -> None:
    """Workers cannot be asked how they are; all else is there, and nothing can be done."""
    project = guarded_project
    project.write(TASKS)
    project.worker("-u", guarded.url("worker"), "-n", "bee")
    looking = ("-A", "tasks", "-u", guarded.url("dashboard"))
    done = project.run("top", "--once", "--every", "0.1", *looking)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nthis user of the server may not ask workers how they are\n" in done.stdout
    (bee,) = (line for line in done.stdout.splitlines() if line.startswith("bee "))
    assert bee.split()[1:3] == ["0/100", "-"]
    with Terminal("top", *looking, cwd=project.folder) as terminal:
        terminal.wait_for("may not ask workers")
        terminal.type("jp")
        terminal.wait_for("let its ACL allow this")
        terminal.type("q")
        assert terminal.wait() == 0
