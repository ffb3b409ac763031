"""`wait` of the queue, and what holds of every call: any loop may make it, and it may be cancelled."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from omniq.models.task import TaskState
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import DUPLICATE, NEW
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import StoreConformance
from omniq.testing.conformance.builders import (
    PATIENCE,
    QUEUE,
    add,
    change,
    claim,
    finish,
    fire,
    ids,
    in_other_loops,
    lapsed,
    new_schedule,
    new_task,
    read,
    reap,
    running,
    together,
    woken,
)


class WaitTests(StoreConformance):
    """A hint that comes soon, for what this process does."""

    async def test_it_ends_after_the_timeout(self, store: BaseTaskQueue) -> None:
        async with asyncio.timeout(PATIENCE):
            await store.wait([QUEUE], 0.05)

    async def test_it_ends_when_a_task_is_added(self, store: BaseTaskQueue) -> None:
        async with woken(partial(store.wait, [QUEUE])):
            await add(store, new_task())

    async def test_a_task_added_from_another_loop_ends_it(self, store: BaseTaskQueue) -> None:
        async with woken(partial(store.wait, [QUEUE])):
            await in_other_loops(store, [partial(add, store, new_task())])

    async def test_it_ends_when_a_task_goes_back(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        async with woken(partial(store.wait, [QUEUE])):
            await change(store, finish(record, TaskState.PENDING))

    async def test_it_ends_when_a_lapsed_task_goes_back(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await lapsed(store, clock)
        async with woken(partial(store.wait, [QUEUE])):
            await reap(store)

    async def test_it_ends_when_a_schedule_fires(self, store: BaseTaskQueue) -> None:
        await store.put_schedule(new_schedule("s", next_run=0.0), if_version=None)
        async with woken(partial(store.wait, [QUEUE])):
            assert await fire(store, "s", if_version=1, next_run=None, task=new_task())

    async def test_everybody_who_waits_is_told(self, store: BaseTaskQueue) -> None:
        async with woken(partial(store.wait, [QUEUE]), 5):
            await add(store, new_task())

    async def test_it_ends_when_the_clock_makes_a_task_due(self, store: BaseTaskQueue, clock: VirtualClock) -> None:
        await add(store, new_task("t", delay=100))
        async with woken(partial(store.wait, [QUEUE])):
            clock.advance(200)
        assert ids(await claim(store)) == {"t"}

    async def test_a_worker_that_waits_misses_nothing(self, store: BaseTaskQueue) -> None:
        added: set[str] = set()
        got: set[str] = set()

        async def worker() -> None:
            while len(got) < 30:
                got.update(ids(await claim(store)))
                await store.wait([QUEUE], 0.5)

        async with asyncio.timeout(6 * PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(worker())
            for _ in range(30):
                added.update(await add(store, new_task()))
                await asyncio.sleep(0)
        assert got == added

    async def test_a_wait_can_be_cancelled(self, store: BaseTaskQueue) -> None:
        waiting = asyncio.create_task(store.wait([QUEUE], 100 * PATIENCE))
        while (await asyncio.wait([waiting], timeout=0.05))[0]:  # it may return for nothing
            waiting = asyncio.create_task(store.wait([QUEUE], 100 * PATIENCE))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with woken(partial(store.wait, [QUEUE])):
            await add(store, new_task())


class CallTests(StoreConformance):
    """Any loop may call, several may at once, and a call may be cancelled."""

    async def test_tasks_stay_when_the_store_is_closed(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t"))
        await store.close()
        await store.connect()
        assert (await read(store, "t")).id == "t"

    async def test_loops_share_one_store(self, store: BaseTaskQueue) -> None:
        async def use(name: str) -> list[str]:
            return await add(store, *[new_task(f"{name}-{n}") for n in range(20)])

        added = await in_other_loops(store, [partial(use, name) for name in "abcd"])
        added.append(await use("here"))
        assert ids(await claim(store)) == {id_ for mine in added for id_ in mine}

    async def test_concurrent_calls_get_their_own_answers(self, store: BaseTaskQueue) -> None:
        added = await add(store, *[new_task(f"t{n}") for n in range(50)])
        answers = await together(store.get([id_]) for id_ in added)
        assert [record and record.id for (record,) in answers] == added

    @pytest.mark.parametrize("turns", range(12))
    async def test_a_cancelled_call_leaves_the_store_usable(self, store: BaseTaskQueue, turns: int) -> None:
        await add(store, *[new_task(f"t{n}") for n in range(4)])
        calls = [
            asyncio.ensure_future(store.get(["t0"])),
            asyncio.ensure_future(store.add([new_task("maybe")])),
            asyncio.ensure_future(store.get(["t1"])),
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        answers = await together(store.get([f"t{n}"]) for n in range(4))
        assert [record and record.id for (record,) in answers] == ["t0", "t1", "t2", "t3"]
        assert (await store.add([new_task("maybe")]))[0] in (NEW, DUPLICATE)
        assert (await read(store, "maybe")).id == "maybe"
