"""What is large is bounded: calls, results, texts, what travels together, and what a worker has in its hands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from omniq import AsyncOmniQ
from omniq.batching import Batcher, parts
from omniq.errors import InvalidTask, PayloadTooLarge, StoreUnavailable, TaskFailed
from omniq.models import TaskState
from omniq.queue import AsyncTaskQueue
from omniq.queue.options import TaskCall
from omniq.storage.records import Added, Change, Changed, NewTask, TaskRecord
from omniq.testing import ReferenceQueueStore, ReferenceSpace
from omniq.workers import kinds

from tests.core import payloads, tasks
from tests.core.support import (
    KINDS,
    NO_RETRIES,
    QUEUES,
    SOON,
    Place,
    QueueConfig,
    front_door,
    lines,
    reference_place,
    result_storage,
    results_of,
    until,
    working,
)

TOO_LARGE = f"{PayloadTooLarge.__module__}.{PayloadTooLarge.__qualname__}"


def limited_door(place: Place, max_body: int) -> AsyncOmniQ:
    """OmniQ whose calls and results may have so many bytes."""
    config = QueueConfig(queues=list(QUEUES), max_body=max_body)
    queue = AsyncTaskQueue(lambda _: place.queue(), config, defaults=NO_RETRIES)
    return AsyncOmniQ(task_queue=queue, result_store=result_storage(place))


class TestParts:
    def test_a_part_has_no_more_items_and_bytes_than_allowed(self) -> None:
        sizes = [4, 4, 4, 1, 1, 1, 1, 99, 1, 9, 1]
        found = [list(part) for part in parts(sizes, int, limit=4, max_bytes=10)]
        assert found == [[4, 4], [4, 1, 1, 1], [1], [99], [1, 9], [1]]

    def test_nothing_has_no_parts(self) -> None:
        assert list(parts([], len, limit=0)) == []

    async def test_a_batch_has_no_more_bytes_than_allowed(self) -> None:
        batches: list[list[int]] = []

        async def flush(items: Sequence[int]) -> Sequence[int]:
            batches.append(list(items))
            await asyncio.sleep(0)
            return items

        batcher = Batcher(flush, size=int, max_bytes=10)
        sizes = [4, 4, 4, 99, 1, 10, 2, 3]
        assert await asyncio.gather(*map(batcher.submit, sizes)) == sizes
        assert batches == [[4, 4], [4], [99], [1], [10], [2, 3]]


class Counting(ReferenceQueueStore):
    """Takes 100 kB at once, and remembers how much came."""

    max_bytes: ClassVar[int] = 100_000

    def __init__(self, place: ReferenceSpace) -> None:
        super().__init__(place)
        self.adds: list[int] = []
        self.results: list[int] = []
        self.claims: list[int] = []

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        self.adds.append(sum(len(task.body) for task in tasks))
        return await super().add(tasks)

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        self.results.append(sum(len(change.result.body) for change in changes if change.result is not None))
        return await super().transition(changes)

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        claimed = await super().claim(queues, limit=limit, lease=lease, worker=worker)
        self.claims.append(sum(len(record.body) for record in claimed))
        return claimed


def counting_door() -> tuple[AsyncOmniQ, Counting]:
    space = ReferenceSpace()
    store = Counting(space)
    return front_door(reference_place(space, queue=lambda _: store)), store


class TestBatches:
    async def test_concurrent_calls_share_writes_of_bounded_bytes(self) -> None:
        oq, store = counting_door()
        async with oq:
            await asyncio.gather(*(oq.enqueue(payloads.size_of, [bytes(30_000)]) for _ in range(10)))
            await oq.enqueue_many([TaskCall(func=payloads.size_of, func_args=[bytes(30_000)]) for _ in range(10)])
            await oq.enqueue(payloads.size_of, [bytes(300_000)])
        assert max(store.adds[:-1]) <= store.max_bytes
        assert len(store.adds) <= 9
        assert store.adds[-1] > store.max_bytes

    async def test_results_that_come_at_once_are_settled_in_bounded_parts(self, gate: Path, log: Path) -> None:
        oq, store = counting_door()
        async with oq, working(oq, "async", max_workers=20):
            ids = [await oq.enqueue(payloads.bytes_of_async, [30_000]) for _ in range(20)]
            assert await results_of(oq, ids) == [b"x" * 30_000] * 20
        assert max(store.results) <= store.max_bytes

    async def test_a_worker_has_no_more_bytes_in_line_than_allowed(
        self, monkeypatch: pytest.MonkeyPatch, gate: Path, log: Path
    ) -> None:
        monkeypatch.setattr(kinds, "MAX_IN_LINE", 1_000_000)
        oq, store = counting_door()
        async with oq:
            ids = [await oq.enqueue(payloads.first_size_when, [str(gate), bytes(300_000), str(log)]) for _ in range(12)]
            async with working(oq, "thread", max_workers=1, prefetch=100, lease=60.0):
                await until(lambda: len(lines(log)) == 1 and sum(store.claims) > 1_000_000)
                await until(lambda: store.claims.count(0) == 0)
                assert sum(store.claims) <= 1_000_000 + 3 * 301_000
                gate.touch()
                assert await results_of(oq, ids) == [300_000] * 12
        assert max(store.claims) <= 301_000


class Narrow(ReferenceQueueStore):
    """Breaks off when too much comes at once, as a server does that hangs up, and answers everything else."""

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        if sum(len(change.result.body) for change in changes if change.result) > 2_000_000:
            raise StoreUnavailable("the server has hung up")
        return await super().transition(changes)


async def test_a_batch_that_breaks_the_connection_is_halved_until_it_passes() -> None:
    async with front_door(reference_place(queue=Narrow)) as oq:
        ids = [await oq.enqueue(payloads.bytes_of_async, [900_000]) for _ in range(9)]
        async with working(oq, "async", max_workers=9):
            assert [len(value) for value in await results_of(oq, ids)] == [900_000] * 9
        assert {record.epoch for record in await oq.task_queue.store.get(ids) if record} == {1}


class Refusing(ReferenceQueueStore):
    """Knows better than it says how much it takes."""

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        large = [change for change in changes if change.result and len(change.result.body) > 500_000]
        if large:
            raise PayloadTooLarge("500,001 bytes at once; the server allows 500,000")
        return await super().transition(changes)


async def test_a_result_that_only_the_store_knows_to_be_too_large_fails_its_own_task_only(log: Path) -> None:
    async with front_door(reference_place(queue=Refusing)) as oq:
        large = await oq.enqueue(payloads.bytes_noted, [str(log), 600_000], max_retries=3)
        small = [await oq.enqueue(tasks.add, [n, 1]) for n in range(5)]
        async with working(oq, "thread"):
            assert await results_of(oq, small) == [1, 2, 3, 4, 5]
            with pytest.raises(TaskFailed, match="the server allows 500,000") as failed:
                await oq.get_result(large, timeout=SOON)
    assert failed.value.error_type == TOO_LARGE
    assert lines(log) == ["ran"]


class TestMaxBody:
    async def test_a_call_that_is_too_large_is_refused_with_its_function_size_and_limit(self, place: Place) -> None:
        async with limited_door(place, 10_000) as oq:
            with pytest.raises(PayloadTooLarge, match=r"func_args: .*payloads:size_of has 20,\d\d\d bytes; .* 10,000"):
                await oq.enqueue(payloads.size_of, [bytes(20_000)])
            with pytest.raises(PayloadTooLarge, match=r"payloads:size_of has 20,\d\d\d bytes; max_body allows 10,000"):
                await oq.schedule(payloads.size_of, [bytes(20_000)], interval=60)
            assert await oq.enqueue(payloads.size_of, [bytes(9_000)], task_id="fits") == "fits"
            assert (await oq.list_schedules(), len(await oq.list_tasks())) == ([], 1)

    async def test_one_call_of_many_that_is_too_large_is_named_and_none_is_added(self, place: Place) -> None:
        async with limited_door(place, 10_000) as oq:
            calls = [TaskCall(func=payloads.size_of, func_args=[bytes(size)]) for size in (10, 20_000, 10)]
            with pytest.raises(
                PayloadTooLarge, match=r"calls\[1\]\.func_args: the call of tests.core.payloads:size_of"
            ):
                await oq.enqueue_many(calls)
            assert await oq.list_tasks() == []

    async def test_the_store_has_a_limit_of_its_own(self) -> None:
        class Small(ReferenceQueueStore):
            @property
            def max_item_bytes(self) -> int:
                return 600_000

        async with front_door(reference_place(queue=Small)) as oq:
            with pytest.raises(PayloadTooLarge, match=r"700,\d\d\d bytes; reference:.* allows 600,000"):
                await oq.enqueue(payloads.size_of, [bytes(700_000)])

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_result_that_is_too_large_is_its_tasks_error_at_once(
        self, place: Place, log: Path, kind: str
    ) -> None:
        async with limited_door(place, 10_000) as oq:
            large = await oq.enqueue(payloads.bytes_noted, [str(log), 20_000], max_retries=5, retry_delay=60)
            small = [await oq.enqueue(tasks.add, [n, 1]) for n in range(20)]
            async with working(oq, kind):
                assert await results_of(oq, small) == [n + 1 for n in range(20)]
                with pytest.raises(TaskFailed, match=r"result has 20,\d\d\d bytes; max_body allows 10,000") as failed:
                    await oq.get_result(large, timeout=SOON)
            assert failed.value.error_type == TOO_LARGE
            assert (await oq.get_task(large)).state is TaskState.ERROR
        assert lines(log) == ["ran"]

    async def test_metadata_is_bounded(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(PayloadTooLarge, match=r"metadata: it has 100,\d\d\d bytes; 65,536 are allowed"):
            await oq.enqueue(tasks.nothing, metadata={"text": "x" * 100_000})

    def test_it_is_a_setting(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert AsyncOmniQ().task_queue.config.max_body == 128 * 1024 * 1024
        monkeypatch.setenv("OMNIQ_MAX_BODY", "1000")
        assert AsyncOmniQ().task_queue.config.max_body == 1000

    def test_an_error_about_it_is_one_about_a_task(self) -> None:
        assert issubclass(PayloadTooLarge, InvalidTask)
