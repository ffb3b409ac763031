"""A store does what it is asked, and its answer is lost: nothing is there twice, and callers hear what they must."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from omniq import AsyncOmniQ, OmniQ
from omniq.batching import REPEATS
from omniq.errors import ScheduleNotFound, StoreError, StoreFull, StoreUnavailable
from omniq.models import EventType, TaskState
from omniq.queue.options import TaskCall
from omniq.storage.records import Added, Change, Changed, NewTask, ScheduleRecord, TaskRecord
from omniq.testing import ReferenceQueueStore, ReferenceSpace

from tests.core import tasks
from tests.core.support import front_door, reference_place, task_queue


class ForgetfulStore(ReferenceQueueStore):
    """Does as it is told, and loses so many of its answers to each call, after those that it spares."""

    def __init__(self, place: ReferenceSpace, losses: Counter[str], error: type[StoreError]) -> None:
        super().__init__(place)
        self._losses = losses
        self._error = error

    def _answer(self, call: str, answer: Any) -> Any:
        if self._losses[f"{call}-spared"] > 0:
            self._losses[f"{call}-spared"] -= 1
        elif self._losses[call] > 0:
            self._losses[call] -= 1
            raise self._error("the answer is lost")
        return answer

    async def add(self, tasks: Sequence[NewTask]) -> list[Added]:
        return self._answer("add", await super().add(tasks))  # type: ignore[no-any-return]

    async def transition(self, changes: Sequence[Change]) -> list[Changed]:
        return self._answer("transition", await super().transition(changes))  # type: ignore[no-any-return]

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        return self._answer("get", await super().get(ids, bodies=bodies))  # type: ignore[no-any-return]

    async def put_schedule(self, schedule: ScheduleRecord, *, if_version: int | None) -> bool:
        done = await super().put_schedule(schedule, if_version=if_version)
        return self._answer("put_schedule", done)  # type: ignore[no-any-return]

    async def delete_schedule(self, schedule_id: str) -> bool:
        done = await super().delete_schedule(schedule_id)
        return self._answer("delete_schedule", done)  # type: ignore[no-any-return]

    async def pause(self, queue_name: str, *, paused: bool) -> None:
        await super().pause(queue_name, paused=paused)
        self._answer("pause", None)


def forgetful(error: type[StoreError] = StoreUnavailable, **losses: int) -> tuple[AsyncOmniQ, Counter[str]]:
    """OmniQ on such a store, with events."""
    lost = Counter(losses)
    place = reference_place(queue=lambda space: ForgetfulStore(space, lost, error))
    return front_door(place, events=True), lost


async def enqueued(oq: AsyncOmniQ) -> Counter[str | None]:
    """How often each task is said to have been enqueued."""
    return Counter(event.task_id for event in await oq.list_events(type=EventType.ENQUEUED, limit=10_000))


class TestEnqueueing:
    async def test_a_task_is_there_once_and_is_told_once(self) -> None:
        oq, _ = forgetful(add=1)
        async with oq:
            task_id = await oq.enqueue(tasks.nothing)
            assert [task.id for task in await oq.list_tasks()] == [task_id]
            assert await enqueued(oq) == {task_id: 1}

    async def test_tasks_that_share_a_write_are_there_once_each(self) -> None:
        oq, _ = forgetful(add=2)
        async with oq:
            ids = await asyncio.gather(*(oq.enqueue(tasks.nothing) for _ in range(50)))
            assert sorted(task.id for task in await oq.list_tasks()) == sorted(ids)
            assert await enqueued(oq) == Counter(ids)

    async def test_many_tasks_are_there_once_each(self) -> None:
        oq, _ = forgetful(add=1)
        async with oq:
            ids = await oq.enqueue_many([TaskCall(func=tasks.nothing)] * 2500)
            assert sorted(task.id for task in await oq.list_tasks(limit=10_000)) == sorted(ids)
            assert await enqueued(oq) == Counter(ids)

    async def test_a_family_is_added_and_released(self) -> None:
        oq, _ = forgetful(add=1, transition=1, get=1)
        async with oq:
            await oq.enqueue(tasks.nothing, task_id="parent")
            await oq.cancel("parent")
            await oq.enqueue(tasks.nothing, task_id="child", depends_on="parent")
            assert (await oq.get_task("child")).state is TaskState.CANCELLED

    async def test_an_id_of_the_callers_that_was_there_before_is_not_told_again(self) -> None:
        oq, lost = forgetful()
        async with oq:
            await oq.enqueue(tasks.nothing, task_id="mine")
            lost["add"] = 1
            assert await oq.enqueue(tasks.nothing, task_id="mine") == "mine"
            assert await enqueued(oq) == {"mine": 1}

    async def test_an_error_tells_the_ids_with_which_to_repeat(self) -> None:
        oq, lost = forgetful(add=REPEATS + 1)
        async with oq:
            with pytest.raises(StoreUnavailable) as failed:
                await oq.enqueue(tasks.nothing)
            (task_id,) = failed.value.task_ids
            assert await oq.enqueue(tasks.nothing, task_id=task_id) == task_id
            assert [task.id for task in await oq.list_tasks()] == [task_id]
            assert lost["add"] == 0

    async def test_each_caller_of_a_shared_write_is_told_its_own_id(self) -> None:
        oq, _ = forgetful(add=REPEATS + 1)
        async with oq:
            calls = (oq.enqueue(tasks.nothing, task_id=f"t{n}") for n in range(5))
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert [getattr(error, "task_ids", None) for error in errors] == [(f"t{n}",) for n in range(5)]

    async def test_an_error_tells_which_of_many_are_added(self) -> None:
        oq, lost = forgetful()
        async with oq:
            first = oq.task_queue.store.max_items
            lost.update({"add-spared": 1, "add": REPEATS + 1})
            calls = [TaskCall(func=tasks.nothing, options={"task_id": f"t{n:05}"}) for n in range(first + 5)]
            with pytest.raises(StoreUnavailable) as failed:
                await oq.enqueue_many(calls)
            assert failed.value.task_ids == tuple(f"t{n:05}" for n in range(first + 5))
            assert failed.value.added == failed.value.task_ids[:first]

    async def test_a_store_that_is_full_is_not_asked_again(self) -> None:
        oq, lost = forgetful(StoreFull, add=5)
        async with oq:
            with pytest.raises(StoreFull):
                await oq.enqueue(tasks.nothing)
            assert lost["add"] == 4

    def test_a_blocking_caller_is_spared_too(self) -> None:
        lost = Counter(add=1)
        place = reference_place(queue=lambda space: ForgetfulStore(space, lost, StoreUnavailable))
        with OmniQ(task_queue=task_queue(place)) as oq:
            task_id = oq.enqueue(tasks.nothing)
            assert [task.id for task in oq.list_tasks()] == [task_id]


class TestSchedules:
    async def test_a_schedule_is_there_once(self) -> None:
        oq, _ = forgetful(put_schedule=1)
        async with oq:
            schedule_id = await oq.schedule(tasks.nothing, interval=3600.0)
            assert [schedule.id for schedule in await oq.list_schedules()] == [schedule_id]

    async def test_an_error_tells_the_id_with_which_to_repeat(self) -> None:
        oq, _ = forgetful(put_schedule=2 * REPEATS + 2)
        async with oq:
            with pytest.raises(StoreUnavailable) as failed:
                await oq.schedule(tasks.nothing, interval=3600.0)
            assert failed.value.schedule_id is not None
            assert [schedule.id for schedule in await oq.list_schedules()] == [failed.value.schedule_id]

    async def test_pausing_resuming_and_deleting_say_what_was_done(self) -> None:
        oq, lost = forgetful()
        async with oq:
            await oq.schedule(tasks.nothing, interval=3600.0, schedule_id="s")
            lost["put_schedule"] = 1
            await oq.pause_schedule("s")
            assert (await oq.get_schedule("s")).paused
            lost["put_schedule"] = 1
            await oq.resume_schedule("s")
            assert not (await oq.get_schedule("s")).paused
            lost["delete_schedule"] = 1
            await oq.delete_schedule("s")
            with pytest.raises(ScheduleNotFound):
                await oq.delete_schedule("s")


class TestChanges:
    async def test_a_cancel_says_that_it_was_done_and_is_told_once(self) -> None:
        oq, _ = forgetful(transition=1)
        async with oq:
            task_id = await oq.enqueue(tasks.nothing)
            assert await oq.cancel(task_id)
            assert not await oq.cancel(task_id)
            assert len(await oq.list_events(type=EventType.CANCELLED)) == 1

    async def test_a_requeue_says_that_it_was_done(self) -> None:
        oq, lost = forgetful()
        async with oq:
            task_id = await oq.enqueue(tasks.nothing)
            await oq.cancel(task_id)
            lost["transition"] = 1
            assert await oq.requeue(task_id)
            assert not await oq.requeue(task_id)
            assert (await oq.get_task(task_id)).state is TaskState.PENDING

    async def test_a_queue_is_paused_and_read(self) -> None:
        oq, lost = forgetful(pause=1)
        async with oq:
            await oq.task_queue.pause_queue("low")
            lost["get"] = 1
            task_id = await oq.enqueue(tasks.nothing)
            assert (await oq.get_task(task_id)).id == task_id
            assert [queue.paused for queue in await oq.task_queue.stats() if queue.name == "low"] == [True]
