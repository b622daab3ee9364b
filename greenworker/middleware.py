"""Middleware: what stands around each send and each run, and hears how a worker begins and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from greenworker.errors import ConfigError
from greenworker.keys import PRIORITIES, check_name
from greenworker.message import Message

Next = Callable[[Message], Any]
Step = Callable[[Message, Next], Any]


class Middleware:
    """To be subclassed: a method that is not overridden costs nothing.

    The first one that an App was given is the outermost. `send` and `run` call `call_next` with the
    message, or with a copy of it (`dataclasses.replace`).
    """

    def send(self, message: Message, call_next: Callable[[Message], None]) -> None:
        """Stands around a send, where it is made. What it raises refuses the send, and is raised there.

        It may change `args`, `kwargs`, `headers`, `queue` and `priority`. Without call_next nothing is
        sent, and what `delay_many` returns leaves it out. When call_next returns, the message is on the
        server; of `delay_many` it is in the call that is about to be made, and call_next is for then, not
        for later. Retries are no sends, nor are ticks of a schedule and dead letters that are sent again.
        """
        call_next(message)

    def run(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
        """Stands around a run, in its greenlet (its thread, with `thread=True`) and in its time.

        Returns the task's value: return what call_next returns. It may change `args` and `kwargs`. What
        it raises the task has failed of; what comes out of call_next is the task's error, a Verdict, which
        is none, or what ends a run from outside, which is no Exception. `current_task()` is there.
        """
        return call_next(message)

    def on_start(self, worker: Any) -> None:
        """A Worker is about to begin; what this raises, its start raises."""

    def on_quiet(self, worker: Any) -> None:
        """A Worker claims nothing more: it is quiet, or it stops. Comes before `on_shutdown`, and again only
        after a resume."""

    def on_shutdown(self, worker: Any) -> None:
        """A Worker's last task has ended, and been settled if that was possible. Has what is left of
        the grace, a second at least; the last one that began comes first."""


def check(one: object) -> Middleware:
    """The same; raises ConfigError for what is no middleware, or overrides nothing."""
    if not isinstance(one, Middleware):
        mend = "give objects of subclasses of Middleware"
        if isinstance(one, type) and issubclass(one, Middleware):
            mend = f"make one, {one.__name__}()"
        raise ConfigError(f"middleware {one!r:.80}: {mend}")
    methods = [name for name in vars(Middleware) if not name.startswith("_")]
    if not any(name in vars(kind) for name in methods for kind in _own(type(one))):
        raise ConfigError(f"middleware {one!r:.80} has none of {', '.join(methods)}: define one")
    return one


def check_all(given: object) -> tuple[Middleware, ...]:
    """Several, checked; raises ConfigError."""
    if isinstance(given, Middleware) or not isinstance(given, Iterable):
        raise ConfigError(f"middleware={given!r:.80}: give a list of them")
    return tuple(map(check, given))


def sends(middleware: Iterable[Middleware]) -> Step | None:
    """All `send`s as one; None if there are none."""
    return compose([one.send for one in middleware if type(one).send is not Middleware.send])


def runs(middleware: Iterable[Middleware]) -> Step | None:
    """All `run`s as one; None if there are none."""
    return compose([one.run for one in middleware if type(one).run is not Middleware.run])


def compose(steps: Sequence[Step]) -> Step | None:
    """Many steps as one, the first outermost; of one, itself; of none, None."""
    if not steps:
        return None
    first, rest = steps[0], compose(steps[1:])
    if rest is None:
        return first
    inner = rest

    def both(message: Message, call_next: Next) -> Any:
        return first(message, lambda passed: inner(passed, call_next))

    return both


def sent_through(step: Step, push: Callable[[Message], str]) -> Callable[[Message], str]:
    """`push`, with `step` around it."""

    def send(message: Message) -> str:
        id = message.id

        def call_next(passed: Message) -> None:
            nonlocal id
            id = push(_allowed(message, passed))

        step(message, call_next)
        return id

    return send


def each_sent_through(step: Step, messages: Iterable[Message]) -> Iterator[Message]:
    """What `step` lets pass of many messages, as it has made it."""
    for message in messages:
        taking = _Taking(message)
        step(message, taking)
        yield from taking.close()


class _Taking:
    """The end of the way of one message of many: takes it along, as long as that is possible."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._taken: list[Message] | None = []

    def __call__(self, passed: Message) -> None:
        if self._taken is None:
            raise ConfigError(
                f"{passed.task}: call_next came after send() had returned; of delay_many that is too "
                "late: send it with delay()"
            )
        self._taken.append(_allowed(self._message, passed))

    def close(self) -> list[Message]:
        taken, self._taken = self._taken, None
        return taken or []


def _allowed(message: Message, passed: Message) -> Message:
    """What is sent in place of a message; raises ConfigError where more is changed than may be."""
    if passed is message:
        return message
    if not isinstance(passed, Message):
        raise ConfigError(
            f"{message.task}: a middleware's send() called call_next with a {type(passed).__name__}: "
            "give it the message, or a copy of it"
        )
    same = replace(
        passed,
        args=message.args,
        kwargs=message.kwargs,
        headers=message.headers,
        queue=message.queue,
        priority=message.priority,
    )
    if same != message:
        raise ConfigError(
            f"{message.task}: a middleware's send() may change args, kwargs, headers, queue and "
            "priority, nothing else: the sender knows the rest"
        )
    kinds = (("args", (list, tuple)), ("kwargs", Mapping), ("headers", Mapping))
    for name, kind in kinds:
        if not isinstance(getattr(passed, name), kind):
            found = type(getattr(passed, name)).__name__
            wanted = "a list or a tuple" if name == "args" else "a dict"
            raise ConfigError(f"{message.task}: {name} is a {found}: give {wanted}")
    check_name("queue", passed.queue)
    if isinstance(passed.priority, bool) or passed.priority not in PRIORITIES:
        raise ConfigError(
            f"{message.task}: priority {passed.priority!r}: give 0 to 9, 9 goes first"
        )
    return passed


def _own(kind: type) -> Iterator[type]:
    """The classes between this one and Middleware."""
    for base in kind.__mro__:
        if base is Middleware:
            return
        yield base
