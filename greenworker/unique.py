"""What makes a call unique: the rule that a task declares, and the name that it gives to a call.

The name is a hash of the task and of what counts of its arguments. It travels in the message's head, as
the option `unique`, with a letter for how long it holds: see `lua/prelude.lua` and `lua/once.lua`.
"""

from __future__ import annotations

import inspect
import math
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol

import orjson

from greenworker.errors import BadArguments, ConfigError, DeclarationError

By = bool | str | Callable[..., Any]

_UNTIL = ("done", "started")
_CONFLICTS = ("keep", "replace")
_LONGEST = 100 * 365 * 86400.0  # seconds


class Rule:
    """What of a call's arguments counts: all of them (True), one by its name, or what a function
    returns that takes them all. Raises ConfigError for what cannot be told of this signature."""

    def __init__(self, by: By, signature: inspect.Signature, what: str) -> None:
        self._by = by
        self._signature = signature
        self._what = what
        names = [
            name
            for name, one in signature.parameters.items()
            if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        ]
        if isinstance(by, str):
            if by not in names:
                there = f"there are {', '.join(names)}" if names else "it takes none"
                raise ConfigError(f"{what}={by!r:.80}: there is no such argument; {there}")
        elif callable(by):
            if inspect.iscoroutinefunction(by):
                raise ConfigError(f"{what}={by!r:.80} is async: give a plain function")
            _check_takes(by, signature, what)
        elif by is not True:
            raise ConfigError(
                f"{what}={by!r:.80}: give True, the name of an argument, or a function of the arguments"
            )

    def key(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """What of this call counts, as JSON; raises BadArguments."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if isinstance(self._by, str):
            return encode_key(bound.arguments[self._by], self._what)
        if self._by is True:
            return encode_key(bound.arguments, self._what)
        assert callable(self._by)
        try:
            found = self._by(*bound.args, **bound.kwargs)
        except Exception as error:
            raise BadArguments(f"{self._what} raised {type(error).__name__}: {error}") from error
        if not _is_plain(found):
            raise BadArguments(
                f"{self._what} returned {found!r:.80}: return a text, a number, or a tuple of these"
            )
        return encode_key(found, self._what)


class Options(Protocol):
    """What a task says of it."""

    @property
    def name(self) -> str: ...
    @property
    def unique(self) -> By: ...
    @property
    def unique_until(self) -> str | None: ...
    @property
    def unique_for(self) -> float | None: ...
    @property
    def on_conflict(self) -> str: ...


class Unique:
    """How calls of a task are unique; made of its options, raises DeclarationError."""

    def __init__(self, options: Options, signature: inspect.Signature) -> None:
        self._task = options.name.encode()
        try:
            self._rule = Rule(options.unique, signature, f"{options.name}: unique")
        except ConfigError as error:
            raise DeclarationError(str(error)) from None
        self._mode = _mode(options)

    def note(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The option `unique` of a message for this call; raises BadArguments."""
        text = b"%d %b %b" % (len(self._task), self._task, self._rule.key(args, kwargs))
        digest = blake2b(text, digest_size=16).digest()
        return self._mode + urlsafe_b64encode(digest).rstrip(b"=").decode()


def check_unique(
    task: str, by: object, until: object, seconds: object, on_conflict: object
) -> None:
    """Raise DeclarationError for options that make no sense, by themselves or together."""
    if until is not None and until not in _UNTIL:
        raise DeclarationError(f"{task}: unique_until={until!r:.80}: give 'done' or 'started'")
    if on_conflict not in _CONFLICTS:
        raise DeclarationError(f"{task}: on_conflict={on_conflict!r:.80}: give 'keep' or 'replace'")
    if seconds is not None and (
        isinstance(seconds, bool)
        or not isinstance(seconds, (int, float))
        or not 0.001 <= seconds <= _LONGEST
    ):
        raise DeclarationError(f"{task}: unique_for={seconds!r:.80}: give seconds above 0")
    if by is False:
        for name, given in (("unique_until", until), ("unique_for", seconds)):
            if given is not None:
                raise DeclarationError(f"{task}: {name}= says nothing without unique=")
        if on_conflict != "keep":
            raise DeclarationError(f"{task}: on_conflict= says nothing without unique=")
    if seconds is not None and until is not None:
        raise DeclarationError(
            f"{task}: give unique_for= or unique_until=, not both: one ends after a time, the other never does"
        )
    if on_conflict == "replace" and seconds is not None:
        raise DeclarationError(
            f"{task}: on_conflict='replace' with unique_for=: what was sent may have run by then; leave out unique_for"
        )
    if on_conflict == "replace" and until == "done":
        raise DeclarationError(
            f"{task}: on_conflict='replace' with unique_until='done': what runs cannot be replaced, and the "
            "newer call would be lost; leave out unique_until, it is 'started' then"
        )


def seen_rule(by: By | None, unique: By, signature: inspect.Signature, what: str) -> Rule:
    """What of a call a filter looks at: `by`, else what makes it unique, else its only argument; raises
    BadArguments."""
    if by is None and unique is not True and unique is not False:
        by = unique
    if by is None:
        if len(signature.parameters) != 1:
            raise BadArguments(f"{what}: of which argument? Say it, as in app.seen(name, by='url')")
        (by,) = signature.parameters
    try:
        return Rule(by, signature, what)
    except ConfigError as error:
        raise BadArguments(str(error)) from None


def encode_key(value: Any, what: str) -> bytes:
    """JSON by which values are compared, members of dicts in order; raises BadArguments."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise BadArguments(f"{what}: {error}") from None


def _mode(options: Options) -> str:
    if options.unique_for is not None:
        return f"f{math.ceil(options.unique_for * 1000)}."
    if options.on_conflict == "replace":
        return "r"
    return "s" if options.unique_until == "started" else "d"


def _check_takes(function: Callable[..., Any], signature: inspect.Signature, what: str) -> None:
    """Whether a function can be called as the task is: positions first, names for what needs them."""
    try:
        taken = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some builtins have none
    ones = signature.parameters.values()
    positions = [
        one.name for one in ones if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    named = {one.name: None for one in ones if one.kind is one.KEYWORD_ONLY}
    try:
        taken.bind(*positions, **named)
    except TypeError as error:
        raise ConfigError(
            f"{what}: its function takes {taken}, and is called with all arguments of the task, "
            f"{signature}: {error}"
        ) from None


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(_is_plain, value))
    if isinstance(value, (float, int)):
        return math.isfinite(value)
    return isinstance(value, str) and value != ""
