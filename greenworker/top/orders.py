"""Orders: what people do to queues and keys from a panel."""

from __future__ import annotations

from greenworker.app import App


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
        raise NotImplementedError

    def let_go(self, key: str) -> str:
        raise NotImplementedError

    def limit(self, key: str, text: str) -> str:
        raise NotImplementedError
