"""What listens beside an arena: whatever is announced as a result."""

from __future__ import annotations

import threading
import time
from typing import Any

import redis

from greenworker import keys
from tests.chaos.history import Journal

PAYLOAD = 200  # bytes of a result that are looked at: they tell its state and its token


class Announcements:
    """Journals what is announced as a result, straight from the server: a line each."""

    def __init__(self, url: str, root: str, journal: Journal) -> None:
        self._url, self._journal = url, journal
        self._channel = keys.done(root, "")
        self._closed = threading.Event()
        self.subscribed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="announcements", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(5)

    def _listen(self) -> None:
        while not self._closed.is_set():
            client = redis.Redis.from_url(self._url, socket_timeout=5)
            try:
                with client.pubsub() as pubsub:
                    pubsub.psubscribe(self._pattern)
                    self._read(pubsub)
            except (redis.RedisError, OSError):
                self.subscribed.clear()
                time.sleep(0.01)
            finally:
                client.close()

    @property
    def _pattern(self) -> str:
        return self._channel.replace("[", r"\[") + "*"

    def _read(self, pubsub: Any) -> None:
        while not self._closed.is_set():
            message = pubsub.get_message(timeout=0.2)
            if message is None:
                continue
            if message["type"] == "psubscribe":
                self.subscribed.set()
            elif message["type"] == "pmessage":
                id = message["channel"].decode().removeprefix(self._channel)
                if not id:
                    continue  # a mark was made: who waits for whatever looks
                self._journal.write(
                    "announced",
                    id=id,
                    payload=message["data"][:PAYLOAD].decode("utf-8", "replace"),
                )
