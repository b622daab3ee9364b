"""Task: a declared function. Calling it runs it here; `.delay()` sends it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from greenworker.checks import (
    check_moment,
    check_priority,
    check_result_ttl,
    check_tags,
    checked,
    tagged,
)
from greenworker.client import Client
from greenworker.context import CurrentTask
from greenworker.errors import BadArguments, DeclarationError, GreenworkerError, NotEncodable
from greenworker.keyed import KeyRule, keys_note
from greenworker.keys import check_name
from greenworker.message import Message, Moment, encode_body, message_of
from greenworker.result import Result, Results
from greenworker.seen import Seen, mark_of
from greenworker.signature import plain_arity, sent_signature
from greenworker.task_options import TaskOptions
from greenworker.unique import Rule, Unique, seen_rule

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


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
        by = options.key
        self._key = None if by is None else KeyRule(by, self._signature, options.name)
        self._is_plain = self._unique is None and self._key is None
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
        key: str | Sequence[str] | None = None,
    ) -> Result[R]:
        """Send with options: not before `countdown` seconds from now or the moment `eta`; to
        be dropped if it still waits at `expires`; as `id`, of which at most one is present at a
        time: sending it again while it waits or runs is a no-op; with `tags` besides the task's own, see
        `App.cancel`; limited by `key`, or a tuple of two, in place of what the task says, () for none.
        Raises as `delay` does."""
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
            key=key,
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
        key: str | Sequence[str] | None = None,
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
        named = None if tags is None else self._options(tags)
        message = self._message(tuple(args), dict(kwargs or {}), named, key=key)
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
        then flat for any number. An error midway carries `.sent`: it stops at the first item that is no call, or has
        no key though it is to have one (BadArguments says which).
        """
        if isinstance(items, (str, bytes, Mapping)):
            raise BadArguments(
                f"{self.name}.delay_many takes an iterable of argument tuples, as [(item,)], "
                f"not a {type(items).__name__}"
            )
        self._require_name()
        rule = None if seen is None else self._seen_rule(seen)
        options = self._tagged if tags is None else self._options(tags)
        messages = self._messages(items, options, rule)
        ids: list[str] = []
        note = ids.append if results else _forget
        try:
            sent = self._client().send_many(messages, note, "" if seen is None else seen.name)
        except NotEncodable as error:
            raise self._named(error) from None
        except BadArguments as error:
            if error.item is None:  # of the caller's own iterable, or a middleware's
                raise
            raise _of_many(self.name, error, error.item) from error.__cause__
        return self._client().results(ids, self._ignored) if results else sent

    def check_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise BadArguments if this call does not fit the function's signature."""
        if not kwargs and self._few <= len(args) <= self._most:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArguments(f"{self.name}{self._signature}: {error}") from None

    def _messages(
        self, items: Iterable[Any], options: Mapping[str, str], seen: Rule | None
    ) -> Iterator[Message]:
        for at, item in enumerate(items):
            try:
                message = self._message(*self._call_of(item), options, seen)
            except BadArguments as error:
                error.item = at
                raise
            yield message

    def _call_of(self, item: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if isinstance(item, Mapping):
            return (), dict(item)
        if isinstance(item, (tuple, list)):
            return tuple(item), {}
        raise BadArguments(
            f"an item is a {type(item).__name__}, neither an argument tuple "
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
        key: str | Sequence[str] | None = None,
    ) -> Message:
        self.check_call(args, kwargs)
        options = self.options
        message = message_of(
            os.urandom(16).hex(),
            self.name,
            args,
            kwargs,
            {},
            options.queue,
            options.priority,
            0.0 if options.ignore_result else options.result_ttl,
            None,
            options.expires,
            self._tagged if named is None else named,
            0,
            0,
            0.0,
            None,
        )
        if self._is_plain and seen is None and key is None:
            return message
        notes = {**message.options}
        # Before any middleware, as what makes it unique.
        if key is not None:
            keys = keys_note(f"{self.name}: key", key)
        else:
            keys = "" if self._key is None else self._key.note(args, kwargs)
        if keys:
            notes["keys"] = keys
        try:
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


def _of_many(task: str, error: BadArguments, item: int) -> BadArguments:
    """The same error, with the item that it is of, and what became of the others."""
    sent = f"{error.sent:,} before it were sent, and no other" if error.sent else "none was sent"
    told = BadArguments(f"{task}.delay_many: item {item}: {error}; {sent}: leave it out")
    told.item, told.sent = item, error.sent
    return told
