"""What watches an arena from beside: who completes, and whether anything goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from greenworker import keys
from tests.chaos.history import Journal
from tests.chaos.workers import Worker

PAYLOAD = 200  # bytes of a result that are looked at: they tell its state and its token
STARTING = 10.0  # seconds that a process may take until it is registered, on a slow machine


class Announcements:
    """Journals what is announced as a result, straight from the server: a line each."""

    def __init__(self, url: str, root: str, journal: Journal) -> None:
        self._url, self._journal = url, journal
        self._channel = keys.done(root, "")
        self._closed = threading.Event()
        self.subscribed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="announcements", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(5)

    def _listen(self) -> None:
        while not self._closed.is_set():
            client = redis.Redis.from_url(self._url, socket_timeout=5)
            try:
                with client.pubsub() as pubsub:
                    pubsub.psubscribe(self._pattern)
                    self._read(pubsub)
            except (redis.RedisError, OSError):
                self.subscribed.clear()
                time.sleep(0.01)
            finally:
                client.close()

    @property
    def _pattern(self) -> str:
        return self._channel.replace("[", r"\[") + "*"

    def _read(self, pubsub: Any) -> None:
        while not self._closed.is_set():
            message = pubsub.get_message(timeout=0.2)
            if message is None:
                continue
            if message["type"] == "psubscribe":
                self.subscribed.set()
            elif message["type"] == "pmessage":
                self._journal.write(
                    "announced",
                    id=message["channel"].decode().removeprefix(self._channel),
                    payload=message["data"][:PAYLOAD].decode("utf-8", "replace"),
                )


class Progress:
    """The oracle of liveness: there is no state in which a worker is up, connected, work waits,
    slots are free, and nothing is claimed or settled for `bound` seconds.

    An idle worker looks every 2 s whatever happens to its wake token, and one whose server was away is
    back within 2 s; so a bound of 6 s leaves time for a slow machine.
    """

    def __init__(
        self, url: str, root: str, workers: Callable[[], Sequence[Worker]], bound: float = 6.0
    ) -> None:
        self.stalls: list[str] = []
        self.longest = 0.0  # seconds for which nothing happened though something could
        self._client = redis.Redis.from_url(
            url, socket_timeout=2, decode_responses=True, encoding_errors="surrogateescape"
        )
        self._root, self._workers, self._bound = root, workers, bound
        self._excused = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._thread.start()

    @contextmanager
    def excused(self) -> Iterator[None]:
        """While a fault stops all workers, nothing has to go on."""
        self.excuse()
        try:
            yield
        finally:
            self.expect()

    def excuse(self) -> None:
        with self._lock:
            self._excused += 1

    def expect(self) -> None:
        with self._lock:
            self._excused -= 1

    def close(self) -> None:
        self._closed.set()
        self._thread.join(5)
        self._client.close()

    def _watch(self) -> None:
        since, last, told = time.monotonic(), None, False
        while not self._closed.wait(0.25):
            now = time.monotonic()
            try:
                sight = self._look()
            except (redis.RedisError, OSError):
                sight = None
            if sight is None or sight != last:
                since, last, told = now, sight, False
                continue
            self.longest = max(self.longest, now - since)
            if now - since > self._bound and not told:
                told = True
                self.stalls.append(f"nothing claimed or settled for {self._bound:g} s: {sight}")

    def _look(self) -> str | None:
        """What would change if anything went on; None when nothing has to."""
        if self._excused:
            return None
        up = [
            worker
            for worker in self._workers()
            if worker.running and not worker.stopped and not worker.leaving
        ]
        if not up:
            return None
        ask = self._client.pipeline(transaction=True)
        ask.time()
        ask.hgetall(keys.stats(self._root))
        ask.hgetall(keys.about(self._root))
        ask.smembers(keys.queues(self._root))
        ask.zrange(keys.scheduled(self._root), 0, 0, withscores=True)
        ask.zrange(keys.workers(self._root), 0, -1)
        (seconds, _), stats, about, queues, first_due, registered = ask.execute()
        for queue in queues:
            for priority in keys.PRIORITIES:
                ask.llen(keys.ready(self._root, queue, priority))
            ask.llen(keys.suspects(self._root, queue))
        for wid in registered:
            ask.hgetall(keys.processing(self._root, wid))
        replies = ask.execute()
        lines = {queue: replies[11 * n : 11 * n + 11] for n, queue in enumerate(queues)}
        held = dict(zip(registered, replies[11 * len(queues) :], strict=True))
        overdue = bool(first_due) and first_due[0][1] < (seconds - 2) * 1000
        waiting = {queue: sum(line[:10]) for queue, line in lines.items() if sum(line[:10])}
        suspects = {queue: line[10] for queue, line in lines.items() if line[10]}
        told = {wid: json.loads(text) for wid, text in about.items() if wid in held}
        free, idle = _free(up, told, held)
        names = {one.get("name") for one in told.values()}
        if any(one.name not in names and one.age > STARTING for one in up):
            # Up for so long, and not even registered: whatever it listens to.
            free, idle = set(queues), set(queues)
        # A suspect may have to wait until a worker has no other.
        if not (overdue and free) and not free & set(waiting) and not idle & set(suspects):
            return None
        stats.pop("enqueued", None)
        return f"{waiting} waiting, {suspects} suspects, overdue {overdue}, {stats}, held {held}"


def _free(workers: Sequence[Worker], told: Any, held: Any) -> tuple[set[str], set[str]]:
    """The queues for which a worker has a free slot, and those for which one holds nothing at all."""
    free: set[str] = set()
    idle: set[str] = set()
    for worker in workers:
        for wid, about in told.items():
            if about.get("name") != worker.name:
                continue
            if len(held[wid]) < about["concurrency"]:
                free.update(about["queues"])
            if not held[wid]:
                idle.update(about["queues"])
    return free, idle
