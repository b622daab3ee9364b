"""What an error reply of the server means: the code, and what becomes of the request.

The table is in docs/design.md, too (Error replies).
"""

from __future__ import annotations

import re
from enum import Enum


class Meaning(Enum):
    """What to do after an error reply. In no case has the request been carried out."""

    LATER = "try again after a while, on the same connection"
    ELSEWHERE = "try again after a while, and look anew for who serves us"
    MOVED = "ask the server that it names, now"
    REFUSED = "the request is wrong for this server: tell the caller"
    FATAL = "the set-up is wrong: tell the user"


_LATER = ("BUSY", "MISCONF", "NOREPLICAS", "TRYAGAIN", "ASK")
_ELSEWHERE = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "UNBLOCKED", "MAXCLIENTS")
_FATAL = ("NOAUTH", "WRONGPASS", "NOPERM", "DENIED", "BADDB")

# Those that the server calls ERR, or nothing, by what they say.
_BY_TEXT = (
    ("max number of clients", "MAXCLIENTS"),
    ("AUTH <password>", "NOAUTH"),
    ("invalid username-password", "WRONGPASS"),
    ("ACL failure in script", "NOPERM"),
    ("The user executing the script can't", "NOPERM"),  # … before Valkey, and Redis 7.2
    ("DB index is out of range", "BADDB"),
    ("SELECT is not allowed in cluster mode", "BADDB"),
)
# Before Redis 7 an error inside a script is wrapped:
# ERR Error running script (call to f_<sha>): @user_script:1: @user_script: 1: -OOM command not …
_WRAPPED = re.compile(r"Error running script .*@user_script: ?\d+: -?([A-Z]{3,}) ").search


def code_of(text: str) -> str:
    """The code of an error reply, also of one that a script's error wraps."""
    wrapped = _WRAPPED(text)
    first = wrapped[1] if wrapped else text.split(" ", 1)[0]
    if first not in ("ERR", "NOAUTH", "WRONGPASS"):
        return first
    return next((code for words, code in _BY_TEXT if words in text), first)


def answer_to_auth(text: str) -> str:
    """An error reply to AUTH, as it may be shown: who does not know AUTH repeats what it was told."""
    code = code_of(text)
    return f"{code} (to AUTH; check user and password in the URL)" if code == "ERR" else code


def meaning_of(code: str) -> Meaning:
    if code == "MOVED":
        return Meaning.MOVED
    if code in _LATER:
        return Meaning.LATER
    if code in _ELSEWHERE:
        return Meaning.ELSEWHERE
    return Meaning.FATAL if code in _FATAL else Meaning.REFUSED
