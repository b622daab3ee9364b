"""Inline: for as long as `app.testing()` lasts, a send runs its task in the caller, and no server is needed.

What is sent goes the whole way: the middleware's send, the codec, an envelope, a worker's executor, the middleware's
run, the codec again. Messages wait where the server would keep them (memory.py), and run once the send is
through; what a task sends runs when that task has ended, in the order of the sends, as it would at a worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol, Unpack, overload

from greenworker.client import Client
from greenworker.context import CURRENT
from greenworker.dead import DeadLetter, DeadLetters
from greenworker.endpoint import Endpoint
from greenworker.errors import GreenworkerError, ResultTimeout
from greenworker.message import Message, State, decode, keys_of
from greenworker.middleware import Middleware
from greenworker.schedule import Schedules
from greenworker.signing import Signer
from greenworker.subscriber import Subscriber, Waiter
from greenworker.task import Task
from greenworker.testing.line import LINE, Line
from greenworker.testing.memory import Entry, Memory, MemoryControl, new_push_id
from greenworker.testing.once import Filters, MemoryOnce
from greenworker.testing.record import (
    Errors,
    Ran,
    SentMessage,
    Span,
    check_errors,
    check_limit,
    is_name_of,
    seconds_of,
)
from greenworker.testing.runner import Runner, end_if_interrupted, raise_first

_KEEP = "app.testing(errors='keep') keeps it for the Result"
_NOWHERE = "redis://app.testing:6379"  # asked by nobody
_POLL = 0.01  # seconds between the looks at what another thread runs


class Tested(Protocol):
    """What is needed of an App."""

    namespace: str
    tasks: dict[str, Task[..., Any]]
    schedule: Schedules
    middlewares: tuple[Middleware, ...]
    failure_functions: list[Callable[[DeadLetter], object]]

    @property
    def signer(self) -> Signer | None: ...

    def load(self) -> None: ...

    def stand_in(self, client: Client) -> AbstractContextManager[None]: ...


@contextmanager
def testing(app: Tested, errors: Errors, limit: int) -> Iterator[Sent]:
    """See `App.testing`."""
    app.load()
    inline = Inline(app, errors, limit)
    with app.stand_in(inline.client):
        yield Sent(inline)


class Inline:
    """The tasks of an app, run where they are sent."""

    def __init__(self, app: Tested, errors: Errors, limit: int) -> None:
        check_errors(errors)
        check_limit(limit)
        self.memory = Memory(app.namespace, self._pushed)
        self.client = InlineClient(self, app.namespace, app.signer, app.middlewares)
        self.letters = DeadLetters(self.memory)
        self.sent: list[SentMessage] = []
        self.ran: list[Ran] = []
        self._schedules = app.schedule.declared
        self._runner = Runner(
            app.tasks, app.middlewares, app.signer, app.failure_functions, unknown_is_dead=True
        )
        self._raises = errors == "raise"
        self._limit = limit

    @contextmanager
    def sending(self) -> Iterator[None]:
        """What is sent within runs when this ends; within a run, or another send, when that has ended."""
        __tracebackhide__ = True
        line = self._open_line()
        if line is not None:
            yield
            return
        line = Line(self)
        before = LINE.set(line)
        try:
            yield
        finally:
            LINE.reset(before)
            self._run_all(line)  # what was sent before an error has been sent
        self._raise(line)

    def run_before_its_turn(self, id: str) -> None:
        """Run it now if it waits in the caller's own line: who is in it waits for it."""
        line, entry = self._open_line(), self.memory.present.get(id)
        if line is not None and entry is not None and line.take(entry):
            self._run(entry, line)

    def drain(self, seconds: float) -> list[Ran]:
        """Run what is due, and let so much time pass as beside a worker: each at its moment."""
        __tracebackhide__ = True
        memory, before = self.memory, len(self.ran)
        until = memory.now + round(seconds * 1000)
        ticks = {name: self._tick_after(name, memory.now) for name in self._schedules}
        line = Line(self)
        while True:
            waiting = memory.waiting()
            moment = min([*ticks.values(), *(entry.due for entry in waiting)], default=until + 1)
            if moment > until:
                break
            if moment > memory.now:
                memory.now, line.runs = moment, 0
            line.reopen([entry for entry in waiting if entry.due <= moment])
            for name in [name for name, at in ticks.items() if at <= moment]:
                self._tick(name, moment, line)
                ticks[name] = self._tick_after(name, moment)
            self._run_all(line)
        memory.now = until
        self._raise(line)
        return self.ran[before:]

    def _pushed(self, entries: Iterable[Entry]) -> None:
        self.sent += [self._as_sent(entry) for entry in entries]
        ready = [entry for entry in entries if entry.due <= self.memory.now]
        line = self._open_line()
        if line is None or not line.add(ready):
            line = Line(self)
            line.add(ready)
            self._run_all(line)
            self._raise(line)

    def _open_line(self) -> Line | None:
        line = LINE.get()
        return line if line is not None and line.inline is self and line.is_open else None

    def _run_all(self, line: Line) -> None:
        try:
            while (entry := line.next()) is not None:
                self._run(entry, line)
        except BaseException:
            line.break_off()
            raise

    def _run(self, entry: Entry, line: Line) -> None:
        line.runs += 1
        delivery = self.memory.begin(entry)
        if delivery is None:
            return
        variables = [(LINE, line)]
        outcome, ran = self._runner.run(delivery, variables)
        counts = self.memory.settle_one(entry, outcome)
        self.ran.append(ran if counts is outcome else replace(ran, outcome=counts.kind))
        entry.left = counts.kind == "release"
        end_if_interrupted(ran)
        if counts.kind == "retry":
            line.add([entry])
        elif counts.kind == "dead":
            line.failed.append(ran)
            letter = self.letters.get(entry.id)
            if letter is not None:
                line.told += self._runner.tell(letter, variables)
        if line.runs >= self._limit:
            raise GreenworkerError(
                f"{line.runs:,} runs at one moment, and no end, the last one of {ran.task}: does it send itself "
                "for ever? app.testing(limit=…) allows more"
            )

    def _raise(self, line: Line) -> None:
        __tracebackhide__ = True
        if self._raises:
            raise_first(line.failed, line.told, _KEEP)

    def _tick(self, name: str, at: int, line: Line) -> None:
        """As a worker's ticker, which goes past the middleware's send."""
        before = LINE.set(line)
        try:
            fields = self.client.fields(self._schedules[name].tick(at / 1000))
            self.client.once.push(new_push_id(), "", [*fields, ""])
        finally:
            LINE.reset(before)

    def _tick_after(self, name: str, now: int) -> int:
        return round(self._schedules[name].recurrence.after(now / 1000) * 1000)

    def _as_sent(self, entry: Entry) -> SentMessage:
        message, now = decode(entry.id, entry.envelope), self.memory.now
        sender = CURRENT.get()
        return SentMessage(
            id=entry.id,
            task=message.task,
            args=tuple(message.args),
            kwargs=message.kwargs,
            headers=message.headers,
            queue=message.queue,
            priority=message.priority,
            countdown=max(0, entry.due - now) / 1000,
            expires=(entry.expires - now) / 1000 if entry.expires else None,
            sender="" if sender is None else sender.current.id,
            keys=keys_of(message.options),
        )


class InlineClient(Client):
    """Sends as ever, but for where to."""

    def __init__(
        self,
        inline: Inline,
        namespace: str,
        signer: Signer | None,
        middleware: Sequence[Middleware],
    ) -> None:
        filters = Filters()
        # Whatever else there is goes over the link, which says that it needs a server.
        super().__init__(
            Endpoint(_NOWHERE), namespace, 1, 1.0, signer, middleware, lambda _: filters
        )
        self._inline = inline
        self.broker = inline.memory
        self.once = MemoryOnce(inline.memory, filters)
        self.control = MemoryControl(inline.memory)
        self.subscriber = _Announcements(inline)
        send = self.send

        def and_run(message: Message) -> str:
            __tracebackhide__ = True
            with inline.sending():
                return send(message)

        self.send = and_run

    def send_many(
        self, messages: Iterable[Message], note: Callable[[str], object], seen: str = ""
    ) -> int:
        __tracebackhide__ = True
        with self._inline.sending():
            return super().send_many(messages, note, seen)

    def close(self) -> None:
        """Results go on to be there: the test may look at them."""


class _Announcements(Subscriber):
    """Waiting in vain is told at once: nobody else would run it."""

    def __init__(self, inline: Inline) -> None:
        super().__init__(Endpoint(_NOWHERE), inline.memory.root)
        self._inline = inline

    @contextmanager
    def watch(self, id: str) -> Iterator[Waiter]:
        yield _Waiter(self._inline, id)


class _Waiter(Waiter):
    __slots__ = ("_id", "_inline")

    def __init__(self, inline: Inline, id: str) -> None:
        super().__init__()
        self._inline = inline
        self._id = id

    def wait(self, timeout: float) -> bytes | None:
        self._inline.run_before_its_turn(self._id)
        seen = self._inline.memory.lookup(self._id)
        if seen.due_in is not None:
            error = ResultTimeout(self._id, 0.0, seen.state or "")
            error.args = (
                f"{self._id} is {seen.state}, due in {seen.due_in:g} s, and in app.testing() time stands: "
                "sent.drain(seconds=…) lets it pass",
            )
            raise error
        entry = self._inline.memory.present.get(self._id)
        if entry is not None and entry.left:
            error = ResultTimeout(self._id, 0.0, seen.state or "")
            error.args = (
                f"{self._id} is {seen.state}, and nobody runs it any more: what was to run it was broken off",
            )
            raise error
        if seen.state in (State.PENDING, State.STARTED):
            time.sleep(min(timeout, _POLL))  # another thread runs it, or will
        return seen.result


class Sent(Sequence[SentMessage]):
    """What was sent within `app.testing()`, in order, and what came of it."""

    def __init__(self, inline: Inline) -> None:
        self._inline = inline

    def __repr__(self) -> str:
        return f"<Sent {[message.task for message in self]}>"

    def __len__(self) -> int:
        return len(self._inline.sent)

    @overload
    def __getitem__(self, index: int) -> SentMessage: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[SentMessage]: ...

    def __getitem__(self, index: int | slice) -> SentMessage | Sequence[SentMessage]:
        return self._inline.sent[index]

    def of(self, task: Task[..., Any] | str) -> list[SentMessage]:
        """The messages of one task, which may be given by its name."""
        return [message for message in self if is_name_of(task, message.task)]

    @property
    def ran(self) -> list[Ran]:
        """Every run, in order, those that were retried too."""
        return list(self._inline.ran)

    @property
    def retries(self) -> list[Ran]:
        """The runs after which there was another attempt: `attempt`, `delay` and `error` of each."""
        return [ran for ran in self._inline.ran if ran.outcome == "retry"]

    @property
    def dead(self) -> list[DeadLetter]:
        """What failed for good, as `app.dead` has it."""
        return list(self._inline.letters.list())

    @property
    def waiting(self) -> list[SentMessage]:
        """What is delayed, was snoozed or throttled, and has not run (again), the earliest first."""
        ids = [entry.id for entry in self._inline.memory.waiting()]
        latest = {message.id: message for message in self}
        return [latest[id] for id in ids]

    @property
    def now(self) -> datetime:
        """The moment at which time stands; `drain` moves it."""
        return datetime.fromtimestamp(self._inline.memory.now / 1000, UTC)

    def drain(self, **span: Unpack[Span]) -> list[Ran]:
        """Let time pass, `drain(hours=1)`: what is delayed or scheduled runs, each at its moment and none earlier.

        Returns what ran. Without a span only what is due already does. Raises as the sends do.
        """
        __tracebackhide__ = True
        return self._inline.drain(seconds_of(span))
