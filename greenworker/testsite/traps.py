"""What a crawler must survive: bombs, redirects without end, and when to come back, in two forms."""

from __future__ import annotations

import math
import time
import zlib
from email.utils import formatdate

from greenworker.testsite.plan import Settings, chance

BOMB = 64 << 20
"""Bytes of what a bomb unpacks to; it is sent as a thousandth of that."""
DATES = 0.25
"""The share of Retry-After that are dates instead of seconds."""


def bomb() -> bytes:
    """A small gzip body that unpacks to `BOMB` bytes of spaces."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = b" " * (1 << 20)
    return b"".join([*(packer.compress(piece) for _ in range(BOMB >> 20)), packer.flush()])


def next_of_loop(settings: Settings, host: int, path: str) -> str:
    """Where /loop/<n> and /loop/<n>/<hop> lead: round in a circle of two to four addresses, or, of one in
    four, to a new address each time."""
    _, _, number, *hop = path.split("/")
    here = int(hop[0]) if hop else 0
    way = int(chance(settings, host, "loop", int(number)) * 4)
    return f"/loop/{number}/{here + 1 if way == 0 else (here + 1) % (way + 1)}"


def retry_after(settings: Settings, host: int, n: int, wait: int) -> str:
    """What the n-th Retry-After of the site says, for a wait of so many seconds: mostly seconds, sometimes
    a date (RFC 9110, 10.2.3), rounded up to whole seconds."""
    if chance(settings, host, "date", n) < DATES:
        return formatdate(math.ceil(time.time()) + wait, usegmt=True)
    return str(wait)
