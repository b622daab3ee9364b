"""Every Redis key, as functions of the namespace's root.

All keys of an app's namespace share one hash tag, `gw:{namespace}:`, so that one
script may touch any of them, on Redis Cluster too. `lua/prelude.lua` builds the
same names; `tests/lua/test_prelude.py` holds the two together.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from greenworker.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_.:/@-]{1,64}")
_SAFE = re.compile(r"[A-Za-z0-9_.:/@-]+").fullmatch

PRIORITIES = range(10)


def root(namespace: str) -> str:
    """The common start of all keys of a namespace; raises ConfigError for an unsafe name."""
    return f"gw:{{{check_name('namespace', namespace)}}}:"


def check_name(kind: str, name: object) -> str:
    """A queue's, namespace's or id's name, if it is safe inside keys and envelopes."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise ConfigError(
        f"{kind} {name!r}: use 1 to 64 letters, digits and _ . : / @ - "
        "(no blanks, no braces, no commas)"
    )


def escape(text: str) -> str:
    """The same without a blank, a comma, a brace or a line end: as it stands in envelopes, and in keys."""
    return text if _SAFE(text) else quote(text, safe="/:@")


def nil(root: str) -> str:
    """Never exists: routes a script to its slot and is what its first write deletes."""
    return root + "nil"


def messages(root: str) -> str:
    return root + "msg"


def ready(root: str, queue: str, priority: int) -> str:
    return f"{root}ready:{queue}:{priority}"


def suspects(root: str, queue: str) -> str:
    return f"{root}suspects:{queue}"


def wake(root: str, queue: str) -> str:
    return f"{root}wake:{queue}"


def queues(root: str) -> str:
    return root + "queues"


def paused(root: str) -> str:
    return root + "paused"


def consumers(root: str, queue: str) -> str:
    return f"{root}consumers:{queue}"


def workers(root: str) -> str:
    return root + "workers"


def corpses(root: str) -> str:
    return root + "corpses"


def about(root: str) -> str:
    return root + "about"


def leases(root: str) -> str:
    return root + "leases"


def sequences(root: str) -> str:
    return root + "seq"


def processing(root: str, worker: str) -> str:
    return f"{root}processing:{worker}"


def room(root: str, queue: str) -> str:
    return f"{root}room:{queue}"


def suspected(root: str, worker: str) -> str:
    return f"{root}suspected:{worker}"


def solitary(root: str, worker: str) -> str:
    return f"{root}solitary:{worker}"


def asked(root: str) -> str:
    return root + "asked"


def running(root: str, worker: str) -> str:
    return f"{root}running:{worker}"


def cancels(root: str, worker: str) -> str:
    return f"{root}cancels:{worker}"


def marks(root: str) -> str:
    return root + "marks"


def scheduled(root: str) -> str:
    return root + "scheduled"


def schedules(root: str) -> str:
    return root + "schedules"


def dead(root: str) -> str:
    return root + "dead"


def dead_records(root: str) -> str:
    return root + "dead:record"


def result(root: str, id: str) -> str:
    return f"{root}result:{id}"


def done(root: str, id: str) -> str:
    """The pub/sub channel on which a result is announced."""
    return f"{root}done:{id}"


def push(root: str, push_id: str) -> str:
    return f"{root}push:{push_id}"


def unique(root: str) -> str:
    return root + "unique"


def unique_for(root: str, name: str) -> str:
    return f"{root}unique:{name}"


def seen(root: str) -> str:
    return root + "seen"


def seen_dropped(root: str) -> str:
    return root + "seen:dropped"


def limits_by(root: str) -> str:
    return root + "limits:by"


def limits_under(root: str) -> str:
    return root + "limits:under"


def stats(root: str) -> str:
    return root + "stats"


def sweep(root: str) -> str:
    return root + "sweep"


def pulse(root: str) -> str:
    return root + "pulse"
