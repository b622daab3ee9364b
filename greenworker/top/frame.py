"""Frame: a sample as lines for a terminal of some size."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from greenworker.status import QueueStatus
from greenworker.top.sample import OPEN, Key, Sample, Worker
from greenworker.top.table import Column, Line, Span, cells, cut, plain, table
from greenworker.top.verdict import Verdict
from greenworker.top.words import age, memory, number, rate

HELP = ("j/k choose", "p pause", "l limit", "s sort", "q quit")
KEYS_AT_ONCE = 20  # where no height says how many
_MOST_LINES = 4
_MUTE = "this user of the server may not ask workers how they are"

QUEUE, KEY = "queue", "key"

_AMOUNT, _TIED = re.compile(r"(\d) (ms|s|min|h|d)\b"), "\N{NO-BREAK SPACE}"  # they stay on one line

# What keys are sorted by, the largest first; the words are the columns' titles.
SORTS: dict[str, Callable[[Key], float]] = {
    "waiting": lambda key: key.waiting,
    "running": lambda key: key.running,
    "per min": lambda key: key.per_minute,
    "p95": lambda key: key.p95 or 0.0,
    "refused": lambda key: key.refused,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A row that somebody has chosen: a queue or a key."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Look:
    """How somebody looks at samples: the terminal's size, what was chosen, and what the last line says.
    `height` None: as long as it takes, as for paper."""

    title: str
    width: int = 100
    height: int | None = None
    chosen: Choice | None = None
    sort: str = "waiting"
    footer: str = ""


def frame(sample: Sample | None, verdict: Verdict, look: Look) -> list[Line]:
    """The lines, none wider than the look's width, and not more than its height."""
    head: list[Line] = [[(cut(look.title, look.width), "title")], *_verdict(verdict, look.width)]
    foot: list[Line] = []
    if look.height is not None:
        foot = _wrapped(look.footer, look.width, "message") or [_help(look.width)]
    body: list[Line] = []
    if sample is not None:
        head.append(_totals(sample, look.width))
        if sample.mute:
            head.append([(cut(_MUTE, look.width), "dim")])
        left = None if look.height is None else look.height - len(head) - len(foot)
        body = _sections(sample, look, left)
    lines = [*head, *body]
    if look.height is not None:
        lines = lines[: max(0, look.height - len(foot))]
        lines += [[] for _ in range(look.height - len(foot) - len(lines))]
    return [*lines, *foot][: look.height]


def choices(sample: Sample, sort: str) -> list[Choice]:
    """Rows that can be chosen, in their order."""
    queues = [Choice(QUEUE, queue.name) for queue in _queues_of(sample)]
    return [*queues, *(Choice(KEY, key.name) for key in keys_of(sample, sort))]


def keys_of(sample: Sample, sort: str) -> list[Key]:
    by = SORTS[sort]
    return sorted(
        sample.keys.rows,
        key=lambda key: (-by(key), -key.waiting, -key.running, -key.per_minute, key.name),
    )


def _queues_of(sample: Sample) -> list[QueueStatus]:
    return sorted(sample.status.queues, key=lambda queue: queue.name)


def _verdict(verdict: Verdict, width: int) -> list[Line]:
    """What limits now: it is told in full, on more lines if it must be."""
    style = {"nothing": "good", "empty": "good", "server": "bad", "workers": "bad"}.get(
        verdict.kind, "warn"
    )
    by = "limited by " if verdict.kind in ("keys", "slots", "cpu", "nothing") else ""
    return _wrapped(f"{by}{verdict}", width, style)


def _wrapped(text: str, width: int, style: str) -> list[Line]:
    """A text in full, on a few lines if it must be."""
    lines = textwrap.wrap(
        _AMOUNT.sub(f"\\1{_TIED}\\2", text),
        max(width, 10),  # below that nobody can read it
        subsequent_indent="  ",
        max_lines=_MOST_LINES,
        placeholder=" …",
        break_on_hyphens=False,
    )
    return [[(cut(line.replace(_TIED, " "), width), style)] for line in lines]


def _totals(sample: Sample, width: int) -> Line:
    """The most important ones first: what does not fit is left out."""
    status, rates = sample.status, sample.rates
    parts = [
        f"{number(status.waiting)} waiting",
        f"{number(status.running)} running",
        f"{rate(_per_second(rates, 'done'))} done/s",
        f"{rate(_per_second(rates, 'dead'))} failed/s",
        f"{rate(_per_second(rates, 'retried'))} retried/s",
    ]
    if "throttled" in status.counters:
        parts.append(f"{rate(_per_second(rates, 'throttled'))} throttled/s")
    parts += [f"{number(status.scheduled)} scheduled", f"{number(status.dead)} dead"]
    text = parts[0]
    for part in parts[1:]:
        if cells(text) + 3 + cells(part) > width:
            break
        text = f"{text} · {part}"
    return [(cut(text, width), "")]


def _per_second(rates: Any, name: str) -> float | None:
    # A counter that nobody has moved yet is not there.
    return rates.get(name, 0.0) if rates else None


def _help(width: int) -> Line:
    text = ""
    for part in HELP:
        longer = f"{text}  {part}" if text else part
        # The last one says how to get out of here: it stays.
        if cells(longer) + (2 + cells(HELP[-1]) if part != HELP[-1] else 0) <= width:
            text = longer
    return [(cut(text, width), "dim")]


def _sections(sample: Sample, look: Look, height: int | None) -> list[Line]:
    queues, workers = _queues_of(sample), _workers_of(sample)
    keys = keys_of(sample, look.sort)
    all_rows: list[Sequence[Any]] = [queues, workers, keys]
    if height is None:
        rooms = [len(queues), len(workers), min(len(keys), KEYS_AT_ONCE)]
    else:
        rooms = shares([len(rows) for rows in all_rows], height)
    lines: list[Line] = []
    for kind, rows, room in zip((QUEUE, "worker", KEY), all_rows, rooms, strict=True):
        if not rows and kind != KEY:
            lines += [[], [(cut(f"no {kind} yet", look.width), "dim")]]
        if not rows or not room:
            continue
        chosen = look.chosen.name if look.chosen and look.chosen.kind == kind else None
        shown = window(rows, room, chosen)
        title = kind if len(shown) == len(rows) else f"{kind} {len(shown)} of {number(len(rows))}"
        if kind == KEY and not sample.keys.all:
            title = f"{kind} {len(shown)} busiest"
        name, columns = _COLUMNS[kind]
        if kind == KEY:
            columns = [_marked(column, look.sort) for column in columns]
        drawn = table(name, columns, shown, look.width, title)
        if chosen is not None:
            at = next((i for i, row in enumerate(shown, 1) if row.name == chosen), 0)
            if at:
                text = plain(drawn[at])
                drawn[at] = [(text + " " * (look.width - cells(text)), "chosen")]
        lines += [[], *drawn]
    return lines


def shares(needs: Sequence[int], height: int) -> list[int]:
    """How many rows each section gets, of which each needs two lines more: as many as it has, if that can be
    had, and else no fewer than the others."""
    rooms = [0] * len(needs)
    left = height - 2 * sum(1 for need in needs if need)
    while left > 0 and any(room < need for room, need in zip(rooms, needs, strict=True)):
        for index, need in enumerate(needs):
            if left > 0 and rooms[index] < need:
                rooms[index] += 1
                left -= 1
    return rooms


def window(rows: Sequence[Any], room: int, chosen: str | None) -> Sequence[Any]:
    """As many rows as there is room for, the chosen one among them."""
    at = next((index for index, row in enumerate(rows) if row.name == chosen), 0)
    first = max(0, min(at - room // 2, len(rows) - room))
    return rows[first : first + room]


def _workers_of(sample: Sample) -> list[Worker]:
    """By name, what is in trouble first."""
    return sorted(sample.workers, key=lambda one: (not _in_trouble(one), one.name, one.status.id))


def _in_trouble(worker: Worker) -> bool:
    return worker.status.lease < 0 or worker.heard.silent or bool(worker.heard.blocks)


def _marked(column: Column[Key], sort: str) -> Column[Key]:
    return replace(column, title=f"{column.title}*") if column.title == sort else column


def _state_of_worker(worker: Worker) -> Span:
    if worker.status.lease < 0:
        return "dead", "bad"
    if worker.heard.silent:
        return "silent", "bad"
    if worker.heard.blocks:
        return "blocked", "bad"
    vitals = worker.heard.vitals
    if vitals is not None and vitals.stuck:
        return f"{vitals.stuck} stuck", "warn"
    return "ok", "good"


def _state_of_queue(queue: QueueStatus) -> Span:
    if queue.paused:
        return "paused", "warn"
    if not queue.workers:
        return "nobody listens", "bad" if queue.waiting + queue.suspects else "dim"
    return "ok", "good"


def _state_of_key(key: Key) -> Span:
    style = {"open": "good", "busy": "", "later": ""}.get(key.state, "warn")
    if key.until and key.state != OPEN:
        return f"{key.state} {age(key.until)}", style
    return key.state, style


def _cpu(worker: Worker) -> Span:
    cpu = worker.heard.cpu
    return ("-", "dim") if cpu is None else (f"{cpu:.0%}", "warn" if cpu >= 0.9 else "")


def _lag(worker: Worker) -> Span:
    vitals = worker.heard.vitals
    if vitals is None:
        return "-", "dim"
    return age(vitals.worst_lag), "warn" if vitals.worst_lag >= 0.1 else ""


def _plain(text: str) -> Span:
    return text, "dim" if text in ("-", "0") else ""


_COLUMNS: dict[str, tuple[Column[Any], list[Column[Any]]]] = {
    QUEUE: (
        Column("queue", 9, lambda one: (one.name, "name"), right=False),
        [
            Column("waiting", 9, lambda one: _plain(number(one.waiting + one.suspects)), 7),
            Column("workers", 5, lambda one: _plain(number(one.workers)), 7),
            Column("state", 8, _state_of_queue, 6, right=False),
        ],
    ),
    "worker": (
        Column("worker", 9, lambda one: (one.name, "name"), right=False),
        [
            Column(
                "slots", 9, lambda one: (f"{one.status.running}/{one.status.concurrency}", ""), 7
            ),
            Column("runs/s", 6, lambda one: _plain(rate(one.heard.per_second)), 6),
            Column("lag", 5, _lag, 6),
            Column("cpu", 7, _cpu, 4),
            Column(
                "memory",
                4,
                lambda one: _plain(memory(one.heard.vitals and one.heard.vitals.memory)),
                6,
            ),
            Column("state", 8, _state_of_worker, 6, right=False),
            Column("queues", 1, lambda one: (",".join(one.status.queues), "dim"), right=False),
        ],
    ),
    KEY: (
        Column("key", 9, lambda one: (one.name, "name"), right=False),
        [
            Column("waiting", 9, lambda one: _plain(number(one.waiting)), 7),
            Column("running", 7, lambda one: _plain(number(one.running)), 7),
            Column("per min", 6, lambda one: _plain(rate(one.per_minute)), 7),
            Column("p50", 2, lambda one: _plain(age(one.p50)), 6),
            Column("p95", 5, lambda one: _plain(age(one.p95)), 6),
            Column("refused", 4, lambda one: _plain(number(one.refused)), 7),
            Column("delay", 3, lambda one: _plain(age(one.interval)), 6),
            Column("state", 8, _state_of_key, 8, right=False),
            Column("limit", 1, lambda one: (one.limit, "dim"), right=False),
        ],
    ),
}
