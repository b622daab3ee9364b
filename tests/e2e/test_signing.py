"""Signed messages, with the real command: who may have tasks run, and on which ways they stay signed."""

from __future__ import annotations

import pytest

from greenworker import App, State, keys
from greenworker.errors import TaskFailed
from tests.e2e.conftest import Project
from tests.support.eventually import eventually

KEY, OLD_KEY = "s1gn1ng-key-of-today", "s1gn1ng-key-of-before"

TASKS = f"""
    app = App(app._url, namespace=app.namespace, signing_keys=[{KEY!r}, {OLD_KEY!r}])

    @app.task(retries=2, backoff=Backoff(base=0.01, least=0.0))
    def flaky(value):
        note(current_task().attempt)
        if current_task().attempt < 2:
            raise OSError("not yet")
        return value

    @app.task
    def add(a, b): return a + b

    @app.task
    def fails_first(file):
        wait_for(file)
        if not Path("mended").exists():
            raise ValueError("broken")
        return "well"
"""


def envelope_of(project: Project, id: str) -> bytes:
    envelope = project.redis.hget(keys.messages(project.root), id)
    return str(envelope).encode()


def test_only_what_a_key_has_signed_is_run(project: Project) -> None:
    tasks = project.module(TASKS)
    stranger = App(project.url, namespace=project.namespace)
    forger = App(project.url, namespace=project.namespace, signing_keys=["a key of his own making"])
    for app in (stranger, forger):
        app.task(name="tasks.add")(lambda a, b: None)
    # Given messages without a signature, by a wrong key, changed, and swapped, beside good ones
    unsigned = stranger.tasks["tasks.add"].delay(1, "c4n4ry")
    forged = forger.tasks["tasks.add"].delay(1, "c4n4ry")
    changed, one, two = (tasks.add.delay(1, n) for n in (2, 3, 4))
    messages = keys.messages(project.root)
    project.redis.hset(
        messages, changed.id, envelope_of(project, changed.id).replace(b"[1,2]", b"[1,9]")
    )
    swapped = {one.id: envelope_of(project, two.id), two.id: envelope_of(project, one.id)}
    project.redis.hset(messages, mapping=swapped)
    good = tasks.add.delay(20, 3)
    # When a worker with the keys runs
    worker = project.worker("--log-values")
    # Then the good one is run, and the others are dead letters that say why
    assert good.get(timeout=20) == 23
    bad = {unsigned.id, forged.id, changed.id, one.id, two.id}
    dead = eventually(lambda: len(found := project.dead()) == 5 and found)
    assert dead == dict.fromkeys(bad, "signature")
    for result in (unsigned, forged, changed, one, two):
        with pytest.raises(TaskFailed, match=r"is not signed|by none of our keys") as caught:
            result.get(timeout=5)
        assert caught.value.type == "BadSignature"
    # … and neither their arguments nor a key is told.
    assert "c4n4ry" not in worker.output
    assert "s1gn1ng" not in worker.output
    for app in (stranger, forger):
        app.close()


def test_a_key_is_changed_without_losing_what_waits(project: Project) -> None:
    tasks = project.module(TASKS)
    old = App(project.url, namespace=project.namespace, signing_keys=[OLD_KEY])
    old.task(name="tasks.add")(lambda a, b: None)
    results = [old.tasks["tasks.add"].delay(1, 2), tasks.add.delay(3, 4)]
    project.worker()
    assert [result.get(timeout=20) for result in results] == [3, 7]
    old.close()


def test_retries_delays_and_revivals_stay_signed(project: Project) -> None:
    tasks = project.module(TASKS)
    project.worker()
    # A retry
    assert tasks.flaky.delay("x").get(timeout=20) == "x"
    assert project.notes == ["0", "1", "2"]
    # A delay and an expiry
    later = tasks.add.apply_async((1, 2), countdown=0.1, expires=60.0)
    assert later.get(timeout=20) == 3
    # A dead letter that is sent again
    failing = tasks.fails_first.delay("go")
    project.allow("go")
    with pytest.raises(TaskFailed, match="broken"):
        failing.get(timeout=20)
    project.allow("mended")
    assert tasks.app.dead.retry(failing.id) == {failing.id: "retried"}
    assert failing.get(timeout=20) == "well"
    assert project.dead() == {}


def test_an_unknown_task_stays_signed_until_a_deploy_brings_it(project: Project) -> None:
    tasks = project.module(TASKS)
    project.write(TASKS.replace("def add(", "def other("))
    old = project.worker()
    result = tasks.add.delay(1, 2)
    old.wait_for("is no task of this worker", times=2)
    assert result.state in (State.SCHEDULED, State.PENDING, State.STARTED)
    old.kill()
    project.write(TASKS)
    project.worker()
    assert result.get(timeout=20) == 3


def test_without_keys_a_signed_message_just_runs(project: Project) -> None:
    tasks = project.module(TASKS)
    result = tasks.add.delay(1, 2)
    project.write("@app.task\ndef add(a, b): return a + b")
    project.worker()
    assert result.get(timeout=20) == 3


def test_the_environment_gives_a_worker_its_keys(project: Project) -> None:
    unsigned = project.module("@app.task\ndef add(a, b): return a + b").add.delay(1, 2)
    signing = App(project.url, namespace=project.namespace, signing_keys=[KEY])
    signing.task(name="tasks.add")(lambda a, b: None)
    signed = signing.tasks["tasks.add"].delay(3, 4)
    env = {"GREENWORKER_SIGNING_KEYS": f"{KEY},{OLD_KEY}"}
    worker = project.worker("-l", "debug", env=env)
    assert signed.get(timeout=20) == 7
    with pytest.raises(TaskFailed, match="is not signed"):
        unsigned.get(timeout=20)
    assert "s1gn1ng" not in worker.output
    signing.close()
    # A key that is none is told in one line, which does not show it.
    done = project.run("--burst", "tasks", env={"GREENWORKER_SIGNING_KEYS": "s1gn1ng"})
    assert done.returncode == 2
    assert done.stderr.startswith("greenworker: GREENWORKER_SIGNING_KEYS[0] has 7 bytes: give at ")
    assert "s1gn1ng" not in done.stderr
