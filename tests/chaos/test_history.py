"""The checker itself, on forged histories: it must find each kind of violation, and no other."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

import pytest

from tests.chaos.history import Event, Journal, Reader
from tests.chaos.judge import Final, Verdict, check

ONE, TWO = "0" * 15 + "1", "0" * 15 + "2"  # incarnations


class Story:
    """A history that is told line by line; a line a second."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.late = 0.0
        self.present: set[str] = set()
        self.results: dict[str, bytes] = {}
        self.dead: dict[str, bytes] = {}

    def tell(self, what: str, **fields: Any) -> Self:
        now = len(self.events) + self.late
        self.events.append({"what": what, "t": now, "pid": 1, **fields})
        return self

    def killed(self, pid: int = 1) -> Self:
        return self.tell("fault", name="SIGKILL", of=pid).tell("down", of=pid, code=-9)

    def passes(self, seconds: float) -> Self:
        """Nothing is told for so long."""
        self.late += seconds
        return self

    def sent(
        self, *ids: str, verdict: str = "ok", expires: bool = False, tags: Collection[str] = ()
    ) -> Self:
        self.tell("send", ids=list(ids), expires=expires, tags=list(tags))
        return self.tell("sent", ids=list(ids), verdict=verdict)

    def start(self, id: str, worker: str = ONE, seq: int = 1, pid: int = 1, **more: Any) -> Self:
        more = {"attempt": 0, "delivery": 1, **more}
        return self.tell("start", id=id, worker=worker, seq=seq, pid=pid, **more)

    def end(self, id: str, worker: str = ONE, seq: int = 1, how: str = "returned") -> Self:
        return self.tell("end", id=id, worker=worker, seq=seq, how=how)

    def settled(
        self, id: str, worker: str = ONE, seq: int = 1, kind: str = "done", ours: bool = True
    ) -> Self:
        return self.tell("settled", worker=worker, outcomes=[[id, seq, kind, ours]])

    def announced(self, id: str, worker: str = ONE, seq: int = 1) -> Self:
        payload = result(worker, seq).decode()
        return self.tell("announced", id=id, payload=payload)

    def whole(self, id: str, worker: str = ONE, seq: int = 1, pid: int = 1) -> Self:
        """A run that is begun, ended, announced and settled."""
        self.start(id, worker, seq, pid).end(id, worker, seq)
        self.results[id] = result(worker, seq)
        return self.announced(id, worker, seq).settled(id, worker, seq)

    def check(self, codes: Collection[int] = ()) -> Verdict:
        return check(self.events, self.final(), codes=codes)

    def final(self) -> Final:
        return Final(frozenset(self.present), self.results, self.dead)


def result(worker: str, seq: int) -> bytes:
    return b'{"state":"SUCCESS","value":{"token":"%b:%d","value":null}}' % (worker.encode(), seq)


@pytest.fixture
def story() -> Story:
    return Story()


def only_problem(story: Story) -> str:
    (problem,) = story.check().problems
    return problem


def test_a_plain_life_is_no_problem(story: Story) -> None:
    verdict = story.sent("a", "b").whole("a").whole("b").check()
    assert verdict.problems == []
    assert (verdict.sent, verdict.executions, verdict.ended["done"]) == (2, 2, 2)
    assert not verdict.twice


# Lost


def test_what_was_acknowledged_and_never_ends_is_lost(story: Story) -> None:
    story.sent("a", "b").whole("a")
    assert only_problem(story) == "1 lost: b"


def test_what_ran_and_did_not_end_is_lost(story: Story) -> None:
    """A run whose process was killed is no completion."""
    story.sent("a").start("a").end("a").killed()
    assert only_problem(story) == "1 lost: a"


def test_what_was_released_and_never_ran_again_is_lost(story: Story) -> None:
    story.sent("a").start("a").end("a", how="Release").settled("a", kind="release")
    assert only_problem(story) == "1 lost: a"


def test_an_unknown_send_may_be_gone_or_there(story: Story) -> None:
    verdict = story.sent("a", "b", verdict="unknown").whole("b").check()
    assert verdict.problems == []
    assert (verdict.unknown, verdict.unknown_ran) == (2, 1)


def test_a_sender_that_dies_before_it_can_tell_has_sent_unknown(story: Story) -> None:
    verdict = story.tell("send", ids=["a"]).check()
    assert verdict.problems == []
    assert verdict.unknown == 1


def test_what_ran_had_arrived_though_its_sender_does_not_know(story: Story) -> None:
    story.sent("a", verdict="unknown").start("a").end("a").killed()
    assert only_problem(story) == "1 lost: a"


def test_a_dead_letter_that_was_sent_again_and_vanishes_is_lost(story: Story) -> None:
    """The announcement of its first death tells nothing of its second life."""
    story.sent("a").start("a").end("a", how="Failure").settled("a", kind="dead")
    story.tell("announced", id="a", payload='{"state":"FAILURE","error":{}}')
    story.tell("revive", ids=["a"]).tell("revived", ids=["a"], verdict="ok")
    assert only_problem(story) == "1 lost: a"


def test_a_dead_letter_that_was_sent_again_may_end_again(story: Story) -> None:
    story.sent("a").start("a").end("a", how="Failure").settled("a", kind="dead")
    story.tell("revive", ids=["a"]).whole("a", seq=2)
    assert story.check().problems == []


def test_a_dead_letter_that_was_not_sent_again_may_not_end_again(story: Story) -> None:
    story.sent("a").start("a").settled("a", kind="dead")
    story.tell("revive", ids=["a"]).tell("revived", ids=["a"], verdict="refused")
    assert "1 completed twice" in str(story.whole("a", seq=2).check().problems)


def test_a_dead_letter_is_not_lost(story: Story) -> None:
    story.sent("a").start("a").end("a", how="Failure")
    story.dead["a"] = b"1 failed w\n{}\n1 0"
    assert story.check().problems == []


def test_what_a_server_without_persistence_loses_is_counted_apart(story: Story) -> None:
    story.sent("a").tell("fault", name="empty", loses_data=True).sent("b")
    verdict = story.check()
    assert verdict.lost_by_server == ["a"]
    assert verdict.lost == ["b"]


def test_what_a_server_has_forgotten_to_be_done_may_be_done_again(story: Story) -> None:
    story.sent("a").whole("a", ONE, pid=1).tell("fault", name="failover", loses_data=True)
    # The worker that has settled it gives it back.
    story.settled("a", kind="release")
    verdict = story.whole("a", TWO, pid=2).check()
    assert verdict.problems == []
    assert verdict.twice == {"server lost data": 1}


def test_what_is_left_after_the_drain_is_a_problem(story: Story) -> None:
    story.sent("a")
    story.present.add("a")
    assert only_problem(story) == "a is still present after the drain"


# Unexpected


def test_what_nobody_sent_must_not_run(story: Story) -> None:
    assert only_problem(story.whole("a")) == "1 unexpected: run, but never sent: a"


def test_what_was_refused_must_not_run(story: Story) -> None:
    story.sent("a", verdict="refused").whole("a")
    assert only_problem(story) == "a was refused, and yet it is there"


def test_what_was_refused_must_not_be_there_either(story: Story) -> None:
    story.sent("a", verdict="refused")
    story.results["a"] = b'{"state":"EXPIRED"}'
    assert "a was refused, and yet it is there" in story.check().problems


# Twice


def test_a_run_twice_needs_a_cause(story: Story) -> None:
    story.sent("a").start("a").end("a").whole("a", TWO, pid=2)
    assert only_problem(story).startswith("1 run twice without a cause: a")


def test_two_open_runs_need_a_cause_though_neither_result_is_known(story: Story) -> None:
    story.sent("a").start("a").end("a").start("a", TWO, pid=2).end("a", TWO)
    story.dead["a"] = b""
    assert only_problem(story).startswith("1 run twice without a cause: a")


def test_one_delivery_must_not_be_begun_twice(story: Story) -> None:
    """A claim that was adopted though its reply had arrived, say."""
    story.sent("a").start("a").whole("a")
    assert only_problem(story).endswith("a: one delivery was begun twice")


@pytest.mark.parametrize(
    ("cause", "lines"),
    [
        (
            "worker killed",
            [("fault", {"name": "SIGKILL", "of": 1}), ("down", {"of": 1, "code": -9})],
        ),
        (
            "worker killed",
            [("up", {"of": 1, "failpoint": "task.start=KILL@2"}), ("down", {"of": 1, "code": -9})],
        ),
        (
            "worker killed",
            [("fault", {"name": "SIGSTOP w1", "of": 1}), ("down", {"of": 1, "code": -14})],
        ),
        (
            "worker ended before it was settled",
            [
                ("says", {"text": "3 outcomes could not be settled: …"}),
                ("down", {"of": 1, "code": 1}),
            ],
        ),
        (
            "a task killed its worker",
            [("fault", {"name": "poison", "of": 1}), ("down", {"of": 1, "code": 9})],
        ),
        (
            "incarnation given up",
            [
                ("fault", {"name": "stop", "costs_lease": [1]}),
                ("renewed", {"worker": ONE, "pid": 1}),
            ],
        ),
        ("server lost data", [("fault", {"name": "empty", "loses_data": True})]),
        (
            "released at a stop",
            [("settled", {"worker": ONE, "outcomes": [["a", 1, "release", 1]]})],
        ),
    ],
)
def test_causes(story: Story, cause: str, lines: list[tuple[str, dict[str, Any]]]) -> None:
    story.sent("a").start("a", pid=1)
    for what, fields in lines:
        story.tell(what, **fields)
    verdict = story.whole("a", TWO, pid=2).check()
    assert verdict.problems == []
    assert verdict.twice == {cause: 1}


@pytest.mark.parametrize("code", [-9, -11, -6, 5, 1, 2, 3, 9, -14])
def test_a_worker_that_ends_of_something_else(story: Story, code: int) -> None:
    """Also when nothing was lost, and nothing ran twice."""
    story.tell("up", of=1, failpoint="task.start=TERM").sent("a").whole("a", pid=1)
    story.tell("down", of=1, code=code)
    assert only_problem(story) == f"worker 1 ended with {code}, and nobody did that to it"


def test_a_scenario_may_know_why_a_worker_ends(story: Story) -> None:
    story.sent("a").whole("a").tell("down", of=1, code=2)
    assert story.check(codes=(2,)).problems == []


@pytest.mark.parametrize("code", [0, -15])
def test_a_worker_ends_when_it_is_told_and_not_of_itself(story: Story, code: int) -> None:
    assert only_problem(Story().tell("down", of=1, code=code)).endswith("nobody did that to it")
    assert (
        story.tell("fault", name="SIGTERM", of=1).tell("down", of=1, code=code).check().problems
        == []
    )


@pytest.mark.parametrize(
    ("what", "fields"),
    [("registered", {"worker": ONE, "welcome": True}), ("says", {"text": "stopping: 0 running"})],
)
def test_who_listens_does_not_die_of_a_signal(
    story: Story, what: str, fields: dict[str, Any]
) -> None:
    story.tell(what, **fields).tell("fault", name="SIGTERM", of=1)
    assert only_problem(story.tell("down", of=1, code=-15)).startswith("worker 1 ended with -15")


@pytest.mark.parametrize("code", [3, -14])
def test_who_ends_at_max_block_was_blocked(story: Story, code: int) -> None:
    story.sent("a").start("a", task="block").tell("down", of=1, code=code)
    story.dead["a"] = b""
    assert story.check().problems == []


def test_a_freeze_of_an_hour_ago_blocks_nobody(story: Story) -> None:
    story.tell("fault", name="SIGSTOP w1", of=1).tell("mended", name="SIGSTOP w1").passes(3600)
    assert only_problem(story.tell("down", of=1, code=3)).startswith("worker 1 ended with 3")


@pytest.mark.parametrize("grace", [2, 30])
def test_a_stop_ends(grace: int) -> None:
    def stop(seconds: float, *more: tuple[str, dict[str, Any]]) -> list[str]:
        story = Story().tell("up", of=1, failpoint="", args=["--grace", str(grace)])
        story.tell("fault", name="SIGTERM", of=1)
        for what, fields in more:
            story.tell(what, **fields)
        story.passes(seconds - len(more) - 1)
        return story.tell("down", of=1, code=0).check().problems

    frozen = ("fault", {"name": "SIGSTOP w1", "of": 1})
    thawed = ("mended", {"name": "SIGSTOP w1"})
    assert stop(grace + 6.5) == []
    (problem,) = stop(grace + 7.5)
    assert problem == f"worker 1 was told to end, and was still there {grace + 7.5:.1f} s later"
    assert stop(grace + 60, frozen) == []
    assert len(stop(grace + 60, frozen, thawed)) == 1
    assert len(stop(9.5, ("fault", {"name": "SIGTERM", "of": 1}))) == 1


def test_a_stop_that_never_ends(story: Story) -> None:
    story.tell("fault", name="SIGTERM", of=1).passes(600).tell("mark", name="the end")
    assert "was told to end, and was still there" in only_problem(story)


def test_a_death_before_the_run_is_no_cause(story: Story) -> None:
    """Process ids come again."""
    story.killed().sent("a").start("a").end("a").whole("a", TWO, pid=2)
    assert only_problem(story).startswith("1 run twice without a cause")


def test_a_death_long_after_the_next_run_is_no_cause(story: Story) -> None:
    """A double delivery among the living: the refused one's worker is killed an hour later."""
    story.sent("a").start("a").start("a", TWO, pid=2).end("a", TWO).announced("a", TWO)
    story.settled("a", TWO).end("a").settled("a", ours=False).passes(3600).killed()
    assert only_problem(story).startswith("1 run twice without a cause")


def test_a_run_that_begins_after_the_end_needs_a_cause(story: Story) -> None:
    story.sent("a").whole("a", TWO, pid=2).start("a").end("a").settled("a", ours=False)
    story.tell("fault", name="SIGTERM", of=1).tell("down", of=1, code=0)
    assert only_problem(story).startswith("1 run twice without a cause")


def test_an_incarnation_that_is_given_up_long_after_the_next_run_is_no_cause(
    story: Story,
) -> None:
    story.sent("a").start("a").whole("a", TWO, pid=2).passes(3600)
    story.tell("fault", name="stop", costs_lease=[1]).tell("renewed", worker=ONE, pid=1)
    assert only_problem(story).startswith("1 run twice without a cause")


def test_who_was_frozen_notices_later(story: Story) -> None:
    story.sent("a").start("a").tell("fault", name="SIGSTOP w1", of=1, costs_lease=[1])
    story.whole("a", TWO, pid=2).tell("mended", name="SIGSTOP w1")
    verdict = story.tell("renewed", worker=ONE, pid=1).check()
    assert verdict.problems == []
    assert verdict.twice == {"incarnation given up": 1}


def test_who_was_frozen_with_its_claim_begins_late(story: Story) -> None:
    story.sent("a").tell("fault", name="SIGSTOP w1", of=1, costs_lease=[1])
    story.whole("a", TWO, pid=2).tell("mended", name="SIGSTOP w1").start("a")
    verdict = story.tell("renewed", worker=ONE, pid=1).check()
    assert verdict.problems == []
    assert verdict.twice == {"incarnation given up": 1}


def test_a_release_of_what_had_returned_is_no_stop(story: Story) -> None:
    story.sent("a").start("a").end("a").settled("a", kind="release").whole("a", TWO, pid=2)
    assert only_problem(story).startswith("1 run twice without a cause")


def test_a_release_by_a_worker_that_left_is_a_stop(story: Story) -> None:
    """What it still held at the end went back with its incarnation, not by an outcome of its own."""
    story.sent("a").start("a").tell("fault", name="SIGTERM", of=1)
    story.end("a", how="Release").tell("down", of=1, code=0)
    assert story.whole("a", TWO, pid=2).check().twice == {"released at a stop": 1}


def test_retries_are_no_duplicates(story: Story) -> None:
    story.sent("a").start("a").end("a", how="Failure").settled("a", kind="retry")
    story.start("a", seq=2, attempt=1).end("a", seq=2).settled("a", seq=2)
    verdict = story.check()
    assert verdict.problems == []
    assert (verdict.retries, verdict.twice) == (1, {})


def test_a_retry_whose_settling_nobody_heard_shows_in_the_next_attempt(story: Story) -> None:
    story.sent("a").start("a").end("a", how="Failure")
    verdict = story.start("a", seq=2, attempt=1).end("a", seq=2).settled("a", seq=2).check()
    assert verdict.problems == []
    assert (verdict.retries, verdict.twice) == (1, {})


def test_an_attempt_that_was_run_twice_needs_a_cause_though_it_was_retried(story: Story) -> None:
    story.sent("a").start("a").end("a", how="Failure")
    story.start("a", TWO, pid=2).end("a", TWO, how="Failure").settled("a", TWO, kind="retry")
    story.start("a", TWO, seq=2, pid=2, attempt=1).settled("a", TWO, seq=2)
    assert only_problem(story).startswith("1 run twice without a cause: a")


def test_two_runs_of_an_attempt_of_which_nobody_heard_are_one_too_many(story: Story) -> None:
    story.sent("a").start("a").start("a", TWO, pid=2)
    story.start("a", TWO, seq=2, pid=2, attempt=1).settled("a", TWO, seq=2)
    assert only_problem(story).startswith("1 run twice without a cause: a")


def test_a_last_run_without_an_outcome_is_no_further_one(story: Story) -> None:
    """A poison message: each of its runs ends its worker, and the last one is not one too many."""
    story.sent("a")
    for n in (1, 2, 3):
        story.start("a", f"{n:016}", pid=n).tell("fault", name="poison", of=n)
        story.tell("down", of=n, code=9)
    story.dead["a"] = b"1 poison w\n{}\n1 3"
    verdict = story.check()
    assert verdict.problems == []
    assert verdict.twice == {"a task killed its worker": 2}


def test_who_puts_itself_off_runs_again(story: Story) -> None:
    story.sent("a").start("a").end("a", how="Snooze")
    story.start("a", seq=2).end("a", seq=2, how="Snooze").settled("a", seq=2, kind="later")
    verdict = story.whole("a", seq=3).check()
    assert verdict.problems == []
    assert (verdict.retries, verdict.twice) == (2, {})


def test_what_was_ignored_has_no_result_and_is_not_lost(story: Story) -> None:
    story.sent("a").start("a").end("a", how="Ignore").tell("down", of=1, code=-9)
    story.sent("b").start("b").end("b")
    verdict = story.killed().check()
    assert verdict.ended["done"] == 1
    assert verdict.lost == ["b"]


def test_of_what_is_unique_one_runs_at_a_time(story: Story) -> None:
    for id, token in (("a", ONE), ("b", TWO)):
        story.tell("send", ids=[id], only=7).tell("sent", ids=[id], verdict="ok")
        story.whole(id, token)
    assert story.check().problems == []


def test_two_unique_ones_at_once_are_a_problem(story: Story) -> None:
    for id in ("a", "b"):
        story.tell("send", ids=[id], only=7).tell("sent", ids=[id], verdict="ok")
    story.start("a").whole("b", TWO, pid=2).end("a").settled("a")
    assert only_problem(story) == "a and b, unique by 7, ran at once"


CANCELLED = b'{"state":"CANCELLED"}'


def test_what_was_cancelled_has_ended(story: Story) -> None:
    story.sent("a").start("a").end("a", how="Cancelled")
    story.tell("cancel", ids=["a"]).tell("cancelled", ids=["a"])
    story.results["a"] = CANCELLED
    verdict = story.settled("a", kind="cancelled").check()
    assert (verdict.problems, verdict.ended["cancelled"]) == ([], 1)


@pytest.mark.parametrize("what", [{"ids": ["b"]}, {"tag": "other"}])
def test_what_nobody_cancelled_must_not_be(story: Story, what: dict[str, Any]) -> None:
    story.sent("a", tags=["some"]).tell("cancel", **what).tell("cancelled", **what)
    story.results["a"] = CANCELLED
    assert only_problem(story) == "a was cancelled by nobody"


def test_a_cancellation_may_be_announced_again_and_nothing_else(story: Story) -> None:
    story.sent("a").tell("cancel", ids=["a"]).tell("cancelled", ids=["a"])
    for _ in range(2):
        story.tell("announced", id="a", payload=CANCELLED.decode())
    assert story.check().problems == []
    assert "completed twice: a was announced 2 times" in only_problem(story.announced("a"))


def test_a_tag_hits_what_was_sent_before_it_was_answered(story: Story) -> None:
    story.tell("cancel", tag="some").sent("a", tags=["some"]).tell("cancelled", tag="some")
    story.results["a"] = CANCELLED
    assert story.check().problems == []
    story.sent("b", tags=["some"])
    story.results["b"] = CANCELLED
    assert only_problem(story) == "b was cancelled by nobody"


def test_what_was_cancelled_does_not_begin(story: Story) -> None:
    story.sent("a").tell("cancel", ids=["a"]).tell("cancelled", ids=["a"]).passes(30)
    assert only_problem(story.whole("a")) == "a was begun long after it was cancelled"


def test_what_was_cancelled_may_have_been_claimed(story: Story) -> None:
    story.sent("a").tell("cancel", ids=["a"]).tell("cancelled", ids=["a"])
    assert story.whole("a").check().problems == []


def test_a_dead_letter_that_was_cancelled_may_be_sent_again(story: Story) -> None:
    story.sent("a").tell("cancel", ids=["a"]).tell("cancelled", ids=["a"]).passes(30)
    story.tell("revive", ids=["a"]).tell("revived", ids=["a"], verdict="ok")
    assert story.whole("a").check().problems == []


def ticks(story: Story, *seconds: int) -> Story:
    for second in seconds:
        story.whole(f"tick@2026-11-22T03:00:{second:02}Z", seq=second + 1)
    return story


def test_ticks_are_sent_by_no_producer(story: Story) -> None:
    assert ticks(story, 0, 2, 4, 6).check().problems == []


def test_a_due_time_without_a_tick_is_a_problem(story: Story) -> None:
    ticks(story, 0, 2, 6, 8)
    assert only_problem(story) == "1 ticks of tick were left out"


def test_after_a_downtime_there_is_one_tick(story: Story) -> None:
    assert ticks(story, 0, 2, 14, 16).check().problems == []


def test_a_due_time_with_two_ticks_is_a_problem(story: Story) -> None:
    ticks(story, 0, 2).whole("tick@2026-11-22T03:00:02Z", TWO, pid=2)
    assert any("completed twice" in it for it in story.check().problems)


def test_what_ran_must_not_expire(story: Story) -> None:
    story.sent("a", expires=True).start("a").end("a")
    story.results["a"] = b'{"state":"EXPIRED"}'
    assert only_problem(story).startswith("1 run twice without a cause: a ran, and expired")


def test_what_may_not_expire_must_not(story: Story) -> None:
    story.sent("a")
    story.results["a"] = b'{"state":"EXPIRED"}'
    assert only_problem(story) == "a expired, though it may not"


# Completed twice


def test_two_answers_to_two_deliveries_are_a_double_completion(story: Story) -> None:
    story.sent("a").start("a").settled("a").start("a", TWO, pid=2).settled("a", TWO)
    story.killed()  # a cause to run twice is none to complete twice
    assert only_problem(story).startswith("1 completed twice: a by")


def test_two_announcements_are_a_double_completion(story: Story) -> None:
    story.sent("a").start("a").announced("a").announced("a")
    assert only_problem(story) == "1 completed twice: a was announced 2 times"


def test_a_result_of_another_run_than_the_settled_one_is_a_double_completion(story: Story) -> None:
    story.sent("a").start("a").settled("a").killed()
    story.start("a", TWO, pid=2)
    story.results["a"] = result(TWO, 1)
    assert only_problem(story).startswith("1 completed twice: a by")


def test_a_refused_outcome_is_no_completion(story: Story) -> None:
    story.sent("a").start("a").end("a").settled("a", ours=False).killed()
    assert story.whole("a", TWO, pid=2).check().problems == []


def test_an_id_that_was_sent_twice_may_complete_twice(story: Story) -> None:
    story.sent("a").whole("a").sent("a").whole("a", seq=2)
    assert story.check().problems == []


# Incarnations


def test_a_living_worker_gives_nothing_up_for_nothing(story: Story) -> None:
    story.tell("renewed", worker=ONE, pid=1)
    assert "no fault explains it" in only_problem(story)


def test_a_worker_that_has_left_may_find_itself_gone(story: Story) -> None:
    verdict = story.tell("left", worker=ONE).tell("renewed", worker=ONE, pid=1).check()
    assert verdict.problems == []
    assert verdict.given_up == 0


@pytest.mark.parametrize("of", [[7], "all"])
def test_a_fault_explains_what_it_may_cost(story: Story, of: Any) -> None:
    story.tell("fault", name="stop", costs_lease=of).tell("renewed", worker=ONE, pid=7)
    verdict = story.check()
    assert verdict.problems == []
    assert verdict.given_up == 1


def test_a_fault_of_another_worker_or_of_another_time_explains_nothing(story: Story) -> None:
    story.tell("fault", name="stop", costs_lease=[8]).tell("mended", name="stop")
    story.tell("fault", name="old", costs_lease=[7]).tell("mended", name="old")
    story.tell("renewed", worker=ONE, pid=7, t=1000.0)
    story.tell("fault", name="late", costs_lease=[7], t=1001.0)
    assert "no fault explains it" in only_problem(story)


@pytest.mark.parametrize(("later", "explained"), [(10.0, True), (12.0, False)])
def test_a_fault_explains_what_is_noticed_a_lease_and_a_read_timeout_later(
    story: Story, later: float, explained: bool
) -> None:
    story.tell("up", of=1, failpoint="", args=["--lease", "6"])
    story.tell("fault", name="refused", costs_lease="all").tell("mended", name="refused")
    verdict = story.passes(later - 1).tell("renewed", worker=ONE, pid=1).check()
    assert (verdict.problems == []) == explained


# The journal


def test_a_journal_is_read_while_it_grows(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    reader = Reader(journal.path)
    journal.write("send", ids=["a"])
    assert [event["what"] for event in reader.events()] == ["send"]
    # Another process' line, of which only a half is there yet
    with journal.path.open("ab") as other:
        other.write(b'{"what":"sent",')
        other.flush()
        assert len(reader.events()) == 1
        other.write(b'"t":1}\n')
    journal.write("mark", name="end")
    assert [event["what"] for event in reader.events()] == ["send", "sent", "mark"]
    journal.close()
