"""Every error that greenworker raises.

    GreenworkerError
    ├── ConfigError            something in the set-up is wrong; the text says the mend
    │   ├── DeclarationError   a task is declared wrongly                (also TypeError)
    │   ├── AppNotFound        no App where one was looked for
    │   ├── NotPatched         a worker was started in an unpatched process
    │   ├── EmbeddedUnavailable  no server binary for the embedded server
    │   └── UnsuitableServer   too old, evicts, refuses us, is not to be trusted, or unknown
    ├── BadArguments           a call does not fit the task's signature   (also TypeError)
    ├── NotEncodable           a value that JSON cannot carry             (also TypeError)
    ├── PayloadTooLarge        arguments or a result above the cap        (also ValueError)
    ├── MalformedMessage       bytes that are no message of ours          (also ValueError)
    ├── BadSignature           a message that no holder of our keys has signed
    ├── UnknownTask            a name that is not registered
    ├── BrokerError            the server answered with an error
    │   └── BrokerUnavailable  the server could not be reached, or cannot serve us now
    │       └── SendUnknown    … after the message left: it may have arrived
    ├── ResultGone             the id is unknown, or its result has expired
    ├── ResultTimeout          .get(timeout=) ran out                     (also TimeoutError)
    ├── TaskFailed             the task ended in FAILURE: type, message, traceback
    │   ├── TaskCancelled      … in CANCELLED
    │   └── TaskExpired        … in EXPIRED
    ├── SoftTimeout            raised in a task, when its soft timeout is over
    ├── Cancelled              raised in a task, when somebody cancels it
    └── TaskTimeout            a run that passed its hard timeout

Errors carry their data as attributes; their text is one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType


class GreenworkerError(Exception):
    """The root of the tree: catch this to catch everything of greenworker's.

    `sent` is how many messages had certainly been sent when `delay_many` failed, and `fates` what
    had certainly become of dead letters, by id, when `app.dead.retry` or `.delete` did.
    """

    sent: int = 0
    fates: Mapping[str, str] = MappingProxyType({})


class ConfigError(GreenworkerError):
    """Something in the set-up is wrong; the command line prints it in one line and exits 2."""


class DeclarationError(ConfigError, TypeError):
    """A task is declared wrongly."""


class AppNotFound(ConfigError):
    """No App where one was looked for; the text says where that was and what was found."""


class NotPatched(ConfigError):
    """A worker was started in a process that gevent has not patched."""


class EmbeddedUnavailable(ConfigError):
    """No URL was given and the embedded server cannot be had."""


class UnsuitableServer(ConfigError):
    """The server is too old, may evict what it has acknowledged, refuses our credentials, or shows a
    certificate that we do not trust; or its sentinels know no master of that name."""


class BadArguments(GreenworkerError, TypeError):
    """A call does not fit the task's signature, or has no key though it is to have one. `item`: which one it is of those
    that `delay_many` was given, counted from 0."""

    item: int | None = None


class NotEncodable(GreenworkerError, TypeError):
    """A value that JSON cannot carry; `where` names it.

    `argument` is the position or the keyword of the argument at fault, when it was one.
    """

    argument: int | str | None = None

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(_one_line(f"{where} cannot be encoded: {reason}"))
        self.where = where
        self.reason = reason


class PayloadTooLarge(GreenworkerError, ValueError):
    """Arguments or a result above the cap."""

    def __init__(self, where: str, size: int, limit: int) -> None:
        super().__init__(
            f"{where}: {size:,} bytes, the limit is {limit:,}; "
            "store the data elsewhere and send its address"
        )
        self.size = size
        self.limit = limit


class MalformedMessage(GreenworkerError, ValueError):
    """Bytes that are no message of ours."""


class BadSignature(GreenworkerError):
    """A message that no holder of our signing keys has sent, or that was changed since."""


class UnknownTask(GreenworkerError):
    """A name that is not registered in this app."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = sorted(known)
        super().__init__(f"no task {name[:200]!r} here; known: {', '.join(self.known) or 'none'}")


class BrokerError(GreenworkerError):
    """The server answered with an error; `code` is its first word: OOM, MISCONF, …"""

    code: str = ""


class BrokerUnavailable(BrokerError):
    """The server could not be reached, or cannot serve anybody now (`code`: BUSY, MISCONF, READONLY, …).

    `maybe_done` is False when what was asked has certainly not been done, and True
    when the connection was lost after the request had left.
    """

    maybe_done: bool = False


class SendUnknown(BrokerUnavailable):
    """The connection was lost after a send had left: its messages may or may not have arrived.

    `ids` are theirs: `app.result(id).state` tells, once the server is back. Sending again
    with the same id is safe while the first one is still waiting or running.
    """

    maybe_done = True

    def __init__(self, ids: list[str], reason: str) -> None:
        what = f"message {ids[0]}" if len(ids) == 1 else f"{len(ids)} messages"
        super().__init__(_one_line(f"{what} may or may not have been sent: {reason}"))
        self.ids = ids


class ResultGone(GreenworkerError):
    """The id is neither waiting nor running, and no result of it is kept (any more)."""

    def __init__(self, id: str) -> None:
        super().__init__(f"nothing is known of {id}: never sent, or its result has expired")
        self.id = id


class ResultTimeout(GreenworkerError, TimeoutError):
    """`.get(timeout=)` ran out; the task goes on."""

    def __init__(self, id: str, timeout: float, state: str) -> None:
        super().__init__(f"{id} is still {state} after {timeout:g} s")
        self.id = id
        self.timeout = timeout
        self.state = state


class TaskFailed(GreenworkerError):
    """The task ended in failure; the remote error travels as strings and is never rebuilt.

    `type` and `message` are those of the remote exception, `traceback` is its text.
    """

    def __init__(self, id: str, type: str, message: str, traceback: str = "") -> None:
        what = f"{type}: {message}" if message else type
        super().__init__(_one_line(f"{id} failed: {what}"))
        self.id = id
        self.type = type
        self.message = message
        self.traceback = traceback


class TaskCancelled(TaskFailed):
    """The task was cancelled before it ended."""


class TaskExpired(TaskFailed):
    """The task was still waiting when its `expires` had passed."""


class SoftTimeout(GreenworkerError):
    """Raised inside a task once, when its `soft_timeout` is over: time to tidy up and end."""


class Cancelled(GreenworkerError):
    """Raised inside a task once, when somebody has cancelled it: time to tidy up and end."""


class TaskTimeout(GreenworkerError):
    """A run passed its hard timeout."""


def _one_line(text: str) -> str:
    # What others say, an exception's text above all, may have many lines.
    return " ".join(text.split())
