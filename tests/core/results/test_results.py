"""Waiting for outcomes: what is returned, what is raised instead, and that nobody waits where the end is known."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import (
    Closed,
    CorruptPayload,
    InvalidTask,
    ResultExpired,
    ResultTimeout,
    StoreUnavailable,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
)
from omniq.models import ResultStatus, TaskState
from omniq.results import ResultWatcher
from omniq.storage.records import ResultRecord, TaskRecord
from omniq.storage.wakeups import Wakeups
from omniq.testing import ReferenceQueueStore, ReferenceResultStore, ReferenceSpace, VirtualClock

from tests.core import tasks
from tests.core.support import KINDS, SOON, front_door, lines, reference_place, results_of, until, working


class TestGetResult:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_failure_comes_with_the_workers_traceback(self, oq: AsyncOmniQ, kind: str) -> None:
        task_id = await oq.enqueue(tasks.fail, ["no luck today"])
        async with working(oq, kind):
            with pytest.raises(TaskFailed) as failed:
                await oq.get_result(task_id, timeout=SOON)
        error = failed.value
        assert (error.task_id, error.error_type, error.error_message) == (task_id, "ValueError", "no luck today")
        assert error.remote_traceback.startswith("Traceback (most recent call last):")
        assert "in fail\n    raise ValueError(message)" in error.remote_traceback
        assert "execution.py" not in error.remote_traceback
        assert str(error).startswith(f"task {task_id} failed: ValueError: no luck today\n\nOn the worker:\nTraceback")

    async def test_it_waits_until_the_task_has_ended(self, oq: AsyncOmniQ, log: Path, gate: Path) -> None:
        task_id = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
        async with working(oq, "async"):
            waiting = asyncio.create_task(oq.get_result(task_id))
            await until(lambda: len(lines(log)) == 1)
            assert not waiting.done()
            gate.touch()
            assert await waiting == "done"

    @pytest.mark.parametrize("timeout", [0, 0.05, dt.timedelta(milliseconds=50)])
    async def test_it_waits_no_longer_than_it_may(self, oq: AsyncOmniQ, timeout: float | dt.timedelta) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        with pytest.raises(ResultTimeout, match=f"task {task_id} is still pending") as timed_out:
            await oq.get_result(task_id, timeout=timeout)
        assert isinstance(timed_out.value, TimeoutError)

    async def test_an_unknown_task_is_not_waited_for(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(TaskNotFound, match="nobody"):
            await oq.get_result("nobody")

    async def test_a_task_that_is_cancelled_meanwhile_is_not_waited_for(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing, run_in=3600)
        waiting = asyncio.create_task(oq.get_result(task_id))
        await asyncio.sleep(0.01)
        await oq.cancel(task_id)
        with pytest.raises(TaskCancelled, match=task_id):
            await waiting

    async def test_a_task_or_a_schedule_has_to_be_named(self, oq: AsyncOmniQ) -> None:
        for task_id, schedule_id in ((None, None), ("t", "s")):
            with pytest.raises(InvalidTask, match="task_id: give a task_id or a schedule_id"):
                await oq.get_result(task_id, schedule_id=schedule_id)

    async def test_many_wait_with_few_reads(self, log: Path, gate: Path) -> None:
        space, counts = ReferenceSpace(), [0]
        place = reference_place(space, results=lambda place: CountingResultStore(place, counts))
        async with front_door(place) as oq, working(oq, "async"):
            task_id = await oq.enqueue(tasks.wait_for_async, [str(gate), str(log)])
            waiting = [asyncio.create_task(oq.get_result(task_id)) for _ in range(300)]
            await until(lambda: len(lines(log)) == 1)
            gate.touch()
            assert await asyncio.gather(*waiting) == ["done"] * 300
        assert counts[0] < 30


class TestTimeToLive:
    async def test_a_task_that_no_worker_starts_in_time_expires(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing, ttl=0.1)
        with pytest.raises(TaskExpired, match=task_id):
            await oq.get_result(task_id)
        assert (await oq.get_task(task_id)).state is TaskState.EXPIRED

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_worker_does_not_run_it_any_more(
        self, oq: AsyncOmniQ, log: Path, virtual_clock: VirtualClock, kind: str
    ) -> None:
        late = await oq.enqueue(tasks.append, [str(log), "late"], ttl=60)
        in_time = await oq.enqueue(tasks.append, [str(log), "in-time"], ttl=6000)
        virtual_clock.advance(61)
        async with working(oq, kind):
            with pytest.raises(TaskExpired):
                await oq.get_result(late, timeout=SOON)
            assert await oq.get_result(in_time, timeout=SOON) == "in-time"
        assert lines(log) == ["in-time"]
        assert (await oq.get_task(late)).attempts == 0

    async def test_a_worker_ends_what_waits_in_queues_that_nobody_serves(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock
    ) -> None:
        task_id = await oq.enqueue(tasks.nothing, queue_name="low", ttl=60)
        async with working(oq, "async", queues=["high"]):
            virtual_clock.advance(61)
            result = await oq.result_store.wait(task_id, SOON)
        assert result is not None
        assert result.status is ResultStatus.EXPIRED

    async def test_it_counts_from_when_the_task_is_due(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        task_id = await oq.enqueue(tasks.add, [1, 2], run_in=3600, ttl=60)
        virtual_clock.advance(3630)
        async with working(oq, "async"):
            assert await oq.get_result(task_id, timeout=SOON) == 3

    async def test_a_running_task_does_not_expire(
        self, oq: AsyncOmniQ, log: Path, gate: Path, virtual_clock: VirtualClock
    ) -> None:
        task_id = await oq.enqueue(tasks.wait_for, [str(gate), str(log)], ttl=60)
        async with working(oq, "thread", lease=6000):
            await until(lambda: len(lines(log)) == 1)
            virtual_clock.advance(61)
            gate.touch()
            assert await oq.get_result(task_id, timeout=SOON) == "done"


class TestRetention:
    async def test_a_result_is_kept_as_long_as_was_asked_for(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        task_id = await oq.enqueue(tasks.add, [1, 2], result_ttl=60)
        async with working(oq, "async"):
            assert await oq.get_result(task_id, timeout=SOON) == 3
        virtual_clock.advance(50)
        assert await oq.get_result(task_id, timeout=SOON) == 3
        virtual_clock.advance(20)
        with pytest.raises(ResultExpired, match=task_id):
            await oq.get_result(task_id)
        assert await oq.result_store.get(task_id) is None

    @pytest.mark.parametrize(("func", "error"), [(tasks.nothing, ResultExpired), (tasks.fail, TaskFailed)])
    async def test_a_result_that_is_not_kept_at_all(self, oq: AsyncOmniQ, func: object, error: type[Exception]) -> None:
        assert callable(func)
        task_id = await oq.enqueue(func, result_ttl=0)
        async with working(oq, "async") as pool:
            await pool.drain()
            with pytest.raises(error):
                await oq.get_result(task_id, timeout=SOON)

    async def test_a_task_is_forgotten_after_its_retention(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        task_id = await oq.enqueue(tasks.add, [1, 2], result_ttl=60)
        pending = await oq.enqueue(tasks.nothing, run_in=dt.timedelta(days=30))
        async with working(oq, "async"):
            await oq.get_result(task_id, timeout=SOON)
        virtual_clock.advance(3601)
        assert await oq.task_queue.ttl.purge(retention=3600) == 2  # the task and its result
        with pytest.raises(TaskNotFound):
            await oq.get_result(task_id)
        assert (await oq.get_task(pending)).state is TaskState.SCHEDULED

    async def test_a_result_may_outlive_its_task(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        task_id = await oq.enqueue(tasks.add, [1, 2], result_ttl=dt.timedelta(days=7))
        async with working(oq, "async"):
            await oq.get_result(task_id, timeout=SOON)
        virtual_clock.advance(3601)
        assert await oq.task_queue.ttl.purge(retention=3600) == 1
        assert await oq.get_result(task_id) == 3


class TestResultStorage:
    async def test_a_snapshot_says_all_about_the_outcome(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.add, [1, 2], result_ttl=60)
        assert await oq.result_store.get(task_id) is None
        async with working(oq, "async") as pool:
            await oq.get_result(task_id, timeout=SOON)
            result = await oq.result_store.get(task_id)
        assert result is not None
        assert (result.task_id, result.status, result.value) == (task_id, ResultStatus.SUCCESS, 3)
        assert (result.error_type, result.traceback, result.attempts) == (None, None, 1)
        assert (result.worker, result.schedule_id) == (pool.name, None)
        assert result.started_at is not None
        assert result.finished_at is not None
        assert result.expires_at == result.finished_at + dt.timedelta(seconds=60)
        assert result.duration == (result.finished_at - result.started_at).total_seconds()

    async def test_waiting_ends_with_nothing_when_the_time_is_over(self, oq: AsyncOmniQ) -> None:
        assert await oq.result_store.wait("nobody", 0.05) is None

    async def test_waiting_hears_of_what_another_object_stores(self, oq: AsyncOmniQ) -> None:
        ids = [await oq.enqueue(tasks.add, [n, 1]) for n in range(20)]
        waiting = asyncio.gather(*(oq.result_store.wait(id_, SOON) for id_ in ids))
        async with working(oq, "thread"):
            found = await waiting
        assert [result and result.value for result in found] == [n + 1 for n in range(20)]

    async def test_closing_ends_every_wait(self, oq: AsyncOmniQ) -> None:
        waiting = asyncio.create_task(oq.result_store.wait("nobody"))
        await asyncio.sleep(0.01)
        async with asyncio.timeout(1):
            await oq.result_store.close()
            assert await asyncio.wait([waiting]) == ({waiting}, set())
        assert isinstance(waiting.exception(), Closed)

    async def test_whoever_is_cancelled_leaves_the_others_waiting(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.add, [1, 2])
        one, other = (asyncio.create_task(oq.result_store.wait(task_id, SOON)) for _ in range(2))
        await asyncio.sleep(0.01)
        one.cancel()
        async with working(oq, "async"):
            found = await other
        assert found is not None
        assert one.cancelled()

    async def test_damaged_bytes_are_an_error_of_their_own(self, oq: AsyncOmniQ) -> None:
        record = ResultRecord(task_id="t", epoch=1, status=TaskState.SUCCESS, body=b"\x00damaged")
        await oq.result_store.store.put([record])
        with pytest.raises(CorruptPayload, match="aren't a payload"):
            await oq.result_store.get("t")

    async def test_a_store_that_cannot_wait_is_polled(self) -> None:
        counts = [0]
        place = reference_place(results=lambda place: DeafResultStore(place, counts))
        async with front_door(place) as oq:
            task_id = await oq.enqueue(tasks.add, [1, 2])
            waiting = asyncio.create_task(oq.result_store.wait(task_id, SOON))
            await until(lambda: counts[0] > 0)
            async with working(oq, "async"):
                found = await waiting
        assert found is not None
        assert counts[0] < 8

    async def test_purging_deletes_what_has_expired(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        ids = [await oq.enqueue(tasks.add, [n, 1], result_ttl=60 if n else 600) for n in range(4)]
        async with working(oq, "async"):
            await results_of(oq, ids)
        virtual_clock.advance(61)
        assert await oq.result_store.purge() == 3
        assert await oq.result_store.purge() == 0


class CountingResultStore(ReferenceResultStore):
    """Counts how often it is read."""

    def __init__(self, place: ReferenceSpace, counts: list[int]) -> None:
        super().__init__(place)
        self._counts = counts

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        self._counts[0] += 1
        return await super().get(ids)


class DeafResultStore(CountingResultStore):
    """Can't be listened to."""

    async def wait(self, ids: Sequence[str], timeout: float) -> list[str]:
        raise StoreUnavailable("no line to listen on")


class CountingStore(ReferenceQueueStore):
    """Counts how often it is asked for tasks."""

    reads = 0

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        self.reads += 1
        return await super().get(ids, bodies=bodies)


async def test_a_result_that_is_to_come_takes_two_reads() -> None:
    counts, stores = [0], list[CountingStore]()

    def store(space: ReferenceSpace) -> CountingStore:
        stores.append(CountingStore(space))
        return stores[-1]

    space = ReferenceSpace()
    place = reference_place(space, queue=store, results=lambda place: CountingResultStore(place, counts))
    async with front_door(place) as oq:
        task_id = await oq.enqueue(tasks.add, [1, 2])
        waiting = asyncio.create_task(oq.get_result(task_id, timeout=SOON))
        while not Wakeups.at(space.location).awaits_results:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert sum(store.reads for store in stores) + counts[0] <= 2
        async with working(oq, "async"):
            assert await waiting == 3


async def test_those_who_wait_share_their_looks_at_tasks() -> None:
    stores: list[CountingStore] = []

    def store(space: ReferenceSpace) -> CountingStore:
        stores.append(CountingStore(space))
        return stores[-1]

    async with front_door(reference_place(queue=store)) as oq:
        ids = [await oq.enqueue(tasks.add, [n, 1]) for n in range(200)]
        waiting = [asyncio.create_task(oq.get_result(id_, timeout=SOON)) for id_ in ids]
        async with working(oq, "async"):
            assert await asyncio.gather(*waiting) == [n + 1 for n in range(200)]
    assert sum(store.reads for store in stores) < 50


class BrokenHearing(ReferenceResultStore):
    """Can't hear, and doesn't tell of what it stores: as a plugin with a bug."""

    async def hear(self, timeout: float) -> None:
        raise RuntimeError("the plugin has a bug")

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        with self.space.lock:
            return [self.space.results.put(record, 0.0) for record in records]


async def test_a_store_that_cannot_hear_is_looked_at_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    store = BrokenHearing()
    watcher = ResultWatcher(store)
    waiting = asyncio.create_task(watcher.wait("t"))
    await until(lambda: "can't hear of results" in caplog.text)
    record = ResultRecord(task_id="t", epoch=1, status=TaskState.CANCELLED, body=b"")
    await store.put([record])
    async with asyncio.timeout(SOON):
        assert (await waiting).status is TaskState.CANCELLED
    await watcher.close()
