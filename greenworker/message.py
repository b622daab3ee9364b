"""What travels: Message, Delivery, Outcome, State; the envelope in and out.

An envelope is one line of space-separated ASCII fields, the head, and a JSON body:

    1 <deliveries> <attempt> <priority> <sent ms> <expires ms> <result ttl ms> <queue> <task> [name=value …]
    [args, kwargs, headers]

Scripts read and rewrite the head only; they never parse JSON. The server fills in
`sent` and `expires` by its own clock: senders' clocks play no part.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import unquote

from greenworker import codec
from greenworker.errors import MalformedMessage, NotEncodable, PayloadTooLarge
from greenworker.frozen import quickly
from greenworker.keys import escape

# A float is seconds from the moment the server receives it; a datetime is absolute.
Moment = float | datetime

_VERSION = b"1"
_NO_OPTIONS: Mapping[str, str] = {}  # as a rule


class State(enum.StrEnum):
    """Where a message is, or how it ended."""

    PENDING = "PENDING"  # waiting in its queue
    SCHEDULED = "SCHEDULED"  # delayed, not tried yet
    STARTED = "STARTED"  # claimed by a worker
    RETRY = "RETRY"  # failed, will be tried again
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class Message:
    """One call of a task as it travels.

    `due` and `expires` are as given when sending; a claimed message carries no `due`, and an
    absolute `expires`. `attempt` counts retries, `deliveries` the crashes it was present at.
    `sent` is the server's time of sending (epoch seconds), 0 before that. `mark` is what a filter of
    what was seen knows it by, while it is sent.
    """

    id: str
    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    queue: str = "default"
    priority: int = 5
    result_ttl: float = 3600.0
    due: Moment | None = None
    expires: Moment | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 0
    deliveries: int = 0
    sent: float = 0.0
    mark: int | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One worker's claim on one message: (id, seq) is the fencing token.

    `claimed_at` is the server's time of the claim, in epoch seconds.
    """

    id: str
    seq: int
    worker: str
    envelope: bytes
    claimed_at: float

    @property
    def lock(self) -> bytes:
        """What it may hold until it is done, as lua/prelude.lua reads it; b"" as a rule."""
        return self._in_head(b" unique=d")

    @property
    def keys(self) -> bytes:
        """What it is limited by, as the head has it: one key, or two with %2C between; b"" as a rule."""
        return self._in_head(b" keys=")

    def _in_head(self, begin: bytes) -> bytes:
        if begin not in self.envelope:
            return b""
        end = self.envelope.find(b"\n")
        at = self.envelope.find(begin, 0, end)
        return b"" if at < 0 else self.envelope[at + len(begin) : end].partition(b" ")[0]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a delivery ended.

    done: `result` is kept for `result_ttl` s. retry: again after `delay` s as `envelope`;
    later: likewise, but nothing has run. dead: `result` tells the failure, `reason` is one
    word for it. cancelled: as done. release: back to the front of its queue, as if never claimed.
    throttled: the key `reason` (escaped; empty: its first one) is held for `delay` s (-1: as long as the
    server sees fit), and it waits there. `took`: seconds that the run took, of what has keys; else 0.
    """

    kind: Literal["done", "retry", "later", "dead", "cancelled", "release", "throttled"]
    result: bytes = b""
    result_ttl: float = 0.0
    delay: float = 0.0
    envelope: bytes = b""
    reason: str = ""
    took: float = 0.0

    @property
    def size(self) -> int:
        """Bytes that it takes to send."""
        return 64 + len(self.result) + len(self.envelope)


message_of, _delivery, _outcome = quickly(Message), quickly(Delivery), quickly(Outcome)

RELEASE = Outcome("release")
CANCELLED = b'{"state":"CANCELLED"}'  # what is kept of one


def done(result: bytes, ttl: float) -> Outcome:
    """An outcome that is well, with what is kept of it for `ttl` s."""
    return _outcome("done", result, ttl, 0.0, b"", "", 0.0)


def encode_body(message: Message) -> bytes:
    """The JSON body; raises NotEncodable and PayloadTooLarge."""
    body: list[Any] = [message.args, dict(message.kwargs)]
    if message.headers:
        body.append(dict(message.headers))
    try:
        return codec.encode(body, f"arguments of {message.task}")
    except NotEncodable as error:
        error.argument = _culprit(message)
        raise


def encode_tail(message: Message) -> bytes:
    """The head's fields that the sender decides alone, and the body: '<ttl> <queue> <task> …\\n<body>'."""
    head = _head(message.result_ttl, message.queue, message.task)
    for name, value in message.options.items():
        head += f" {name}={escape(value)}"
    return b"%b\n%b" % (head.encode(), encode_body(message))


@lru_cache(maxsize=1000)
def _seconds(ms: str) -> float:
    return int(ms) / 1000


@lru_cache(maxsize=1000)
def _head(ttl: float, queue: str, task: str) -> str:
    return f"{round(ttl * 1000)} {queue} {escape(task)}"


def decode(id: str, envelope: bytes) -> Message:
    """The message in an envelope; raises MalformedMessage."""
    head, newline, body = envelope.partition(b"\n")
    fields = head.decode("ascii", "replace").split(" ")
    try:
        version, deliveries, attempt, priority, sent, expires, ttl, queue, task, *options = fields
        if version != "1" or not newline:
            raise MalformedMessage(
                f"{id}: an envelope of version {version[:8]!r}; this is version 1"
            )
        args, kwargs, *rest = codec.decode(body)
        headers = rest[0] if rest else {}
        if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(headers, dict)):
            raise MalformedMessage(f"{id}: the body is not [args, kwargs, headers]")
        return message_of(
            id,
            unquote(task) if "%" in task else task,
            args,
            kwargs,
            headers,
            queue,
            int(priority),
            _seconds(ttl),
            None,
            None if expires == "0" else datetime.fromtimestamp(int(expires) / 1000, UTC),
            _decode_options(options) if options else _NO_OPTIONS,
            int(attempt),
            int(deliveries),
            int(sent) / 1000,
            None,
        )
    except MalformedMessage:
        raise
    except (ValueError, TypeError, OverflowError, OSError) as error:
        # Shortened: the text may quote a number of a megabyte.
        raise MalformedMessage(f"{id}: not an envelope: {error!s:.200}") from None


def deliveries_in(
    lengths: bytes, text: bytes, seq: int, worker: str, claimed_at: float
) -> list[Delivery]:
    """What a claim brings: id, envelope, id, envelope, … in one text, and the lengths of each."""
    found, at, sizes = [], 0, map(int, lengths.split())
    for of_id, of_envelope in zip(sizes, sizes, strict=True):
        middle = at + of_id
        end = middle + of_envelope
        found.append(_delivery(text[at:middle].decode(), seq, worker, text[middle:end], claimed_at))
        at = end
    return found


def next_attempt(envelope: bytes) -> bytes:
    """The replacement envelope of a retry: one attempt more, all else as it was."""
    version, deliveries, attempt, rest = envelope.split(b" ", 3)
    return b" ".join((version, deliveries, b"%d" % (int(attempt) + 1), rest))


def with_option(envelope: bytes, name: str, value: str | None) -> bytes:
    """The same envelope with a named option set in its head; without it for None."""
    head, _, body = envelope.partition(b"\n")
    prefix = f"{name}=".encode()
    fields = [part for part in head.split(b" ") if not part.startswith(prefix)]
    if value is not None:
        fields.append(prefix + escape(value).encode())
    return b" ".join(fields) + b"\n" + body


def keys_of(options: Mapping[str, str]) -> tuple[str, ...]:
    """What a message is limited by, as people write it; nothing as a rule."""
    told = options.get("keys")
    return tuple(told.split(",")) if told else ()


def mark_of(kind: Literal["task", "tag"], name: str) -> str:
    """What cancels all messages of a task, or with a tag, as scripts know it."""
    return f"{kind}:{escape(name)}"


def is_marked(envelope: bytes, marks: Mapping[str, int]) -> bool:
    """Whether one of these marks (and until which ms each of them counts) hits a message, as far as its head
    can be read; as in marks.lua."""
    fields = envelope.partition(b"\n")[0].decode("ascii", "replace").split(" ")
    if len(fields) < 9 or not fields[4].isdecimal():
        return False
    sent, names = int(fields[4]), [f"task:{fields[8]}"]
    for option in fields[9:]:
        if option.startswith("tags="):
            names += [f"tag:{tag}" for tag in option[5:].split("%2C")]
    return any(sent <= marks.get(name, -1) for name in names)


def attempts_of(head: bytes) -> tuple[int, str]:
    """How many retries there have been, and what the last one's attempt failed of, as far as the head
    of an envelope can be read."""
    fields = head.decode("utf-8", "replace").split(" ")
    attempt = int(fields[2]) if len(fields) > 2 and fields[2].isdecimal() else 0
    return attempt, _decode_options(fields[9:]).get("last", "")


def result_ttl_of(envelope: bytes) -> float:
    """The result's time to live (s) as far as the head can be read, else an hour."""
    try:
        return int(envelope.split(b" ", 7)[6]) / 1000
    except (IndexError, ValueError, OverflowError):
        return 3600.0


def task_name_of(envelope: bytes) -> str:
    """The task's name as far as the head can be read, else '?'; see `shown`."""
    fields = envelope.partition(b"\n")[0].split(b" ", 9)
    return unquote(fields[8].decode("ascii", "replace")) if len(fields) > 8 else "?"


def shown(name: str) -> str:
    """A name that came from outside, on one line: it may hold line ends and a terminal's commands."""
    return name if len(name) <= 200 and name.isprintable() else f"{name[:200]!a}"


def _culprit(message: Message) -> int | str | None:
    arguments: list[tuple[int | str, Any]] = [*enumerate(message.args), *message.kwargs.items()]
    for name, value in arguments:
        try:
            codec.encode([[value]], "")  # as deep as it stands in the body
        except (NotEncodable, PayloadTooLarge):
            return name
    return None


def _decode_options(fields: list[str]) -> dict[str, str]:
    return {name: unquote(value) for name, _, value in (part.partition("=") for part in fields)}
