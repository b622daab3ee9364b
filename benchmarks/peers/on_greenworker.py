"""greenworker, of a checkout: this one, or that of --tree."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peers.peer import EVERY, GREENWORKER, HERE, INSIDE, Peer


class Greenworker(Peer):
    """As it comes: a result for each task, kept for an hour and announced; leases; a time limit of 300 s."""

    file = "on_greenworker.py"
    fast = True
    packages = GREENWORKER
    workloads = EVERY | {"size"}
    clients = ("urllib3", "geventhttpclient")
    results = "gw:{default}:result:*"

    def __init__(self, tree: Path = HERE.parents[1], name: str = "greenworker") -> None:
        self.name, self._tree = name, tree

    @property
    def venv(self) -> str:
        return "greenworker"

    def env(self) -> Mapping[str, str]:
        return {"PYTHONPATH": f"{self._tree}:{HERE.parent}"}

    def worker(self, concurrency: int) -> Sequence[object]:
        flags = ["-c", concurrency, "-l", "warning"]
        return ["python", "-m", "greenworker", *flags, "peers.on_greenworker"]


if INSIDE:
    from uuid import uuid4

    from greenworker import App
    from greenworker.message import Message
    from peers import inside
    from peers.tasks import TASKS

    app = App(os.environ["BENCH_URL"])
    tasks = {name: app.task(name=name)(function) for name, function in TASKS.items()}

    def send(task: str, *args: Any) -> Any:
        return tasks[task].delay(*args)

    def send_many(task: str, calls: Iterable[tuple[Any, ...]]) -> None:
        tasks[task].delay_many(calls, results=False)

    def wait(result: Any) -> object:
        return result.get(timeout=60)

    def later(count: int) -> None:
        messages = (Message(uuid4().hex, "noop", due=3600.0 + n / 1000) for n in range(count))
        app.client.send_many(messages, lambda _: None)


if __name__ == "__main__":
    inside.main(send, send_many, wait, later)
