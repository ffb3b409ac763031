"""`purge`."""

from __future__ import annotations

import pytest

from omniq.models.task import TERMINAL, TaskState
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import NEW, UNKNOWN_PARENT, Change
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import StoreConformance
from omniq.testing.conformance.builders import (
    HOUR,
    add,
    cancel,
    change,
    claim,
    finish,
    ids,
    new_task,
    new_tasks,
    race,
    running,
    states,
    together,
)


async def ended(store: BaseTaskQueue, count: int) -> set[str]:
    """As many tasks that have just ended."""
    records = await running(store, count)
    await change(store, *map(finish, records))
    return ids(records)


class PurgeTests(StoreConformance):
    """Tasks that ended long ago are deleted, as many as asked."""

    @pytest.mark.parametrize("to", sorted(TERMINAL))
    async def test_an_ended_task_is_deleted_at_its_age(
        self, store: BaseTaskQueue, clock: VirtualClock, to: TaskState
    ) -> None:
        (record,) = await running(store)
        await change(store, finish(record, to))
        clock.advance(20)
        assert await store.purge(older_than=30) == 0
        clock.advance(20)
        assert await store.purge(older_than=30) == 1
        assert await states(store, [record.id]) == [None]
        assert await store.purge(older_than=30) == 0

    async def test_an_age_counts_from_the_end(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store)
        clock.advance(HOUR)
        await change(store, finish(record))
        assert await store.purge(older_than=HOUR / 2) == 0

    async def test_what_has_not_ended_is_kept(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (held,) = await running(store)
        await add(store, new_task("due"), new_task("later", delay=HOUR), new_task("child", parents=("due",)))
        clock.advance(1000)
        assert await store.purge(older_than=0) == 0
        assert None not in await states(store, [held.id, "due", "later", "child"])

    async def test_a_requeued_task_is_kept(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (record,) = await running(store)
        requeue = Change(task_id=record.id, to=TaskState.PENDING, from_states=(TaskState.ERROR,), fresh=True)
        await change(store, finish(record, TaskState.ERROR), requeue)
        clock.advance(20)
        assert await store.purge(older_than=10) == 0
        assert ids(await claim(store)) == {record.id}

    async def test_no_more_than_the_limit_are_deleted(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        gone = await ended(store, 5)
        clock.advance(20)
        assert [await store.purge(older_than=10, limit=limit) for limit in (2, 2, 2, 2)] == [2, 2, 1, 0]
        assert set(await states(store, gone)) == {None}

    async def test_any_number_may_be_deleted(self, store: BaseTaskQueue, many: int, clock: VirtualClock) -> None:
        await ended(store, many)
        clock.advance(20)
        assert await store.purge(older_than=10, limit=many) == many

    async def test_a_waiting_childs_parent_is_kept(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("a"), new_task("b"))
        await add(store, new_task("child", parents=("a", "b")), new_task("other", parents=("b",)))
        await change(store, cancel("a"), cancel("b"))
        clock.advance(20)
        assert await store.purge(older_than=10) == 0
        await change(store, cancel("child"))
        assert await store.purge(older_than=10) == 1
        assert await states(store, ["a", "b"]) == [None, TaskState.CANCELLED]

    async def test_kept_parents_stop_no_others(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        parents = await add(store, *new_tasks(5))
        await add(store, *[new_task(parents=(parent,)) for parent in parents])
        await change(store, *map(cancel, parents))
        clock.advance(1)
        gone = await ended(store, 3)
        clock.advance(20)
        assert await store.purge(older_than=10, limit=3) == 3
        assert set(await states(store, gone)) == {None}
        assert None not in await states(store, parents)

    async def test_a_deleted_child_is_no_child(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("parent"), new_task("child", parents=("parent",)))
        await change(store, cancel("child"))
        clock.advance(20)
        assert await store.purge(older_than=10) == 1
        assert await store.children(["parent"]) == [[]]

    async def test_a_deleted_id_can_be_used_anew(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        (gone,) = await ended(store, 1)
        clock.advance(20)
        await store.purge(older_than=10)
        assert await store.add([new_task("x", parents=(gone,)), new_task(gone)]) == [UNKNOWN_PARENT, NEW]
        assert [(record.id, record.epoch) for record in await claim(store)] == [(gone, 1)]

    @pytest.mark.parametrize("seed", range(10))
    async def test_a_parent_is_deleted_or_gets_its_child(
        self, store: BaseTaskQueue, clock: VirtualClock, seed: int
    ) -> None:
        parents = sorted(await ended(store, 4))
        clock.advance(20)
        adds = [store.add([new_task(f"child-of-{parent}", parents=(parent,))]) for parent in parents]
        added, _ = await race(adds, [store.purge(older_than=10, limit=2) for _ in range(2)], seed)
        for parent, answer, state in zip(parents, added, await states(store, parents), strict=True):
            assert answer == [UNKNOWN_PARENT if state is None else NEW], parent

    async def test_concurrent_purges_delete_each_task_once(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await ended(store, 30)
        clock.advance(20)
        assert sum(await together(store.purge(older_than=10, limit=7) for _ in range(10))) == 30
