"""`greenworker dead`: what failed for good, listed, shown, sent again, deleted."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from itertools import chain, islice, takewhile
from typing import Any, Self

from greenworker.app import App
from greenworker.commands import dead_view
from greenworker.commands.find_app import app_or_url
from greenworker.commands.options import Options
from greenworker.commands.text import harmless
from greenworker.dead import DeadLetter, in_batches
from greenworker.errors import BrokerUnavailable, ConfigError, GreenworkerError

VERBS = ("list", "show", "retry", "delete")

_FILTERS = ("task", "error", "reason", "text", "older", "newer")
_COMMON = ("app", "url", "namespace", "workdir", "json")
_USABLE = {
    "list": (*_COMMON, *_FILTERS, "limit"),
    "show": (*_COMMON, "values"),
    "retry": (*_COMMON, *_FILTERS, "limit", "rate", "dry-run", "all"),
    "delete": (*_COMMON, *_FILTERS, "limit", "dry-run", "all"),
}
_BATCH = 500
_HELP = "see greenworker --help"


def run(options: Options) -> int:
    """Carry out `greenworker dead VERB`; returns the exit code."""
    verb = options.verb
    if verb not in VERBS:
        raise ConfigError(f"dead {verb!r}: there are list, show, retry and delete; {_HELP}")
    options.refuse_others(f"dead {verb}", _USABLE[verb])
    if verb == "list" and options.ids:
        raise ConfigError(f"dead list takes filters, no ids: dead show {options.ids[0]!r}; {_HELP}")
    if verb == "show" and not options.ids:
        raise ConfigError(f"dead show: which ones? Name ids, as dead list shows them; {_HELP}")
    filters = _filters(options) if verb != "show" else {}
    if verb in ("retry", "delete"):
        _refuse_all_by_accident(options, verb)
    with closing(app_or_url(options)) as app:
        if verb == "list":
            return _list(options, app, filters)
        if verb == "show":
            return _show(options, app)
        return _work_off(options, app, filters, verb)


def _list(options: Options, app: App, filters: dict[str, Any]) -> int:
    limit = filters["limit"]
    # One more: only so can be said whether there are more.
    found = app.dead.list(**{**filters, "limit": limit and limit + 1}, values=False)
    letters = islice(found, limit)
    if options.flag("json"):
        for letter in letters:
            print(json.dumps(dead_view.as_json(letter, values=False)))
        return 0
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    now = app.client.broker.time()
    # The first ones say how wide the columns are: the rest may be a hundred thousand.
    first = list(islice(letters, 200))
    table = dead_view.Table(first, now, width)
    total = 0
    for letter in chain(first, letters):
        if not total:
            print(table.header)
        print(table.row(letter))
        total += 1
    more = next(found, None) is not None
    print(_letters(total) + (", --limit reached" if more else ""))
    return 0


def _show(options: Options, app: App) -> int:
    values = options.flag("values")
    now = app.client.broker.time()
    seen: list[str] = []
    for letter in app.dead.list(ids=options.ids, values=values):
        if options.flag("json"):
            print(json.dumps(dead_view.as_json(letter, values)))
        else:
            if seen:
                print()
            print("\n".join(dead_view.page(letter, now, values)))
        seen.append(letter.id)
    _miss(options.ids, seen)
    return 0


def _work_off(options: Options, app: App, filters: dict[str, Any], verb: str) -> int:
    """Retry or delete in batches; a Ctrl-C is heard between two of them."""
    dry_run = options.flag("dry-run")
    ids = options.ids or None
    letters = app.dead.list(**filters, ids=ids, values=False)
    filtered = any(options.said_by_flag(name) for name in (*_FILTERS, "limit"))
    step = _retrying(app, dry_run) if verb == "retry" else _deleting(app, dry_run)
    rate = options.count("rate") if verb == "retry" and not dry_run else None
    fates: Counter[str] = Counter()
    seen = []
    with _Interrupt() as interrupt:
        began = time.monotonic()
        wanted = takewhile(lambda _: not interrupt.heard, letters)
        try:
            # Throttled, ten batches a second: a rate of 5,000 is no reason for as many calls.
            for batch in in_batches(wanted, max(1, rate // 10) if rate else _BATCH):
                # Whoever names one means it, whenever it died. What was chosen by how it died is left
                # when it has been sent again meanwhile, and has died of something else.
                chosen = batch if filtered or not ids else [one.id for one in batch]
                try:
                    fates.update(step(chosen))
                except GreenworkerError as error:
                    fates.update(error.fates.values())
                    if isinstance(error, BrokerUnavailable) and error.maybe_done and not dry_run:
                        fates["unknown"] += len(batch) - len(error.fates)
                    raise
                except KeyboardInterrupt:
                    # The second one, in the middle of a call.
                    fates["unknown"] += 0 if dry_run else len(batch)
                    raise
                if ids:
                    seen += [letter.id for letter in batch]
                if rate:
                    interrupt.wait_until(began + fates.total() / rate)
        finally:
            # Whatever ended it: what was done is said.
            if options.flag("json"):
                told = {**fates, "dry_run": dry_run, "interrupted": interrupt.heard}
                print(json.dumps(told))
            else:
                broken_off = "interrupted: " if interrupt.heard else ""
                print(broken_off + dead_view.summary(verb, fates, dry_run), flush=True)
    if interrupt.heard:
        return 1
    if not filtered:
        _miss(options.ids, seen)
    return 0


def _retrying(app: App, dry_run: bool) -> Callable[[Iterable[DeadLetter | str]], Iterable[str]]:
    return lambda batch: app.dead.retry(*batch, dry_run=dry_run).values()


def _deleting(app: App, dry_run: bool) -> Callable[[Iterable[DeadLetter | str]], Iterable[str]]:
    def delete(batch: Iterable[DeadLetter | str]) -> Iterator[str]:
        letters = tuple(batch)
        deleted = len(letters) if dry_run else app.dead.delete(*letters)
        yield from ["deleted"] * deleted + ["gone"] * (len(letters) - deleted)

    return delete


class _Interrupt:
    """Notes a Ctrl-C instead of breaking off in the middle of a call; the second one does."""

    def __init__(self) -> None:
        self.heard = False

    def wait_until(self, deadline: float) -> None:
        while not self.heard and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, *_: object) -> None:
        if self.heard:
            raise KeyboardInterrupt
        self.heard = True


def _filters(options: Options) -> dict[str, Any]:
    texts = {name: options.text(name) for name in ("task", "error", "reason", "text")}
    for name, text in texts.items():
        if text == "":  # a variable of the shell that is not set
            raise ConfigError(f"--{name} is empty: give a text, or leave it out")
    ages = {name: options.age(name) for name in ("older", "newer")}
    return {**texts, **ages, "limit": options.count("limit")}


def _refuse_all_by_accident(options: Options, verb: str) -> None:
    # What died more than no time ago is all that died.
    narrowing = [name for name in _FILTERS if name != "older" or options.age(name)]
    chosen = options.ids or any(options.said_by_flag(name) for name in narrowing)
    every = options.said_by_flag("all")
    if not chosen and not every:
        raise ConfigError(
            f"dead {verb}: which ones? Name ids, give a filter such as --error TYPE, or say --all"
        )
    if every and options.ids:
        raise ConfigError(f"dead {verb}: either ids or --all")


def _miss(ids: Iterable[str], seen: Collection[str]) -> None:
    found = set(seen)
    missing = [harmless(id) for id in dict.fromkeys(ids) if id not in found]
    if missing:
        what = "letter" if len(missing) == 1 else "letters"
        raise GreenworkerError(f"no dead {what} {', '.join(missing)}")


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"
