"""Keyed: what a call is limited by, as its task declares it: a function of the arguments, or a template of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Any

from greenworker.errors import BadArguments, ConfigError, DeclarationError
from greenworker.limit import check_key, check_keys

_TWO = "for two keys, a function that returns a tuple of them"

# A template of the arguments, or a function of them that returns a key, two, or None.
KeyOf = str | Callable[..., "str | tuple[str, ...] | list[str] | None"]


class KeyRule:
    """How calls of a task get their keys; raises DeclarationError for what cannot be told of this signature."""

    def __init__(self, by: object, signature: inspect.Signature, task: str) -> None:
        self._signature = signature
        self._what = f"{task}: key"
        self._find: Callable[[inspect.BoundArguments], object]
        if isinstance(by, str):
            self._find = self._template(by)
        elif callable(by):
            self._find = self._function(by)
        else:
            raise DeclarationError(
                f"{self._what}={by!r:.80}: give a function of the arguments, or a template such as "
                f"'tenant:{{tenant_id}}'; {_TWO}"
            )

    def note(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The option `keys` of a message for this call, empty for none; raises BadArguments."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return keys_note(self._what, self._find(bound))

    def _template(self, text: str) -> Callable[[inspect.BoundArguments], object]:
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise DeclarationError(f"{self._what}={text!r:.80}: {error}") from None
        fields = [name for _, name, _, _ in parts if name is not None]
        names, takes_any = _names(self._signature)
        for name in fields:
            if name not in names and not (takes_any and name.isidentifier()):
                there = f"there are {', '.join(names)}" if names else "it takes none"
                raise DeclarationError(
                    f"{self._what}={text!r:.80}: there is no argument {name!r:.60}; {there}"
                )
        if not fields:
            try:
                constant = check_key(self._what, text.format())
            except ConfigError as error:
                raise DeclarationError(str(error)) from None
            return lambda _: constant
        for part, *_ in parts:
            if set(part) & set(" ,*") or not part.isprintable():
                raise DeclarationError(
                    f"{self._what}={text!r:.80}: {part!r:.60} has what no key may have (no blanks, no commas, no *); "
                    f"{_TWO}"
                )

        def find(bound: inspect.BoundArguments) -> object:
            try:
                return text.format_map(_by_name(bound))
            except KeyError as error:
                raise BadArguments(f"{self._what}={text!r:.80}: this call has no {error}") from None
            except Exception as error:
                raise BadArguments(
                    f"{self._what}={text!r:.80}: {type(error).__name__}: {error}"
                ) from error

        return find

    def _function(self, function: Callable[..., Any]) -> Callable[[inspect.BoundArguments], object]:
        if inspect.iscoroutinefunction(function):
            raise DeclarationError(f"{self._what}={function!r:.80} is async: give a plain function")
        named = self._fits(function)

        def find(bound: inspect.BoundArguments) -> object:
            try:
                if named:
                    return function(**_by_name(bound))
                return function(*bound.args, **bound.kwargs)
            except Exception as error:
                raise BadArguments(
                    f"{self._what}: its function raised {type(error).__name__}: {error!s:.200}; for no key "
                    "it returns None"
                ) from error

        return find

    def _fits(self, function: Callable[..., Any]) -> bool:
        """Whether it takes the task's arguments by their names; else in their order, or not at all."""
        try:
            taken = inspect.signature(function)
        except (TypeError, ValueError):
            return False  # some builtins have none
        names, _ = _names(self._signature)
        kinds = {one.kind for one in self._signature.parameters.values()}
        if not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY}:
            try:
                taken.bind(**dict.fromkeys(names))
                return True
            except TypeError:
                pass
        ones = self._signature.parameters.values()
        last = {one.name: None for one in ones if one.kind is one.KEYWORD_ONLY}
        try:
            taken.bind(*[name for name in names if name not in last], **last)
        except TypeError as error:
            raise DeclarationError(
                f"{self._what}: its function takes {taken}, and is called with all arguments of the task, "
                f"{self._signature}: {error}; let it take the others as **_"
            ) from None
        return False


def keys_note(what: str, given: object) -> str:
    """The option `keys` of a message with these, as `check_keys` takes them; raises BadArguments."""
    try:
        return ",".join(check_keys(what, given))
    except ConfigError as error:
        raise BadArguments(str(error)) from None


def _names(signature: inspect.Signature) -> tuple[list[str], bool]:
    """The arguments that have names, and whether any other is taken."""
    ones = signature.parameters.values()
    named = [one.name for one in ones if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return named, any(one.kind is one.VAR_KEYWORD for one in ones)


def _by_name(bound: inspect.BoundArguments) -> dict[str, Any]:
    found = dict(bound.arguments)
    for one in bound.signature.parameters.values():
        if one.kind is one.VAR_KEYWORD:
            found |= found.pop(one.name)
    return found
