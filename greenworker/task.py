"""Task: a declared function. Calling it runs it here; `.delay()` sends it."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from greenworker.backoff import Backoff, Computed, Delays, as_backoff
from greenworker.checks import (
    check_moment,
    check_priority,
    check_result_ttl,
    check_seconds,
    check_tags,
    checked,
    tagged,
)
from greenworker.client import Client
from greenworker.context import CurrentTask
from greenworker.errors import BadArguments, DeclarationError, GreenworkerError, NotEncodable
from greenworker.keys import check_name
from greenworker.message import Message, Moment, encode_body
from greenworker.result import Result, Results
from greenworker.seen import Seen, mark_of
from greenworker.signature import plain_arity, sent_signature
from greenworker.unique import By, Rule, Unique, check_unique, seen_rule

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How a task is sent and run; seconds everywhere.

    `timeout` is the hard limit of one run: None = the worker's, 0 = none. At `soft_timeout`, SoftTimeout
    is raised in the task, which may catch it to tidy up. `retries` are
    further attempts after the first, made after errors of the `retry_for` types, but for those
    of `no_retry_for`, and after the delays that `backoff` says. `expires`
    drops a message that still waits after so long. `bind` passes `current_task()` first. Of a
    `sensitive` task no log line tells arguments, result or an error's text, whatever the worker is told.
    `thread` runs it in a native thread, for code that blocks: at its timeout it is given up, and goes on.
    `unique` sends a call once: True = its arguments count, or the one of that name, or what a function of them
    returns; until it is "done" or "started" (`unique_until`), or for `unique_for` s. A send meanwhile returns the first
    one's Result, or, with `on_conflict="replace"`, takes the place of what waits.
    `tags` are words by which messages can be cancelled together.
    """

    name: str
    queue: str = "default"
    timeout: float | None = None
    soft_timeout: float | None = None
    retries: int = 0
    retry_for: tuple[type[BaseException], ...] = (Exception,)
    no_retry_for: tuple[type[BaseException], ...] = ()
    backoff: Backoff | Delays | Computed = field(default_factory=Backoff)
    priority: int = 5
    expires: float | None = None
    result_ttl: float = 3600.0
    ignore_result: bool = False
    bind: bool = False
    sensitive: bool = False
    thread: bool = False
    unique: By = False
    unique_until: Literal["done", "started"] | None = None
    unique_for: float | None = None
    on_conflict: Literal["keep", "replace"] = "keep"
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_tags("tags", self.tags)
        check_name("queue", self.queue)
        check_priority("priority", self.priority)
        if not isinstance(self.retries, int) or isinstance(self.retries, bool) or self.retries < 0:
            raise DeclarationError(
                f"{self.name}: retries={self.retries!r}: give a number from 0 on"
            )
        for what, value in (
            ("timeout", self.timeout),
            ("soft_timeout", self.soft_timeout),
            ("expires", self.expires),
        ):
            if value is not None:
                check_seconds(f"{self.name}: {what}", value)
        if self.soft_timeout is not None and not 0 < self.soft_timeout < (self.timeout or math.inf):
            raise DeclarationError(
                f"{self.name}: soft_timeout={self.soft_timeout!r}: give seconds above 0, and below its timeout"
            )
        check_result_ttl(f"{self.name}: result_ttl", self.result_ttl)
        for what in ("ignore_result", "bind", "sensitive", "thread"):
            flag = getattr(self, what)
            if not isinstance(flag, bool):
                raise DeclarationError(f"{self.name}: {what}={flag!r}: give True or False")
        check_unique(self.name, self.unique, self.unique_until, self.unique_for, self.on_conflict)
        if self.thread and self.soft_timeout is not None:
            raise DeclarationError(
                f"{self.name}: nothing can be raised in a thread from outside: with thread=True leave out "
                "soft_timeout, and heed current_task().deadline"
            )


def make_options(name: str, options: Mapping[str, Any]) -> TaskOptions:
    """TaskOptions as a decorator takes them: `backoff=2.0`, `retry_for=IOError`."""
    known = [field.name for field in fields(TaskOptions)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise DeclarationError(f"{name}: no option {unknown[0]!r}; there are {', '.join(known)}")
    given = dict(options)
    if "tags" in given:
        given["tags"] = check_tags(f"{name}: tags", given["tags"])
    if "backoff" in given:
        given["backoff"] = as_backoff(given["backoff"])
    for what in ("retry_for", "no_retry_for"):
        if what in given:
            types = given[what]
            types = tuple(types) if isinstance(types, Iterable) else (types,)
            if not all(isinstance(one, type) and issubclass(one, BaseException) for one in types):
                raise DeclarationError(f"{name}: {what}={given[what]!r}: give exception types")
            given[what] = types
    return TaskOptions(name=name, **given)


class Task(Generic[P, R]):
    """A function that can be sent. Made by `@app.task`."""

    def __init__(
        self, function: Callable[..., R], options: TaskOptions, client: Callable[[], Client]
    ) -> None:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise DeclarationError(
                f"{options.name} is async: greenworker runs plain functions on green threads; "
                "write `def` and call blocking libraries, they become cooperative"
            )
        self.function = function
        self.options = options
        self.name = options.name
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", options.name)
        self.__module__ = function.__module__
        self.__wrapped__ = function
        self._client = client
        self._signature = sent_signature(function, options.name, options.bind)
        self._few, self._most = plain_arity(self._signature)
        self._unique = None if options.unique is False else Unique(options, self._signature)
        self._tagged = tagged(options.tags)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here and now, as a plain function."""
        if self.options.bind:
            here = CurrentTask("here", self.name, self.options.queue, 0, 1, None)
            return self.function(here, *args, **kwargs)
        return self.function(*args, **kwargs)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """Send this call to a worker.

        Raises BadArguments, NotEncodable or PayloadTooLarge for a call that cannot be
        sent, and BrokerUnavailable, SendUnknown or BrokerError for one that was not.
        """
        return self.send(self._message(args, kwargs))

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: float | None = None,
        eta: datetime | None = None,
        expires: Moment | None = None,
        queue: str | None = None,
        priority: int | None = None,
        id: str | None = None,
        result_ttl: float | None = None,
        tags: Iterable[str] | None = None,
    ) -> Result[R]:
        """Send with options: not before `countdown` seconds from now or the moment `eta`; to
        be dropped if it still waits at `expires`; as `id`, of which at most one is present at a
        time: sending it again while it waits or runs is a no-op; with `tags` besides the task's own, see
        `App.cancel`. Raises as `delay` does."""
        if countdown is not None and eta is not None:
            raise BadArguments("give countdown= or eta=, not both")
        if countdown is not None:
            due: Moment | None = checked("countdown", countdown, check_moment)
        else:
            due = None if eta is None else checked("eta", eta, check_moment)
        message = self.message(
            args,
            kwargs,
            expires=expires,
            queue=queue,
            priority=priority,
            id=id,
            result_ttl=result_ttl,
            tags=tags,
        )
        return self.send(message if due is None else replace(message, due=due))

    def message(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        expires: Moment | None = None,
        queue: str | None = None,
        priority: int | None = None,
        id: str | None = None,
        result_ttl: float | None = None,
        tags: Iterable[str] | None = None,
    ) -> Message:
        """What `apply_async` would send; raises BadArguments."""
        checks: tuple[tuple[str, Any, Callable[[str, Any], Any]], ...] = (
            ("expires", expires, check_moment),
            ("queue", queue, check_name),
            ("priority", priority, check_priority),
            ("id", id, check_name),
            ("result_ttl", result_ttl, check_result_ttl),
        )
        given: dict[str, Any] = {
            name: checked(name, value, check) for name, value, check in checks if value is not None
        }
        if tags is not None:
            given["options"] = self._options(tags)
        message = self._message(tuple(args), dict(kwargs or {}))
        return replace(message, **given) if given else message

    def send(self, message: Message) -> Result[R]:
        """Send what `message` has made; raises as `delay` does."""
        self._require_name()
        client = self._client()
        try:
            id = client.send(message)
        except NotEncodable as error:
            raise self._named(error) from None
        return client.result(id, self._ignored)

    @overload
    def delay_many(
        self,
        items: Iterable[Any],
        *,
        results: Literal[True] = True,
        tags: Iterable[str] | None = None,
        seen: Seen | None = None,
    ) -> Results[R]: ...

    @overload
    def delay_many(
        self,
        items: Iterable[Any],
        *,
        results: Literal[False],
        tags: Iterable[str] | None = None,
        seen: Seen | None = None,
    ) -> int: ...

    def delay_many(
        self,
        items: Iterable[Any],
        *,
        results: bool = True,
        tags: Iterable[str] | None = None,
        seen: Seen | None = None,
    ) -> Results[R] | int:
        """Send a call for each item, an argument tuple or a dict of keyword arguments, at once and
        in few round trips; all with these `tags` besides the task's own. With `seen=app.seen(name)` only
        what is new there, which has been seen from then on.

        Returns the Results in order, or, with `results=False`, how many they would be: memory is
        then flat for any number. An error midway carries `.sent`.
        """
        if isinstance(items, (str, bytes, Mapping)):
            raise BadArguments(
                f"{self.name}.delay_many takes an iterable of argument tuples, as [(item,)], "
                f"not a {type(items).__name__}"
            )
        self._require_name()
        rule = None if seen is None else self._seen_rule(seen)
        options = self._tagged if tags is None else self._options(tags)
        messages = (self._message(*self._call_of(item), options, rule) for item in items)
        ids: list[str] = []
        note = ids.append if results else _forget
        try:
            sent = self._client().send_many(messages, note, "" if seen is None else seen.name)
        except NotEncodable as error:
            raise self._named(error) from None
        return self._client().results(ids, self._ignored) if results else sent

    def check_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise BadArguments if this call does not fit the function's signature."""
        if not kwargs and self._few <= len(args) <= self._most:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArguments(f"{self.name}{self._signature}: {error}") from None

    def _call_of(self, item: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if isinstance(item, Mapping):
            return (), dict(item)
        if isinstance(item, (tuple, list)):
            return tuple(item), {}
        raise BadArguments(
            f"{self.name}.delay_many: an item is a {type(item).__name__}, neither an argument tuple "
            "nor a dict; for one argument write (item,)"
        )

    def _options(self, tags: Iterable[str]) -> dict[str, str]:
        """What a message says of itself besides the task's name."""
        own = self.options.tags
        listed = checked("tags", tags, check_tags)
        return tagged(checked("tags", (*own, *listed), check_tags))

    def _message(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        named: Mapping[str, str] | None = None,
        seen: Rule | None = None,
    ) -> Message:
        self.check_call(args, kwargs)
        options = self.options
        message = Message(
            id=os.urandom(16).hex(),
            task=self.name,
            args=args,
            kwargs=kwargs,
            queue=options.queue,
            priority=options.priority,
            result_ttl=0.0 if options.ignore_result else options.result_ttl,
            expires=options.expires,
            options=self._tagged if named is None else named,
        )
        if self._unique is None and seen is None:
            return message
        try:
            notes = {**message.options}
            if self._unique is not None:
                notes["unique"] = self._unique.note(args, kwargs)
            mark = None if seen is None else mark_of(seen.key(args, kwargs))
        except BadArguments:
            self._require_encodable(message)  # it names the argument
            raise
        return replace(message, options=notes, mark=mark)

    def _seen_rule(self, seen: Seen) -> Rule:
        if not isinstance(seen, Seen):
            raise BadArguments(f"seen={seen!r:.80}: give app.seen(name)")
        what = f"{self.name}.delay_many(seen={seen.name})"
        return seen_rule(seen.by, self.options.unique, self._signature, what)

    def _require_encodable(self, message: Message) -> None:
        try:
            encode_body(message)
        except NotEncodable as error:
            raise self._named(error) from None

    def _require_name(self) -> None:
        if self.name.startswith("__main__."):
            raise GreenworkerError(
                f"{self.name} has no importable name, so no worker can find it: "
                "move the task into a module"
            )

    @property
    def _ignored(self) -> str:
        return self.name if self.options.ignore_result else ""

    def _named(self, error: NotEncodable) -> NotEncodable:
        """The same error, with the argument called by its name."""
        name = error.argument
        if name is None:
            return error
        if isinstance(name, int):
            parameters = list(self._signature.parameters)
            name = parameters[min(name, len(parameters) - 1)]
        named = NotEncodable(f"argument {name!r} of {self.name}", error.reason)
        named.sent = error.sent
        return named


def _forget(_id: str) -> None:
    """What delay_many(results=False) does with an id."""
