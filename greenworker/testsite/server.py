"""The process that is the site: its ports, its signals, its clock, and its end."""

from __future__ import annotations

import errno
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import gevent
from gevent.event import Event
from gevent.os import make_nonblocking, nb_read

from greenworker.errors import ConfigError
from greenworker.testsite.http import answer_on, bind
from greenworker.testsite.plan import Settings
from greenworker.testsite.site import Site

FREE_PORTS = (20_000, 32_000)
"""Where free ones are looked for: below those that systems give to outgoing connections."""
LOOKS = 1000
CONNECTIONS = 20_000
TICK = 0.05


def serve(settings: Settings, ready: Callable[[Site], None], until_eof: bool = False) -> None:
    """Serve until SIGINT or SIGTERM, or until stdin ends if asked to.

    Calls `ready` when all ports answer. Raises ConfigError where they cannot be had.
    """
    stop = stop_event(until_eof)
    allow_connections(settings.hosts + CONNECTIONS)
    sockets = _ports(settings.port, settings.hosts)
    first = sockets[0].getsockname()[1]
    site = Site(settings, [f"http://127.0.0.1:{first + n}/" for n in range(settings.hosts)])
    servers = [answer_on(one, n, site.handle) for n, one in enumerate(sockets)]
    for seconds, rate in settings.shift:
        gevent.spawn_later(seconds, site.set, {"rate": str(rate)})
    gevent.spawn(_watch_the_clock, site)
    ready(site)
    stop.wait()
    for server in servers:
        server.close()


def stop_event(until_eof: bool) -> Event:
    """An event that SIGINT and SIGTERM set, and the end of stdin if asked to."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    if until_eof:
        gevent.spawn(_at_end_of_stdin, stop)
    return stop


def allow_connections(wanted: int) -> None:
    """Raise this process' soft limit of open files to `wanted`, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        # Some systems allow less than they say.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _ports(first: int, count: int) -> list[socket.socket]:
    """Sockets that listen on `count` ports in a row; 0 as the first one means free ones."""
    if first or count == 1:
        try:
            return _row(first, count)
        except _Taken as taken:
            raise ConfigError(
                f"port {taken.port} is taken; give another --port, or 0 for free ones"
            ) from None
    begin, end = FREE_PORTS
    for _ in range(LOOKS):
        try:
            return _row(random.randint(begin, max(begin, end - count)), count)
        except _Taken:
            continue
    raise ConfigError(f"no {count:,} free ports in a row above {begin}; give --port")


class _Taken(Exception):
    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port


def _row(first: int, count: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        sockets.extend(bind(first + n) for n in range(count))
    except OSError as error:
        for one in sockets:
            one.close()
        port = first + len(sockets)
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise ConfigError(
                f"{count:,} hosts need as many open files, and this process may have"
                f" {len(sockets):,} of them; raise it by ulimit -n"
            ) from None
        if error.errno == errno.EADDRINUSE:
            raise _Taken(port) from None
        raise ConfigError(f"port {port}: {error.strerror}; give another --port") from None
    return sockets


def _watch_the_clock(site: Site) -> None:
    """Note by how much the site itself is late."""
    while True:
        due = time.monotonic() + TICK
        gevent.sleep(TICK)
        site.lag = max(site.lag, time.monotonic() - due)


def _at_end_of_stdin(stop: Event) -> None:
    stdin = sys.stdin.fileno()
    make_nonblocking(stdin)
    while nb_read(stdin, 512):
        pass
    stop.set()
