"""Many callers share few writes, and neither an error nor a cancellation of one harms the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from omniq.batching import Batcher
from omniq.errors import Closed, StoreError, StoreUnavailable
from omniq.storage.records import Added, NewTask
from omniq.testing import ReferenceQueueStore, ReferenceSpace

from tests.core import tasks
from tests.core.support import front_door, reference_place, until


class Doubler:
    """Flushes by doubling, as fast as it is let; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        await self.may_go_on.wait()
        if 13 in items:
            raise StoreError("thirteen")
        return [2 * item for item in items]


class TestBatcher:
    async def test_a_lone_item_goes_at_once(self) -> None:
        flush = Doubler()
        batcher = Batcher(flush)
        assert [await batcher.submit(1), await batcher.submit(2)] == [2, 4]
        assert flush.batches == [[1], [2]]

    async def test_what_is_submitted_together_is_flushed_together(self) -> None:
        flush = Doubler()
        batcher = Batcher(flush)
        assert await asyncio.gather(*(batcher.submit(n) for n in range(20, 120))) == [2 * n for n in range(20, 120)]
        assert flush.batches == [list(range(20, 120))]

    async def test_what_comes_while_a_batch_is_in_flight_makes_the_next_one(self) -> None:
        flush = Doubler()
        flush.may_go_on.clear()
        batcher = Batcher(flush)
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.submit(n)) for n in (2, 3, 4)]
        await asyncio.sleep(0.01)
        assert flush.batches == [[1]]
        flush.may_go_on.set()
        assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
        assert flush.batches == [[1], [2, 3, 4]]

    async def test_a_batch_has_a_limit(self) -> None:
        flush = Doubler()
        batcher = Batcher(flush, limit=40)
        assert await asyncio.gather(*(batcher.submit(n) for n in range(20, 120))) == [2 * n for n in range(20, 120)]
        assert [len(batch) for batch in flush.batches] == [40, 40, 20]

    async def test_an_error_reaches_the_caller_of_its_item_only(self) -> None:
        flush = Doubler()
        batcher = Batcher(flush)
        answers = await asyncio.gather(*(batcher.submit(n) for n in range(10, 40)), return_exceptions=True)
        assert [2 * n if n != 13 else "thirteen" for n in range(10, 40)] == [
            str(answer) if isinstance(answer, Exception) else answer for answer in answers
        ]
        assert len(flush.batches) < 12
        assert await batcher.submit(6) == 12

    async def test_a_store_that_is_away_is_not_asked_for_each_item(self) -> None:
        calls: list[int] = []

        async def flush(items: Sequence[int]) -> Sequence[int]:
            calls.append(len(items))
            if len(calls) > 1:
                raise StoreUnavailable("away")
            raise StoreError("one of you")

        batcher = Batcher(flush)
        answers = await asyncio.gather(*(batcher.submit(n) for n in range(8)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 8
        assert calls == [8, 4]

    @pytest.mark.parametrize("begun", [False, True])
    async def test_callers_of_a_batcher_that_is_cancelled_are_not_cancelled_with_it(self, begun: bool) -> None:
        flush = Doubler()
        flush.may_go_on.clear()
        batcher = Batcher(flush, limit=1)
        before = asyncio.all_tasks()
        calls = [asyncio.create_task(batcher.submit(n)) for n in (1, 2)]
        await until(lambda: bool(flush.batches) if begun else len(asyncio.all_tasks() - before) == 3)
        (runner,) = asyncio.all_tasks() - before - set(calls)
        runner.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Closed, Closed]
        flush.may_go_on.set()
        assert await batcher.submit(6) == 12

    async def test_a_caller_that_is_cancelled_leaves_its_item_and_the_others(self) -> None:
        flush = Doubler()
        flush.may_go_on.clear()
        batcher = Batcher(flush)
        one, other = (asyncio.create_task(batcher.submit(n)) for n in (1, 2))
        await asyncio.sleep(0.01)
        one.cancel()
        flush.may_go_on.set()
        assert await other == 4
        assert one.cancelled()
        assert flush.batches == [[1, 2]]

    async def test_cancelled_callers_hear_of_no_error(self) -> None:
        flush = Doubler()
        flush.may_go_on.clear()
        batcher = Batcher(flush)
        caller = asyncio.create_task(batcher.submit(13))
        await asyncio.sleep(0.01)
        caller.cancel()
        flush.may_go_on.set()
        await batcher.drain()
        assert caller.cancelled()

    async def test_draining_waits_for_all_that_was_submitted(self) -> None:
        flush = Doubler()
        batcher = Batcher(flush, limit=1)
        calls = [asyncio.create_task(batcher.submit(n)) for n in range(5)]
        await asyncio.sleep(0)
        await batcher.drain()
        assert len(flush.batches) == 5
        assert await asyncio.gather(*calls) == [0, 2, 4, 6, 8]
        await batcher.drain()

    async def test_a_flush_that_answers_too_little_leaves_nobody_waiting(self) -> None:
        async def flush(items: Sequence[int]) -> Sequence[int]:
            return list(items)[:1]

        batcher = Batcher(flush)
        async with asyncio.timeout(1):
            answers = await asyncio.gather(*(batcher.submit(n) for n in (1, 2)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ValueError, ValueError]


class CountingQueueStore(ReferenceQueueStore):
    """Counts its calls, and yields as a store on a disk does."""

    def __init__(self, place: ReferenceSpace) -> None:
        super().__init__(place)
        self.adds: list[int] = []
        self.away = False

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        self.adds.append(len(tasks))
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("the store is away")
        return await super().add(tasks)


async def test_a_thousand_concurrent_enqueues_share_few_calls() -> None:
    store = CountingQueueStore(ReferenceSpace())
    async with front_door(reference_place(queue=lambda _: store)) as oq:
        ids = await asyncio.gather(*(oq.enqueue(tasks.add, [n, 1]) for n in range(1000)))
        assert len(set(ids)) == 1000
        assert sum(store.adds) == 1000
        assert len(store.adds) <= 5
        assert len(await oq.list_tasks(limit=2000)) == 1000


async def test_an_outage_reaches_every_caller_and_ends_with_it() -> None:
    store = CountingQueueStore(ReferenceSpace())
    async with front_door(reference_place(queue=lambda _: store)) as oq:
        store.away = True
        calls = [oq.enqueue(tasks.nothing) for _ in range(10)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        store.away = False
        assert await oq.enqueue(tasks.nothing, task_id="t") == "t"


async def test_a_bad_call_does_not_reach_the_batch() -> None:
    store = CountingQueueStore(ReferenceSpace())
    async with front_door(reference_place(queue=lambda _: store)) as oq:
        calls = [oq.enqueue(tasks.nothing, priority=n) for n in (1, 1000, 2)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(answer, str) for answer in answers] == [True, False, True]
        assert store.adds == [2]


async def test_an_enqueue_that_is_cancelled_may_still_take_effect() -> None:
    store = CountingQueueStore(ReferenceSpace())
    async with front_door(reference_place(queue=lambda _: store)) as oq:
        calls = [asyncio.create_task(oq.enqueue(tasks.nothing, task_id=f"t{n}")) for n in range(3)]
        await asyncio.sleep(0)
        calls[1].cancel()
        assert [await calls[0], await calls[2]] == ["t0", "t2"]
        assert [task.id for task in await oq.list_tasks()] == ["t0", "t1", "t2"]
        with pytest.raises(asyncio.CancelledError):
            await calls[1]
