"""greenworker top: what is where and what limits it, as one frame and live on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.terminal import FIRST_SCREEN, OTHER_SCREEN, Terminal

TASKS = """
    from gevent.monkey import get_original

    app.limit("host:*", concurrency=1)
    nap = get_original("time", "sleep")

    @app.task(ignore_result=True)
    def hold(file="go"): wait_for(file)

    @app.task(ignore_result=True, key="host:{host}")
    def page(host, file="go"): wait_for(file)

    @app.task(ignore_result=True)
    def block(file="go"):
        while not Path(file).exists():
            nap(0.01)
"""


def once(project: Project, *args: str, **environ: str) -> str:
    done = project.run(
        "top", "--once", "--every", "0.2", "-A", "tasks", *args, env={"COLUMNS": "100", **environ}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(len(line) <= int(environ.get("COLUMNS", "100")) for line in done.stdout.splitlines())
    return done.stdout


def as_json(project: Project) -> dict:
    return json.loads(once(project, "--json"))


def test_a_frame_for_each_thing_that_limits(project: Project) -> None:
    tasks = project.module(TASKS)
    assert "\nempty queue: nothing waits, runs or is scheduled" in once(project)
    tasks.hold.delay_many([()] * 5, results=False)
    assert "\nno worker: 5 wait: start one" in once(project)
    # Slots
    worker = project.worker("-c", "2", "-n", "bee")
    found = eventually(lambda: seen if (seen := as_json(project))["running"] == 2 else None)
    assert found["verdict"] == {
        "kind": "slots", "what": "slots: 2 of 2 are busy, 3 wait", "mend": "raise -c, or start another worker",
    }  # fmt: skip
    (bee,) = found["workers"]
    assert (bee["name"], bee["running"], bee["silent"], bee["blocks"]) == ("bee", 2, False, "")
    assert (bee["vitals"]["size"], bee["vitals"]["used"]) == (2, 2)
    assert bee["vitals"]["memory"] > 1 << 20
    assert 0 <= bee["cpu"] <= 1.5
    assert bee["per_second"] == 0
    text = once(project)
    assert "\nlimited by slots: 2 of 2 are busy, 3 wait" in text
    assert any(line.split()[:2] == ["bee", "2/2"] for line in text.splitlines())
    # A queue that is paused
    tasks.app.pause("default")
    assert "\npaused: default (3 wait): greenworker resume default" in once(project)
    tasks.app.resume("default")
    project.allow("go")
    eventually(lambda: tasks.app.status().waiting == 0)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_keys_that_limit(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker("-c", "20", "-n", "bee")
    for host, count in (("a.example", 9), ("b.example", 4)):
        tasks.page.delay_many([(host,)] * count, results=False)
    found = eventually(lambda: seen if (seen := as_json(project))["running"] == 2 else None)
    assert found["verdict"] == {
        "kind": "keys",
        "what": "keys: host:a.example (1 at once), host:b.example (1 at once); 11 wait",
        "mend": "they allow no more; l changes one",
    }
    keys = {key["name"]: key for key in found["keys"]}
    assert keys.keys() == {"host:a.example", "host:b.example"}
    a = keys["host:a.example"]
    assert [a[name] for name in ("running", "waiting", "state", "limit", "concurrency")] == [
        1, 8, "busy", "concurrency=1", 1,
    ]  # fmt: skip
    assert found["all_keys"]
    narrow = once(project, COLUMNS="40")
    assert any(line.split() == ["host:a.example", "8", "busy"] for line in narrow.splitlines())
    project.allow("go")


def test_a_loop_that_is_blocked(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("-c", "2", "-n", "bee", "--block-warn", "0.1")
    tasks.block.delay()
    worker.wait_for("blocks the loop")
    for _ in range(3):
        tasks.hold.delay()
    text = once(project)
    assert "\nlimited by CPU: tasks.block blocks the loop of bee" in text
    (row,) = (line for line in text.splitlines() if line.startswith("bee "))
    assert "blocked" in row
    project.allow("go")


def test_a_worker_that_does_not_answer(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("-n", "bee")
    worker.signal(signal.SIGSTOP)
    tasks.hold.delay()
    text = once(project)
    assert "\nbee does not answer" in text
    (row,) = (line for line in text.splitlines() if line.startswith("bee  "))
    assert "silent" in row
    worker.signal(signal.SIGCONT)
    project.allow("go")
    eventually(lambda: tasks.app.status().waiting == 0)


def test_live_a_queue_is_paused_and_resumed(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker("-c", "2", "-n", "bee")
    tasks.hold.delay_many([()] * 5, results=False)
    with Terminal("top", "-A", "tasks", "--every", "0.2", cwd=project.folder) as terminal:
        terminal.wait_for("limited by slots: 2 of 2 are busy, 3 wait")
        terminal.wait_for("j/k choose  p pause  l limit  s sort  q quit")
        assert terminal.attributes() != terminal.before
        terminal.type("p")
        terminal.wait_for("choose a row first")
        terminal.type("jp")
        terminal.wait_for("default: paused")
        terminal.wait_for("paused: default (3 wait)")
        assert project.redis.sismember(f"{project.root}paused", "default")
        terminal.type("p")
        terminal.wait_for("default: resumed", gone="paused:")
        assert not project.redis.sismember(f"{project.root}paused", "default")
        # While it goes on, it shows that
        project.allow("go")
        terminal.wait_for("empty queue: nothing waits, runs or is scheduled")
        terminal.type("q")
        assert terminal.wait() == 0
        gives_back(terminal)


def gives_back(terminal: Terminal) -> None:
    """The terminal is as it was before."""
    assert terminal.attributes() == terminal.before
    assert terminal.output.rindex(FIRST_SCREEN) > terminal.output.rindex(OTHER_SCREEN)
    assert terminal.output.rindex("\x1b[?25h") > terminal.output.rindex("\x1b[?25l")


def test_live_a_limit_is_changed_and_a_key_is_held(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker("-c", "20", "-n", "bee")
    tasks.page.delay_many([("a.example",)] * 9, results=False)
    with Terminal("top", "-A", "tasks", "--every", "0.2", cwd=project.folder) as terminal:
        terminal.wait_for("limited by keys: host:a.example (1 at once); 8 wait")
        terminal.type("kl")
        terminal.wait_for("limit of host:a.example (e.g. rate=100/min, or drop): concurrency=1_")
        terminal.type("\x7f3\r")
        terminal.wait_for("host:a.example: concurrency 3")
        terminal.wait_for("(3 at once); 6 wait")
        terminal.type("l\x15rate=fast\r")
        terminal.wait_for("limit host:a.example: rate='fast': give starts in a time")
        terminal.type("p")
        terminal.wait_for("host:a.example: held until it is resumed")
        terminal.wait_for("host:a.example (held by hand)")
        terminal.type("p")
        terminal.wait_for("host:a.example: goes on")
        terminal.wait_for("(3 at once); 6 wait")
        terminal.type("l\x15drop\r")
        terminal.wait_for("its own limit is dropped")
        project.allow("go")
        terminal.wait_for("empty queue")
        terminal.type("q")
        assert terminal.wait() == 0


@pytest.mark.parametrize("how", ["\x03", "TERM"])
def test_live_however_it_ends_the_terminal_is_given_back(project: Project, how: str) -> None:
    with Terminal("top", "-u", project.url, cwd=project.folder) as terminal:
        terminal.wait_for("q quit")
        if how == "TERM":
            os.kill(terminal.process.pid, signal.SIGTERM)
        else:
            terminal.type(how)
        assert terminal.wait() == 0
        gives_back(terminal)
        assert "Traceback" not in terminal.output


def test_live_an_error_gives_the_terminal_back_as_well(project: Project) -> None:
    """One that is nobody's mistake but ours."""
    (project.folder / "broken.py").write_text(
        "from greenworker import App\n"
        "from greenworker.top import panel\n"
        "def press(self, key): raise ZeroDivisionError('broken')\n"
        "panel.Panel.press = press\n"
        f"app = App({project.url!r})\n"
    )
    with Terminal("top", "-A", "broken", cwd=project.folder) as terminal:
        terminal.wait_for("q quit")
        terminal.type("j")
        assert terminal.wait() == 1
        gives_back(terminal)
        # From Python 3.13 on a traceback has colours.
        assert "ZeroDivisionError: broken" in re.sub(r"\x1b\[[\d;]*m", "", terminal.output)


def test_live_the_shell_may_have_the_terminal_meanwhile(project: Project) -> None:
    """Ctrl-Z, and then fg."""
    with Terminal("top", "-u", project.url, "--every", "0.2", cwd=project.folder) as terminal:
        terminal.wait_for("q quit")
        terminal.type("\x1a")
        _, status = os.waitpid(terminal.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        eventually(lambda: terminal.output.count(FIRST_SCREEN) == 1)
        gives_back(terminal)
        os.kill(terminal.process.pid, signal.SIGCONT)
        eventually(lambda: terminal.output.count(OTHER_SCREEN) == 2)
        terminal.type("q")
        assert terminal.wait() == 0
        gives_back(terminal)


def test_live_on_a_terminal_that_becomes_narrow(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker("-c", "2", "-n", "bee")
    tasks.hold.delay()
    with Terminal("top", "-A", "tasks", "--every", "0.2", cwd=project.folder) as terminal:
        terminal.wait_for("memory")
        terminal.resize(40, 12)
        terminal.wait_for("cpu  state", gone="memory")
        assert len(terminal.lines) == 12
        assert all(len(line) <= 40 for line in terminal.lines)
        terminal.type("q")
        assert terminal.wait() == 0
    project.allow("go")


def test_live_without_colours(project: Project) -> None:
    tasks = project.module(TASKS)
    tasks.hold.delay()
    colour = "\x1b[1;3"
    for args, env, colours in ((), {}, True), (("--no-color",), {}, False), ((), {"NO_COLOR": "1"}, False):  # fmt: skip
        with Terminal("top", "-A", "tasks", *args, cwd=project.folder, env=env) as terminal:
            terminal.wait_for("no worker: 1 wait")
            terminal.type("q")
            assert terminal.wait() == 0
            assert (colour in terminal.output) is colours


def test_live_while_the_server_is_away(own_project: Project, own_server: object) -> None:
    project, server = own_project, own_server
    project.write(TASKS)
    with Terminal("top", "-A", "tasks", "--every", "0.2", cwd=project.folder) as terminal:
        terminal.wait_for("empty queue")
        server.kill()
        terminal.wait_for("the server does not answer")
        server.restart()
        terminal.wait_for("empty queue", gone="does not answer")
        server.kill()
        terminal.wait_for("the server does not answer")
        terminal.type("q")
        assert terminal.wait() == 0


def test_live_needs_a_terminal_that_can_be_drawn_on(project: Project) -> None:
    with Terminal("top", "-u", project.url, env={"TERM": "dumb"}) as terminal:
        assert terminal.wait() == 2
        assert (
            "top needs a terminal that moves its cursor (TERM); see top --once" in terminal.output
        )


def test_a_server_that_is_not_there(project: Project) -> None:
    """It is told as with any other command."""
    with Terminal("top", "-u", "redis://127.0.0.1:1") as terminal:
        assert terminal.wait() == 1
        assert terminal.output.startswith("greenworker: redis://127.0.0.1:1 cannot be reached")
        assert OTHER_SCREEN not in terminal.output
