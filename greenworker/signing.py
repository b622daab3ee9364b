"""Signatures: whoever may write to the server, a worker with keys runs only what a holder of a key sent.

A signature is the named option `sig` in an envelope's head: HMAC-SHA256 (RFC 2104) over the
namespace, the id, and what the sender alone decides: the head from the result's time to live up
to `sig`, and the body. Not over what the server fills in or others rewrite: priority, deliveries,
attempt, sent, expires, and what a worker notes behind `sig` (see docs/security.md).
"""

from __future__ import annotations

import hmac
import os
from base64 import urlsafe_b64encode
from collections.abc import Iterable

from greenworker.errors import BadSignature, ConfigError

LEAST = 16  # bytes of a key
VARIABLE = "GREENWORKER_SIGNING_KEYS"

_MARK = b" sig="
# What a worker may note behind the signature, in the head of a message that waits.
_NOTES = (b"unknown=", b"last=")


class Signer:
    """Signs with the first of its keys, and accepts what any of them has signed."""

    def __init__(self, keys: Iterable[str | bytes], namespace: str, source: str = "") -> None:
        """`source` says where the keys were found; raises ConfigError for one that is too short."""
        where = source or "signing_keys"
        if isinstance(keys, (str, bytes)):
            raise ConfigError(f"{where}: give a list of keys, the first one signs")
        self._keys = [_checked(key, f"{where}[{n}]") for n, key in enumerate(keys)]
        if not self._keys:
            raise ConfigError(f"{where} is empty: give at least one key, or None to sign nothing")
        self._namespace = namespace.encode()

    def __repr__(self) -> str:
        return f"<Signer, keys: {len(self._keys)}>"

    def sign(self, id: str, tail: bytes) -> bytes:
        """The tail of an envelope, see `message.encode_tail`, with its signature."""
        head, newline, body = tail.partition(b"\n")
        signature = self._signature(self._keys[0], id, head, body)
        return b"".join((head, _MARK, signature, newline, body))

    def verify(self, id: str, envelope: bytes) -> None:
        """Raise BadSignature unless one of the keys has signed this message under this id."""
        head, _, body = envelope.partition(b"\n")
        # Behind version, deliveries, attempt, priority, sent and expires.
        tail = head.split(b" ", 6)[-1]
        signed, mark, rest = tail.partition(_MARK)
        signature, *notes = rest.split(b" ")
        if not mark:
            raise BadSignature(f"{id} is not signed")
        if not all(note.startswith(_NOTES) for note in notes):
            raise BadSignature(f"{id}: something was added behind the signature")
        # Every key is tried, and compared in a time that tells nothing of how far they agree.
        matches = [
            hmac.compare_digest(signature, self._signature(key, id, signed, body))
            for key in self._keys
        ]
        if True not in matches:
            raise BadSignature(f"{id}: its signature is by none of our keys, or it was changed")

    def _signature(self, key: bytes, id: str, head: bytes, body: bytes) -> bytes:
        name = id.encode("utf-8", "surrogateescape")
        space = self._namespace
        # Lengths first: no two messages are the same bytes.
        text = b"greenworker 1 %d %b %d %b %d %b\n%b" % (
            len(space), space, len(name), name, len(head), head, body,
        )  # fmt: skip
        return urlsafe_b64encode(hmac.digest(key, text, "sha256")).rstrip(b"=")


def signer_from_environment(namespace: str) -> Signer | None:
    """A signer by the keys of GREENWORKER_SIGNING_KEYS; None when it is not set. Raises ConfigError."""
    listed = os.environ.get(VARIABLE, "")
    if not listed:
        return None
    return Signer([key.strip() for key in listed.split(",")], namespace, VARIABLE)


def _checked(key: object, where: str) -> bytes:
    data = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
    if not isinstance(data, bytes):
        raise ConfigError(f"{where} is a {type(key).__name__}: give str or bytes")
    if len(data) < LEAST:
        raise ConfigError(
            f"{where} has {len(data)} bytes: give at least {LEAST}, as of "
            'python -c "import secrets; print(secrets.token_hex(32))"'
        )
    return data
