"""TaskOptions: how a task is sent and run, as its decorator is told."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from greenworker.backoff import Backoff, Computed, Delays, as_backoff
from greenworker.checks import check_priority, check_result_ttl, check_seconds, check_tags
from greenworker.errors import DeclarationError
from greenworker.keyed import KeyOf
from greenworker.keys import check_name
from greenworker.unique import By, check_unique


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
    `key` is what its calls are limited by, see App.limit: a template of the arguments, "tenant:{tenant_id}", or a function of
    them that returns a key, a tuple of two, or None.
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
    key: KeyOf | None = None

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
