"""A database session for each run: committed when the task returns, rolled back when it fails.

    greenworker database          # in one terminal: the worker
    python database.py            # in another: moves money, and prints what everybody has

SQLite stands for your database, and its connection for an ORM's session. A pool of connections
would be opened in `on_start` and closed in `on_shutdown`.
"""

import sqlite3
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from greenworker import App, Message, Middleware
from greenworker.errors import TaskFailed

_session: ContextVar[sqlite3.Connection] = ContextVar("session")


class Sessions(Middleware):
    """Opens a session for each run, and ends it as the run ends: by its timeout, too."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_start(self, worker: Any) -> None:
        with sqlite3.connect(self.file) as session:
            session.execute(
                "CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, money INT)"
            )
            session.executemany(
                "INSERT OR IGNORE INTO accounts VALUES (?, ?)", [("ann", 100), ("bob", 100)]
            )
        session.close()

    def run(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
        session = sqlite3.connect(self.file, timeout=30)
        _session.set(session)
        try:
            value = call_next(message)
            session.commit()  # if this fails, so has the task
            return value
        finally:
            session.close()  # what was not committed is rolled back


app = App(middleware=[Sessions("bank.db")])


@app.task
def move(sender: str, receiver: str, money: int) -> None:
    sql = _session.get()
    sql.execute("UPDATE accounts SET money = money + ? WHERE name = ?", (money, receiver))
    sql.execute("UPDATE accounts SET money = money - ? WHERE name = ?", (money, sender))
    (left,) = sql.execute("SELECT money FROM accounts WHERE name = ?", (sender,)).fetchone()
    if left < 0:
        raise ValueError(f"{sender} has too little")


@app.task
def balances() -> dict[str, int]:
    return dict(_session.get().execute("SELECT name, money FROM accounts"))


if __name__ == "__main__":
    move.delay("ann", "bob", 30).get(timeout=30)
    try:
        move.delay("bob", "ann", 1000).get(timeout=30)
    except TaskFailed as error:
        print(error.message)
    print(balances.delay().get(timeout=30))
