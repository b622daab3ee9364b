"""The judge of limits by key, with forged histories."""

from __future__ import annotations

import pytest

from tests.chaos.history import History
from tests.chaos.politeness import counted, too_many
from tests.chaos.test_history import ONE, TWO, Story

KEYS = ("site:1",)


def limit(story: Story, most: int) -> Story:
    for heard in (False, True):
        story.tell("limit", pattern="site:*", most=most, heard=heard)
    return story


@pytest.mark.parametrize(("most", "found"), [(1, 2), (2, 1), (3, 0)])
def test_more_at_once_than_may(most: int, found: int) -> None:
    story = limit(Story(), most)
    for n in range(3):
        story.start(f"m{n}", seq=n, keys=KEYS)
    for n in range(3):
        story.end(f"m{n}", seq=n)
    assert len(list(too_many(History(story.events)))) == found
    assert counted(History(story.events)) == 3


def test_one_after_the_other_and_of_another_key() -> None:
    story = limit(Story(), 1).start("a", keys=KEYS).start("b", seq=2, keys=("site:2",))
    story.end("a").start("c", seq=3, keys=KEYS).end("c", seq=3).end("b", seq=2)
    assert not list(too_many(History(story.events)))


def test_two_keys_of_a_message_count_both() -> None:
    story = limit(Story(), 1).start("a", keys=("tenant:1", "site:1")).start("b", seq=2, keys=KEYS)
    assert not list(too_many(History(story.events))), "a that has no end counts for a moment"
    story.end("a").end("b", seq=2)
    assert len(list(too_many(History(story.events)))) == 1


def test_what_was_lowered_counts_from_the_next_claim_on() -> None:
    story = limit(Story(), 2).start("a", keys=KEYS)
    limit(story, 1).start("b", seq=2, keys=KEYS).end("a").end("b", seq=2)
    assert not list(too_many(History(story.events))), "both may have been claimed before"
    late = limit(Story(), 2)
    limit(late, 1).passes(60).start("a", keys=KEYS).start("b", seq=2, keys=KEYS)
    late.end("a").end("b", seq=2)
    assert len(list(too_many(History(late.events)))) == 1


@pytest.mark.parametrize("how", ["renewed", "fault"])
def test_who_was_taken_for_dead_runs_on_without_a_permit(how: str) -> None:
    story = limit(Story(), 1)
    if how == "fault":
        story.tell("fault", name="refused", costs_lease=[1])
    story.start("a", ONE, pid=1, keys=KEYS).start("a", TWO, pid=2, delivery=2, keys=KEYS)
    if how == "renewed":
        story.tell("renewed", worker=ONE)
    story.end("a", ONE).end("a", TWO)
    assert not list(too_many(History(story.events)))
    assert counted(History(story.events)) == 1


def test_a_verdict_tells_it() -> None:
    story = limit(Story().sent("a", "b"), 1)
    story.start("a", keys=KEYS).start("b", seq=2, keys=KEYS).end("a").end("b", seq=2)
    problems = story.check().problems
    assert any("2 of site:1 ran at once, 1 may" in one for one in problems), problems
