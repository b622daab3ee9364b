"""Named failpoints: let a process do something to itself at one step of its work.

    GREENWORKER_TEST_FAILPOINT=claim.replied=KILL@3 python -m tests.support.failpoints -c 10 tasks
    GREENWORKER_TEST_FAILPOINT=push.sent=KILL python -m tests.support.failpoints --script send.py

The first is the real worker command, the second a program of a user's. Several points may be
given with commas between: `STEP=ACTION[@n]`, at the n-th pass, the first unless told. greenworker
itself knows nothing of this: the steps are wrapped from outside. Actions:

    KILL   SIGKILL to itself         TERM   SIGTERM to itself        STOP   SIGSTOP to itself
    RAISE  in a request a lost connection, in a task a RuntimeError

`….sent`: the request's bytes are written, its reply is not read. `….replied`: the reply was read,
nothing has come of it. A server that does not know a script yet answers NOSCRIPT to the first
request, which then passes twice: load the scripts before (`load_scripts`).
"""

from __future__ import annotations

import functools
import os
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

VARIABLE = "GREENWORKER_TEST_FAILPOINT"

SCRIPTS = ("register", "beat", "claim", "sync", "settle", "promote", "reap", "release", "push")
TASK_STEPS = (
    "task.start",  # the executor is about to call the function
    "task.effect",  # in the function: the task calls hit()
    "task.outcome",  # its outcome is known, the settler is not
)
CLIENT_STEPS = ("push.sent", "push.replied")
# As claim.replied, but for the claims of who has nothing to do, which come while time passes.
CLAIM_STEPS = ("claim.brought",)
# Only where something is scheduled.
SCHEDULE_STEPS = (
    *("schedule_plan.sent", "schedule_plan.replied"),
    *("schedule_tick.sent", "schedule_tick.replied"),
)
NAMES = (
    *TASK_STEPS,
    *(f"{name}.{when}" for name in SCRIPTS if name != "push" for when in ("sent", "replied")),
)
ACTIONS = ("KILL", "TERM", "STOP", "RAISE")

_SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "STOP": signal.SIGSTOP}

_armed: dict[str, tuple[str, int]] = {}
_passes: Counter[str] = Counter()


def parse(spec: str) -> dict[str, tuple[str, int]]:
    """`claim.replied=KILL@3,task.start=TERM` → {step: (action, pass)}; raises ValueError."""
    armed = {}
    for part in filter(None, spec.split(",")):
        step, _, what = part.partition("=")
        action, _, nth = what.partition("@")
        known = (*NAMES, *CLIENT_STEPS, *CLAIM_STEPS, *SCHEDULE_STEPS)
        if step not in known:
            raise ValueError(f"no failpoint {step!r}; there are {', '.join(known)}")
        if action not in ACTIONS:
            raise ValueError(f"no action {action!r}; there are {', '.join(ACTIONS)}")
        armed[step] = action, int(nth or 1)
    return armed


def hit(step: str) -> None:
    """Pass a step: nothing, unless it is armed and this is the pass."""
    if step not in _armed:
        return
    action, nth = _armed[step]
    _passes[step] += 1
    if _passes[step] != nth:
        return
    # Not print(): stdout may be green, and this may be the watchdog's thread.
    os.write(2, f"failpoint {step}: {action}\n".encode())
    if action == "RAISE":
        raise RuntimeError(f"failpoint {step}")
    os.kill(os.getpid(), _SIGNALS[action])


def install(spec: str) -> None:
    """Arm the points, and wrap the steps; after gevent has patched, if it does."""
    _armed.update(parse(spec))
    if _armed:
        _wrap_links()
        _wrap_tasks()


def load_scripts(client: Any) -> None:
    """Make a server know every script, so that no request passes twice."""
    from greenworker.scripts import load
    from tests.support.scripts import NAMES

    for name in NAMES:
        client.script_load(load(name).source)


def _wrap_links() -> None:
    from greenworker.connection import Connection
    from greenworker.errors import BrokerUnavailable
    from greenworker.wire import Wire, WireLost

    run, connect, send = Connection.run, Connection.connect, Wire.send
    # The script that this greenlet or thread is about; '' while it only connects.
    under_way: ContextVar[str] = ContextVar("under_way", default="")

    @functools.wraps(run)
    def wrapped_run(self: Connection, script: Any, *args: Any, **options: Any) -> Any:
        before = under_way.set(script.name)
        try:
            reply = run(self, script, *args, **options)
        finally:
            under_way.reset(before)
        try:
            hit(f"{script.name}.replied")
            if script.name == "claim" and reply[-1]:
                hit("claim.brought")
        except RuntimeError as error:
            self.close()
            lost = BrokerUnavailable(str(error))
            lost.maybe_done = True
            raise lost from None
        return reply

    @functools.wraps(connect)
    def wrapped_connect(self: Connection, *args: Any, **options: Any) -> None:
        before = under_way.set("")
        try:
            connect(self, *args, **options)
        finally:
            under_way.reset(before)

    @functools.wraps(send)
    def wrapped_send(self: Wire, *args: Any, **options: Any) -> None:
        send(self, *args, **options)
        try:
            if name := under_way.get():
                hit(f"{name}.sent")
        except RuntimeError as error:
            raise WireLost(str(error)) from None

    Connection.run = wrapped_run  # type: ignore[method-assign]
    Connection.connect = wrapped_connect  # type: ignore[method-assign]
    Wire.send = wrapped_send  # type: ignore[method-assign]


def _wrap_tasks() -> None:
    if not any(step.startswith("task.") for step in _armed):
        return  # a program that only sends loads no worker
    from greenworker.worker.executor import Executor

    run = Executor.run
    received: Callable[..., None] = Executor._log_received

    # Not _call itself: its frame is how a stack is known to be a task's.
    def wrapped_received(self: Executor, one: Any) -> None:
        received(self, one)
        hit("task.start")

    def wrapped_run(self: Executor, delivery: Any) -> Any:
        outcome = run(self, delivery)
        hit("task.outcome")
        return outcome

    Executor.run = wrapped_run  # type: ignore[method-assign]
    Executor._log_received = wrapped_received  # type: ignore[assignment, method-assign]


def _main() -> int:
    # Not this module, which is called __main__: a task that calls hit() imports the other one.
    from tests.support import failpoints

    spec = os.environ.get(VARIABLE, "")
    if sys.argv[1:2] == ["--script"]:
        failpoints.install(spec)
        del sys.argv[:2]
        runpy.run_path(sys.argv[0], run_name="__main__")
        return 0
    from greenworker.__main__ import main  # patches

    failpoints.install(spec)
    return main()


if __name__ == "__main__":
    sys.exit(_main())
