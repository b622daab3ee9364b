"""Of what limits by key say, what a journal can tell: at no moment more runs of a key than its concurrency (I12)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.history import Execution, History

_CLAIMED = 20.0  # seconds that a run may begin after its claim, by the limit as it was then


def too_many(history: History) -> Iterator[str]:
    """Each time that more ran of a key than it may.

    A run counts from its first line to its last one: before and after that it holds its permits as well. That is sure where the
    server has accepted its outcome: it was that worker's all the time. All others may have run on without a permit, whose
    worker was taken for dead: they count for nothing, as at-least-once has it.
    """
    by_key: dict[str, list[Execution]] = defaultdict(list)
    for runs in history.executions.values():
        for run in runs:
            if run.keys and _held_its_permits(run, history):
                for key in run.keys:
                    by_key[key].append(run)
    for key, runs in by_key.items():
        yield from _overlaps(key, sorted(runs, key=lambda run: run.started), history)


def counted(history: History) -> int:
    """How many runs with keys there were of which that can be told."""
    return sum(
        _held_its_permits(run, history)
        for runs in history.executions.values()
        for run in runs
        if run.keys
    )


def _held_its_permits(run: Execution, history: History) -> bool:
    told = history.settled.get((run.id, *run.token), ())
    return run.ended is not None and any(ours for _, ours, _ in told)


def _overlaps(key: str, runs: list[Execution], history: History) -> Iterator[str]:
    """`runs`: in the order of their starts."""
    going: list[Execution] = []
    for run in runs:
        going = [one for one in going if (one.ended or one.started) > run.started]
        going.append(run)
        since = min(one.started for one in going) - _CLAIMED
        most = history.most_at_once(key, since, run.started)
        if len(going) > most:
            yield f"{len(going)} of {key} ran at once, {most:g} may: {[one.id for one in going]}"
