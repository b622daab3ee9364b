"""Route: which server to connect to now.

A plain URL names it, and a cluster's node may name another one (MOVED). Of a URL with
sentinels, they tell who the master is, at every connect.
"""

from __future__ import annotations

import time

from greenworker.endpoint import Address, Target
from greenworker.errors import UnsuitableServer
from greenworker.packing import pack
from greenworker.replies import Meaning, answer_to_auth, code_of, meaning_of
from greenworker.wire import ErrorReply, Wire, WireLost

_ASK = 1.0  # seconds for one sentinel: to be connected to, to let us in and to answer


class Route:
    """The way of one connection: it remembers who was named last."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._sentinels = list(target.sentinels)
        self._moved: Address | None = None
        self._begin_again = False

    def find(self, until: float | None) -> Address:
        """Whom to connect to, so that there is time for that before the moment `until`.

        Raises WireLost or UnsuitableServer.
        """
        if self._sentinels:
            return self._ask_sentinels(until)
        if self._moved is None or self._begin_again:
            return self._target.address
        return self._moved

    def move(self, text: str, now_at: Address) -> None:
        """Remember what a MOVED says: `MOVED <slot> <host>:<port>`, or no host for the same one."""
        host, _, port = text.split(" ")[2].rpartition(":")
        if host in ("", "?"):
            host = now_at[0] if isinstance(now_at, tuple) else "localhost"
        self._moved = (host, int(port))
        self._begin_again = False

    def look_elsewhere(self) -> None:
        """Whom `find` named is gone, or of no use: another one next time, if there is one."""
        # A node that is gone may come back, and so may the URL's own: by turns.
        self._begin_again = not self._begin_again
        # One that has told of a master that is none may be cut off from the others.
        self._sentinels = self._sentinels[1:] + self._sentinels[:1]

    def _ask_sentinels(self, until: float | None) -> Address:
        """The master's address as the first sentinel knows it that answers."""
        errors, unknown = [], 0
        for number, sentinel in enumerate(self._sentinels):
            now = time.monotonic()
            # As much for each that is left, and for the server itself.
            shares = len(self._sentinels) - number + 1
            most = _ASK if until is None else min(_ASK, (until - now) / shares)
            host, port = sentinel
            try:
                master = self._ask(sentinel, now + most)
            except (WireLost, ErrorReply) as error:
                errors.append(f"{host}:{port}: {error}")
                continue
            if master is None:
                unknown += 1
                continue
            # Whoever has answered is asked first the next time.
            self._sentinels = self._sentinels[number:] + self._sentinels[:number]
            return master
        name = self._target.master
        if unknown == len(self._sentinels):
            raise UnsuitableServer(
                f"the sentinels know no master {name!r}: check the name in the URL"
            )
        raise WireLost(f"no sentinel tells who is master of {name!r} ({'; '.join(errors)})")

    def _ask(self, sentinel: tuple[str, int], until: float) -> Address | None:
        target = self._target
        wire = Wire(sentinel, target.tls, _left(until), _left(until))
        try:
            if target.sentinel_password:
                user = (target.sentinel_username,) if target.sentinel_username else ()
                wire.send(pack("AUTH", *user, target.sentinel_password), _left(until))
                try:
                    self._read(wire, until)
                except ErrorReply as error:
                    raise ErrorReply(answer_to_auth(str(error))) from None
            wire.send(pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.master), _left(until))
            reply = self._read(wire, until)
        finally:
            wire.close()
        return None if reply is None else (reply[0].decode(), int(reply[1]))

    def _read(self, wire: Wire, until: float) -> list[bytes] | None:
        try:
            reply: list[bytes] | None = wire.read(_left(until))
            return reply
        except ErrorReply as error:
            code = code_of(str(error))
            if meaning_of(code) is Meaning.FATAL:
                # Its code and no more: it may repeat what it was told.
                raise UnsuitableServer(
                    f"a sentinel refuses us: {code}; "
                    "check ?sentinel_username= and sentinel_password= in the URL"
                ) from None
            raise


def _left(until: float) -> float:
    return max(0.001, until - time.monotonic())
