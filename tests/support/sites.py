"""Sites with limits of their own, and a run of messages against one: by the real scripts, in a time that stands until the next event."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import NamedTuple, Protocol

from greenworker.message import Delivery, Outcome
from tests.support.limits import Limited

KEY = "host:a"
Latency = Callable[[random.Random], float]


class Answer(NamedTuple):
    """Of a request: whether it was let through, after how many seconds, and what a refusal says of when to come again
    (-1: nothing)."""

    passed: bool
    took: float
    retry_after: float = -1.0
    fails: bool = False  # let through, and of no use


class Site(Protocol):
    """Asked in the order of `now` (s)."""

    def ask(self, now: float) -> Answer: ...


def even(seconds: float) -> Latency:
    return lambda _: seconds


def mixed(seconds: float, most: float = 3.0) -> Latency:
    """Pages of two kinds, one of which takes `most` times as long; and each a little more or less."""
    return lambda rng: seconds * rng.choice((1.0, most)) * rng.uniform(0.8, 1.25)


class _Refusing:
    """What sites have in common that refuse: how long an answer takes, and what they say of when to come again."""

    def __init__(self, latency: Latency, retry_after: float) -> None:
        self.latency, self.retry_after = latency, retry_after
        self.rng = random.Random(1)

    def answer(self, passed: bool, retry_after: float | None = None) -> Answer:
        if passed:
            return Answer(True, self.latency(self.rng))
        return Answer(False, 0.02, self.retry_after if retry_after is None else retry_after)


class Bucket(_Refusing):
    """A token bucket: `rate` a second, `burst` at once."""

    def __init__(
        self,
        rate: float,
        burst: float = 5,
        *,
        latency: Latency = even(0.1),
        retry_after: float = -1.0,
    ) -> None:
        super().__init__(latency, retry_after)
        self.rate, self.burst = rate, burst
        self._tokens, self._at = burst, 0.0

    def ask(self, now: float) -> Answer:
        self._tokens = min(self.burst, self._tokens + self.rate * (now - self._at))
        self._at = now
        passed = self._tokens >= 1
        if passed:
            self._tokens -= 1
        return self.answer(passed)


class Window(_Refusing):
    """So many in each span of the calendar; `tells`: when the next one begins."""

    def __init__(
        self, most: int, span: float, *, latency: Latency = even(0.1), tells: bool = True
    ) -> None:
        super().__init__(latency, -1.0)
        self.most, self.span, self.tells = most, span, tells
        self._window, self._n = -1.0, 0

    @property
    def rate(self) -> float:
        return self.most / self.span

    def ask(self, now: float) -> Answer:
        window = now // self.span
        if window != self._window:
            self._window, self._n = window, 0
        self._n += 1
        left = math.ceil((window + 1) * self.span - now)
        return self.answer(self._n <= self.most, left if self.tells else -1.0)


class Sliding(_Refusing):
    """So many in any span; what is refused does not count."""

    def __init__(
        self, most: int, span: float, *, latency: Latency = even(0.1), retry_after: float = -1.0
    ) -> None:
        super().__init__(latency, retry_after)
        self.most, self.span = most, span
        self._passed: deque[float] = deque()

    @property
    def rate(self) -> float:
        return self.most / self.span

    def ask(self, now: float) -> Answer:
        while self._passed and self._passed[0] <= now - self.span:
            self._passed.popleft()
        passed = len(self._passed) < self.most
        if passed:
            self._passed.append(now)
        return self.answer(passed)


class Slots(_Refusing):
    """So many at once; the next one is refused, or waits in line where `queues`: then it never refuses."""

    def __init__(
        self, slots: int, latency: Latency, *, queues: bool = False, retry_after: float = -1.0
    ) -> None:
        super().__init__(latency, retry_after)
        self.slots, self.queues = slots, queues
        self._free_at = [0.0] * slots

    def ask(self, now: float) -> Answer:
        first = self._free_at[0]
        if first > now and not self.queues:
            return self.answer(False)
        begins, takes = max(first, now), self.latency(self.rng)
        heapq.heapreplace(self._free_at, begins + takes)
        return Answer(True, begins + takes - now)


class Free(_Refusing):
    """Refuses nothing, or one of so many without any reason; and that share fails."""

    def __init__(
        self, latency: Latency = even(0.1), *, one_of: int = 0, fails: float = 0.0
    ) -> None:
        super().__init__(latency, -1.0)
        self.one_of, self.fails = one_of, fails

    def ask(self, now: float) -> Answer:
        if self.fails > self.rng.random():
            return Answer(True, self.latency(self.rng), fails=True)
        return self.answer(not self.one_of or self.rng.randrange(self.one_of) > 0)


class Run:
    """Messages of one key, run against a site by a worker with `slots`, from the moment when it is made.

    `late`: ms from when one may start to the claim, and from the claim to the site, at most.
    """

    def __init__(
        self,
        limited: Limited,
        site: Site,
        *,
        slots: int = 1000,
        late: int = 4,
        looks: int = 1,
        name: str = "m",
    ) -> None:
        self.limited, self.site, self.slots = limited, site, slots
        self.late, self.looks, self.name = late, looks, name
        self.asked: list[tuple[float, bool]] = []  # when (s), and whether it was let through
        self.rates: list[tuple[float, float]] = []
        self.supply = math.inf  # messages that are still to be sent
        self._begin = limited.clock.ms
        self._rng = random.Random(0)
        self._events: list[tuple[int, int, str, object]] = []
        self._tie = count()
        self._waiting = self._held = self._sent = 0
        self._claim_at = -1

    @property
    def now(self) -> float:
        return (self.limited.clock.ms - self._begin) / 1000

    def until(self, second: float) -> None:
        """Go on until then; the rate that has been learnt is noted every `looks` seconds."""
        end = self._begin + round(second * 1000)
        self._add(self.limited.clock.ms, "claim")
        for at in range(math.ceil(self.now), math.ceil(second), self.looks):
            self._add(self._begin + at * 1000, "look")
        while self._events and self._events[0][0] <= end:
            at = self._events[0][0]
            self.limited.clock.ms = max(at, self.limited.clock.ms)
            ended: list[tuple[Delivery, Outcome]] = []
            claims = False
            while self._events and self._events[0][0] <= at:
                _, _, kind, what = heapq.heappop(self._events)
                if kind == "ask":
                    self._ask(what)
                elif kind == "end":
                    ended.append(what)  # type: ignore[arg-type]
                elif kind == "look":
                    self.rates.append((self.now, self.rate))
                elif self._claim_at <= at:
                    claims = True
            if ended:
                self.limited.space.settle("w", *ended)
                self._held -= len(ended)
                self._waiting += sum(outcome.kind == "throttled" for _, outcome in ended)
            if ended or claims:
                self._claim(claims)
        self.limited.clock.ms = end

    @property
    def rate(self) -> float:
        """Starts a second that have been learnt."""
        interval = self.limited.state_of(KEY).interval if self._sent else 0.0
        return 1000 / interval if interval else 0.0

    def passed(self, begin: float, end: float) -> int:
        return sum(ok for at, ok in self.asked if begin <= at < end)

    def refused(self, begin: float, end: float) -> int:
        return sum(not ok for at, ok in self.asked if begin <= at < end)

    def share_refused(self, begin: float, end: float) -> float:
        refused = self.refused(begin, end)
        return refused / max(1, refused + self.passed(begin, end))

    def used(self, begin: float, end: float, rate: float) -> float:
        """What of the rate was used, of what is allowed."""
        return self.passed(begin, end) / (rate * (end - begin))

    def told(self, every: float) -> str:
        """For people: a line for each so many seconds."""
        lines = []
        last = self.now
        at = 0.0
        while at < last:
            rates = [rate for when, rate in self.rates if at <= when < at + every]
            low, high = (min(rates), max(rates)) if rates else (0, 0)
            lines.append(
                f"{at:6.0f} s  passed {self.passed(at, at + every) / every:8.2f}/s  refused "
                f"{self.refused(at, at + every):4}  learnt {low:8.3f} to {high:8.3f}/s"
            )
            at += every
        return "\n".join(lines)

    def _add(self, at: int, kind: str, what: object = None) -> None:
        heapq.heappush(self._events, (at, next(self._tie), kind, what))

    def _claim(self, by_time: bool) -> None:
        self._send()
        now = self.limited.clock.ms
        if self._waiting and self._held < self.slots and (by_time or self._claim_at <= now):
            claim = self.limited.space.claim("w", self.slots - self._held)
            self._held += len(claim.deliveries)
            self._waiting -= len(claim.deliveries)
            for one in claim.deliveries:
                self._add(now + self._rng.randint(0, self.late), "ask", one)
            if claim.next_due is not None:
                self._claim_at = now + round(claim.next_due * 1000)
                self._add(self._claim_at + self._rng.randint(0, self.late), "claim")

    def _send(self) -> None:
        while self._waiting < 500 and self.supply > 0:
            n = int(min(500, self.supply))
            self.limited.push(*(f"{self.name}{self._sent + i}" for i in range(n)), key=KEY)
            self._sent += n
            self._waiting += n
            self.supply -= n

    def _ask(self, one: object) -> None:
        assert isinstance(one, Delivery)
        answer = self.site.ask(self.now)
        self.asked.append((self.now, answer.passed))
        if answer.fails:
            outcome = Outcome("dead", b"", 0.0, reason="failed", took=answer.took)
        elif answer.passed:
            outcome = Outcome("done", b"", 0.0, took=answer.took)
        else:
            outcome = Outcome("throttled", delay=answer.retry_after, took=answer.took)
        self._add(self.limited.clock.ms + round(answer.took * 1000), "end", (one, outcome))
