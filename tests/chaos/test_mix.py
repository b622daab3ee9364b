"""What the mix says of itself: whom its faults hit, what people did, what its figures are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from greenworker.errors import BrokerUnavailable
from tests.chaos.figures import NEWS, Figures, measure, unheard
from tests.chaos.history import History, Journal, read
from tests.chaos.judge import check
from tests.chaos.mix import Mix, revive
from tests.chaos.schedule import Step
from tests.chaos.test_history import TWO, Story


class People:
    """Who retries dead letters, and what is said of each."""

    def __init__(self, fates: dict[str, str] | Exception) -> None:
        self.dead, self._fates = self, fates

    def retry(self, *ids: str) -> dict[str, str]:
        if isinstance(self._fates, Exception):
            raise self._fates
        return {id: self._fates[id] for id in ids}


def test_only_what_was_sent_again_may_end_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.write("send", ids=["a", "b"])
    people: Any = People({"a": "retried", "b": "gone"})
    revive(people, journal, ["a", "b"])
    history = History(read(journal.path))
    assert (history.lives("a"), history.lives("b")) == (2, 1)
    people = People(BrokerUnavailable("cut"))
    with pytest.raises(BrokerUnavailable):
        revive(people, journal, ["b"])
    assert History(read(journal.path)).lives("b") == 2, "nobody knows: perhaps it was"
    journal.close()


@pytest.mark.parametrize(("worker", "workers_too"), [(0, True), (1, True), (2, True), (3, False)])
def test_what_hits_the_senders_alone_excuses_no_worker(worker: int, workers_too: bool) -> None:
    server = SimpleNamespace(url="redis://127.0.0.1:1")
    arena: Any = SimpleNamespace(server=server, proxy=object(), producers=object())
    mix = Mix(arena, 1, 1.0, 1.0, ())
    excuses = mix._apart(Step("network", 0.0, "refuse", 1.0, worker))
    assert excuses == ({"stops_all": True, "costs_lease": "all"} if workers_too else {})


@pytest.mark.parametrize(
    ("verdict", "how", "later", "missed"),
    [
        ("ok", "value", 0.0, False),
        ("ok", "value", NEWS, True),
        ("ok", "ResultTimeout", NEWS, True),
        ("ok", "ResultGone", 0.0, True),
        ("unknown", "ResultGone", NEWS, False),
    ],
)
def test_who_waits_is_told(verdict: str, how: str, later: float, missed: bool) -> None:
    story = Story().sent("a", verdict=verdict).whole("a").passes(later)
    story.tell("asked", id="a", how=how)
    history = History(story.events)
    assert unheard([story.events[-1]], history) == (["a"] if missed else [])


@pytest.mark.parametrize(("name", "missed"), [("half-open", False), ("cut", True)])
def test_time_in_which_no_look_up_has_a_chance_does_not_count(name: str, missed: bool) -> None:
    story = Story().sent("a").whole("a").passes(1).tell("fault", name=name).passes(3)
    story.tell("fault", name="server frozen").passes(3).tell("mended", name=name)
    story.passes(2).tell("mended", name="server frozen").passes(NEWS - 4)
    story.tell("asked", id="a", how="value")
    assert unheard([story.events[-1]], History(story.events)) == (["a"] if missed else [])


def test_who_is_told_that_it_is_gone_before_it_ends() -> None:
    story = Story().sent("a").tell("asked", id="a", how="ResultGone")
    assert unheard([story.events[-1]], History(story.whole("a").events)) == ["a"]


@pytest.mark.parametrize(("second", "resumed"), [("", True), ("server frozen", False)])
def test_a_return_is_judged_if_no_other_outage_followed(second: str, resumed: bool) -> None:
    story = (
        Story().sent("a").tell("fault", name="server killed").tell("mended", name="server killed")
    )
    if second:
        story.tell("fault", name=second)
    story.passes(4).whole("a")
    figures = Figures(1, 1.0, check(story.events, story.final()))
    measure(History(story.events), figures)
    assert (figures.resumed > 4) is resumed


def test_the_longest_rerun_explains_itself() -> None:
    story = Story().sent("a", "b").start("a", task="nap").killed()
    story.start("a", TWO, pid=2, delivery=2, task="nap").whole("b", TWO, seq=2, pid=2)
    story.tell("fault", name="SIGKILL", of=2).tell("down", of=2, code=-9)
    story.tell("fault", name="SIGSTOP chaos3", of=3).passes(60).start(
        "a", "3" * 16, pid=3, delivery=3
    )
    figures = Figures(1, 1.0, check(story.events, story.final()))
    measure(History(story.events), figures)
    line = figures.lines()[-1]
    assert line.startswith(
        "longest     62.0 s: nap a, lost as delivery 2, ran again as attempt 0, delivery 3"
    )
    assert "1 SIGSTOP" in line.partition("meanwhile")[2]
