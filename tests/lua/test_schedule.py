"""schedule_*: one tick for each moment, whoever proposes it, and what is known of a schedule."""

from __future__ import annotations

import pytest

from greenworker.broker import PushFields, push_fields
from greenworker.errors import BrokerError
from greenworker.message import Message
from greenworker.timetable import LEAVE, Entry, Known, Tick, Timetable
from tests.support.sending import REPLACE, sending
from tests.support.state import Space, envelope

WHEN = "every 30"
ENTRY = Entry("beat", WHEN, "t")


class Times(Timetable):
    """A timetable of one space, with the server's clock at hand."""

    def __init__(self, space: Space) -> None:
        super().__init__(space.broker._link, space.broker.namespace)
        self.space = space

    def due(self, since: float | None = None, entry: Entry = ENTRY) -> float | None:
        (due,) = self.plan(since, [entry]).due
        return due

    def set(self, due: float, name: str = "beat", **fields: float) -> float:
        """Let the schedule be planned, `due` seconds from now; returns that moment."""
        moment = round(self.space.broker.time() + due, 3)
        line = {"last": 0.0, "since": 0.0, "seen": self.space.broker.time(), "paused": 0.0} | fields
        ms = " ".join(str(round(line[key] * 1000)) for key in ("last", "since", "seen", "paused"))
        text = f"{round(moment * 1000)} {ms} {WHEN}\nt"
        self.space.redis.hset(self.space.key("schedules"), name, text)
        return moment

    def one(self) -> Known:
        (known,) = self.known()[1].values()
        return known


@pytest.fixture
def times(space: Space) -> Times:
    return Times(space)


@pytest.fixture
def own_times(own_space: Space) -> Times:
    return Times(own_space)


def message(id: str, queue: str = "default") -> PushFields:
    return push_fields(Message(id, "t", queue=queue))


def tick(due: float | None, id: str = "m", name: str = "beat", queue: str = "default") -> Tick:
    moment = due or 0.0
    sent = None if due is None else message(id, queue)
    return Tick(name, WHEN, due, moment + 3600.0, moment, sent)


def test_a_tick_is_sent_and_the_schedule_goes_on(space: Space, times: Times) -> None:
    due = times.set(-1.0)
    assert times.due() == due
    assert times.tick([tick(due)]) == "s"
    state = space.state()
    assert state.pop("schedules") == {"beat": f"later now 0 now 0 {WHEN}\nt"}
    assert state == {
        "msg": {"m": envelope()},
        "ready:default:5": ["m"],
        "wake:default": ["1"],
        "queues": {"default"},
        "stats": {"enqueued": "1"},
    }
    assert times.one() == Known("beat", WHEN, "t", due + 3600.0, due, times.one().seen, None)
    space.check()


def test_who_comes_second_sends_nothing(space: Space, times: Times) -> None:
    due = times.set(-1.0)
    assert times.tick([tick(due)]) == "s"
    before = space.state()
    assert times.tick([tick(due)]) == "-"
    assert times.tick([tick(due, id="another")]) == "-"
    assert space.state() == before
    # Also when the first one's message has come and gone
    space.register("w")
    space.done("w", *space.claim("w").deliveries)
    assert times.tick([tick(due)]) == "-"
    assert not space.waiting()


def test_the_servers_clock_says_what_is_due(space: Space, times: Times) -> None:
    due = times.set(60.0)
    assert times.tick([tick(due)]) == "-"
    assert times.due() == due
    assert "msg" not in space.state()


def test_one_call_sends_several_of_one_and_of_others(space: Space, times: Times) -> None:
    due, other = times.set(-3.0), times.set(-1.0, name="other")
    first = tick(due, "m1")._replace(next_due=due + 1)
    second = tick(due + 1, "m2")._replace(next_due=due + 2)
    far = tick(due + 60.0, "m3")
    assert times.tick([first, second, far, tick(other, "m4", "other", "slow")]) == "ss-s"
    assert (space.waiting(), space.waiting("slow")) == (["m1", "m2"], ["m4"])
    assert times.due() == due + 2
    assert space.take_token("slow")
    space.check()


def test_a_new_schedule_is_planned_once_and_nothing_is_sent(space: Space, times: Times) -> None:
    assert times.due() is None
    now = round(space.broker.time(), 3)
    assert times.tick([tick(None)._replace(next_due=now + 5.0)]) == "p"
    assert times.tick([tick(None)._replace(next_due=now + 9.0)]) == "-"
    assert times.due() == now + 5.0
    assert "msg" not in space.state()
    assert times.one().last is None


def test_an_id_that_is_present_is_not_doubled(space: Space, times: Times) -> None:
    due = times.set(-1.0)
    space.push("m")
    assert times.tick([tick(due)]) == "s"
    assert space.waiting() == ["m"]
    space.check()


def test_whose_time_is_another_is_planned_anew_by_who_began_last(
    space: Space, times: Times
) -> None:
    began = times.plan(None, [ENTRY]).now
    due = times.set(-1.0, since=began)
    changed = ENTRY._replace(when="every 60")
    # An older worker with the former definition has no say, and neither does its tick count
    assert times.due(began - 5.0, changed) == LEAVE
    assert times.due(began) == due
    # A newer one has: what was due is not caught up with
    assert times.due(began + 5.0, changed) is None
    assert times.due(began) == LEAVE
    assert times.tick([tick(due)]) == "-"
    assert times.tick([Tick("beat", "every 60", None, due + 90.0)]) == "p"
    assert times.due(began + 5.0, changed) == due + 90.0
    assert times.one().when == "every 60"
    assert space.state()["schedules"]["beat"].startswith("later 0 ")


def test_once_nobody_says_the_same_any_more_the_older_one_counts_again(times: Times) -> None:
    now = times.plan(None, [ENTRY]).now
    times.set(60.0, since=now, seen=now - 5.0)
    changed = ENTRY._replace(when="every 60")
    assert times.due(1.0, changed) == LEAVE
    times.set(60.0, since=now, seen=now - 16.0)
    assert times.due(1.0, changed) is None


def test_other_arguments_or_another_task_change_no_time(times: Times) -> None:
    due = times.set(60.0, seen=times.space.broker.time() - 6.0)
    assert times.due(None, ENTRY._replace(task="renamed")) == due
    assert times.one().task == "renamed"


def test_who_looks_is_seen_but_not_written_down_each_time(space: Space, times: Times) -> None:
    now = space.broker.time()
    times.set(60.0, seen=now - 1.0)
    times.due()
    assert times.one().seen == pytest.approx(now - 1.0, abs=0.01)
    times.set(60.0, seen=now - 6.0)
    times.due()
    assert times.one().seen >= now


def test_what_is_paused_sends_nothing_and_goes_on_with_what_comes(
    space: Space, times: Times
) -> None:
    due = times.set(-1.0)
    assert times.pause({"beat": False, "none": False}) == [True, False]
    paused = times.one().paused
    assert times.due() == LEAVE
    assert times.tick([tick(due)]) == "-"
    assert times.one().next is None
    # Again: as it was
    assert times.pause({"beat": False}) == [True]
    assert times.one().paused == paused
    assert times.resume({"beat": False, "none": True}) == [True, True]
    assert times.due() is None
    assert "msg" not in space.state()
    assert times.resume({"beat": False, "none": False}) == [True, False]


def test_a_plan_that_arrives_after_a_pause_sends_nothing_again(space: Space, times: Times) -> None:
    now = times.plan(None, [ENTRY]).now
    late = tick(None)._replace(next_due=now - 1.0)
    assert times.tick([late]) == "p"
    assert times.tick([tick(now - 1.0)._replace(next_due=now + 60.0)]) == "s"
    times.pause({"beat": False})
    times.resume({"beat": False})
    assert times.tick([late]) == "-"
    assert times.due() is None
    assert times.tick([tick(None)._replace(next_due=now + 60.0)]) == "p"


def test_what_a_wrong_clock_has_sent_is_no_obstacle_after_a_pause(times: Times) -> None:
    now = times.space.broker.time()
    times.set(90000.0, last=now + 86400.0)
    times.pause({"beat": False})
    times.resume({"beat": False})
    assert times.tick([tick(None)._replace(next_due=now + 60.0)]) == "p"
    assert times.due() == now + 60.0


def test_who_declares_it_may_pause_it_before_any_worker_has_told_of_it(times: Times) -> None:
    assert times.pause({"beat": True}) == [True]
    assert times.due() == LEAVE
    times.resume({"beat": True})
    assert times.due() is None
    assert (times.one().when, times.one().task) == (WHEN, "t")


def test_paused_stays_paused_when_its_time_changes(times: Times) -> None:
    times.set(60.0)
    times.pause({"beat": False})
    changed = ENTRY._replace(when="every 60")
    now = times.space.broker.time()
    assert times.due(now, changed) == LEAVE
    assert times.one().when == "every 60"
    times.resume({"beat": False})
    assert times.due(now, changed) is None


def test_what_nobody_declares_is_forgotten_after_a_month(space: Space, times: Times) -> None:
    day = 86400.0
    now = space.broker.time()
    for n in range(20):
        times.set(60.0, name=f"old{n}", seen=now - 31 * day)
    times.set(60.0, name="young", seen=now - 29 * day)
    space.redis.hset(space.key("schedules"), "damaged", "no line of ours")
    while len(space.redis.hkeys(space.key("schedules"))) > 2:
        times.due()
    assert set(space.redis.hkeys(space.key("schedules"))) == {"young", "beat"}


def test_all_of_many_are_listed(space: Space, times: Times) -> None:
    for n in range(1500):
        times.set(60.0, name=f"s{n}")
    now, known = times.known()
    assert set(known) == {f"s{n}" for n in range(1500)}
    assert now == pytest.approx(space.broker.time(), abs=60)


def test_a_line_that_cannot_be_read_is_written_anew(space: Space, times: Times) -> None:
    space.redis.hset(space.key("schedules"), "beat", "garbage")
    assert times.known()[1] == {}
    assert times.due() is None
    assert times.one().when == WHEN


def test_a_queue_of_a_wrong_type_holds_up_no_other_schedule(space: Space, times: Times) -> None:
    due, other = times.set(-1.0), times.set(-1.0, name="other")
    space.redis.set(space.key("ready:bad:5"), "not a list")
    ticks = [tick(due, "m1", queue="bad"), tick(other, "m2", "other")]
    with pytest.raises(BrokerError, match="GWTYPE"):
        times.tick(ticks)
    assert space.waiting() == ["m2"]
    # Once it is mended, its own comes, too
    space.redis.delete(space.key("ready:bad:5"))
    assert times.tick(ticks) == "s-"
    assert space.waiting("bad") == ["m1"]
    space.check()


@pytest.mark.parametrize("key", ["schedules", "msg", "stats", "queues"])
def test_a_key_of_a_wrong_type_is_refused_before_anything_is_written(
    space: Space, times: Times, key: str
) -> None:
    due = times.set(-1.0)
    space.redis.delete(space.key(key))
    space.redis.set(space.key(key), "a string")
    before = space.state()
    with pytest.raises(BrokerError, match=rf"GWTYPE .*{key}"):
        times.tick([tick(due)])
    assert space.state() == before


def test_nor_is_one_before_it_that_sends_nothing_written(space: Space, times: Times) -> None:
    """It only goes on to its next moment."""
    due, other = times.set(-1.0), times.set(-1.0, name="other")
    space.redis.set(space.key("queues"), "a string")
    before = space.state()
    with pytest.raises(BrokerError, match=r"GWTYPE .*queues"):
        times.tick([tick(due)._replace(message=None), tick(other, "m", "other")])
    assert space.state() == before


def test_without_memory_a_tick_is_refused_whole_and_stays_due(own_times: Times) -> None:
    times, space = own_times, own_times.space
    due = times.set(-1.0)
    before = space.state()
    space.redis.config_set("maxmemory", 1)
    with pytest.raises(BrokerError) as caught:
        times.tick([tick(due, "m1"), tick(due, "m2")])
    assert caught.value.code == "OOM"
    assert space.state() == before
    # What is due is still told, and a schedule can be paused
    assert times.due() == due
    assert times.pause({"beat": False}) == [True]
    times.resume({"beat": False})
    assert times.due() is None
    space.redis.config_set("maxmemory", 0)
    times.set(-1.0)
    assert times.tick([tick(times.due())]) == "s"
    space.check()


@pytest.mark.parametrize("delay", [None, 60.0])
def test_without_memory_a_tick_replaces_nothing(own_times: Times, delay: float | None) -> None:
    """What it would replace stays."""
    times, space = own_times, own_times.space
    with sending(space) as sender:
        sender.send("m1", "doc", REPLACE, due=delay)
    due = times.set(-1.0)
    sent = push_fields(Message("m2", "t", options={"unique": REPLACE + "doc"}))
    before = space.state()
    space.redis.config_set("maxmemory", 1)
    with pytest.raises(BrokerError, match="maxmemory"):
        times.tick([tick(due)._replace(message=sent)])
    assert space.state() == before
    space.redis.config_set("maxmemory", 0)
    assert times.tick([tick(due)._replace(message=sent)]) == "s"
    assert space.waiting() == ["m2"]
    space.check()


def test_ticks_come_in_calls_of_bounded_size(space: Space, times: Times) -> None:
    ticks = []
    for n in range(2500):
        due = times.set(-1.0, name=f"s{n}")
        ticks.append(tick(due, f"m{n}", f"s{n}"))
    assert times.tick(ticks) == "s" * 2500
    assert len(space.waiting()) == 2500
    space.check()
