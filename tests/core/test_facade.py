"""The blocking classes: one loop for all of them, and errors where they would freeze."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from omniq import AsyncOmniQ, OmniQ, TaskQueue
from omniq.errors import BlockingCallInLoop, StoreUnavailable, TaskFailed, TaskNotFound, WorkerError
from omniq.events import EventStorage
from omniq.models import TaskState
from omniq.results import ResultStorage
from omniq.storage.records import Added, NewTask
from omniq.sync import portal
from omniq.testing import ReferenceQueueStore, ReferenceSpace
from omniq.workers import AsyncWorker, ProcessPoolWorker, ThreadPoolWorker
from omniq.workers.base import Worker

from tests.core import tasks
from tests.core.support import (
    FAST,
    KINDS,
    SOON,
    Place,
    blocking_door,
    event_storage,
    front_door,
    reference_place,
    result_storage,
    sqlite_place,
    task_queue,
)

WORKERS: list[type[Worker]] = [AsyncWorker, ThreadPoolWorker, ProcessPoolWorker]


@pytest.fixture
def oq(place: Place) -> Iterator[OmniQ]:
    """A blocking front door."""
    with blocking_door(place) as oq:
        yield oq


class TestOmniQ:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_worker_of_its_own(self, oq: OmniQ, kind: str) -> None:
        oq.start_worker(kind)
        assert oq.get_result(oq.enqueue(tasks.add, {"x": 1, "y": 2}), timeout=SOON) == 3
        with pytest.raises(TaskFailed, match="no luck"):
            oq.get_result(oq.enqueue(tasks.fail_async), timeout=SOON)
        oq.stop_worker()
        oq.stop_worker()

    def test_a_worker_is_started_once_at_a_time(self, oq: OmniQ) -> None:
        oq.start_worker()
        with pytest.raises(WorkerError, match="running already"):
            oq.start_worker("thread")
        oq.stop_worker()
        oq.start_worker("thread")
        assert oq.get_result(oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3

    def test_closed_it_can_be_used_again(self, place: Place) -> None:
        oq = blocking_door(place)
        for n in range(3):
            with oq:
                oq.start_worker()
                assert oq.get_result(oq.enqueue(tasks.add, [n, 1]), timeout=SOON) == n + 1
            oq.close()
        assert oq.get_task(oq.enqueue(tasks.nothing)).state is TaskState.PENDING
        oq.close()

    def test_all_its_methods(self, oq: OmniQ) -> None:
        task_id = oq.enqueue(tasks.nothing, run_in=60)
        assert [task.id for task in oq.list_tasks(state="scheduled")] == [task_id]
        assert oq.cancel(task_id) is True
        assert oq.requeue(task_id) is True
        assert oq.list_dead() == []
        schedule_id = oq.schedule(tasks.nothing, interval=60)
        oq.pause_schedule(schedule_id)
        assert oq.get_schedule(schedule_id).state == "paused"
        oq.resume_schedule(schedule_id)
        assert len(oq.list_schedules()) == 1
        oq.delete_schedule(schedule_id)
        with pytest.raises(TaskNotFound):
            oq.get_task("nobody")

    def test_it_reads_the_events_that_it_wrote(self, place: Place) -> None:
        with blocking_door(place, events=True) as oq:
            oq.start_worker()
            ids = [oq.enqueue(tasks.nothing) for _ in range(20)]
            assert [event.task_id for event in oq.list_events(type="ENQUEUED", oldest_first=True)] == ids

    def test_blocking_and_async_components_are_taken(self, place: Place) -> None:
        queue, results = TaskQueue(task_queue(place)), ResultStorage(result_storage(place))
        with OmniQ(task_queue=queue, result_store=results, event_store=EventStorage(event_storage(place))) as oq:
            assert oq.aio.task_queue.store is queue.aio.store
            assert queue.get_task(oq.enqueue(tasks.nothing)).state is TaskState.PENDING
        assert AsyncOmniQ(task_queue=queue, result_store=results).result_store.store is results.aio.store
        queue.close()
        results.close()


class TestWorkers:
    @pytest.mark.parametrize("worker_class", WORKERS)
    def test_a_worker_with_its_queue_and_results(self, place: Place, worker_class: type[Worker]) -> None:
        with (
            TaskQueue(task_queue(place)) as queue,
            ResultStorage(result_storage(place)) as results,
            worker_class(queue, results, **FAST) as worker,
        ):
            ids = [queue.enqueue(tasks.add, [n, 1]) for n in range(5)]
            assert worker.get_result(ids[0], timeout=SOON) == 1
            worker.drain()
            found = [results.get(task_id) for task_id in ids]
            assert [result and result.value for result in found] == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("worker_class", WORKERS)
    def test_it_is_started_once_at_a_time(self, worker_class: type[Worker]) -> None:
        place = reference_place()
        worker = worker_class(TaskQueue(task_queue(place)), ResultStorage(result_storage(place)), **FAST)
        for _ in range(2):
            worker.start()
            with pytest.raises(WorkerError, match="running already"):
                worker.start()
            worker.stop()
            worker.stop()
        with pytest.raises(WorkerError, match="isn't running"):
            worker.drain()

    async def test_on_a_loop_it_is_entered_once_at_a_time(self, place: Place) -> None:
        async with task_queue(place) as queue, result_storage(place) as results:
            worker = AsyncWorker(queue, results, **FAST)
            async with worker:
                with pytest.raises(WorkerError, match="running already"):
                    await worker.__aenter__()
                task_id = await queue.enqueue(tasks.add, [1, 2])
                result = await results.wait(task_id, SOON)
                assert result is not None
                assert result.value == 3
            with pytest.raises(BlockingCallInLoop, match=r"AsyncWorker\.start\(\) blocks"):
                worker.start()
            with pytest.raises(BlockingCallInLoop, match=r"AsyncWorker\.get_result\(\) blocks"):
                worker.get_result(task_id)

    async def test_of_two_starts_at_once_one_fails(self) -> None:
        async with front_door(reference_place()) as oq:
            starts = await asyncio.gather(oq.start_worker(), oq.start_worker(), return_exceptions=True)
            assert [type(answer) for answer in starts if answer is not None] == [WorkerError]


class TestInsideALoop:
    async def test_a_blocking_call_is_refused_and_leaves_nothing(self, place: Place) -> None:
        oq, queue = blocking_door(place), TaskQueue(task_queue(place))
        calls: list[Callable[[], object]] = [
            lambda: oq.enqueue(tasks.nothing),
            lambda: oq.get_result("t"),
            lambda: queue.enqueue(tasks.nothing),
            queue.connect,
            oq.__enter__,
            oq.start_worker,
        ]
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for call in calls:
                with pytest.raises(BlockingCallInLoop, match="use the async class"):
                    call()
            gc.collect()
        assert found == []

    async def test_on_a_thread_it_is_allowed(self, place: Place) -> None:
        oq = blocking_door(place)
        task_id = await asyncio.to_thread(oq.enqueue, tasks.nothing)
        assert (await asyncio.to_thread(oq.get_task, task_id)).state is TaskState.PENDING
        await asyncio.to_thread(oq.close)

    @pytest.mark.parametrize("kind", ["async", "thread"])
    def test_a_task_may_block_only_off_the_loop(self, tmp_path: Path, kind: str) -> None:
        with blocking_door(sqlite_place(tmp_path)) as oq:
            oq.start_worker(kind)
            child = oq.get_result(oq.enqueue(tasks.enqueue_another, [str(tmp_path)]), timeout=SOON)
            assert oq.get_result(child, timeout=SOON) == 3
            with pytest.raises(TaskFailed, match="use the async class"):
                oq.get_result(oq.enqueue(tasks.enqueue_another_async, [str(tmp_path)]), timeout=SOON)


class RefusingQueueStore(ReferenceQueueStore):
    """Can't be reached at first."""

    away = True

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        if self.away:
            raise StoreUnavailable("away")
        return await super().add(tasks)


def test_a_store_that_is_away_at_the_first_call_is_tried_again() -> None:
    store = RefusingQueueStore(ReferenceSpace())
    queue = TaskQueue(task_queue(reference_place(queue=lambda _: store)))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="away"):
                queue.enqueue(tasks.nothing)
        gc.collect()
    assert found == []
    store.away = False
    assert queue.enqueue(tasks.nothing, task_id="t") == "t"
    queue.close()


class TestPortal:
    def test_all_facades_share_one_thread(self, place: Place) -> None:
        before = portal()
        doors = [blocking_door(place) for _ in range(3)]
        for oq in doors:
            oq.enqueue(tasks.nothing)
        assert portal() is before
        assert [thread.name for thread in threading.enumerate()].count("omniq-portal") == 1
        for oq in doors:
            oq.close()

    def test_many_threads_share_a_facade(self, oq: OmniQ) -> None:
        def enqueue(start: int) -> None:
            for n in range(start, start + 20):
                oq.enqueue(tasks.nothing, task_id=f"t{n}")

        threads = [threading.Thread(target=enqueue, args=[20 * n]) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(oq.list_tasks(limit=1000)) == 160
