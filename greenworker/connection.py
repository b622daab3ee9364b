"""Connection: private to one greenlet or thread at a time; every error is one of ours.

    BrokerUnavailable   try again later (`maybe_done`: the request may have arrived)
    BrokerError         the server refuses (`code`: OOM, WRONGTYPE, …)
    UnsuitableServer    a password, a permission, a certificate or a master's name is wrong

Nothing here is silently sent twice.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from greenworker.endpoint import Address, Endpoint, Target
from greenworker.errors import BrokerError, BrokerUnavailable, UnsuitableServer
from greenworker.packing import pack
from greenworker.replies import Meaning, answer_to_auth, code_of, meaning_of
from greenworker.route import Route
from greenworker.scripts import Script
from greenworker.wire import ErrorReply, Wire, WireLost

CONNECT_TIMEOUT = 1.0  # seconds; while connecting hangs, nobody sees that the server is back
READ_TIMEOUT = 5.0  # seconds for a reply; no blocking command of ours waits for longer than 2

_HOPS = 4  # servers that may send us on to another one within a call

_log = logging.getLogger("greenworker")
_warned: set[str] = set()

_MENDS = {
    "NOPERM": "let its ACL allow this to the URL's user, see docs/security.md",
    "DENIED": "set a password there, and in the URL",
    "BADDB": "check the database's number in the URL",
}


class Connection:
    """One connection for one greenlet or thread at a time; reconnects at the next call.

    `patience` bounds (s) all that a call does, connecting included; without it the reply has
    `timeout` s. `keep_alive`: see Wire. `on_connect` is told of each new connection: it may be
    to another server than the last one.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        name: str = "greenworker",
        timeout: float = READ_TIMEOUT,
        keep_alive: float = 15.0,
        on_connect: Callable[[], None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._name = name
        self._read_timeout = timeout
        self._keep_alive = keep_alive
        self._on_connect = on_connect
        self._route = Route(endpoint.target)
        self._at: Address = endpoint.target.address  # whom the route has led to
        self._wire: Wire | None = None

    def run(
        self, script: Script, key: str, *args: bytes | str | int, patience: float | None = None
    ) -> Any:
        """A script's reply; the server learns the script when it does not know it."""
        until = None if patience is None else time.monotonic() + patience
        try:
            return self._ask(pack("EVALSHA", script.sha, 1, key, *args), until)
        except BrokerError as error:
            if error.code != "NOSCRIPT":
                raise
        return self._ask(pack("EVAL", script.source, 1, key, *args), until)

    def execute(self, *command: bytes | str | int, patience: float | None = None) -> Any:
        """The reply to one command, sent once."""
        until = None if patience is None else time.monotonic() + patience
        return self._ask(pack(*command), until)

    def send(self, *command: bytes | str | int) -> None:
        """Send without reading, on the open connection only: for pub/sub, where another thread may be
        reading, and where a new connection is subscribed to nothing."""
        packed = pack(*command)
        self._guarded(lambda wire: wire.send(packed))

    def read(self, timeout: float) -> Any:
        """The next reply on the open connection, or None if none begins within `timeout` seconds."""
        if not self._guarded(lambda wire: wire.can_read(timeout)):
            return None
        return self._guarded(lambda wire: wire.read(self._read_timeout))

    def connect(self, until: float | None = None) -> None:
        """Be connected, by the moment `until`; whatever fails here, nothing was asked."""
        if self._wire is not None:
            return
        if self._endpoint.prepare is not None:
            self._endpoint.prepare()
        target = self._endpoint.target
        _warn(target)
        wire = None
        try:
            self._at = self._route.find(until)
            wire = Wire(
                self._at,
                target.tls,
                self._left(CONNECT_TIMEOUT, until),
                self._left(self._read_timeout, until),
                self._keep_alive,
            )
            self._greet(wire, until)
        except BaseException as error:
            self._route.look_elsewhere()
            if wire is not None:
                wire.close()
            if isinstance(error, WireLost):
                raise self._unavailable(error, maybe_done=False) from error
            raise
        self._wire = wire
        if self._on_connect is not None:
            self._on_connect()

    @property
    def is_open(self) -> bool:
        """Whether the next call finds a connection, as far as it can be seen from here."""
        if self._wire is not None and self._wire.has_ended():
            self.close()
        return self._wire is not None

    def close(self) -> None:
        """Forget the connection; the next call opens a new one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _greet(self, wire: Wire, until: float | None) -> None:
        """Who we are and which database we mean, in one round trip."""
        target = self._endpoint.target
        greeting: list[tuple[bytes | str | int, ...]] = []
        if target.password or target.username:
            user = (target.username,) if target.username else ()
            greeting.append(("AUTH", *user, target.password))
        greeting.append(("CLIENT", "SETNAME", self._name))
        if target.db:
            greeting.append(("SELECT", target.db))
        if target.sentinels:
            greeting.append(("ROLE",))
        packed = b"".join(pack(*command) for command in greeting)
        wire.send(packed, self._left(self._read_timeout, until))
        for command in greeting:
            try:
                reply = wire.read(self._left(self._read_timeout, until))
            except ErrorReply as error:
                text = str(error)
                if command[0] == "AUTH":
                    text = answer_to_auth(text)
                # The name is for people: a user who may not give one does without.
                if command[0] != "CLIENT" or code_of(text) != "NOPERM":
                    raise self._refusal(text) from None
            else:
                if command[0] == "ROLE" and reply[0] != b"master":
                    raise WireLost(f"the sentinels name it as master, and it is a {_role(reply)}")

    def _ask(self, packed: bytes, until: float | None) -> Any:
        def step(wire: Wire) -> Any:
            wire.send(packed, self._left(self._read_timeout, until))
            return wire.read(self._left(self._read_timeout, until))

        for hop in range(_HOPS):
            self.connect(until)
            try:
                return self._guarded(step)
            except _Moved:
                if hop == _HOPS - 1:
                    raise

    def _guarded(self, step: Callable[[Wire], Any]) -> Any:
        wire = self._wire
        if wire is None:
            raise BrokerUnavailable("the connection was closed")
        try:
            return step(wire)
        except ErrorReply as error:
            raise self._refusal(str(error)) from None
        except WireLost as error:
            self.close()
            raise self._unavailable(error, maybe_done=True) from error
        except BaseException:
            # Killed between sending and reading: the reply would be the next caller's.
            self.close()
            raise

    def _where(self) -> str:
        """The URL, and whom it led to if that is another one."""
        shown, at = self._endpoint.redacted, self._at
        if isinstance(at, tuple) and (at != self._endpoint.target.address):
            return f"{shown} (now {at[0]}:{at[1]})"
        return shown

    def _left(self, most: float, until: float | None) -> float:
        return most if until is None else max(0.001, min(most, until - time.monotonic()))

    def _refusal(self, text: str) -> Exception:
        """An error reply as one of our errors; closes a connection that is of no more use."""
        code = code_of(text)
        meaning = meaning_of(code)
        where = self._where()
        if meaning is Meaning.FATAL:
            mend = _MENDS.get(code, "check user and password in the URL")
            return UnsuitableServer(f"{where} refuses us: {text}; {mend}")
        if meaning is Meaning.REFUSED:
            refused = BrokerError(f"{where} refuses: {text}")
            refused.code = code
            return refused
        if meaning is not Meaning.LATER:
            self.close()
        if meaning is Meaning.MOVED:
            self._route.move(text, self._at)
            return _Moved(f"{where} sends us on: {text}")
        if meaning is Meaning.ELSEWHERE:
            self._route.look_elsewhere()
        later = BrokerUnavailable(f"{where} cannot serve us now: {text}")
        later.code = code
        return later

    def _unavailable(self, error: WireLost, maybe_done: bool) -> Exception:
        """A lost wire as one of our errors."""
        text = str(error)
        where = self._where()
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return UnsuitableServer(
                f"{where} shows a certificate that we do not trust: {text}; "
                "name a file of those you trust: ?ssl_ca_certs=/path/ca.pem"
            )
        if self._endpoint.target.tls is not None and re.search("Timeout connecting|SSL: ", text):
            text += "; if there is no TLS on that port: redis:// instead of rediss://"
        unavailable = BrokerUnavailable(f"{where} cannot be reached: {text}")
        unavailable.maybe_done = maybe_done
        return unavailable


class _Moved(BrokerUnavailable):
    """The slot is another node's, to which the next connect will lead."""


def _role(reply: list[bytes]) -> str:
    return "replica" if reply[0] == b"slave" else reply[0].decode("ascii", "replace")


def _warn(target: Target) -> None:
    """Tell what is unsafe about it, once a process."""
    for risk in target.risks():
        if risk not in _warned:
            _warned.add(risk)
            _log.warning("%s", risk)


def is_foreign_thread() -> bool:
    """Whether what the main hub's native thread shares is out of bounds here.

    In a patched process a socket belongs to the hub, and so to the native thread, that opened it;
    a lock that is held across threads may never be noticed to be free (seen: a hang). It is the
    main one's, whoever came first: a send in the threadpool must not make all others foreign.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("socket"):
        return False
    here = monkey.get_original("_thread", "get_ident")()
    return bool(here != sys.modules["gevent.hub"].MAIN_THREAD_IDENT)
