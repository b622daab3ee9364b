"""Connection: private to one greenlet or thread at a time; every error is one of ours.

    BrokerUnavailable   try again later (`maybe_done`: the request may have arrived)
    BrokerError         the server refuses (`code`: OOM, WRONGTYPE, …)
    UnsuitableServer    a password, a permission or a certificate is wrong

Nothing here is silently sent twice.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from greenworker.endpoint import Address, Endpoint
from greenworker.errors import BrokerError, BrokerUnavailable, UnsuitableServer
from greenworker.replies import Meaning, code_of, meaning_of
from greenworker.scripts import Script
from greenworker.wire import ErrorReply, Wire, WireLost, pack

CONNECT_TIMEOUT = 3.0  # seconds
READ_TIMEOUT = 5.0  # seconds; no blocking command of ours waits for longer than 2

_MENDS = {
    "NOPERM": "let its ACL allow this to the URL's user",
    "DENIED": "set a password there, and in the URL",
    "BADDB": "check the database's number in the URL",
}


class Connection:
    """One connection for one greenlet or thread at a time; reconnects at the next call.

    `patience` bounds (s) all that a call does, connecting included; without it each step is
    bounded by `timeout`, or the usual ones.
    """

    def __init__(
        self, endpoint: Endpoint, name: str = "greenworker", timeout: float | None = None
    ) -> None:
        self._endpoint = endpoint
        self._name = name
        self._connect_timeout = timeout or CONNECT_TIMEOUT
        self._read_timeout = timeout or READ_TIMEOUT
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
        """Send without reading: for pub/sub, where another thread may be reading."""
        self.connect()
        packed = pack(*command)
        self._guarded(lambda wire: wire.send(packed))

    def read(self, timeout: float) -> Any:
        """The next reply, or None if none begins within `timeout` seconds."""
        self.connect()
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
        try:
            wire = Wire(
                target.address,
                target.tls,
                self._left(self._connect_timeout, until),
                self._left(self._read_timeout, until),
            )
        except WireLost as error:
            raise self._lost(error, target.address, maybe_done=False) from error
        try:
            self._greet(wire, until)
        except WireLost as error:
            wire.close()
            raise self._lost(error, target.address, maybe_done=False) from error
        except BaseException:
            wire.close()
            raise
        self._wire = wire

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
        packed = b"".join(pack(*command) for command in greeting)
        wire.send(packed, self._left(self._read_timeout, until))
        for command in greeting:
            try:
                wire.read(self._left(self._read_timeout, until))
            except ErrorReply as error:
                text = str(error)
                if target.password:  # a server that does not know AUTH repeats what it was told
                    text = text.replace(target.password, "***")
                if command[0] != "CLIENT" or code_of(text) != "NOPERM":
                    raise self._refusal(text, target.address) from None

    def _ask(self, packed: bytes, until: float | None) -> Any:
        def step(wire: Wire) -> Any:
            wire.send(packed, self._left(self._read_timeout, until))
            return wire.read(self._left(self._read_timeout, until))

        self.connect(until)
        return self._guarded(step)

    def _guarded(self, step: Callable[[Wire], Any]) -> Any:
        wire = self._wire
        if wire is None:
            raise BrokerUnavailable("the connection was closed")
        try:
            return step(wire)
        except ErrorReply as error:
            raise self._refusal(str(error), self._endpoint.target.address) from None
        except WireLost as error:
            self.close()
            raise self._lost(error, self._endpoint.target.address, maybe_done=True) from error
        except BaseException:
            # Killed between sending and reading: the reply would be the next caller's.
            self.close()
            raise

    def _left(self, most: float, until: float | None) -> float:
        return most if until is None else max(0.001, min(most, until - time.monotonic()))

    def _refusal(self, text: str, address: Address) -> Exception:
        """An error reply as one of our errors; closes a connection that is of no more use."""
        code = code_of(text)
        meaning = meaning_of(code)
        where = self._endpoint.redacted
        if meaning is Meaning.FATAL:
            mend = _MENDS.get(code, "check user and password in the URL")
            return UnsuitableServer(f"{where} refuses us: {text}; {mend}")
        if meaning is Meaning.REFUSED:
            refused = BrokerError(f"{where} refuses: {text}")
            refused.code = code
            return refused
        if meaning is not Meaning.LATER:
            self.close()  # the next connection may reach another server
        later = BrokerUnavailable(f"{where} cannot serve us now: {text}")
        later.code = code
        return later

    def _lost(self, error: WireLost, address: Address, maybe_done: bool) -> Exception:
        text = str(error)
        where = self._endpoint.redacted
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return UnsuitableServer(
                f"{where} shows a certificate that we do not trust: {text}; "
                "name a file of those you trust: ?ssl_ca_certs=/path/ca.pem"
            )
        unavailable = BrokerUnavailable(f"{where} cannot be reached: {text}")
        unavailable.maybe_done = maybe_done
        return unavailable


def is_foreign_thread(owner: int) -> bool:
    """Whether green objects of the native thread `owner` are out of bounds here.

    In a patched process a socket belongs to the hub, and so to the native thread, that opened it;
    a lock that is held across threads may never be noticed to be free (seen: a hang).
    """
    monkey = sys.modules.get("gevent.monkey")
    green = monkey is not None and monkey.is_module_patched("socket")
    return bool(green) and threading.get_native_id() != owner
