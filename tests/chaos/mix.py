"""The chaos mix: everything at once, for minutes, by a seed; and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from greenworker import App, keys
from greenworker.errors import GreenworkerError
from greenworker.scripts import load
from tests.chaos.arena import Arena
from tests.chaos.figures import Figures, measure, unheard
from tests.chaos.history import Journal
from tests.chaos.schedule import KEYS, TAG, Send, Step, faults, sends
from tests.chaos.tasks import MOST_OF_A_SITE, SITES
from tests.chaos.workers import Worker
from tests.support.limits import check_lines
from tests.support.process import Command

# Two with a short lease among two with a longer one: sweepers that think differently of time.
LEASES = (2.0, 2.0, 4.0, 6.0)
# Seconds that a task may block the loop: two end themselves then (and when they were frozen for so
# long), the others beat on, or are found reaped.
MAX_BLOCK = (2.0, 30.0, 30.0, 2.0)
PRODUCERS, ASKERS = 3, 2
PATIENCE = 60.0  # seconds for which a result is waited for


class Mix:
    """One run: producers, and a thread for each track of faults."""

    def __init__(
        self, arena: Arena, seed: int, seconds: float, rate: float, only: tuple[str, ...]
    ) -> None:
        self._arena, self._seed, self._seconds, self._rate = arena, seed, seconds, rate
        self._steps = faults(seed, seconds, len(LEASES), only)
        self._errors: list[BaseException] = []
        self._began = 0.0
        self._admin: Any = redis.Redis.from_url(arena.server.url)
        self._faults: Counter[str] = Counter()
        self._senders: list[Command] = []
        self._recent: deque[str] = deque(maxlen=200)  # ids that were sent

    def run(self, minutes: float, patience: float) -> Figures:
        """Break and send for the time given, lift all faults, drain, and judge."""
        arena = self._arena
        for number, (lease, most) in enumerate(zip(LEASES, MAX_BLOCK, strict=True), 1):
            arena.worker(
                *("--grace", "2", "--max-block", f"{most:g}"),
                name=f"chaos{number}", lease=lease, supervised=True, ready=False,
            )  # fmt: skip
        for worker in arena.workers:
            arena.wait_registered(worker)
        for heard in (False, True):
            arena.journal.write("limit", pattern=SITES, most=MOST_OF_A_SITE, heard=heard)
        self._began = time.monotonic()
        tracks = sorted({step.track for step in self._steps})
        work: list[tuple[Callable[[Any], None], Any]] = [
            *((self._track, name) for name in tracks),
            *((self._produce, number) for number in range(PRODUCERS)),
            *((self._ask, number) for number in range(ASKERS)),
        ]
        threads = [threading.Thread(target=self._guard, args=one) for one in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        codes = {sender.wait() for sender in self._senders}
        assert codes <= {0, -signal.SIGKILL}, f"senders ended with {sorted(codes)}"
        arena.allow("stuck")
        if self._errors:
            raise self._errors[0]
        _insist(lambda: arena.app.schedule.pause("tick"))
        arena.drain(patience)
        self._check_locks()
        check_lines({"msg": {}, **arena.structure()})
        self._admin.close()
        verdict = arena.verify()
        figures = Figures(self._seed, minutes, verdict, self._faults)
        figures.took = time.monotonic() - self._began
        progress = arena.progress
        figures.idle, figures.alone = progress.longest, progress.longest_alone
        figures.watched = progress.watched
        measure(arena.history, figures)
        missed = unheard(arena.events("asked"), arena.history)
        assert not missed, f"{len(missed)} results that nobody was told of: {missed[:5]}"
        return figures

    def _check_locks(self) -> None:
        """Whatever became of those before them: with nothing there, each unique one may be sent."""
        ids = [self._arena.send("only", key) for key in range(KEYS)]
        said = {event["ids"][0]: event["verdict"] for event in self._arena.events("sent")}
        assert [said[id] for id in ids] == ["ok"] * KEYS, "a lock was left behind"
        self._arena.drain()

    def _guard(self, work: Callable[[Any], None], what: Any) -> None:
        try:
            work(what)
        except BaseException as error:
            self._errors.append(error)

    # Sending

    def _produce(self, number: int) -> None:
        pause = PRODUCERS / self._rate
        next_at = time.monotonic()
        specials = self._specials(number)
        for send in sends(self._seed, number):
            now = time.monotonic()
            if now - self._began > self._seconds or self._errors:
                return
            if now < next_at:
                time.sleep(next_at - now)
            # After an outage it does not send all at once what it could not send before.
            next_at = max(next_at, now - 1.0) + pause * send.count
            for at in [at for at in specials if now - self._began > at]:
                self._arena.send(*specials.pop(at))
            self._send(send)

    def _ask(self, number: int) -> None:
        """Send, wait for the result, and so on: who waits is told, whatever is lost on the way."""
        rng = random.Random(f"{self._seed} asker {number}")
        while time.monotonic() - self._began < self._seconds and not self._errors:
            id = self._arena.send("nap", round(rng.uniform(0, 0.3), 2))
            try:
                self._arena.app.result(id).get(timeout=PATIENCE)
                how = "value"
            except GreenworkerError as error:
                how = type(error).__name__
                time.sleep(0.1)
            self._arena.journal.write("asked", id=id, how=how)

    def _specials(self, number: int) -> dict[float, tuple[Any, ...]]:
        """The few tasks that hurt their worker: the first producer's, spread over the run."""
        if number:
            return {}
        few = [("poison",), ("stuck", "stuck"), ("block", 2 * min(MAX_BLOCK))]
        few *= max(1, round(self._seconds / 60))
        return {self._seconds * (n + 1) / (len(few) + 2): what for n, what in enumerate(few)}

    def _send(self, send: Send) -> None:
        if send.kind == "hostile":
            self._hostile()
        elif send.kind == "many":
            self._arena.send_many(send.task, [send.args] * send.count)
        else:
            self._recent.append(self._arena.send(send.task, *send.args, **dict(send.options)))

    def _hostile(self) -> None:
        """Bytes that no push made: an id without a message, and one whose envelope is none."""
        root, id = self._arena.root, os.urandom(6).hex()
        with contextlib.suppress(redis.RedisError, OSError):
            self._admin.lpush(keys.ready(root, "default", 5), b"\xff\x00 no id " + id.encode())
        with contextlib.suppress(redis.RedisError, OSError):
            pipe = self._admin.pipeline(transaction=True)
            pipe.hset(keys.messages(root), f"raw-{id}", b"9 not an envelope \xff\n{")
            pipe.lpush(keys.ready(root, "default", 5), f"raw-{id}")
            pipe.execute()

    # Breaking

    def _track(self, name: str) -> None:
        for step in self._steps:
            if step.track != name or self._errors:
                continue
            time.sleep(max(0.0, self._began + step.at - time.monotonic()))
            self._faults[f"{step.track}.{step.name}"] += 1
            act = getattr(self, f"_{step.track}_{step.name.replace('-', '_')}")
            act(step)

    def _victim(self, step: Step) -> Worker:
        return self._arena.workers[step.worker]

    def _workers_kill(self, step: Step) -> None:
        self._arena.kill(self._victim(step))

    def _workers_failpoint(self, step: Step) -> None:
        """Its next life ends at a certain step."""
        victim = self._victim(step)
        victim.next_failpoint = step.word
        if step.number < 0.5:
            self._arena.kill(victim)
        else:
            self._arena.terminate(victim)

    def _workers_freeze(self, step: Step) -> None:
        victim = self._victim(step)
        self._arena.freeze(victim)
        time.sleep(step.lasts)
        self._arena.thaw(victim)

    def _workers_term(self, step: Step) -> None:
        self._arena.terminate(self._victim(step))

    def _workers_term_twice(self, step: Step) -> None:
        self._arena.terminate(self._victim(step))
        time.sleep(step.lasts)
        self._arena.terminate(self._victim(step))

    def _senders_kill(self, step: Step) -> None:
        """A program that sends dies before, or just after, it has heard of it."""
        failpoint = f"{step.word}=KILL@{1 + int(20 * step.number)}"
        with self._fault(f"sender killed at {step.word}", step):
            self._senders.append(self._arena.sender("nap", 30, 0.01, failpoint=failpoint))

    def _people_retry_dead(self, step: Step) -> None:
        """Dead letters are sent again; most fail again."""
        with contextlib.suppress(GreenworkerError):
            letters = self._arena.app.dead.list(task="fails", limit=20, values=False)
            revive(self._arena.app, self._arena.journal, [letter.id for letter in letters])

    def _people_cancel(self, step: Step) -> None:
        """Some ids of the last few hundred: that wait, run, are delayed, or have ended."""
        ids = random.Random(step.number).sample(list(self._recent), min(20, len(self._recent)))
        if ids:
            self._cancel(lambda: self._arena.app.cancel(*ids), ids=ids)

    def _people_cancel_tag(self, _: Step) -> None:
        self._cancel(lambda: self._arena.app.cancel(tag=TAG), tag=TAG)

    def _cancel(self, act: Callable[[], object], **what: Any) -> None:
        self._arena.journal.write("cancel", **what)
        with contextlib.suppress(GreenworkerError):
            act()
            self._arena.journal.write("cancelled", **what)

    def _people_limit(self, step: Step) -> None:
        """Of each site more or fewer at once, from the next claim on."""
        most = 1 + int(5 * step.number)
        self._arena.journal.write("limit", pattern=SITES, most=most, heard=False)
        _insist(lambda: self._arena.app.limits.set(SITES, concurrency=most))
        self._arena.journal.write("limit", pattern=SITES, most=most, heard=True)

    def _people_pause(self, step: Step) -> None:
        """Nothing is claimed for a while; what runs goes on, and so do sends."""
        app = self._arena.app
        with self._fault("queue paused", step, stops_all=True):
            with contextlib.suppress(GreenworkerError):
                app.pause("default")
                time.sleep(step.lasts)
            _insist(lambda: app.resume("default"))

    def _server_kill(self, step: Step) -> None:
        with self._fault("server killed", step, stops_all=True):
            self._arena.server.kill()
            time.sleep(step.lasts)
            self._arena.server.restart()

    def _server_freeze(self, step: Step) -> None:
        with self._fault("server frozen", step, stops_all=True):
            self._arena.server.stop_process()
            time.sleep(step.lasts)
            self._arena.server.cont()

    def _server_client_kill(self, step: Step) -> None:
        with self._fault("CLIENT KILL", step), contextlib.suppress(redis.RedisError):
            self._admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def _server_pause(self, step: Step) -> None:
        kind = "ALL" if step.number < 0.5 else "WRITE"
        with self._fault(f"CLIENT PAUSE {kind}", step, stops_all=True):
            self._admin.execute_command("CLIENT", "PAUSE", int(step.lasts * 1000), kind)
            time.sleep(step.lasts)

    def _server_script_flush(self, step: Step) -> None:
        with self._fault("SCRIPT FLUSH", step):
            until = time.monotonic() + step.lasts
            while time.monotonic() < until:
                self._admin.script_flush()
                time.sleep(0.02)

    def _server_squeeze(self, step: Step) -> None:
        """No memory: sends are refused, all that was sent goes on."""
        with self._fault("maxmemory", step):
            used = self._admin.info("memory")["used_memory"]
            self._admin.config_set("maxmemory", max(1, int(used * (0.8 + 0.2 * step.number))))
            time.sleep(step.lasts)
            self._admin.config_set("maxmemory", 0)

    def _server_no_replicas(self, step: Step) -> None:
        with self._fault("NOREPLICAS", step, stops_all=True):
            self._admin.config_set("min-replicas-to-write", 1)
            time.sleep(step.lasts)
            self._admin.config_set("min-replicas-to-write", 0)

    def _network_cut(self, step: Step) -> None:
        with self._fault("cut", step):
            for proxy in self._proxies(step):
                proxy.cut()

    def _network_delay(self, step: Step) -> None:
        # A reply that comes late costs no lease: beats are small, and more than one fits into it.
        with self._fault("delay", step):
            for proxy in self._proxies(step):
                proxy.delay(0.02 + 0.2 * step.number)
            time.sleep(step.lasts)
            for proxy in self._proxies(step):
                proxy.delay(0)

    def _network_trickle(self, step: Step) -> None:
        with self._fault("trickle", step, **self._apart(step)):
            for proxy in self._proxies(step):
                proxy.trickle(100 + int(2000 * step.number))
            time.sleep(step.lasts)
            for proxy in self._proxies(step):
                proxy.trickle(0)

    def _network_drop_reply(self, step: Step) -> None:
        with self._fault(f"reply of {step.word} dropped", step):
            for proxy in self._proxies(step):
                proxy.drop_next_reply(load(step.word).sha)
            time.sleep(step.lasts)

    def _network_drop_request(self, step: Step) -> None:
        with self._fault(f"request of {step.word} dropped", step):
            for proxy in self._proxies(step):
                proxy.drop_next_request(load(step.word).sha)
            time.sleep(step.lasts)

    def _network_half_open(self, step: Step) -> None:
        # Until the read times out, after 5 s; beats notice after 1.5 s, near a lease of 2 s.
        with self._fault("half-open", step, **self._apart(step)):
            for proxy in self._proxies(step):
                proxy.swallow()
            time.sleep(step.lasts)

    def _network_black_hole(self, step: Step) -> None:
        with self._fault("black hole", step, **self._apart(step)):
            for proxy in self._proxies(step):
                proxy.freeze()
            time.sleep(step.lasts)
            for proxy in self._proxies(step):
                proxy.thaw()

    def _network_refuse(self, step: Step) -> None:
        with self._fault("refused", step, **self._apart(step)):
            for proxy in self._proxies(step):
                proxy.refuse()
                proxy.cut()
            time.sleep(step.lasts)
            for proxy in self._proxies(step):
                proxy.accept()

    def _proxies(self, step: Step) -> list[Any]:
        """The workers' way to the server, the producers', or both."""
        both = [self._arena.proxy, self._arena.producers]
        return both[: 1 + step.worker % 2] if step.worker < 3 else both[1:]

    def _apart(self, step: Step) -> dict[str, Any]:
        """What a fault does that keeps these proxies' clients from the server."""
        if self._arena.proxy in self._proxies(step):
            return {"stops_all": True, "costs_lease": "all"}
        return {}

    @contextmanager
    def _fault(self, name: str, step: Step, **about: Any) -> Iterator[None]:
        with self._arena.fault(name, lasts=round(step.lasts, 2), **about):
            yield


# Whoever lives sends its ticks, one for each due time.
TICKS = """
@app.every(2, name="tick")
@app.task(name="tick")
@noted
def tick():
    time.sleep(0.01)
"""


def play(
    folder: Path, seed: int, minutes: float, rate: float, only: tuple[str, ...] = ()
) -> Figures:
    """Run the mix in a folder, which keeps the journal."""
    with Arena(
        folder, lease=2.0, concurrency=50, patience=2.0, bound=9.0, short=False, extra=TICKS
    ) as arena:
        return Mix(arena, seed, 60 * minutes, rate, only).run(minutes, patience=90.0)


def _insist(act: Callable[[], object]) -> None:
    """Until it is done: a fault of another track may still be in its way."""
    while True:
        try:
            act()
            return
        except GreenworkerError:
            time.sleep(0.1)


def revive(app: App, journal: Journal, ids: Sequence[str]) -> None:
    """Send dead letters again, and journal which of them; of a call that fails nobody knows."""
    journal.write("revive", ids=ids)
    for id, fate in app.dead.retry(*ids).items():
        journal.write("revived", ids=[id], verdict="ok" if fate == "retried" else "refused")
