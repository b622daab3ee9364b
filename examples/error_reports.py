"""Reports of errors, as Sentry takes them: every attempt that fails, and who is lost for good.

    greenworker error_reports       # in one terminal: the worker
    python error_reports.py         # in another: sends
    cat reports.jsonl               # what would have been sent

The same error at the same place is one issue, however often it comes. A task's own word on its run
(Retry, Reject, Ignore, Snooze) is no error, and what ends it from outside is none of the code's. A file
stands for the service: put `sentry_sdk.capture_exception(error)` in place of `post`.
"""

import hashlib
import json
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent

from greenworker import App, DeadLetter, Message, Middleware, current_task
from greenworker.verdicts import Verdict


class Reports(Middleware):
    """Collects reports, and posts them beside the tasks: none waits for the service."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.waiting: deque[dict[str, Any]] = deque(maxlen=1000)

    def run(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
        try:
            return call_next(message)
        except Verdict:
            raise
        except Exception as error:
            self.report(error, message)
            raise

    def report(self, error: Exception, message: Message) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        issue = f"{type(error).__name__} in {place.name}, {place.filename}"
        self.waiting.append(
            {
                "issue": hashlib.sha256(issue.encode()).hexdigest()[:12],
                "error": f"{type(error).__name__}: {error}",
                "place": f"{place.name}, line {place.lineno}",
                "task": message.task,
                "id": message.id,
                "attempt": current_task().attempt,
            }
        )

    def lost(self, letter: DeadLetter) -> None:
        """Also what no middleware can see: a task that has killed its workers, or hangs."""
        lost = {"lost": letter.id, "task": letter.task, "reason": letter.reason}
        self.waiting.append({**lost, "error": f"{letter.error}: {letter.message}"})

    def on_start(self, worker: Any) -> None:
        self.posting = gevent.spawn(self.post_for_ever)

    def on_shutdown(self, worker: Any) -> None:
        self.posting.kill()
        self.post()

    def post_for_ever(self) -> None:
        while True:
            with suppress(OSError):  # the service is away: they wait
                self.post()
            time.sleep(0.2)

    def post(self) -> None:
        while self.waiting:
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(json.dumps(self.waiting[0]) + "\n")
            self.waiting.popleft()


reports = Reports("reports.jsonl")
app = App(middleware=[reports])
app.on_failure(reports.lost)


@app.task(retries=1, backoff=0.1)
def charge(card: str, amount: int) -> str:
    if amount > 100:
        raise ValueError("the bank says no")
    if current_task().attempt == 0:
        raise ConnectionError("the bank is busy")
    return f"{amount} charged"


if __name__ == "__main__":
    for amount in (10, 20, 500):
        charge.delay("4711", amount)
