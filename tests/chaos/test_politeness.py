"""The judge of limits by key, with forged histories."""

from __future__ import annotations

import pytest

from tests.chaos.history import History
from tests.chaos.politeness import counted, too_many
from tests.chaos.test_history import ONE, TWO, Story

KEYS = ("site:1",)


def ended(story: Story, *runs: tuple[str, int]) -> History:
    """They end, and the server takes their outcomes."""
    for id, seq in runs:
        story.end(id, seq=seq).settled(id, seq=seq)
    return History(story.events)


def limit(story: Story, most: int) -> Story:
    for heard in (False, True):
        story.tell("limit", pattern="site:*", most=most, heard=heard)
    return story


@pytest.mark.parametrize(("most", "found"), [(1, 2), (2, 1), (3, 0)])
def test_more_at_once_than_may(most: int, found: int) -> None:
    story = limit(Story(), most)
    for n in range(3):
        story.start(f"m{n}", seq=n, keys=KEYS)
    history = ended(story, ("m0", 0), ("m1", 1), ("m2", 2))
    assert len(list(too_many(history))) == found
    assert counted(history) == 3


def test_one_after_the_other_and_of_another_key() -> None:
    story = limit(Story(), 1).start("a", keys=KEYS).start("b", seq=2, keys=("site:2",))
    ended(story, ("a", 1))
    story.start("c", seq=3, keys=KEYS)
    assert not list(too_many(ended(story, ("c", 3), ("b", 2))))


def test_two_keys_of_a_message_count_both() -> None:
    story = limit(Story(), 1).start("a", keys=("tenant:1", "site:1")).start("b", seq=2, keys=KEYS)
    assert len(list(too_many(ended(story, ("a", 1), ("b", 2))))) == 1


def test_what_was_lowered_counts_from_the_next_claim_on() -> None:
    story = limit(Story(), 2).start("a", keys=KEYS)
    limit(story, 1).start("b", seq=2, keys=KEYS)
    history = ended(story, ("a", 1), ("b", 2))
    assert not list(too_many(history)), "both may have been claimed before"
    late = limit(Story(), 2)
    limit(late, 1).passes(60).start("a", keys=KEYS).start("b", seq=2, keys=KEYS)
    assert len(list(too_many(ended(late, ("a", 1), ("b", 2))))) == 1


def test_who_was_taken_for_dead_runs_on_without_a_permit() -> None:
    story = limit(Story(), 1)
    story.start("a", ONE, keys=KEYS).start("a", TWO, pid=2, delivery=2, keys=KEYS)
    story.end("a", ONE).settled("a", ONE, ours=False).end("a", TWO).settled("a", TWO)
    history = History(story.events)
    assert not list(too_many(history))
    assert counted(history) == 1


def test_a_verdict_tells_it() -> None:
    story = limit(Story().sent("a", "b"), 1)
    story.start("a", keys=KEYS).start("b", seq=2, keys=KEYS)
    ended(story, ("a", 1), ("b", 2))
    problems = story.check().problems
    assert any("2 of site:1 ran at once, 1 may" in one for one in problems), problems
