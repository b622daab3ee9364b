"""Limits: what an app declares to be allowed for keys, and what the server knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

from greenworker.admission import Admission, KeyState
from greenworker.checks import check_seconds
from greenworker.errors import ConfigError, DeclarationError
from greenworker.limit import MOST_LIMITS, Limit, LimitOptions, check_key, check_pattern, make_limit


class Limits:
    """An app's limits, by pattern: `app.limits`. They are the server's: what is set counts for all workers, from their
    next claim on, and stays when this process ends."""

    def __init__(self, admission: Callable[[], Admission]) -> None:
        """`admission` is asked at each call: an app may be told another server, or be tested, later."""
        self.declared: dict[str, Limit] = {}
        self._admission = admission

    def declare(self, pattern: str, options: Mapping[str, Any]) -> None:
        """Add a limit that workers tell the server of; raises DeclarationError."""
        try:
            limit = make_limit(pattern, options)
            _require_something(limit)
        except ConfigError as error:
            raise DeclarationError(str(error)) from None
        known = self.declared.get(limit.pattern)
        # A script that is run and imported again declares its own limits twice.
        if known is not None and known != limit:
            raise DeclarationError(
                f"two limits of {limit.pattern}: {known} and {limit}; declare one"
            )
        if known is None and len(self.declared) >= MOST_LIMITS:
            raise DeclarationError(
                f"limit {limit.pattern}: {MOST_LIMITS:,} are declared; let a pattern with * stand for many"
            )
        self.declared[limit.pattern] = limit

    def set(self, pattern: str, *, none: bool = False, **options: Unpack[LimitOptions]) -> Limit:
        """Set a limit by hand: until it is dropped it stands above what code declares. `none`: no limit, whatever
        a wider pattern says. Raises ConfigError."""
        limit = make_limit(pattern, options)
        if not none:
            _require_something(limit)
        elif not limit.is_none:
            raise ConfigError(f"limit {limit.pattern}: give none, or {limit}, not both")
        self._admission().set([limit])
        return limit

    def drop(self, pattern: str) -> bool:
        """Drop what people have set by this pattern: what code declares counts again, from the next claim on. False when
        they have set none. What is damaged goes, whoever said it."""
        admission = self._admission()
        return admission.drop_damaged(pattern) or admission.drop(check_pattern(pattern))

    def keys(self, *named: str, unknown: bool = False) -> list[KeyState]:
        """How these keys stand, or all of which anything is known, by name. `unknown`: these, whether or not anything is
        known of them."""
        checked = [check_key("key", key) for key in named]
        found = {one.key: one for one in self._admission().keys(checked, unknown=unknown)}
        return [found[key] for key in sorted(found)]

    def hold(self, key: str, seconds: float | None = None) -> bool:
        """Have nothing of a key handed out for so long, None: until `resume`; what runs, runs on. False when nothing
        was known of it."""
        if seconds is not None:
            check_seconds("seconds", seconds)
        return self._admission().hold(seconds, [check_key("key", key)])[0]

    def resume(self, key: str) -> bool:
        """Have a key go on that was held, by hand or by Throttled; False when nothing is known of it."""
        return self._admission().resume([check_key("key", key)])[0]

    def declarers(self) -> Mapping[str, Sequence[str]]:
        """By pattern, the incarnations of workers whose code declares it."""
        return self._admission().declarers()

    def list(self) -> list[Limit]:
        """All that there are, by pattern; also what this app declares and no worker has told of yet (`changed` is 0), and what is
        damaged."""
        found = {**self._declared_ones(), **self._admission().known()}
        return [found[pattern] for pattern in sorted(found)]

    def _declared_ones(self) -> dict[str, Limit]:
        return {pattern: replace(limit, declared=True) for pattern, limit in self.declared.items()}


def _require_something(limit: Limit) -> None:
    if limit.is_none:
        raise ConfigError(
            f"limit {limit.pattern} limits nothing: give concurrency=, delay=, rate= or adaptive=True"
        )
