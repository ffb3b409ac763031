"""Unique keys: one task of the store has a key at a time."""

from __future__ import annotations

import pytest

from omniq.errors import UnsupportedCapability
from omniq.models.task import TERMINAL, TaskState
from omniq.storage.base import Capability
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import DUPLICATE, NEW, UNKNOWN_PARENT, Added, AddStatus, Change
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.adding import ODD_IDS
from omniq.testing.conformance.base import StoreConformance, needs
from omniq.testing.conformance.builders import (
    HOUR,
    add,
    cancel,
    change,
    claim,
    finish,
    new_task,
    read,
    reap,
    states,
    together,
)


def held_by(task_id: str) -> Added:
    """The answer for a task whose key another one has."""
    return Added(AddStatus.DUPLICATE, task_id)


class UniqueTests(StoreConformance):
    """While a task that has a key hasn't ended, no other with that key is added."""

    async def test_a_store_without_keys_says_so(self, store: BaseTaskQueue) -> None:
        if Capability.UNIQUE in store.capabilities:
            pytest.skip("it has keys")
        with pytest.raises(UnsupportedCapability, match="unique"):
            await store.add([new_task("a"), new_task("b", unique="key")])
        assert await states(store, "ab") == [None, None]

    async def test_the_task_that_comes_first_has_the_key(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, new_task("first", unique="key"))
        assert (await read(store, "first")).unique == "key"
        assert await store.add([new_task("second", unique="key")]) == [held_by("first")]
        assert await states(store, ["second"]) == [None]

    async def test_other_keys_and_none_are_free(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, new_task("a", unique="key"))
        others = [new_task("b", unique="Key"), new_task("c"), new_task("d", unique="key ")]
        assert await store.add(others) == [NEW] * 3

    async def test_the_queue_makes_no_difference(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, new_task("first", unique="key"))
        assert await store.add([new_task("second", queue="other", unique="key")]) == [held_by("first")]

    async def test_a_task_added_again_is_a_duplicate_of_itself(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, new_task("t", unique="key"))
        assert await store.add([new_task("t", unique="key")]) == [DUPLICATE]
        assert await store.add([new_task("t", unique="other")]) == [DUPLICATE]
        assert await store.add([new_task("u", unique="other")]) == [NEW]

    async def test_within_one_call_the_first_has_it(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        several = [new_task(name, unique="key") for name in "abc"]
        assert await store.add([*several, new_task("d")]) == [NEW, held_by("a"), held_by("a"), NEW]
        assert await states(store, "abcd") == [TaskState.PENDING, None, None, TaskState.PENDING]

    async def test_a_task_that_is_not_stored_takes_no_key(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        orphan = new_task("orphan", parents=("unknown",), unique="key")
        assert await store.add([orphan, new_task("t", unique="key")]) == [UNKNOWN_PARENT, NEW]

    async def test_a_task_whose_key_is_taken_is_no_parent(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, new_task("holder", unique="key"))
        family = [new_task("parent", unique="key"), new_task("child", parents=("parent",))]
        assert await store.add(family) == [held_by("holder"), UNKNOWN_PARENT]

    @pytest.mark.parametrize("delay", [0.0, HOUR])
    async def test_it_is_held_whenever_the_task_is_due(self, store: BaseTaskQueue, delay: float) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, new_task("t", delay=delay, unique="key"))
        assert await store.add([new_task("u", unique="key")]) == [held_by("t")]

    async def test_it_is_held_while_the_task_waits_for_its_parents(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, new_task("parent"), new_task("t", parents=("parent",), unique="key"))
        assert await store.add([new_task("u", unique="key")]) == [held_by("t")]

    async def test_it_is_held_from_claim_to_claim(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, new_task("t", unique="key"))
        (record,) = await claim(store, lease=10)
        assert record.unique == "key"
        assert await store.add([new_task("u", unique="key")]) == [held_by("t")]
        await change(store, finish(record, TaskState.PENDING, delay=5))
        assert await store.add([new_task("u", unique="key")]) == [held_by("t")]
        clock.advance(10)
        await claim(store, lease=10)
        clock.advance(20)
        await reap(store)
        assert await store.add([new_task("u", unique="key")]) == [held_by("t")]

    @pytest.mark.parametrize("to", sorted(TERMINAL))
    async def test_a_task_that_ends_gives_it_up(self, store: BaseTaskQueue, to: TaskState) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, new_task("t", unique="key"))
        (record,) = await claim(store)
        await change(store, finish(record, to))
        assert (await read(store, "t")).unique is None
        assert await store.add([new_task("u", unique="key")]) == [NEW]

    async def test_so_does_one_that_ends_before_it_runs(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, new_task("t", delay=HOUR, unique="key"))
        await change(store, cancel("t"))
        assert await store.add([new_task("u", unique="key")]) == [NEW]

    async def test_a_requeued_task_doesnt_take_it_back(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, new_task("t", unique="key"))
        (record,) = await claim(store)
        await change(store, finish(record, TaskState.ERROR))
        await add(store, new_task("u", unique="key"))
        again = Change(task_id="t", to=TaskState.PENDING, from_states=(TaskState.ERROR,), fresh=True)
        await change(store, again)
        assert (await read(store, "t")).unique is None
        assert await store.add([new_task("v", unique="key")]) == [held_by("u")]

    async def test_a_key_is_any_printable_text(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        await add(store, *[new_task(f"t{n}", unique=key) for n, key in enumerate(ODD_IDS)])
        others = [new_task(f"u{n}", unique=key) for n, key in enumerate(ODD_IDS)]
        assert await store.add(others) == [held_by(f"t{n}") for n in range(len(ODD_IDS))]

    async def test_of_concurrent_calls_one_gets_the_key(self, store: BaseTaskQueue) -> None:
        needs(store, Capability.UNIQUE)
        calls = [store.add([new_task(f"t{n}", unique="key"), new_task(f"own-{n}")]) for n in range(20)]
        answers = await together(calls)
        winner = next(n for n, (first, _) in enumerate(answers) if first == NEW)
        assert [first for first, _ in answers].count(held_by(f"t{winner}")) == 19
        assert {own for _, own in answers} == {NEW}
        assert [state for state in await states(store, [f"t{n}" for n in range(20)]) if state] == [TaskState.PENDING]
