"""Tasks that block the loop: who did it is told, and a loop that stays blocked ends the process."""

from __future__ import annotations

import json
import re
from signal import SIGALRM, SIGCONT, SIGSTOP, SIGTERM

import pytest

from tests.e2e.conftest import Project
from tests.support.eventually import eventually
from tests.support.process import Command

# Three ways to block: Python, C code that lets other threads run, and C code that does not.
TASKS = """
    import ctypes
    import re
    from gevent.monkey import get_original
    native_sleep = get_original("time", "sleep")

    def spin(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    def sleep(seconds):
        native_sleep(seconds)

    def hold_the_gil(seconds):
        ctypes.PyDLL(None).usleep(round(seconds * 1e6))

    def hold_the_gil_for_good(_):
        re.match(r"(a+)+$", "a" * 60 + "b")

    def block(how, seconds):
        globals()[how](seconds)

    @app.task
    def once(how, seconds):
        # For as long as is told, but for nothing when it runs again elsewhere
        note(current_task().delivery)
        if current_task().delivery == 1:
            block(how, seconds)
        return current_task().delivery

    @app.task
    def who():
        return os.getpid()
"""


@pytest.mark.parametrize("how", ["spin", "sleep", "hold_the_gil_for_good"])
def test_a_loop_that_stays_blocked_ends_the_process_and_others_take_over(
    project: Project, how: str
) -> None:
    # Given a worker whose loop is blocked for good
    tasks = project.module(TASKS)
    worker = project.worker("--lease", "2", "--max-block", "1")
    result = tasks.once.delay(how, 600)
    # Then it ends by itself, with a code of its own, and says why
    held = how == "hold_the_gil_for_good"
    assert worker.wait(30) == (-SIGALRM if held else 3)
    assert f"in {how}" in worker.output
    if held:
        assert "Stack (most recent call first):" in worker.output, "no Python could run"
    else:
        assert f"tasks.once[{result.id}] blocks the loop for" in worker.output
        assert "the loop is blocked for more than 1 s" in worker.output
    # And what it held runs elsewhere
    project.worker("--lease", "2")
    assert result.get(timeout=30) == 2
    assert project.notes == ["1", "2"]


@pytest.mark.parametrize("how", ["spin", "sleep"])
def test_a_loop_that_is_blocked_for_longer_than_the_lease_is_not_reaped(
    project: Project, how: str
) -> None:
    tasks = project.module(TASKS)
    blocked = project.worker("--lease", "1", "--max-block", "60")
    result = tasks.once.delay(how, 3.5)
    blocked.wait_for("received")
    # Somebody is there who would take over
    project.worker("--lease", "1")
    assert result.get(timeout=30) == 1
    assert project.notes == ["1"]
    blocked.signal(SIGTERM)
    stopping = blocked.wait_for("stopping")
    assert re.search(r"; the loop was blocked once, for [34]\.\d s at most$", stopping)
    assert blocked.wait() == 0


@pytest.mark.parametrize("how", ["hold_the_gil(2.0)", "match_badly()"])
def test_who_held_the_gil_is_told_when_it_is_given_back(project: Project, how: str) -> None:
    tasks = project.module(
        TASKS
        + f"""
    def match_badly():
        # Each further letter doubles the time: not all machines are equally fast
        for letters in range(20, 60):
            began = time.monotonic()
            re.match(r"(a+)+$", "a" * letters + "b")
            if time.monotonic() - began > 1.0:
                return

    @app.task
    def greedy():
        {how}
    """
    )
    worker = project.worker()
    names: list[str] = []
    # On a busy machine it may be gone before anybody can look: then the next one is told
    for _ in range(5):
        result = tasks.greedy.delay()
        result.get(timeout=60)
        names.append(re.escape(f"tasks.greedy[{result.id}]"))
        # Its lines may come later than its result; not later than those of the next task.
        after = tasks.who.delay()
        worker.wait_for(f"tasks.who[{after.id}] succeeded")
        # Where the others were just being told who blocks the loop, it is over by then
        whose = r"(NAME: C code held the GIL|C code held the GIL.*; it is over, and NAME ran)"
        if re.search(whose.replace("NAME", f"({'|'.join(names)})"), worker.output):
            break
    else:
        raise AssertionError(worker.output)
    eventually(lambda: "in greedy" in worker.output)


def test_a_process_that_was_stopped_blames_nobody(project: Project) -> None:
    # Given a worker that is stopped for long, and for less than the alarm's clock, which runs on:
    # it is wound for seven seconds, a tick or two before
    tasks = project.module(TASKS)
    worker = project.worker("--block-warn", "0.3", "--max-block", "5")
    assert tasks.who.delay().get(timeout=20) == worker.pid
    worker.signal(SIGSTOP)
    project.pause(2.5)
    worker.signal(SIGCONT)
    # When it goes on, then it works as before
    assert tasks.who.delay().get(timeout=20) == worker.pid
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    check_nothing_is_blamed(worker)


def test_what_is_told_of_a_blocked_loop_is_json_where_that_is_asked_for(project: Project) -> None:
    tasks = project.module(TASKS)
    worker = project.worker("--log-json", "--max-block", "1")
    result = tasks.once.delay("sleep", 600)
    assert worker.wait() == 3
    lines = [json.loads(line) for line in worker.stderr]
    (last,) = [line["message"] for line in lines if line["level"] == "critical"]
    assert "the loop is blocked for more than 1 s" in last
    assert [line for line in lines if f"[{result.id}] blocks the loop" in line["message"]]


@pytest.mark.parametrize("field", ["process", "threadName", "lineno", "request"])
def test_an_app_with_logging_of_its_own_is_told_once(project: Project, field: str) -> None:
    """Also where its formatter asks for what no record of ours has."""
    tasks = project.module(
        TASKS
        + f"""
    import logging.config
    if os.environ.get("LOGS_ITSELF"):  # not here, where the module is loaded to send
        logging.config.dictConfig({{
            "version": 1,
            "formatters": {{"f": {{"format": "theirs %({field})s %(message)s"}}}},
            "handlers": {{"h": {{"class": "logging.StreamHandler", "formatter": "f"}}}},
            "root": {{"level": "INFO", "handlers": ["h"]}},
        }})
    """
    )
    worker = project.worker("-q", "--block-warn", "2", ready=False, env={"LOGS_ITSELF": "1"})
    result = tasks.once.delay("sleep", 3.0)  # it would be told again at the double
    result.get(timeout=30)
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    told = [line for line in worker.lines if f"[{result.id}] blocks the loop" in line]
    assert len(told) == 1
    assert told[0].startswith("WARNING" if field == "request" else "theirs ")
    if field != "request":
        assert "stopping" in worker.output, "nor have other lines vanished"


def check_nothing_is_blamed(worker: Command) -> None:
    for blame in ("blocks the loop", "the GIL", "was blocked"):
        assert blame not in worker.output


def test_a_program_with_a_sigalrm_of_its_own_keeps_it(project: Project) -> None:
    tasks = project.module(
        TASKS
        + """
    import signal
    signal.signal(signal.SIGALRM, lambda *_: note("theirs"))

    @app.task
    def alarm():
        signal.setitimer(signal.ITIMER_REAL, 1.5)
    """
    )
    worker = project.worker("--max-block", "0.5")
    tasks.alarm.delay().get(timeout=20)
    eventually(lambda: project.notes == ["theirs"])
    assert worker.running
