"""Parts: what a worker is made of, each part handed what it uses; none of them starts here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from greenworker.admission import Admission
from greenworker.broker import Broker, Link
from greenworker.connection import READ_TIMEOUT, Connection
from greenworker.control import Control
from greenworker.limit import Limit
from greenworker.message import Delivery, Outcome
from greenworker.timetable import Timetable
from greenworker.worker.canceller import Canceller
from greenworker.worker.config import WorkerConfig
from greenworker.worker.consumer import Consumer
from greenworker.worker.executor import Executor
from greenworker.worker.failures import Failures
from greenworker.worker.incarnation import Membership
from greenworker.worker.pool import SoloPool, TaskPool
from greenworker.worker.reaper import Reaper
from greenworker.worker.retirement import Retirement
from greenworker.worker.run import Release
from greenworker.worker.scheduler import Scheduler
from greenworker.worker.service import Service
from greenworker.worker.settler import Settler
from greenworker.worker.stats import Stats
from greenworker.worker.teller import Teller
from greenworker.worker.threads import Threads
from greenworker.worker.ticker import Ticker
from greenworker.worker.vitals import Pulse
from greenworker.worker.watchdog import Watchdog

if TYPE_CHECKING:
    from greenworker.app import App


class Parts:
    """A worker's connections, its pool and its services; `retire` is called when it is to leave by itself.

    Who starts and stops them, and in which order, is the Worker.
    """

    def __init__(self, app: App, config: WorkerConfig, retire: Callable[[], None]) -> None:
        self.stats = Stats()
        self.membership = membership = Membership(on_renew=self._drop_all)
        links = {
            lane: Connection(
                app.endpoint, f"greenworker-{lane}", timeout, keep_alive=1.0, on_connect=doubt
            )
            # Beats are small, and a stop waits for the one under way.
            for lane, timeout, doubt in (
                ("consumer", READ_TIMEOUT, membership.doubt),
                ("settler", READ_TIMEOUT, membership.doubt),
                ("watchdog", 1.5, None),
            )
        }
        self.lanes = lanes = {lane: Broker(link, app.namespace) for lane, link in links.items()}
        shared = app.client.broker
        self.failures = Failures(app.dead, app.failure_functions)
        self.threads = Threads(config.threads, lambda: self.retirement.wake())
        self.settler = Settler(lanes["settler"], membership, self.failures.add)
        run = Executor(
            app.tasks,
            self.stats,
            # A debugger may hold a task for as long as it likes.
            timeout=None if config.solo else config.timeout,
            log_values=config.log_values,
            on_stuck=self._write_off,
            verifier=app.signer,
            middleware=app.middlewares,
            threads=None if config.solo else self.threads,
        ).run
        self.pool: TaskPool | SoloPool
        if config.solo:
            self.pool = SoloPool(run, self.settler.add)
        else:
            self.pool = TaskPool(config.concurrency, run, self.settler.add)
        control = app.client.control
        pulse = Pulse(self.stats, self.pool, self.threads)
        teller = Teller(control, membership, self.pool, self.threads, config.log_values, pulse)
        canceller = Canceller(control, membership, self.pool, config.cancel_grace)
        self.scheduler = Scheduler(shared, on_asked=teller.tell, canceller=canceller)
        # A burst is to end.
        due = () if config.burst else app.schedule.declared.values()
        timetable = Timetable(app.client.pool, app.namespace)
        self.ticker = Ticker(timetable, due, app.client.fields)
        self.consumer = Consumer(
            lanes["consumer"],
            membership,
            self.pool,
            config.queues,
            config.lease,
            about={"name": config.name, "queues": config.queues, "concurrency": self.pool.size},
            expect=self.scheduler.expect,
            burst=config.burst,
            allow_eviction=config.allow_eviction,
            max_tasks=config.max_tasks,
            on_enough=lambda: self.retirement.wake(),
            not_run=lambda: self.stats.not_run,
            declare=partial(_declare_limits, app.limits.declared, links["consumer"], app.namespace),
        )
        self.reaper = Reaper(
            shared,
            config.sweep_every,
            config.lease,
            config.quiet,
            config.max_deliveries,
            self.failures.add,
        )
        self.retirement = Retirement(
            config,
            lambda: self.consumer.begun,
            lambda: len(self.pool.stuck) + len(self.threads.stuck),
            retire,
        )
        in_its_thread = Control(links["watchdog"], app.namespace)
        self.watchdog = Watchdog(
            lanes["watchdog"],
            membership,
            config,
            self.stats,
            answer=lambda frame: teller.tell_blocked(in_its_thread, frame),
        )
        # Started in this order, and stopped all at once.
        self.chores: tuple[Service, ...] = (
            self.retirement,
            self.scheduler,
            self.ticker,
            self.reaper,
        )

    def _write_off(self, delivery: Delivery, outcome: Outcome) -> None:
        self.pool.write_off(delivery, outcome)
        self.retirement.wake()

    def _drop_all(self) -> None:
        """The incarnation was reaped: what runs here runs elsewhere, too."""
        self.pool.kill(Release, block=False)


def _declare_limits(limits: Mapping[str, Limit], link: Link, namespace: str, worker: str) -> None:
    """Whatever is declared by then: nothing costs nothing."""
    if limits:
        Admission(link, namespace).declare(worker, limits.values())
