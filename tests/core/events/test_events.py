"""What happens to tasks and schedules is told in order, and nobody pays for it: neither tasks nor workers."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.config import EventsConfig
from omniq.errors import ConfigError, InvalidTask, StoreError, StoreUnavailable, TaskFailed
from omniq.events import AsyncEventLogger, EventLogger, EventStorage
from omniq.models import EventType, TaskState
from omniq.models.event import TaskEvent
from omniq.storage import BaseEventStorage
from omniq.storage.records import Change, Changed, EventFilter
from omniq.testing import ReferenceEventStore, ReferenceQueueStore, ReferenceSpace, VirtualClock

from tests.core import oddities, tasks
from tests.core.support import (
    KINDS,
    QUEUES,
    SOON,
    Place,
    event_storage,
    front_door,
    reference_place,
    results_of,
    task_queue,
    until,
    until_states,
    working,
    working_elsewhere,
)

E = EventType


@pytest.fixture
async def oq(place: Place) -> AsyncIterator[AsyncOmniQ]:
    """OmniQ that keeps events."""
    async with front_door(place, events=True) as oq:
        yield oq


async def told(oq: AsyncOmniQ, task_id: str, last: EventType) -> list[TaskEvent]:
    """The events of a task, once the last one is there."""
    async with asyncio.timeout(SOON):
        while True:
            found = await oq.list_events(task_id=task_id, oldest_first=True)
            if found and found[-1].type is last:
                return found
            await asyncio.sleep(0.01)


class TestTasks:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_success_is_told_in_order(self, oq: AsyncOmniQ, kind: str) -> None:
        async with working(oq, kind) as pool:
            task_id = await oq.enqueue(tasks.add, [1, 2], queue_name="high")
            await oq.get_result(task_id, timeout=SOON)
            enqueued, executing, complete = await told(oq, task_id, E.COMPLETE)
        assert [event.type for event in (enqueued, executing, complete)] == [E.ENQUEUED, E.EXECUTING, E.COMPLETE]
        assert enqueued.time <= executing.time <= complete.time
        assert {event.queue_name for event in (enqueued, executing, complete)} == {"high"}
        assert [event.worker for event in (enqueued, executing, complete)] == [None, pool.name, pool.name]
        assert [event.attempt for event in (enqueued, executing, complete)] == [None, 1, 1]
        assert {event.name for event in (enqueued, executing, complete)} == {"tests.core.tasks:add"}
        assert enqueued.id < executing.id < complete.id

    @pytest.mark.parametrize("kind", KINDS)
    async def test_each_attempt_is_told(self, oq: AsyncOmniQ, kind: str) -> None:
        task_id = await oq.enqueue(tasks.fail, max_retries=2, retry_delay=0.01)
        async with working(oq, kind):
            found = await told(oq, task_id, E.DEAD_LETTERED)
        assert [(event.type, event.attempt) for event in found[1:]] == [
            (E.EXECUTING, 1),
            (E.RETRY, 1),
            (E.EXECUTING, 2),
            (E.RETRY, 2),
            (E.EXECUTING, 3),
            (E.ERROR, 3),
            (E.DEAD_LETTERED, 3),
        ]
        failed = [event for event in found if event.type in (E.RETRY, E.ERROR, E.DEAD_LETTERED)]
        assert {event.data.get("error_type") for event in failed} == {"ValueError"}
        assert [event.data.get("delay", 0) > 0 for event in failed] == [True, True, False, False]

    async def test_a_crash_is_told_as_a_retry(self, oq: AsyncOmniQ, log: Path) -> None:
        task_id = await oq.enqueue(oddities.die, [str(log), "exit"])
        async with working(oq, "process", max_crashes=2):
            found = await told(oq, task_id, E.DEAD_LETTERED)
        assert [event.type for event in found] == [
            E.ENQUEUED,
            E.EXECUTING,
            E.RETRY,
            E.EXECUTING,
            E.ERROR,
            E.DEAD_LETTERED,
        ]

    async def test_a_cancellation_is_told(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        await oq.cancel(task_id)
        assert [event.type for event in await told(oq, task_id, E.CANCELLED)] == [E.ENQUEUED, E.CANCELLED]

    async def test_an_expiry_is_told(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        task_id = await oq.enqueue(tasks.nothing, ttl=10)
        virtual_clock.advance(11)
        await oq.task_queue.ttl.expire()
        assert [event.type for event in await told(oq, task_id, E.EXPIRED)] == [E.ENQUEUED, E.EXPIRED]

    async def test_an_id_that_is_enqueued_again_is_told_once(self, oq: AsyncOmniQ) -> None:
        for _ in range(3):
            await oq.enqueue(tasks.nothing, task_id="mine")
        assert len(await oq.list_events(task_id="mine", oldest_first=True)) == 1

    async def test_events_of_a_worker_elsewhere_come_in_order_too(self, oq: AsyncOmniQ) -> None:
        async with working_elsewhere(oq, "thread"):
            ids = [await oq.enqueue(tasks.add, [n, 1]) for n in range(20)]
            for task_id in ids:
                found = await told(oq, task_id, E.COMPLETE)
                assert [event.type for event in found] == [E.ENQUEUED, E.EXECUTING, E.COMPLETE]

    async def test_no_event_holds_an_argument(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.fail, ["a secret"])
        async with working(oq, "async"):
            found = await told(oq, task_id, E.DEAD_LETTERED)
        assert "secret" not in str(found)


async def test_what_happens_to_a_schedule_is_told(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    schedule_id = await oq.schedule(tasks.nothing, interval=60)
    virtual_clock.advance(61)
    await oq.task_queue.scheduler.fire_due()
    await oq.pause_schedule(schedule_id)
    await oq.resume_schedule(schedule_id)
    await oq.schedule(tasks.nothing, interval=60, schedule_id=schedule_id)  # it is no new one
    run = await oq.run_schedule(schedule_id)
    await oq.delete_schedule(schedule_id)
    found = await oq.list_events(schedule_id=schedule_id, oldest_first=True)
    (fired,) = [task for task in await oq.list_tasks() if task.id != run]
    assert [(event.type, event.task_id) for event in found] == [
        (E.SCHEDULE_CREATED, None),
        (E.SCHEDULE_FIRED, fired.id),
        (E.ENQUEUED, fired.id),
        (E.SCHEDULE_PAUSED, None),
        (E.SCHEDULE_RESUMED, None),
        (E.ENQUEUED, run),
        (E.SCHEDULE_DELETED, None),
    ]


async def test_what_happens_to_queues_and_workers_is_told(oq: AsyncOmniQ) -> None:
    async with working(oq, "thread") as pool:
        await oq.task_queue.pause_queue("high")
        await oq.task_queue.resume_queue("high")
    found = await oq.list_events(oldest_first=True)
    assert [(event.type, event.worker, event.queue_name) for event in found] == [
        (E.WORKER_STARTED, pool.name, None),
        (E.QUEUE_PAUSED, None, "high"),
        (E.QUEUE_RESUMED, None, "high"),
        (E.WORKER_STOPPED, pool.name, None),
    ]
    assert found[0].data == {"kind": "thread", "slots": 2, "queues": ["high", "default", "low"]}


async def test_a_lost_worker_and_a_task_that_starts_afresh_are_told(oq: AsyncOmniQ) -> None:
    task_id = await oq.enqueue(tasks.add, [1, 2])
    await oq.task_queue.store.claim(QUEUES, limit=1, lease=0.001, worker="lost")
    async with working(oq, "async", lease=0.3, max_crashes=1):
        found = await told(oq, task_id, E.DEAD_LETTERED)
        assert [event.type for event in found] == [E.ENQUEUED, E.LEASE_EXPIRED, E.ERROR, E.DEAD_LETTERED]
        assert (found[1].worker, found[1].data) == ("lost", {"crashes": 1})
        assert await oq.requeue(task_id)
        again = [event.type for event in await told(oq, task_id, E.COMPLETE)][4:]
    assert again == [E.TASK_REQUEUED, E.EXECUTING, E.COMPLETE]


async def test_each_of_many_tasks_that_start_afresh_is_told(oq: AsyncOmniQ) -> None:
    ids = [await oq.enqueue(tasks.nothing) for _ in range(2)]
    await oq.cancel_many(ids)
    assert await oq.requeue_many([*ids, *ids]) == 2
    found = await oq.list_events(type=E.TASK_REQUEUED, oldest_first=True)
    assert sorted(str(event.task_id) for event in found) == sorted(ids)


class LateReplyStore(ReferenceQueueStore):
    """Its reply to a requeue is here when the task has ended again."""

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        answers = await super().transition(changes)
        for change in changes:
            while change.fresh and not await self._has_ended(change.task_id):
                await asyncio.sleep(0.005)
        return answers

    async def _has_ended(self, task_id: str) -> bool:
        (record,) = await self.get([task_id])
        return record is not None and record.state.is_terminal


@pytest.mark.parametrize("many", [False, True])
async def test_it_starts_afresh_before_it_is_started_again(many: bool) -> None:
    async with front_door(reference_place(queue=LateReplyStore), events=True) as oq:
        task_id = await oq.enqueue(tasks.nothing)
        await oq.cancel(task_id)
        async with working(oq, "async"):
            assert await (oq.requeue_many([task_id]) if many else oq.requeue(task_id))
            found = await told(oq, task_id, E.COMPLETE)
    assert [event.type for event in found][2:] == [E.TASK_REQUEUED, E.EXECUTING, E.COMPLETE]


class TestListing:
    async def test_by_type_time_and_number(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        ids = []
        for n in range(4):
            ids.append(await oq.enqueue(tasks.nothing, task_id=f"t{n}"))
            virtual_clock.advance(10)
        await oq.cancel("t3")
        assert [event.task_id for event in await oq.list_events(type="CANCELLED")] == ["t3"]
        both = await oq.list_events(type=[E.ENQUEUED, "expired"], oldest_first=True)
        assert [event.task_id for event in both] == ids
        since = dt.datetime.fromtimestamp(virtual_clock.now() - 25, dt.UTC)
        assert [event.task_id for event in await oq.list_events(type=E.ENQUEUED, since=since)] == ["t3", "t2"]
        assert [event.task_id for event in await oq.list_events(type=E.ENQUEUED, limit=1)] == ["t3"]

    async def test_a_type_that_does_not_exist_is_named(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(InvalidTask, match="^type: 'DONE'"):
            await oq.list_events(type="DONE")
        with pytest.raises(InvalidTask, match="^type: 'complet' is no type of events, did you mean 'COMPLETE'"):
            await oq.list_events(type=["complet"])

    async def test_page_by_page(self, oq: AsyncOmniQ) -> None:
        ids = [await oq.enqueue(tasks.nothing) for _ in range(5)]
        for oldest_first in (True, False):
            found: list[TaskEvent] = []
            while page := await oq.list_events(
                oldest_first=oldest_first, limit=2, cursor=found[-1].cursor if found else None
            ):
                found += page
            assert [event.task_id for event in found] == (ids if oldest_first else ids[::-1])
            streamed = [event async for event in oq.events(oldest_first=oldest_first)]
            assert streamed == found
        assert [event.task_id async for event in oq.events(after=found[3].cursor)] == ids[2:]
        for bad in ("", "yesterday", "nan/x", "1e300/x", 7, b"1.0/x"):
            with pytest.raises(InvalidTask, match="^cursor: expected a cursor"):
                await oq.list_events(cursor=bad)  # type: ignore[arg-type]  # that is what is tested
            with pytest.raises(InvalidTask, match="^after: expected a cursor"):
                oq.events(follow=True, after=bad)  # type: ignore[arg-type]

    async def test_old_events_are_purged(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        await oq.enqueue(tasks.nothing, task_id="old")
        await oq.list_events()
        virtual_clock.advance(3600)
        await oq.enqueue(tasks.nothing, task_id="new")
        assert oq.event_store is not None
        with pytest.raises(InvalidTask, match="^older_than: expected seconds or a timedelta, got None"):
            await oq.event_store.purge(None)  # type: ignore[arg-type]  # it mustn't mean all
        assert await oq.event_store.purge(dt.timedelta(minutes=30)) == 1
        assert [event.task_id for event in await oq.list_events()] == ["new"]


async def test_without_an_event_store_there_are_no_events(place: Place) -> None:
    async with front_door(place) as oq, working(oq, "async"):
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        assert oq.task_queue.stores.events is None
        for call in (oq.list_events, oq.events.flush):
            with pytest.raises(ConfigError, match="event_store: none is configured"):
                await call()
        for use in (oq.events, lambda: oq.events.configure(level="INFO"), lambda: oq.events.log(E.RETRY)):
            with pytest.raises(ConfigError, match="event_store: none is configured"):
                use()
        assert oq.events.dropped == 0
    store = event_storage(place)
    assert await store.list() == []
    await store.close()


class FailingEventStore(ReferenceEventStore):
    """Refuses events as long as it is told to, in the way that it is told."""

    def __init__(self, place: ReferenceSpace, error: Exception) -> None:
        super().__init__(place)
        self.error: Exception | None = error
        self.refused = 0

    async def append(self, events: Sequence[TaskEvent]) -> None:
        if self.error is not None:
            self.refused += 1
            raise self.error
        await super().append(events)


class TestFailingStores:
    @pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreError("no"), RuntimeError("a bug")])
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_store_that_fails_hurts_no_task(self, kind: str, error: Exception) -> None:
        store = FailingEventStore(ReferenceSpace(), error)
        place = reference_place(events=lambda _: store)
        async with asyncio.timeout(SOON), front_door(place, events=True) as oq, working(oq, kind) as pool:
            ids = [await oq.enqueue(tasks.add, [n, 1]) for n in range(10)]
            bad = await oq.enqueue(tasks.fail)
            assert await results_of(oq, ids) == [n + 1 for n in range(10)]
            with pytest.raises(TaskFailed):
                await oq.get_result(bad, timeout=SOON)
            await until(lambda: store.refused > 0)
            assert not pool.finished.is_set()
        assert oq.events.dropped > 0

    async def test_events_are_kept_until_the_store_is_back(self) -> None:
        store = FailingEventStore(ReferenceSpace(), StoreUnavailable("away"))
        async with front_door(reference_place(events=lambda _: store), events=True) as oq:
            await oq.enqueue(tasks.nothing, task_id="t")
            await until(lambda: store.refused == 1)
            store.error = None
            assert [event.type for event in await told(oq, "t", E.ENQUEUED)] == [E.ENQUEUED]
        assert oq.events.dropped == 0


class StuckEventStore(ReferenceEventStore):
    """Takes events when it is let go."""

    def __init__(self, place: ReferenceSpace) -> None:
        super().__init__(place)
        self.let_go = asyncio.Event()

    async def append(self, events: Sequence[TaskEvent]) -> None:
        await self.let_go.wait()
        await super().append(events)


class TestBuffer:
    async def test_what_does_not_fit_is_dropped_and_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        store = StuckEventStore(ReferenceSpace())
        logger = AsyncEventLogger(store, EventsConfig(buffer=10))
        logger.log(E.ENQUEUED, task_id="first")
        await asyncio.sleep(0)  # now the first one is being written
        for n in range(100):
            logger.log(E.ENQUEUED, task_id=f"t{n}")
        assert logger.dropped == 90
        store.let_go.set()
        await logger.close()
        assert [event.task_id for event in (await store.query(EventFilter())).events[::-1]] == [
            "first",
            *(f"t{n}" for n in range(10)),
        ]
        assert [record.getMessage() for record in caplog.records] == [
            "events are dropped, 1 so far: the event store is too slow, or away"
        ]

    async def test_events_are_written_in_batches(self) -> None:
        store = StuckEventStore(ReferenceSpace())
        logger = AsyncEventLogger(store)
        for n in range(1200):
            logger.log(E.ENQUEUED, task_id=f"t{n}")
        store.let_go.set()
        await logger.flush()
        assert len((await store.query(EventFilter(), limit=2000)).events) == 1200
        await logger.close()

    async def test_a_logger_can_be_turned_off_and_closed_twice(self) -> None:
        store = ReferenceEventStore()
        logger = AsyncEventLogger(store)
        logger.configure(enabled=False)
        logger.log(E.ENQUEUED, task_id="t")
        await logger.close()
        await logger.close()
        assert (await store.query(EventFilter())).events == []

    async def test_flushing_does_not_wait_for_a_store_that_is_away(self) -> None:
        store: BaseEventStorage = FailingEventStore(ReferenceSpace(), StoreUnavailable("away"))
        logger = AsyncEventLogger(store)
        logger.log(E.ENQUEUED, task_id="t")
        async with asyncio.timeout(1):
            await logger.flush()
            await logger.close()
        assert logger.dropped == 1


async def test_one_worker_with_events_of_its_own(place: Place) -> None:
    async with event_storage(place) as events, task_queue(place) as queue:
        oq = AsyncOmniQ(task_queue=queue, event_store=events, result_store=front_door(place).result_store)
        async with working(oq, "async"):
            assert queue.stores.events is None
            task_id = await oq.enqueue(tasks.nothing)
            await until_states(oq, [task_id], TaskState.SUCCESS)
            assert len(await told(oq, task_id, E.COMPLETE)) == 3
        await oq.close()


def test_blocking_code_logs_events_too(place: Place) -> None:
    with EventStorage(event_storage(place)) as storage, EventLogger(storage) as logger:
        for n in range(3):
            logger.log(E.ENQUEUED, task_id=f"t{n}")
        logger.log(E.COMPLETE, task_id="t0", data={"note": "by hand"})
        logger.flush()
        assert [event.type for event in storage.list(task_id="t0")] == [E.COMPLETE, E.ENQUEUED]
        assert storage.list(task_id="t0")[0].data == {"note": "by hand"}
