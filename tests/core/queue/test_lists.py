"""Lists of tasks read no calls, however large those are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from omniq import AsyncOmniQ
from omniq.queue.options import TaskCall
from omniq.storage.records import NewTask, TaskFilter, TaskPage, TaskRecord
from omniq.testing import ReferenceQueueStore

from tests.core import payloads, tasks
from tests.core.support import (
    SOON,
    Place,
    front_door,
    reference_place,
    results_of,
    working,
)


class Unread(ReferenceQueueStore):
    """Reads no bodies but to hand them out."""

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        assert not bodies, "bodies are read"
        return await super().get(ids, bodies=False)

    async def find(
        self,
        where: TaskFilter,
        *,
        newest_first: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        bodies: bool = False,
    ) -> TaskPage:
        assert not bodies, "bodies are read"
        return await super().find(where, newest_first=newest_first, limit=limit, cursor=cursor, bodies=False)


class TestLists:
    async def test_only_who_asks_for_one_task_reads_its_call(self) -> None:
        async with front_door(reference_place(queue=Unread)) as oq, working(oq, "async") as pool:
            parent = await oq.enqueue(tasks.add, [1, 2])
            child = await oq.enqueue(tasks.add, [3, 4], depends_on=[parent])
            (later,) = await oq.enqueue_many([TaskCall(func=tasks.nothing, options={"run_in": 60, "ttl": 0.001})])
            assert await results_of(oq, [parent, child]) == [3, 7]
            await oq.task_queue.dependencies.sweep()
            await oq.task_queue.ttl.expire()
            assert {task.id for task in await oq.list_tasks()} == {parent, child, later}
            assert await oq.list_dead() == []
            assert pool.failure is None

    async def test_a_list_shows_functions_and_leaves_options_out(self, place: Place) -> None:
        async with front_door(place) as oq:
            await oq.enqueue(payloads.size_of, [bytes(100_000)], task_id="t", max_retries=4, metadata={"n": 1})
            (listed,) = await oq.list_tasks()
            assert (listed.func, listed.max_retries, listed.metadata) == ("tests.core.payloads:size_of", None, None)
            assert listed.body == b""
            task = await oq.get_task("t")
            assert (task.func, task.max_retries, task.metadata) == (listed.func, 4, {"n": 1})

    async def test_the_tasks_of_a_schedule_have_names_in_lists(self, place: Place) -> None:
        async with front_door(place) as oq:
            await oq.schedule(tasks.nothing, interval=0.001)
            await until_fired(oq)
            assert {task.func for task in await oq.list_tasks()} == {"tests.core.tasks:nothing"}

    async def test_a_forged_name_runs_nothing(self, place: Place) -> None:
        async with front_door(place) as oq:
            call = oq.task_queue.serialization.build_call(tasks.add, (1, 2), {})
            body = oq.task_queue.serialization.reseal(call, task_id="t", queue_name="default")
            await oq.task_queue.store.add([NewTask(id="t", queue_name="default", body=body, name="os:getpid")])
            assert [task.func for task in await oq.list_tasks()] == ["os:getpid"]
            assert (await oq.get_task("t")).func == "tests.core.tasks:add"
            async with working(oq, "thread"):
                assert await oq.get_result("t", timeout=SOON) == 3


async def until_fired(oq: AsyncOmniQ) -> None:
    while not await oq.task_queue.scheduler.fire_due():
        await asyncio.sleep(0.001)
