"""`greenworker app.tasks`: runs a worker, with its banner, signals and exit code."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent

from greenworker import __version__
from greenworker.commands import logs
from greenworker.commands.find_app import find_app
from greenworker.commands.options import Options
from greenworker.commands.signals import StopSignals
from greenworker.commands.text import harmless
from greenworker.errors import BrokerError, ConfigError
from greenworker.task import Task
from greenworker.worker import Worker
from greenworker.worker.dump import describe_running

_log = logging.getLogger("greenworker.worker")

_SHARED_CONNECTIONS = 2  # with the worker's own three, and one for results, six at most
_MAX_BLOCK = 120.0
_THREADS_GET = 1.0  # seconds to end, after the worker has stopped
_THREADS = 100  # for DNS and files: ten, gevent's default, make 100 look-ups wait in line


def run(options: Options, early_ssl: Sequence[str] = ()) -> int:
    """Run a worker until it is told to stop; returns the exit code."""
    if not options.modules:
        raise ConfigError("which tasks? greenworker MODULE, as in: greenworker -c 1000 app.tasks")
    level = logs.level_of(options)
    settings = _settings(options)
    as_json = options.flag("log-json")
    logs.set_up(level, as_json, bare_output=as_json or options.flag("solo"))
    if early_ssl:
        _log.warning("ssl was imported before gevent could patch it, by %s", ", ".join(early_ssl))
    app = find_app(options.modules)
    logs.after_the_apps()
    url = options.text("url") if options.said_by_flag("url") else None
    if url is not None:
        app.use(url, "--url")
    app.bound_connections(_SHARED_CONNECTIONS)
    worker = Worker(app, **settings)
    _raise_limits(worker.config.concurrency)
    _save_time()
    return _serve(worker, banner=level <= logging.INFO, as_json=as_json)


def _settings(options: Options) -> dict[str, Any]:
    queues = options.text("queues")
    if queues is not None and not queues.strip():
        # A variable that is not set: to listen to all would surprise.
        raise ConfigError("--queues is empty: name queues, or leave it out for all")
    said = {
        "queues": tuple(name.strip() for name in queues.split(",")) if queues else None,
        "concurrency": options.count("concurrency"),
        "threads": options.count("threads"),
        "timeout": options.seconds("timeout"),
        "grace": options.seconds("grace"),
        "cancel_grace": options.seconds("cancel-grace"),
        "lease": options.seconds("lease"),
        "block_warn": options.seconds("block-warn"),
        "max_block": options.seconds("max-block"),
        "max_tasks": options.count("max-tasks"),
        "max_memory": options.size("max-memory"),
        "max_stuck": options.count("max-stuck"),
        "name": options.text("name"),
    }
    # A debugger's prompt blocks the loop for as long as it likes.
    solo = options.flag("solo")
    settings: dict[str, Any] = {"block_warn": 0.0} if solo else {"max_block": _MAX_BLOCK}
    settings |= {name: value for name, value in said.items() if value is not None}
    for flag in ("burst", "solo", "allow-eviction", "log-values"):
        settings[flag.replace("-", "_")] = options.flag(flag)
    return settings


def _serve(worker: Worker, banner: bool, as_json: bool) -> int:
    # What reads JSON lines can read nothing else.
    say = _log.info if as_json else _print
    _handle_signals(worker)
    worker.check_server()
    if banner and not worker.stopping:
        say(_banner(worker))
        gevent.spawn(_say_ready, worker, say)
    left = worker.serve_forever()
    if left:
        _log.error("%d outcomes could not be settled: their tasks will run again", left)
    return 1 if left else 0


def leave_threads(code: int) -> None:
    """End the process if the app has threads that would keep it from ending."""
    deadline = time.monotonic() + _THREADS_GET
    threads = [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread()
    ]
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    names = [thread.name for thread in threads if thread.is_alive()]
    if names:
        _log.warning("not waiting for the app's threads that still run: %s", ", ".join(names[:5]))
        atexit._run_exitfuncs()
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)


def _say_ready(worker: Worker, say: Callable[[str], None]) -> None:
    worker.ready.wait()
    say("ready")


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _handle_signals(worker: Worker) -> None:
    stop = StopSignals(lambda at: _stop(worker, at), worker.config.grace)
    stop.install()
    # A debugger's prompt blocks the loop, and may hear as many as come.
    stop_by = (lambda: None) if worker.config.solo else stop.stop_by
    worker.watchdog.own_process(logs.show_now, stop_by)
    # gevent runs these in greenlets of their own: they may wait, a signal handler may not.
    gevent.signal_handler(signal.SIGTSTP, _quiet, worker)
    gevent.signal_handler(signal.SIGCONT, _resume, worker)
    gevent.signal_handler(signal.SIGTTIN, _dump, worker)


def _stop(worker: Worker, at: float) -> None:
    if worker.stopping:
        _log.warning("stopping now: what runs is released")
        worker.hurry()
    else:
        blocks = worker.stats.describe_blocks()
        _log.info(
            "stopping: %d running, %g s to finish%s",
            worker.stats.running, worker.config.grace, blocks and f"; {blocks}",
        )  # fmt: skip
        worker.ask_to_stop(at)


def _quiet(worker: Worker) -> None:
    _log.info("quiet: claiming nothing more")
    worker.quiet()


def _resume(worker: Worker) -> None:
    if worker.stopping:
        return  # many send CONT after TERM
    _log.info("resuming")
    worker.resume()


def _dump(worker: Worker) -> None:
    running = describe_running(worker.pool, worker.threads)
    _print("\n".join(filter(None, (running, worker.stats.describe_blocks()))))


def _banner(worker: Worker) -> str:
    app, config = worker.app, worker.config
    server = f", {harmless(worker.server)}" if worker.server else ""
    mode = "one at a time, in the main greenlet" if config.solo else str(config.concurrency)
    lines = [
        f"greenworker {__version__}, {config.name}",
        f"  server       {app.endpoint.redacted} (from {app.endpoint.source}){server}",
        f"  queues       {', '.join(config.queues)}",
        f"  concurrency  {mode}",
        f"  workers      {_others(worker)}",
    ]
    tasks = sorted(app.tasks.values(), key=lambda task: task.name)
    lines += [
        f"  {'tasks' if task is tasks[0] else '     '}        {_describe(task, config.timeout)}"
        for task in tasks
    ]
    schedules = sorted(app.schedule.declared.values(), key=lambda schedule: schedule.name)
    lines += [
        f"  {'schedules' if one is schedules[0] else '         '}    {one.name} ({one.recurrence.text})"
        for one in schedules
    ]
    return "\n".join(lines)


def _others(worker: Worker) -> str:
    if not worker.server:
        return "unknown, the server does not answer"
    try:
        status = worker.app.status()
    except BrokerError:
        return "unknown, the server does not answer"
    mine = set(worker.config.queues)
    names = [
        other.name
        for other in status.workers
        if mine & set(other.queues) and not worker.is_me(other.id)
    ]
    if not names:
        return "no other on these queues"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} other on these queues: {', '.join(names[:5])}{more}"


def _describe(task: Task[..., Any], timeout: float) -> str:
    options = task.options
    notes = [f"timeout {options.timeout:g} s"] if options.timeout is not None else []
    if options.retries:
        notes.append(f"{options.retries} retries")
    if options.queue != "default":
        notes.append(f"queue {options.queue}")
    return f"{task.name} ({', '.join(notes)})" if notes else task.name


def _raise_limits(concurrency: int) -> None:
    wanted = 2 * concurrency + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < wanted:
        _log.warning(
            "this process may open %d files, %d tasks may want %d: raise it with ulimit -n",
            soft, concurrency, wanted,
        )  # fmt: skip
    gevent.get_hub().threadpool.maxsize = _THREADS


def _save_time() -> None:
    """What only the owner of the process may switch; each measured at 11 % of a no-op's CPU time."""
    # No greenlet needs to remember who spawned it.
    gevent.config.track_greenlet_tree = False
    # Modules live for ever: they need not be looked through, again and again, for garbage.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
