"""JSON in and out, by orjson, with limits on size and depth.

What orjson encodes natively travels (datetime, date, UUID, Enum, dataclass and
tuple included: they arrive as what JSON carries, NaN and infinity as null). What it
cannot encode is refused here, with the name of the value at fault.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from greenworker.errors import MalformedMessage, NotEncodable, PayloadTooLarge

MAX_PAYLOAD = 1_000_000  # bytes, for arguments and for results
MAX_DEPTH = 200  # orjson encodes 253 levels and decodes 1,024

# Brackets and whole strings: a bracket inside a string is no bracket. Possessive, and a string
# may lack its end: so each byte is looked at once, whatever the bytes are.
_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


def encode(value: Any, where: str, limit: int = MAX_PAYLOAD) -> bytes:
    """JSON bytes of a value.

    Raises NotEncodable, which calls the value `where`, and PayloadTooLarge.
    """
    try:
        data = orjson.dumps(value)
    except TypeError as error:
        raise NotEncodable(where, str(error)) from None
    if len(data) > limit:
        raise PayloadTooLarge(where, len(data), limit)
    if _too_deep(data):
        raise NotEncodable(where, f"nested deeper than {MAX_DEPTH}")
    return data


def decode(data: bytes, limit: int = MAX_PAYLOAD) -> Any:
    """The value of JSON bytes; raises MalformedMessage. Size and depth are checked first:
    orjson needs 73 ms, in which nothing else runs, for 3.9 MB (measured)."""
    if len(data) > limit:
        raise MalformedMessage(f"{len(data):,} bytes of JSON, the limit is {limit:,}")
    if _too_deep(data):
        raise MalformedMessage(f"JSON nested deeper than {MAX_DEPTH}")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedMessage(f"not JSON: {error}") from None


def _too_deep(data: bytes) -> bool:
    # Each level needs a bracket: only what has that many is looked at byte by byte.
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for match in _TOKENS.finditer(data):
        piece = match[0]
        if piece in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif piece in b"]}":
            depth -= 1
    return False
