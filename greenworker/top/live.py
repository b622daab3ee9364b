"""Live: the panel on a terminal, until somebody quits."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event
from gevent.queue import SimpleQueue

from greenworker.errors import GreenworkerError
from greenworker.top.keyboard import Keyboard
from greenworker.top.panel import Act, Acts, Panel
from greenworker.top.source import Source
from greenworker.top.view import Screen

News = tuple[str, Any]


class Live:
    """Draws whenever there is news: a sample, a key, another size of the terminal.

    Samples are taken and orders are carried out beside that: while the server is away, keys work. The terminal
    is given back however this ends: by q, Ctrl-C, TERM or an error.
    """

    def __init__(
        self, title: str, source: Source, acts: Acts, every: float, colours: bool = True
    ) -> None:
        self._source = source
        self._every = every
        self._panel = Panel(title, acts)
        self._screen = Screen(colours)
        self._keyboard = Keyboard(sys.stdin.fileno())
        self._news: Any = SimpleQueue()
        self._look_now = Event()

    def run(self) -> int:
        """Show it; returns the exit code. Raises what the server says to the first look: then there is nothing to
        show."""
        self._panel.see(self._source.sample())
        heard = {
            signal.SIGINT: "quit", signal.SIGTERM: "quit", signal.SIGWINCH: "size",
            signal.SIGTSTP: "stop", signal.SIGCONT: "back",
        }  # fmt: skip
        handlers = [
            gevent.signal_handler(number, self._news.put, (what, None))
            for number, what in heard.items()
        ]
        at_work = [gevent.spawn(self._take_samples), gevent.spawn(self._read_keys)]
        for greenlet in at_work:
            greenlet.link_exception(self._failed)
        try:
            with self._keyboard:
                self._screen.take()
                try:
                    self._show_until_quit()
                finally:
                    self._screen.give_back()
        finally:
            gevent.killall(at_work)
            for handler in handlers:
                handler.cancel()
        return 0

    def _show_until_quit(self) -> None:
        while not self._panel.quits:
            self._screen.show(self._panel.draw(*self._screen.size))
            self._heed(self._news.get())
            while not self._news.empty():
                self._heed(self._news.get())

    def _heed(self, news: News) -> None:
        what, told = news
        if what == "sample":
            self._panel.see(told)
        elif what == "away":
            self._panel.is_away(told)
        elif what == "said":
            self._panel.say(told)
        elif what == "key":
            act = self._panel.press(told)
            if act is not None:
                gevent.spawn(self._carry_out, act).link_exception(self._failed)
        elif what == "stop":
            self._stop()
        elif what == "back":
            self._keyboard.take()  # a shell may have had it
        elif what == "error":
            raise told
        elif what == "quit":
            self._panel.quits = True

    def _stop(self) -> None:
        """Ctrl-Z: the shell gets its terminal as it was, until it has us go on."""
        self._screen.give_back()
        self._keyboard.give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._keyboard.take()
        self._screen.take()

    def _take_samples(self) -> None:
        while True:
            self._look_now.wait(self._every)
            self._look_now.clear()
            self._tell(self._source.sample, "sample", "away")

    def _carry_out(self, act: Act) -> None:
        self._tell(act, "said", "said")
        self._look_now.set()

    def _tell(self, ask: Callable[[], object], what: str, otherwise: str) -> None:
        try:
            self._news.put((what, ask()))
        except GreenworkerError as error:
            self._news.put((otherwise, str(error)))

    def _failed(self, greenlet: Any) -> None:
        self._news.put(("error", greenlet.exception))

    def _read_keys(self) -> None:
        while keys := self._keyboard.read():
            for key in keys:
                self._news.put(("key", key))
        self._news.put(("quit", None))
