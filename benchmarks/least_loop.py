"""The least loop that is as safe: what a worker on these libraries can come near to. Frozen before greenworker was tuned.

The same scripts as greenworker's (lease, fence, counters, results, announcements), so the same work for the server;
a timeout for each task, a context of its own, greenlets that are used again. No retries, cancellation, limits, logs, checks of
arguments, limits on sizes, nor anything that mends a lost connection: not a worker.
"""

from gevent import monkey

monkey.patch_all()

import os
from collections import deque
from contextvars import copy_context
from urllib.parse import urlsplit

import gevent
import orjson
import redis
from gevent.event import Event
from greenlet import greenlet

from greenworker.scripts import load

CONCURRENCY = int(os.environ.get("BENCH_CONCURRENCY", "100"))
LEASE, TIMEOUT, RESULT_TTL = 30_000, 300.0, "3600000"
ROOT = "gw:{default}:"


def noop() -> None:
    pass


def nap(seconds: float = 0.1) -> None:
    gevent.sleep(seconds)


TASKS = {b"noop": noop, b"nap": nap}


class Late(BaseException):
    """Thrown into a task that takes too long."""


class Link:
    """A connection of one greenlet's own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._redis = redis.Connection(host=parts.hostname, port=parts.port, protocol=2)
        self._redis.connect()
        for name in ("register", "beat", "claim", "settle"):
            self._ask([b"SCRIPT", b"LOAD", load(name).source])

    def run(self, name: str, *args: bytes) -> list:
        return self._ask([b"EVALSHA", load(name).sha, b"1", ROOT.encode() + b"nil", *args])

    def _ask(self, words: list[bytes]) -> list:
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
        self._redis.send_packed_command([b"".join(parts)], check_health=False)
        return self._redis.read_response()


class Loop:
    def __init__(self, url: str) -> None:
        self.hub = gevent.get_hub()
        self.wid = os.urandom(8).hex().encode()
        self.claims, self.settles, self.beats = Link(url), Link(url), Link(url)
        self.waiting: deque[tuple[bytes, bytes]] = deque()
        self.idle: list[greenlet] = []
        self.ended: list[bytes] = []
        self.held = 0
        self.room, self.work = Event(), Event()
        self.seq = b"0"

    def run(self) -> None:
        self.beats.run("register", self.wid, b"%d" % LEASE, b"{}", b"default")
        gevent.spawn(self.settle)
        gevent.spawn(self.beat)
        seq = 0
        while True:
            if self.held >= CONCURRENCY:
                self.room.clear()
                self.room.wait()
            seq += 1
            room = CONCURRENCY - self.held
            reply = self.claims.run(
                "claim", self.wid, b"%d" % seq, b"%d" % room, b"4194304", b"default"
            )
            lengths, text = reply[3].split(), reply[4]
            if not lengths:
                gevent.sleep(0.01)
                continue
            self.held += len(lengths) // 2
            self.seq = b"%d" % seq
            at = 0
            for n in range(0, len(lengths), 2):
                middle = at + int(lengths[n])
                end = middle + int(lengths[n + 1])
                self.waiting.append((text[at:middle], self.seq, text[middle:end]))
                at = end
            self.hub.loop.run_callback(self.feed)

    def feed(self) -> None:
        while self.waiting:
            runner = self.idle.pop() if self.idle else greenlet(self.body, self.hub)
            runner.switch()

    def body(self) -> None:
        me, leave = gevent.getcurrent(), self.hub.switch
        while True:
            copy_context().run(self.one, me, *self.waiting.popleft())
            self.idle.append(me)
            leave()

    def one(self, me: greenlet, id: bytes, seq: bytes, envelope: bytes) -> None:
        head, _, body = envelope.partition(b"\n")
        function = TASKS[head.split(b" ")[8]]
        args, kwargs = orjson.loads(body)
        timer = self.hub.loop.timer(TIMEOUT)
        timer.start(me.throw, Late)
        try:
            value = function(*args, **kwargs)
        finally:
            timer.stop()
            timer.close()
        result = b'{"state":"SUCCESS","value":%b}' % orjson.dumps(value)
        self.ended += (id, seq, b"done", RESULT_TTL.encode(), result, b"")
        self.work.set()

    def settle(self) -> None:
        while True:
            self.work.wait()
            self.work.clear()
            batch, self.ended = self.ended[:6000], self.ended[6000:]
            if self.ended:
                self.work.set()
            verdicts = self.settles.run("settle", self.wid, b"%d" % (len(batch) // 6), *batch)
            assert all(verdicts)
            self.held -= len(verdicts)
            self.room.set()

    def beat(self) -> None:
        while True:
            gevent.sleep(LEASE / 3000)
            assert self.beats.run("beat", self.wid, b"%d" % LEASE)


if __name__ == "__main__":
    Loop(os.environ["BENCH_URL"]).run()
