"""What a run of the mix came to, in figures; and whether whoever waited was told."""

from __future__ import annotations

import math
import re
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from tests.chaos.history import Event, Execution, History
from tests.chaos.judge import Verdict
from tests.chaos.politeness import counted

# Faults in which who waits reaches nobody, or is answered too late.
_NO_LOOK = ("server", "CLIENT PAUSE", "half-open", "black hole", "trickle", "refused", "delay")
NEWS = 10.0  # seconds after which whoever waits must know that there is a result: a look-up is due every 5 s


@dataclass(slots=True)
class Rerun:
    """A run whose worker died in it, and how long it took until the message went on."""

    run: Execution
    seconds: float  # from the death until the next run began, or the message ended without one
    then: Execution | None
    meanwhile: Counter[str]  # the faults of that time, by kind

    def __str__(self) -> str:
        how = "ended without a further run"
        if self.then is not None:
            how = f"ran again as attempt {self.then.attempt}, delivery {self.then.delivery}"
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.meanwhile.most_common())
        return (
            f"{self.seconds:.1f} s: {self.run.task} {self.run.id}, lost as delivery {self.run.delivery}, "
            f"{how}; meanwhile {kinds or 'no fault'}"
        )


@dataclass(slots=True)
class Figures:
    """What a run came to."""

    seed: int
    minutes: float
    verdict: Verdict
    faults: Counter[str] = field(default_factory=Counter)
    deaths: int = 0  # of workers, however they came
    reruns: list[Rerun] = field(default_factory=list)
    resumed: float = 0.0  # the longest from a server's return until a task ended, s
    idle: float = 0.0  # the longest for which nothing went on though something could, s
    alone: float = 0.0  # … for which one worker claimed nothing though it could, s
    watched: float = 0.0  # in which that would have been seen, s
    took: float = 0.0
    keyed: int = 0  # runs with keys of which it can be told whether they kept to the limits

    def lines(self) -> list[str]:
        verdict = self.verdict
        waits = [one.seconds for one in self.reruns] or [0.0]
        twice = ", ".join(f"{n:,} {cause}" for cause, n in verdict.twice.most_common()) or "none"
        return [
            f"seed {self.seed}, {self.minutes:g} minutes of faults, {self.took:.0f} s in all",
            f"sent        {verdict.sent:,} acknowledged, {verdict.refused:,} refused, "
            f"{verdict.unknown:,} unknown ({verdict.unknown_ran:,} of them ran)",
            f"ended       {verdict.ended['done']:,} done, {verdict.ended['dead']:,} dead letters, "
            f"{verdict.ended['expired']:,} expired, {verdict.ended['cancelled']:,} cancelled",
            f"executions  {verdict.executions:,}, of them {verdict.retries:,} retries",
            f"by keys     {self.keyed:,} runs, never more of a key at once than may",
            f"lost        {len(verdict.lost)}",
            f"run twice   {twice}",
            f"faults      {sum(self.faults.values()):,}: "
            + ", ".join(f"{n} {name}" for name, n in sorted(self.faults.items())),
            f"workers     {self.deaths:,} deaths, {verdict.given_up:,} incarnations given up",
            f"recovery    a dead worker's tasks ran again after {median(waits):.1f} s (median; "
            f"{max(waits):.1f} s at most); after the server's return a task ended within "
            f"{self.resumed:.1f} s",
            f"idle        while work waited, all workers for at most {self.idle:.1f} s, one of them for "
            f"{self.alone:.1f} s; watched for {self.watched:.0f} s, in which the server could be reached",
            *(
                [f"longest     {max(self.reruns, key=lambda one: one.seconds)}"]
                if self.reruns
                else []
            ),
        ]


def unheard(asked: Iterable[Event], history: History) -> list[str]:
    """Whoever waited in vain, or for long, though the result had been there, or was told that there
    is no such message, though its send was acknowledged."""
    return [
        event["id"]
        for event in asked
        if (event["how"] == "ResultGone" and "ok" in history.verdicts[event["id"]])
        or (
            event["how"] in ("ResultTimeout", "value")
            and _late(history, history.ended.get(event["id"], math.inf), event["t"]) > NEWS
        )
    ]


def _late(history: History, ended: float, told: float) -> float:
    """Seconds from an end until somebody was told, but for those in which no look-up had a chance."""
    late, at = told - ended, ended
    for fault in sorted(history.faults, key=lambda one: float(one["t"])):
        if fault["name"].startswith(_NO_LOOK):
            since, until = max(at, fault["t"]), min(told, fault["ended"] or told)
            late -= max(0.0, until - since)
            at = max(at, until)
    return late


def measure(history: History, figures: Figures) -> None:
    """Count deaths, and take the times that things needed to go on."""
    figures.keyed = counted(history)
    codes = [code for code, _ in history.died.values()]
    figures.deaths = sum(code not in (0, -signal.SIGTERM) for code in codes)
    for id, runs in history.executions.items():
        ended = history.ended.get(id, math.inf)
        for run in runs:
            _, died = history.died.get(run.pid, (0, 0.0))
            # What was in flight: not what had come to its end before its process did.
            if run.started < died < ended and run.ended is None:
                then = min(
                    (other for other in runs if other.started > died),
                    key=lambda other: other.started,
                    default=None,
                )
                until = ended if then is None else min(then.started, ended)
                if until < math.inf:  # else nobody heard when
                    rerun = Rerun(run, until - died, then, _kinds(history, died, until))
                    figures.reruns.append(rerun)
    moments = sorted(history.ended.values())
    for fault in history.faults:
        if fault["name"].startswith(("server", "CLIENT PAUSE", "NOREPLICAS")) and fault["ended"]:
            after = next((moment for moment in moments if moment > fault["ended"]), None)
            if after is not None and not _overtaken(history, fault, after):
                figures.resumed = max(figures.resumed, after - fault["ended"])


def _kinds(history: History, since: float, until: float) -> Counter[str]:
    """What was broken in that time: a fault's name without whom it hit."""
    return Counter(
        re.sub(r" (chaos\d+|of .*|at .*)", "", fault["name"])
        for fault in history.faults
        if fault["t"] < until and (fault["ended"] is None or fault["ended"] > since)
    )


def _overtaken(history: History, outage: Event, until: float) -> bool:
    """Whether another outage came before anything could end after this one."""
    return any(
        fault is not outage
        and fault["name"].startswith((*_NO_LOOK, "NOREPLICAS"))
        and fault["t"] < until
        and (fault["ended"] or until) > outage["ended"]
        for fault in history.faults
    )
