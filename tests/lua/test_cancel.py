"""cancel, cancel_mark, cancel_comb, cancel_count: what is cancelled never runs, wherever it is."""

from __future__ import annotations

from typing import Any

import pytest

from greenworker import keys
from greenworker.broker import Sighting, push_fields
from greenworker.control import MOST_MARKS, Control
from greenworker.errors import BrokerError, ConfigError
from greenworker.message import CANCELLED, Message, Outcome, State, is_marked, mark_of
from tests.support.auditing import audit
from tests.support.server import Server
from tests.support.state import Space

GONE = Sighting(State.CANCELLED, CANCELLED)
RETRY = Outcome("retry", envelope=b"")


@pytest.fixture
def control(space: Space) -> Control:
    return Control(space.broker._link, space.broker.namespace)


def push_tagged(space: Space, *ids: str, tags: str = "crawl", **options: Any) -> None:
    fields: list[Any] = []
    for id in ids:
        fields += push_fields(Message(id, "t", options={"tags": tags}, **options))
    space.broker.push(f"push-{ids[0]}-{tags}", fields)


def comb(control: Control, who: str = "w") -> int:
    """Go on until nothing is left to do; how many it has cancelled."""
    cancelled = 0
    while True:
        done = control.comb(who)
        cancelled += done.cancelled
        if not done.more:
            return cancelled


def test_by_id_wherever_it_is(space: Space) -> None:
    space.run("w", "held")
    space.push("waits", "stays")
    space.push("delayed", due=60.0)
    space.push_suspect("suspect")
    space.push("late", expires=0.0)
    ids = ["held", "waits", "delayed", "suspect", "late", "nobody"]
    assert space.broker.cancel(ids, dry_run=True) == "rccceu"
    assert space.stats() == {"enqueued": 6}
    assert space.broker.cancel(ids) == "rccceu"
    for id in ("waits", "delayed", "suspect"):
        assert space.broker.lookup(id) == GONE
    assert space.broker.lookup("held").state is State.STARTED
    assert space.broker.lookup("late").state is State.EXPIRED
    assert space.broker.lookup("stays").state is State.PENDING
    # What waits in line is ended by whoever meets it, and nobody runs it.
    assert space.stats() == {"enqueued": 6, "cancelled": 1}
    assert audit(space).well
    assert space.claim_ids("w") == ["stays"]
    assert space.stats() == {"enqueued": 6, "cancelled": 3, "expired": 1}
    assert space.broker.cancel(ids) == "reeeeu"
    assert audit(space).well
    space.check()


def test_who_waits_is_told(space: Space) -> None:
    space.push("waits")
    space.push("delayed", due=60.0)
    heard = space.redis.pubsub(ignore_subscribe_messages=True)
    for id in ("waits", "delayed"):
        heard.subscribe(space.key(f"done:{id}"))
        heard.get_message(timeout=10)
    space.broker.cancel(["waits", "delayed"])
    assert [heard.get_message(timeout=10)["data"] for _ in range(2)] == [CANCELLED.decode()] * 2
    heard.close()


@pytest.mark.parametrize("outcome", ["retry", "later", "release", "cancelled"])
def test_what_runs_never_runs_again(space: Space, outcome: Any) -> None:
    (one,) = space.run("w", "m")
    space.broker.cancel(["m"])
    how = Outcome(outcome, CANCELLED, 3600.0, envelope=one.envelope)
    assert space.settle("w", (one, how)) == [True]
    assert space.broker.lookup("m") == GONE
    assert space.stats() == {"enqueued": 1, "cancelled": 1}
    space.check()


def test_what_ends_by_itself_has_ended_so(space: Space) -> None:
    one, two = space.run("w", "m", "n")
    space.broker.cancel(["m", "n"])
    assert space.done("w", one) == [True]
    dead = Outcome("dead", b'{"state":"FAILURE","error":{}}', 3600.0, reason="failed")
    assert space.settle("w", (two, dead)) == [True]
    assert space.stats() == {"enqueued": 2, "done": 1, "dead": 1}
    space.check()


def test_a_sweep_does_not_return_it(space: Space) -> None:
    space.run("w", "m", "n")
    space.broker.cancel(["m"])
    space.crash("w")
    assert space.broker.cancel(["n"]) == "r", "its worker is dead, and nobody has found out"
    space.reap()
    assert space.broker.lookup("m") == space.broker.lookup("n") == GONE
    assert space.state()["stats"] == {"enqueued": "2", "cancelled": "2"}
    assert not space.redis.exists(keys.cancels(space.root, "w"))
    space.check()


def test_what_a_dead_worker_held(space: Space) -> None:
    space.hold("w", 1500, 1500)
    space.crash("w")
    space.reap()
    (left,) = space.redis.hkeys(space.key("processing:w"))[:1]
    assert space.broker.cancel([left]) == "r"
    space.reap()
    assert space.broker.lookup(left) == GONE
    space.check()


def test_a_worker_is_told_until_it_knows(space: Space) -> None:
    one, two = space.run("w", "m", "n")
    space.broker.cancel(["m", "n"])
    for _ in range(2):
        assert space.broker.promote("w").cancelled == {"m": one.seq, "n": two.seq}
    assert space.broker.promote("other").cancelled == {}
    assert space.broker.promote("w", ["m", one.seq]).cancelled == {"n": two.seq}
    # Another one of this id, known by now to be cancelled as well, is another one.
    space.broker.cancel(["m"])
    assert space.broker.promote("w", ["m", one.seq + 1]).cancelled == {"m": one.seq, "n": two.seq}
    space.done("w", one, two)
    assert space.broker.promote("w").cancelled == {}
    assert not space.redis.exists(space.key("cancels:w"))


def test_a_graceful_leave_takes_what_was_to_be_told_along(space: Space) -> None:
    space.run("w", "m")
    space.broker.cancel(["m"])
    space.broker.release("w")
    assert not space.redis.exists(space.key("cancels:w"))
    space.register("other")
    assert space.claim_ids("other") == []
    assert space.broker.lookup("m") == GONE
    space.check()


@pytest.mark.parametrize("suspect", [False, True])
@pytest.mark.parametrize(
    "again", [{}, {"priority": 9}, {"queue": "other"}, {"due": 0.0}, {"due": 60.0}]
)
@pytest.mark.parametrize("marked", [False, True])
def test_the_same_id_again_is_neither_dropped_nor_doubled(
    space: Space, control: Control, again: dict[str, Any], suspect: bool, marked: bool
) -> None:
    if suspect:
        space.push_suspect("m")
    else:
        space.push("m")
    space.push("behind")
    if marked:
        control.mark("task:t")
    else:
        space.broker.cancel(["m"])
    assert space.push("m", **again) == 1
    assert space.push("m", **again) == 0, "it is present"
    space.check()
    assert space.stats()["cancelled"] == 1
    space.make_due()
    space.broker.promote()
    space.register("w", queues=("default", "other"))
    claimed = space.claim_ids("w", 10, ("default", "other"))
    assert sorted(claimed) == (["m"] if marked else ["behind", "m"])
    assert space.broker.lookup("m").state is State.STARTED
    # While it runs it is present, cancelled or not.
    space.broker.cancel(["m"])
    assert space.push("m") == 0
    space.check()


def test_the_same_id_again_takes_over_its_place_in_line(space: Space) -> None:
    """No walk, where none is needed."""
    space.push("m", "behind")
    space.broker.cancel(["m"])
    space.push("m")
    assert space.waiting() == ["m", "behind"]


def test_a_mark_hits_what_was_sent_before_it_and_nothing_else(
    space: Space, control: Control
) -> None:
    push_tagged(space, "a", "b")
    push_tagged(space, "both", tags="night,crawl")
    push_tagged(space, "delayed", due=0.001)
    push_tagged(space, "other", tags="crawl-7")
    space.push("plain")
    space.run("w")
    control.mark(mark_of("tag", "crawl"))
    push_tagged(space, "later", tags="crawl")
    ids = ("a", "b", "both", "delayed")
    for id in ids:
        assert space.broker.lookup(id) == GONE
        assert space.broker.cancel([id]) == "e"
    while space.broker.promote().next_due is not None:
        pass
    assert space.claim_ids("w") == ["other", "plain", "later"]
    assert space.stats()["cancelled"] == 4
    assert comb(control) == 0
    assert space.state("result", "push")["msg"].keys() == {"other", "plain", "later"}
    assert "marks" not in space.state()
    assert "paused" not in space.state()
    space.check()


def test_python_and_lua_agree_on_what_a_mark_hits(space: Space, control: Control) -> None:
    names = ["a", "a b", "a/b:c@d", "%2C", "ü"]
    for n, name in enumerate(names):
        fields = push_fields(Message(f"m{n}", name, options={"tags": "x/y,z"}))
        space.broker.push(f"p{n}", list(fields))
    for n, name in enumerate(names):
        marks = {mark_of("task", name): 2**50}
        found = [
            id
            for id, envelope in space.redis.hgetall(space.key("msg")).items()
            if is_marked(envelope.encode(), marks)
        ]
        assert found == [f"m{n}"]
        assert control.count_marked(mark_of("task", name)).waiting == 1
    for tag in ("x/y", "z"):
        assert control.count_marked(mark_of("tag", tag)).waiting == len(names)


def test_a_mark_is_one_step_whatever_it_hits(space: Space, control: Control) -> None:
    """No key but its own is touched, however many messages wait."""
    for start in range(0, 3000, 1000):
        push_tagged(space, *(f"m{n}" for n in range(start, start + 1000)))
    control.mark("tag:warm-up")

    def calls() -> dict[str, int]:
        found = space.redis.info("commandstats")
        return {name: one["calls"] for name, one in found.items()}

    before = calls()
    control.mark("tag:crawl")
    made = {name: n - before.get(name, 0) for name, n in calls().items() if n != before.get(name)}
    allowed = {
        "cmdstat_evalsha", "cmdstat_type", "cmdstat_del", "cmdstat_hget", "cmdstat_hlen", "cmdstat_hexists",
        "cmdstat_time", "cmdstat_hset", "cmdstat_sadd", "cmdstat_publish", "cmdstat_info",
    }  # fmt: skip
    assert set(made) <= allowed
    assert all(n <= 3 for name, n in made.items() if name != "cmdstat_time")


def test_a_pass_ends_each_where_it_is(space: Space, control: Control) -> None:
    (one,) = space.run("w", "held")
    push_tagged(space, "waits")
    push_tagged(space, "delayed", due=60.0)
    push_tagged(space, "silent", due=60.0, result_ttl=0.0)
    space.edit("held", "default t\n", "default t tags=crawl\n")
    assert (control.count_marked("tag:crawl").waiting, control.count_marked("tag:crawl").running) == (3, 1)  # fmt: skip
    control.mark("tag:crawl")
    assert comb(control) == 4
    assert space.broker.promote("w").cancelled == {"held": one.seq}
    assert space.stats() == {"enqueued": 4, "cancelled": 2}
    assert space.broker.lookup("waits") == space.broker.lookup("delayed") == GONE
    assert space.broker.lookup("silent").state is None
    assert "marks" not in space.state()
    space.check()


def test_what_runs_is_hit_though_it_has_expired_since(space: Space, control: Control) -> None:
    """What begins in time runs however long; what waits has ended as EXPIRED."""
    space.register("w")
    push_tagged(space, "runs", "late", expires=60.0)
    (one,) = space.claim("w", 1).deliveries
    for id in ("runs", "late"):
        _, _, _, _, _, expires, *_ = space.redis.hget(space.key("msg"), id).split(" ")
        space.edit(id, f" {expires} ", " 2 ")
    counted = control.count_marked("tag:crawl")
    assert (counted.waiting, counted.running) == (0, 1)
    control.mark("tag:crawl")
    comb(control)
    assert space.broker.promote("w").cancelled == {"runs": one.seq}
    assert space.broker.lookup("late").state is State.EXPIRED


def test_a_mark_that_comes_during_a_pass_has_one_of_its_own(space: Space, control: Control) -> None:
    space.redis.config_set("hash-max-ziplist-entries", 1)
    try:
        push_tagged(space, *(f"m{n}" for n in range(1000)))
        push_tagged(space, *(f"n{n}" for n in range(1000)), tags="other")
        control.mark("tag:crawl")
        assert control.comb("w").more
        control.mark("tag:other")
        comb(control)
        assert "marks" not in space.state()
        assert space.stats() == {"enqueued": 2000}
        space.register("w")
        while space.claim_ids("w", 1000) or space.redis.exists(space.key("msg")):
            pass
        assert space.stats() == {"enqueued": 2000, "cancelled": 2000}
        space.check()
    finally:
        space.redis.config_set("hash-max-ziplist-entries", 128)


def test_one_is_at_it_at_a_time(space: Space, control: Control) -> None:
    space.redis.config_set("hash-max-ziplist-entries", 1)
    try:
        push_tagged(space, *(f"m{n}" for n in range(1000)))
        control.mark("tag:crawl")
        assert control.comb("one").more
        assert control.comb("two") == type(control.comb("two"))(0, 0, False)
        # … until it has not been heard of for a second
        passing = space.redis.hget(space.key("marks"), "pass").split(" ")
        passing[3] = "1"
        space.redis.hset(space.key("marks"), "pass", " ".join(passing))
        comb(control, "two")
        assert "marks" not in space.state()
    finally:
        space.redis.config_set("hash-max-ziplist-entries", 128)


def test_a_server_that_starts_again_has_hashes_in_another_order(namespace: str) -> None:
    """What a pass has been past there is not what it has been past here."""
    config = {"hash-max-ziplist-entries": "1"}
    with Server(appendonly=True, config=config) as server:
        with Space(server.url, namespace) as space:
            push_tagged(space, *(f"m{n}" for n in range(1000)))
            control = Control(space.broker._link, namespace)
            control.mark("tag:crawl")
            for _ in range(4):
                assert control.comb("w").more
            assert space.redis.hget(space.key("marks"), "pass").split(" ")[1] != "0"
        server.kill()
        server.restart()
        with Space(server.url, namespace) as space:
            comb(Control(space.broker._link, namespace))
            assert "marks" not in space.state()
            space.register("w")
            while space.redis.exists(space.key("msg")):
                assert space.claim_ids("w", 1000) == []
            assert space.stats() == {"enqueued": 1000, "cancelled": 1000}


def test_there_are_so_many_marks_at_most(space: Space, control: Control) -> None:
    for n in range(MOST_MARKS):
        control.mark(f"tag:t{n}")
    with pytest.raises(ConfigError, match="100 cancellations by task or tag are under way"):
        control.mark("tag:one-more")
    control.mark("tag:t7")  # again: that is no other one
    comb(control)
    control.mark("tag:one-more")


def test_what_is_revived_while_a_mark_is_there_runs(space: Space, control: Control) -> None:
    """Whoever sends it again wants that."""
    (one,) = space.run("w", "m")
    dead = Outcome("dead", b'{"state":"FAILURE","error":{}}', 3600.0, reason="failed")
    space.settle("w", (one, dead))
    control.mark("task:t")
    assert space.broker.revive([b"m"]) == "r"
    assert space.claim_ids("w") == ["m"]
    space.check()


def test_a_purge_meets_what_was_cancelled(space: Space, control: Control) -> None:
    space.push("m", "n")
    space.broker.cancel(["m"])
    (step,) = control.purge("default")
    assert (step.purged, step.cancelled, step.total) == (1, 1, 2)
    assert space.stats() == {"enqueued": 2, "purged": 1, "cancelled": 1}
    space.check()


def test_marks_are_no_queue(space: Space, control: Control) -> None:
    control.mark("tag:crawl")
    assert [one.name for one in space.broker.status().queues] == []
    assert audit(space).well


def test_what_is_left_of_nobody_is_found(space: Space) -> None:
    space.redis.hset(space.key("cancels:nobody"), "m", "1")
    assert [one.kind for one in audit(space).findings] == ["ownerless"]


def test_it_works_where_memory_is_full(own_space: Space) -> None:
    space = own_space
    space.push("m", "n")
    push_tagged(space, "t")
    control = Control(space.broker._link, space.broker.namespace)
    space.redis.config_set("maxmemory", 1)
    assert space.broker.cancel(["m"]) == "c"
    control.mark("tag:crawl")
    assert comb(control) == 1
    space.redis.config_set("maxmemory", 0)
    space.register("w")
    assert space.claim_ids("w") == ["n"]


def test_a_key_of_a_wrong_type_is_refused(space: Space, control: Control) -> None:
    space.run("w", "m")
    space.redis.set(space.key("cancels:w"), "x")
    before = space.state()
    with pytest.raises(BrokerError, match="cancels:w is a string, not a hash"):
        space.broker.cancel(["m"])
    assert space.state() == before
    assert space.broker.promote("w").moved == 0, "it holds up nothing else"
    space.redis.set(space.key("marks"), "x")
    with pytest.raises(BrokerError, match="marks is a string, not a hash"):
        control.mark("tag:crawl")


@pytest.mark.parametrize("key", ["paused", "marks", "processing:w"])
def test_a_key_of_a_wrong_type_breaks_no_send_in_two(space: Space, key: str) -> None:
    """Of an id that is present the send asks whether it was cancelled, and it has begun by then."""
    space.register("w")
    space.push("m")
    space.broker.cancel(["m"] if key == "processing:w" else [])
    if key == "marks":
        space.redis.sadd(space.key("paused"), "*")
    space.redis.set(space.key(key), "x")
    fields = [field for id in ("n", "m", "o") for field in push_fields(Message(id, "t"))]
    assert space.broker.push("both", fields) == 2
    assert space.stats() == {"enqueued": 3}
    assert set(space.redis.lrange(space.key("ready:default:5"), 0, -1)) == {"m", "n", "o"}


def test_a_call_reads_so_much_at_most(space: Space) -> None:
    ids = [f"m{n}" for n in range(8)]
    for id in ids:
        space.push(id, args=("x" * 990_000,))
    assert space.broker._run("cancel", "dry", *ids) == b"ccccc"
    assert space.broker.cancel(ids) == "cccccccc"
    assert space.broker.cancel(ids) == "eeeeeeee"


def test_a_clock_that_was_set_back_is_not_waited_for(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenworker.control._MOMENT", 0.01)
    monkeypatch.setattr(control, "_now", lambda: 0)
    control.mark("tag:crawl")
