"""How runs ended, as settle.lua takes it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from greenworker.message import Delivery, Outcome
from greenworker.packing import Packed, pack_word

LONGEST = 100 * 365 * 86400.0  # seconds: a result or a delay is cut to it, as in finish.lua

_ENDS = ("done", "cancelled", "dead")
# id, the claim's sequence, how it ended, ms, and two texts
_OUTCOME, _WORDS = b"$%d\r\n%b\r\n%b%b%b$%d\r\n%b\r\n$%d\r\n%b\r\n", 6


def pack_outcomes(outcomes: Iterable[tuple[Delivery, Outcome]]) -> list[bytes | str | int]:
    """All of them in one, packed by hand: a third of what it costs word by word. Then, of each that has
    keys, three words more."""
    parts: list[bytes] = []
    ran: list[bytes | str | int] = []
    for delivery, outcome in outcomes:
        id, kind = delivery.id.encode(), outcome.kind
        if b" keys=" in delivery.envelope and (keys := delivery.keys):
            ran += (delivery.id, round(outcome.took * 1000), keys)
        if kind in _ENDS:
            seconds, text = outcome.result_ttl, outcome.result
            more = outcome.reason.encode() if kind == "dead" else delivery.lock
        else:  # a reason, and no envelope, has what is throttled
            seconds, text, more = outcome.delay, outcome.envelope, outcome.reason.encode()
        again = (pack_word(delivery.seq), pack_word(kind), _packed_ms(seconds))
        parts.append(_OUTCOME % (len(id), id, *again, len(text), text, len(more), more))
    return [Packed(b"".join(parts), _WORDS * len(parts)), *ran]


@lru_cache(maxsize=1000)
def _packed_ms(seconds: float) -> bytes:
    return pack_word(round(min(LONGEST, seconds) * 1000))
