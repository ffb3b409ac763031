"""`replace_bodies`: the bodies change, and nothing else does."""

from __future__ import annotations

from msgspec.structs import replace

from omniq.models.task import TaskState
from omniq.storage.base import BaseResultStorage
from omniq.storage.queue import BaseTaskQueue
from omniq.storage.records import NewBody, TaskRecord
from omniq.testing.clock import VirtualClock
from omniq.testing.conformance.base import StoreConformance
from omniq.testing.conformance.builders import (
    HOUR,
    add,
    cancel,
    change,
    claim,
    exactly,
    finish,
    new_task,
    read,
    result_of,
    running,
    together,
)

LARGE = b"l" * 100_000


async def in_every_state(store: BaseTaskQueue) -> list[TaskRecord]:
    """A task in each state, but expired."""
    await add(store, new_task("done"), new_task("failed"), new_task("held"))
    for record in await claim(store, limit=3):
        if record.id != "held":
            await change(store, finish(record, TaskState.SUCCESS if record.id == "done" else TaskState.ERROR))
    await add(store, new_task("due"), new_task("later", delay=HOUR), new_task("child", parents=("due",)))
    return [await read(store, id_) for id_ in ("done", "failed", "held", "due", "later", "child")]


class TaskBodyTests(StoreConformance):
    """The bodies of tasks."""

    async def test_a_body_is_replaced_in_every_state_and_nothing_else_changes(self, store: BaseTaskQueue) -> None:
        before = await in_every_state(store)
        changes = [NewBody(task_id=task.id, old=task.body, body=b"new " + task.id.encode()) for task in before]
        assert await store.replace_bodies(changes) == [True] * len(before)
        after = [replace(task, body=b"new " + task.id.encode()) for task in before]
        assert await store.get([task.id for task in before]) == after

    async def test_a_body_that_is_another_by_now_stays(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", body=b"now"))
        assert await store.replace_bodies([NewBody(task_id="t", old=b"then", body=b"new")]) == [False]
        assert (await read(store, "t")).body == b"now"

    async def test_a_task_that_is_not_there_does_not_come_to_be(self, store: BaseTaskQueue) -> None:
        assert await store.replace_bodies([NewBody(task_id="none", old=b"", body=b"new")]) == [False]
        assert await store.get(["none"]) == [None]

    async def test_bodies_grow_large_and_small(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", body=b"small"), new_task("u"))
        for old, new in ((b"small", LARGE), (LARGE, LARGE + b"!"), (LARGE + b"!", b""), (b"", b"small")):
            assert await store.replace_bodies([NewBody(task_id="t", old=old, body=new)]) == [True]
            assert (await read(store, "t")).body == new
        assert [task.body for task in await claim(store, limit=2)] == [b"small", (await read(store, "u")).body]

    async def test_of_two_at_once_one_wins(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", body=b"old"))
        rivals = [NewBody(task_id="t", old=b"old", body=b"%d" % number) for number in range(8)]
        answers = await together(store.replace_bodies([rival]) for rival in rivals)
        assert sorted(answers) == [[False]] * 7 + [[True]]
        assert (await read(store, "t")).body == b"%d" % answers.index([True])

    async def test_a_task_goes_on_with_its_new_body(self, store: BaseTaskQueue) -> None:
        (record,) = await running(store)
        assert await store.replace_bodies([NewBody(task_id=record.id, old=record.body, body=b"new")]) == [True]
        assert await change(store, finish(record, TaskState.PENDING)) == ["applied"]
        assert [task.body for task in await claim(store)] == [b"new"]

    async def test_a_replaced_body_disturbs_no_cancel(self, store: BaseTaskQueue) -> None:
        await add(store, new_task("t", body=b"old"))
        await store.replace_bodies([NewBody(task_id="t", old=b"old", body=b"new")])
        assert await change(store, cancel("t")) == ["applied"]


class ResultBodyTests(StoreConformance):
    """The bodies of results."""

    async def test_a_result_keeps_its_times_and_its_place(self, store: BaseResultStorage, clock: VirtualClock) -> None:
        for number in range(3):
            clock.advance(1)
            await store.put([result_of(f"t{number}", 2, body=b"old", schedule_id="s", ttl=HOUR)])
        clock.advance(60)
        before = await store.find("s")
        assert await store.replace_bodies([NewBody(task_id="t0", old=b"old", body=LARGE)]) == [True]
        after = await store.find("s")
        assert [record.task_id for record in after] == ["t2", "t1", "t0"]
        assert after[:2] == before[:2]
        assert after[2].body == LARGE
        assert after[2].expires_at == exactly(before[2].expires_at or 0.0)
        assert replace(after[2], body=b"old") == before[2]

    async def test_a_result_that_is_another_by_now_stays(self, store: BaseResultStorage) -> None:
        await store.put([result_of("t", 2, body=b"now")])
        changes = [NewBody(task_id=id_, old=b"then", body=b"new") for id_ in ("t", "none")]
        assert await store.replace_bodies(changes) == [False, False]
        assert [record and record.body for record in await store.get(["t", "none"])] == [b"now", None]
