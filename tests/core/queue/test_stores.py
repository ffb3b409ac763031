"""Who owns results and events: what is given to an OmniQ or a worker stays as it was, and nobody takes anybody's."""

from __future__ import annotations

from omniq import AsyncOmniQ
from omniq.models import EventType, TaskState
from omniq.storage.records import TaskFilter

from tests.core import tasks
from tests.core.support import SOON, Place, event_storage, reference_place, result_storage, task_queue, working


async def test_two_omniqs_on_one_queue_leave_each_other_s_results_and_events_alone(place: Place) -> None:
    queue, mine, yours = task_queue(place), reference_place(), reference_place()
    one = AsyncOmniQ(task_queue=queue, result_store=result_storage(mine), event_store=event_storage(mine))
    other = AsyncOmniQ(task_queue=queue, result_store=result_storage(yours), event_store=event_storage(yours))
    async with one, other:
        first = await one.enqueue(tasks.add, [1, 2])
        async with working(one, "async"):
            assert await one.get_result(first, timeout=SOON) == 3
        second = await other.enqueue(tasks.add, [3, 4])
        async with working(other, "async"):
            assert await other.get_result(second, timeout=SOON) == 7
        assert [await one.result_store.get(second), await other.result_store.get(first)] == [None, None]
        assert {event.task_id for event in await one.list_events() if event.task_id} == {first}
        assert {event.task_id for event in await other.list_events() if event.task_id} == {second}


async def test_the_queue_that_was_given_stays_as_it_was(place: Place) -> None:
    queue, elsewhere = task_queue(place), reference_place()
    given = queue.stores
    async with AsyncOmniQ(
        task_queue=queue,
        result_store=result_storage(elsewhere),
        event_store=event_storage(elsewhere),
        config={"defaults": {"max_retries": 9}, "signing_key": "k" * 32},
    ) as oq:
        task_id = await queue.enqueue(tasks.nothing)
        assert queue.stores is given
        assert given.events is None
        assert given.results is not oq.task_queue.stores.results
        assert await oq.list_events() == []
        assert (await queue.get_task(task_id)).max_retries != 9
        assert oq.task_queue.serialization.signs
        assert not queue.serialization.signs
    await queue.close()


async def test_a_worker_with_stores_of_its_own_changes_nothing_for_others(place: Place) -> None:
    from omniq.workers import AsyncWorker

    elsewhere = reference_place()
    async with AsyncOmniQ(
        task_queue=task_queue(place), result_store=result_storage(place), event_store=event_storage(place)
    ) as oq:
        worker = AsyncWorker(oq.task_queue, result_storage(elsewhere), event_storage(elsewhere))
        async with worker:
            task_id = await oq.enqueue(tasks.add, [1, 2])
            assert await worker._outcomes().value(task_id, SOON) == 3
        assert [event.type for event in await oq.list_events()] == [EventType.ENQUEUED]
        assert await oq.result_store.get(task_id) is None
        told = await event_storage(elsewhere).list(oldest_first=True)
        assert [event.type for event in told] == [
            EventType.WORKER_STARTED,
            EventType.EXECUTING,
            EventType.COMPLETE,
            EventType.WORKER_STOPPED,
        ]


async def test_a_component_without_a_project_serves_each_omniq_in_its_own() -> None:
    queue = task_queue(reference_place())
    one, other = (AsyncOmniQ(name, task_queue=queue) for name in ("one", "two"))
    assert [oq.task_queue.config.project for oq in (one, other)] == ["one", "two"]
    assert queue.config.project_name is None
    task_id = await one.enqueue(tasks.nothing)
    page = await one.task_queue.store.find(TaskFilter(states=(TaskState.PENDING,)))
    assert [task.id for task in page.tasks] == [task_id]
