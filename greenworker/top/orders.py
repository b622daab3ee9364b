"""Orders: what people do to queues and keys from a panel."""

from __future__ import annotations

from typing import Any

from greenworker.app import App
from greenworker.errors import ConfigError

_NUMBERS = {"concurrency": int, "burst": int, "delay": float}
_SWITCHES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Orders:
    """Carries them out, each with a line about what became of it."""

    def __init__(self, app: App) -> None:
        self._app = app

    def pause(self, queue: str) -> str:
        (done,) = self._app.pause(queue)
        return f"{queue}: paused" if done.changed else f"{queue}: was paused already"

    def resume(self, queue: str) -> str:
        (done,) = self._app.resume(queue)
        return f"{queue}: resumed" if done.changed else f"{queue}: was not paused"

    def hold(self, key: str) -> str:
        self._app.limits.hold(key)
        return f"{key}: held until it is resumed; what runs goes on"

    def let_go(self, key: str) -> str:
        self._app.limits.resume(key)
        return f"{key}: goes on"

    def limit(self, key: str, text: str) -> str:
        if text == "drop":
            if self._app.limits.drop(key):
                return f"{key}: its own limit is dropped; what code says counts, or a pattern"
            return f"{key}: nobody has set a limit of its own"
        if text == "none":
            self._app.limits.set(key, none=True)
            return f"{key}: no limit"
        return f"{key}: {self._app.limits.set(key, **limit_options(text))}"


def limit_options(text: str) -> dict[str, Any]:
    """`concurrency=2 rate=100/min` as options of a limit; raises ConfigError for what is none of that form: which
    options there are and what they may be is checked by whoever takes them."""
    options: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals and name != "adaptive":
            raise ConfigError(f"{word!r:.60}: write name=value, as in concurrency=2 rate=100/min")
        try:
            if name in _NUMBERS:
                options[name] = _NUMBERS[name](value)
            elif name == "adaptive":
                options[name] = _SWITCHES[value.lower() or "1"]
            else:
                options[name] = value
        except (ValueError, KeyError):
            what = {"delay": "seconds", "adaptive": "1 or 0"}.get(name, "a whole number")
            raise ConfigError(f"{word:.60}: give {what}") from None
    return options
