"""The promises that can be seen in a namespace, whatever the model says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from tests.support.model import Model
from tests.support.model_once import lock_of
from tests.support.model_parts import State
from tests.support.model_steps import QUEUES
from tests.support.state import check_whole


def check_promises(
    seen: State, model: Model, tokens: Mapping[str, set[str]], crashes: Counter[str]
) -> None:
    """I2, I4, I6, I8 and I13, and that whoever may claim is woken.

    `tokens`: queue → who took one and has not claimed; `crashes`: how often each id was present.
    """
    check_whole(without(seen, model.planted))  # I2, I13
    alive, corpses = set(seen.get("workers", ())), seen.get("corpses", set())
    assert not alive & corpses, "I6"
    few, alone_after = model.bounds.few, model.bounds.alone_after
    for worker, held in family(seen, "processing:").items():
        assert worker in alive | corpses, "I4: a reaper can see it"
        suspected = set(seen.get(f"suspected:{worker}", ()))
        assert worker in corpses or suspected <= set(held)
        assert len(suspected) <= few
        alone = any(model.msg[id].deliveries >= alone_after for id in suspected & set(held))
        assert worker in corpses or len(suspected) <= 1 or not alone, "I8"
    for id, letter in model.msg.items():
        assert letter.deliveries <= crashes[id], "I8: charged for crashes only"
    for lock, id in seen.get("unique", {}).items():
        assert lock_of(model.msg[id])[1] == lock, "I11: its holder knows it"
    for queue in QUEUES:
        if queue in seen.get("paused", ()):
            assert f"wake:{queue}" not in seen, "nobody is woken for it"
        elif any(f"ready:{queue}:{level}" in seen for level in range(10)):
            told = tokens.get(queue, set()) & (alive | corpses)
            told &= seen.get(f"consumers:{queue}", set())
            assert f"wake:{queue}" in seen or told, "work waits and nobody is woken"


def without_filters(state: State) -> tuple[State, Counter[int]]:
    """The state without what was seen, and that; but not what was dropped and is not removed yet."""
    gone = set(state.get("seen:dropped", {}))
    kept = {key: value for key, value in state.items() if not key.startswith("seen")}
    sets = family(state, "seen:")
    found = [
        int(mark)
        for key, some in sets.items()
        if isinstance(some, set) and key.partition(":")[0] not in gone
        for mark in some
    ]
    return kept, Counter(found)


def family(state: State, prefix: str) -> dict[str, Any]:
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def without(state: State, planted: Collection[str]) -> State:
    """The state without entries that are not ours and were not met yet."""
    kept: State = {}
    for key, value in state.items():
        match value:
            case list():
                kept[key] = [id for id in value if id not in planted]
            case dict():
                kept[key] = {id: one for id, one in value.items() if id not in planted}
            case _:
                kept[key] = value
    return kept
