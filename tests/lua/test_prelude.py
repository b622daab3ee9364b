"""The prelude and keys.py build the same names."""

from __future__ import annotations

import inspect
from importlib.resources import files

from greenworker import keys
from tests.support.state import Space

# A function of keys.py with its arguments → the same name in Lua.
NAMES = {
    ("nil",): "NIL",
    ("messages",): "MSG",
    ("ready", "q", 7): "ready_key('q', 7)",
    ("suspects", "q"): "suspects_key('q')",
    ("wake", "q"): "wake_key('q')",
    ("queues",): "QUEUES",
    ("paused",): "PAUSED",
    ("consumers", "q"): "consumers_key('q')",
    ("workers",): "WORKERS",
    ("corpses",): "CORPSES",
    ("about",): "ABOUT",
    ("leases",): "LEASES",
    ("sequences",): "SEQ",
    ("processing", "w"): "processing_key('w')",
    ("room", "q"): "room_key('q')",
    ("suspected", "w"): "suspected_key('w')",
    ("solitary", "w"): "solitary_key('w')",
    ("asked",): "ASKED",
    ("running", "w"): "running_key('w')",
    ("cancels", "w"): "cancels_key('w')",
    ("marks",): "MARKS",
    ("scheduled",): "SCHEDULED",
    ("schedules",): "ROOT .. 'schedules'",  # schedule.lua has it
    ("dead",): "DEAD",
    ("dead_records",): "RECORDS",
    ("result", "m"): "result_key('m')",
    ("done", "m"): "done_channel('m')",
    ("push", "p"): "ROOT .. 'push:p'",  # push.lua alone has a use for it
    ("unique",): "UNIQUE",
    ("unique_for", "n"): "ROOT .. 'unique:n'",  # once.lua alone has a use for it
    ("seen",): "ROOT .. 'seen'",  # seen.lua has it
    ("seen_dropped",): "ROOT .. 'seen:dropped'",
    ("limits_by",): "ROOT .. 'limits:by'",  # declared.lua has it
    ("limits_under",): "ROOT .. 'limits:under'",
    ("stats",): "STATS",
    ("sweep",): "SWEEP",
    ("pulse",): "PULSE",
}


def test_python_and_lua_agree_on_every_key(space: Space) -> None:
    prelude = (files("greenworker") / "lua" / "prelude.lua").read_text()
    tail = f"\nreturn {{{', '.join(NAMES.values())}}}"
    in_lua = space.redis.eval(prelude + tail, 1, keys.nil(space.root))
    in_python = [getattr(keys, name)(space.root, *args) for name, *args in NAMES]
    assert in_lua == in_python


def test_no_key_is_left_out() -> None:
    functions = inspect.getmembers(keys, inspect.isfunction)
    with_root = {name for name, one in functions if "root" in inspect.signature(one).parameters}
    assert {name for name, *_ in NAMES} == with_root


def test_a_push_id_is_kept_where_keys_say(space: Space) -> None:
    space.push("m", push_id="p")
    assert space.redis.exists(keys.push(space.root, "p"))


def test_every_key_has_the_hash_tag_of_its_namespace(space: Space) -> None:
    root = keys.root("shop")
    assert all(getattr(keys, name)(root, *args).startswith("gw:{shop}:") for name, *args in NAMES)


def test_the_head_of_an_envelope_is_read_field_by_field(space: Space) -> None:
    prelude = (files("greenworker") / "lua" / "prelude.lua").read_text()
    tail = "\nreturn {head(ARGV[1])}"
    read = space.redis.eval(prelude + tail, 1, keys.nil(space.root), "1 2 3 4 50 60 70 q t o=1\n[]")
    assert read == ["2", "3", "4", "50", "60", "70", "q"]
