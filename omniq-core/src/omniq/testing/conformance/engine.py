"""What users are promised, on the store: schedules, limits of time, dependencies, failures and control, by the engine.

These hold by themselves where the store keeps to the contract, since the engine is the same on all: what fails here
and nowhere else is a requirement that the rest of the suite doesn't name yet.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import pytest_asyncio

from omniq.config.loader import TaskDefaults
from omniq.errors import DependencyCycle, InvalidTask, Reject, Retry, UnknownParent
from omniq.models.config import TaskQueueConfig
from omniq.models.schedule import Misfire
from omniq.models.task import TaskState, slot_id
from omniq.queue.engine import AsyncTaskQueue
from omniq.queue.options import TaskCall
from omniq.storage.base import BaseTaskQueue, Capability
from omniq.testing import VirtualClock
from omniq.testing.builders import PATIENCE, QUEUE, claim, together
from omniq.testing.conformance.base import Conformance, Connect, needs
from omniq.workers.async_ import AsyncWorker
from omniq.workers.jobs import current_task

ONCE: Final = TaskDefaults(max_retries=0)
"""Tasks are tried once, unless they say more."""
QUICK: Final[dict[str, Any]] = {"lease": 30.0, "reap_interval": 0.1, "poll_interval": 0.05, "max_workers": 4}
"""A worker that soon notices what is due, on stores without push too, and loses no lease on a busy machine."""
BUSY_MACHINE: Final = 6 * PATIENCE
PAUSE: Final = 0.01
LOOKS: Final = round(BUSY_MACHINE / PAUSE)


# ── tasks ────────────────────────────────────────────────────────────────────


async def nothing() -> None:
    """Do nothing."""


async def fail() -> None:
    """Fail, and be tried again where that is allowed."""
    raise ValueError("no")


async def fail_once() -> int:
    """Fail at the first attempt."""
    if current_task().attempt == 1:
        raise ValueError("not yet")
    return current_task().attempt


async def ask_for_later() -> None:
    """Ask for another attempt in an hour."""
    if current_task().attempt == 1:
        raise Retry(delay=3600)


async def refuse() -> None:
    """Fail for good."""
    raise Reject("not for me")


async def run_until_cancelled() -> None:
    """Run until somebody cancels it."""
    await asyncio.Event().wait()


# ── the engine on a store ────────────────────────────────────────────────────


class EngineTests(Conformance):
    """Base of the classes below: task queues on the store."""

    @pytest_asyncio.fixture(loop_scope="function")
    async def queue(self, store: BaseTaskQueue) -> AsyncTaskQueue[Any]:
        """A task queue on the store, whose tasks are tried once."""
        return queue_on(store)


def queue_on(store: BaseTaskQueue) -> AsyncTaskQueue[Any]:
    """A task queue on a store, which whoever opened it closes."""
    return AsyncTaskQueue(lambda _: store, TaskQueueConfig(), defaults=ONCE)


@asynccontextmanager
async def working(queue: AsyncTaskQueue[Any]) -> AsyncIterator[None]:
    """A worker on the queue."""
    async with AsyncWorker(queue, **QUICK).pool() as pool:
        yield
    assert pool.failure is None


async def until(queue: AsyncTaskQueue[Any], task_id: str, state: TaskState) -> None:
    """Wait until the task is in that state."""
    await until_all(queue, [task_id], state)


async def until_all(queue: AsyncTaskQueue[Any], task_ids: Sequence[str], state: TaskState) -> None:
    """Wait until all of them are in that state, or have ended in another one."""
    wanted: list[TaskState | None] = [state] * len(task_ids)
    for _ in range(LOOKS):
        found = await states(queue, task_ids)
        if found == wanted or all(each is None or each.is_terminal for each in found):
            break
        await asyncio.sleep(PAUSE)
    assert await states(queue, task_ids) == wanted


async def states(queue: AsyncTaskQueue[Any], task_ids: Sequence[str]) -> list[TaskState | None]:
    """The states of tasks; None for those that aren't there."""
    records = await queue.store.get(task_ids, bodies=False)
    return [None if record is None else record.state for record in records]


async def fire_all(*queues: AsyncTaskQueue[Any]) -> int:
    """Fire by all schedulers at once until nothing is due; returns how many tasks that added."""
    fired = 0
    while True:
        before = await queues[0].list_schedules()
        fired += sum(await together([queue.scheduler.fire_due() for queue in queues]))
        if before == await queues[0].list_schedules():
            return fired


async def slots_of(queue: AsyncTaskQueue[Any]) -> list[float]:
    """When the tasks of schedules are due, in order."""
    return sorted(task.run_at.timestamp() for task in await queue.list_tasks(limit=1000) if task.schedule_id)


# ── schedules ────────────────────────────────────────────────────────────────


class SchedulingTests(EngineTests):
    """Each slot leads to one task, whoever fires it and however late."""

    async def test_of_many_schedulers_one_fires_each_slot(
        self, queue: AsyncTaskQueue[Any], connect: Connect, clock: VirtualClock
    ) -> None:
        others = [queue_on(await connect()) for _ in range(3)]
        for name in ("a", "b"):
            await queue.schedule(nothing, interval=10, schedule_id=name)
        clock.advance(41)
        assert await fire_all(queue, *others) == 8
        assert len(await slots_of(queue)) == 8
        assert len(set(await slots_of(queue))) == 8

    @pytest.mark.parametrize(("misfire", "fired"), [("latest", 1), ("skip", 0), ("all", 4)])
    async def test_missed_slots_follow_the_policy(
        self, queue: AsyncTaskQueue[Any], clock: VirtualClock, misfire: Misfire, fired: int
    ) -> None:
        await queue.schedule(nothing, interval=100, schedule_id="s", misfire=misfire, grace=20)
        clock.advance(450)
        assert await fire_all(queue) == fired
        assert len(await slots_of(queue)) == fired
        next_run = (await queue.get_schedule("s")).next_run
        assert next_run is not None
        assert 0 < next_run.timestamp() - await queue.store.now() <= 100

    async def test_a_busy_schedule_leaves_slots_out(self, queue: AsyncTaskQueue[Any], clock: VirtualClock) -> None:
        await queue.schedule(nothing, interval=60, schedule_id="s", max_running=2)
        for _ in range(4):
            clock.advance(61)
            await fire_all(queue)
        (first, _) = await queue.list_tasks()
        await queue.cancel(first.id)
        clock.advance(61)
        assert await fire_all(queue) == 1

    async def test_what_a_pause_missed_is_not_replayed(self, queue: AsyncTaskQueue[Any], clock: VirtualClock) -> None:
        await queue.schedule(nothing, interval=60, schedule_id="s", misfire="all")
        await queue.pause_schedule("s")
        clock.advance(600)
        assert await fire_all(queue) == 0
        await queue.resume_schedule("s")
        assert await fire_all(queue) == 0
        clock.advance(61)
        assert await fire_all(queue) == 1

    async def test_declared_again_it_keeps_slot_and_pause(
        self, queue: AsyncTaskQueue[Any], clock: VirtualClock
    ) -> None:
        await queue.schedule(nothing, cron="0 9 * * *", timezone="Europe/Berlin", schedule_id="s")
        clock.advance(86_400)
        await fire_all(queue)
        await queue.pause_schedule("s")
        before = await queue.get_schedule("s")
        await queue.schedule(fail, cron="0 9 * * *", timezone="Europe/Berlin", schedule_id="s")
        after = await queue.get_schedule("s")
        assert (after.next_run, after.last_run, after.state) == (before.next_run, before.last_run, "paused")
        assert after.func.endswith("fail")
        await queue.schedule(nothing, interval=60, schedule_id="s")
        changed = await queue.get_schedule("s")
        assert changed.next_run != before.next_run
        assert changed.state == "paused"

    async def test_the_last_and_the_next_slot_are_told(self, queue: AsyncTaskQueue[Any], clock: VirtualClock) -> None:
        await queue.schedule(nothing, interval=60, schedule_id="s")
        first = await queue.get_schedule("s")
        assert first.last_run is None
        clock.advance(61)
        await fire_all(queue)
        second = await queue.get_schedule("s")
        assert second.last_run == first.next_run
        assert second.preview(2) == [second.next_run, first.preview(3)[2]]

    async def test_a_single_time_ends_its_schedule(self, queue: AsyncTaskQueue[Any], clock: VirtualClock) -> None:
        at = dt.datetime.fromtimestamp(await queue.store.now() + 60, dt.UTC)
        await queue.schedule(nothing, run_at=at, schedule_id="s")
        clock.advance(61)
        assert await fire_all(queue) == 1
        ended = await queue.get_schedule("s")
        assert (ended.state, ended.next_run, ended.last_run) == ("ended", None, at)
        clock.advance(3600)
        assert await fire_all(queue) == 0

    async def test_it_runs_now_beside_its_slots(self, queue: AsyncTaskQueue[Any]) -> None:
        await queue.schedule(nothing, interval=60, schedule_id="s")
        before = await queue.get_schedule("s")
        task_id = await queue.run_schedule("s")
        task = await queue.get_task(task_id)
        assert (task.schedule_id, task.state) == ("s", TaskState.PENDING)
        assert await queue.get_schedule("s") == before

    async def test_a_deleted_one_fires_no_more(self, queue: AsyncTaskQueue[Any], clock: VirtualClock) -> None:
        await queue.schedule(nothing, interval=60, schedule_id="s")
        await queue.delete_schedule("s")
        clock.advance(61)
        assert await fire_all(queue) == 0
        assert await queue.list_schedules() == []

    async def test_nobody_takes_the_place_of_a_slot(self, queue: AsyncTaskQueue[Any], clock: VirtualClock) -> None:
        await queue.schedule(nothing, interval=60, schedule_id="s")
        next_run = (await queue.get_schedule("s")).next_run
        assert next_run is not None
        with pytest.raises(InvalidTask, match="task_id"):
            await queue.enqueue(nothing, task_id=slot_id("s", next_run.timestamp()))
        clock.advance(61)
        assert await fire_all(queue) == 1


# ── limits of time ───────────────────────────────────────────────────────────


class ExpiryTests(EngineTests):
    """What is too late isn't begun; what is over is forgotten."""

    async def test_a_task_past_its_ttl_never_starts(self, queue: AsyncTaskQueue[Any], clock: VirtualClock) -> None:
        task_id = await queue.enqueue(fail, ttl=60)
        clock.advance(61)
        async with working(queue):
            await until(queue, task_id, TaskState.EXPIRED)
        assert (await queue.get_task(task_id)).attempts == 0

    async def test_none_is_no_ttl(self, queue: AsyncTaskQueue[Any], clock: VirtualClock) -> None:
        task_id = await queue.enqueue(nothing, ttl=None)
        clock.advance(10 * 365 * 86_400)
        async with working(queue):
            await until(queue, task_id, TaskState.SUCCESS)

    async def test_ended_tasks_are_kept_as_long_as_configured(
        self, queue: AsyncTaskQueue[Any], clock: VirtualClock
    ) -> None:
        task_id = await queue.enqueue(nothing)
        await queue.cancel(task_id)
        clock.advance(100)
        await queue.ttl.purge(retention=110)
        assert await states(queue, [task_id]) == [TaskState.CANCELLED]
        clock.advance(20)
        await queue.ttl.purge(retention=110)
        assert await states(queue, [task_id]) == [None]


# ── dependencies ─────────────────────────────────────────────────────────────


class DependencyTests(EngineTests):
    """Parents come first, and no child waits for what can't come."""

    async def test_children_run_after_their_parents(self, queue: AsyncTaskQueue[Any]) -> None:
        calls = [
            TaskCall(func=nothing, options={"task_id": "d", "depends_on": ["b", "c"]}),
            TaskCall(func=nothing, options={"task_id": "b", "depends_on": ["a"]}),
            TaskCall(func=nothing, options={"task_id": "c", "depends_on": "a"}),
            TaskCall(func=nothing, options={"task_id": "a"}),
        ]
        await queue.enqueue_many(calls)
        assert await states(queue, [*"abcd"]) == [TaskState.PENDING, *[TaskState.WAITING] * 3]
        async with working(queue):
            await until_all(queue, [*"abcd"], TaskState.SUCCESS)
        ended = {task.id: task.finished_at for task in await queue.list_tasks()}
        assert sorted(ended, key=lambda id_: ended[id_] or dt.datetime.max)[0] == "a"

    @pytest.mark.parametrize(
        ("policy", "state"),
        [("cancel", TaskState.CANCELLED), ("run", TaskState.SUCCESS), ("hold", TaskState.WAITING)],
    )
    async def test_a_failed_parent_decides_by_policy(
        self, queue: AsyncTaskQueue[Any], policy: Any, state: TaskState
    ) -> None:
        parent = await queue.enqueue(fail)
        child = await queue.enqueue(nothing, depends_on=parent, on_parent_failure=policy)
        grandchild = await queue.enqueue(nothing, depends_on=child)
        async with working(queue):
            await until(queue, parent, TaskState.ERROR)
            await until(queue, child, state)
            await until(queue, grandchild, state)

    async def test_a_child_of_parents_that_have_ended_runs(self, queue: AsyncTaskQueue[Any]) -> None:
        parent = await queue.enqueue(nothing)
        async with working(queue):
            await until(queue, parent, TaskState.SUCCESS)
            child = await queue.enqueue(nothing, depends_on=parent)
            await until(queue, child, TaskState.SUCCESS)

    async def test_a_child_added_while_its_parent_ends_is_not_stuck(self, queue: AsyncTaskQueue[Any]) -> None:
        parents = await queue.enqueue_many([TaskCall(func=nothing) for _ in range(20)])
        async with working(queue):
            children = await together([queue.enqueue(nothing, depends_on=parent) for parent in parents])
            await until_all(queue, children, TaskState.SUCCESS)

    async def test_circles_and_unknown_parents_add_nothing(self, queue: AsyncTaskQueue[Any]) -> None:
        circle = [TaskCall(func=nothing, options={"task_id": a, "depends_on": b}) for a, b in ("ab", "ba")]
        with pytest.raises(DependencyCycle):
            await queue.enqueue_many(circle)
        with pytest.raises(UnknownParent):
            await queue.enqueue(nothing, depends_on="nobody")
        assert await queue.list_tasks() == []

    async def test_many_parents_release_their_child_once(self, queue: AsyncTaskQueue[Any]) -> None:
        parents = await queue.enqueue_many([TaskCall(func=nothing) for _ in range(50)])
        child = await queue.enqueue(nothing, depends_on=parents)
        async with working(queue):
            await until(queue, child, TaskState.SUCCESS)
        assert (await queue.get_task(child)).epoch == 1


# ── failure ──────────────────────────────────────────────────────────────────


class FailureTests(EngineTests):
    """Failed tasks are tried again as they say, and kept when that is over."""

    async def test_a_retry_waits_for_its_delay(self, queue: AsyncTaskQueue[Any], clock: VirtualClock) -> None:
        task_id = await queue.enqueue(fail_once, max_retries=1, retry_delay=600, retry_jitter=0)
        async with working(queue):
            await until(queue, task_id, TaskState.SCHEDULED)
            due = (await queue.get_task(task_id)).run_at.timestamp() - await queue.store.now()
            assert due == pytest.approx(600, abs=BUSY_MACHINE)
            clock.advance(601)
            await until(queue, task_id, TaskState.SUCCESS)
        assert (await queue.get_task(task_id)).attempts == 1

    async def test_a_task_says_when_it_is_tried_again(self, queue: AsyncTaskQueue[Any], clock: VirtualClock) -> None:
        task_id = await queue.enqueue(ask_for_later, max_retries=1)
        async with working(queue):
            await until(queue, task_id, TaskState.SCHEDULED)
            clock.advance(3601)
            await until(queue, task_id, TaskState.SUCCESS)

    async def test_what_fails_for_good_is_kept_and_can_start_afresh(self, queue: AsyncTaskQueue[Any]) -> None:
        rejected = await queue.enqueue(refuse, max_retries=5)
        exhausted = await queue.enqueue(fail, max_retries=2, retry_delay=0)
        async with working(queue):
            await until_all(queue, [rejected, exhausted], TaskState.ERROR)
        dead = {task.id: task.attempts for task in await queue.list_dead()}
        assert dead == {rejected: 1, exhausted: 3}
        assert await queue.requeue(exhausted)
        again = await queue.get_task(exhausted)
        assert (again.state, again.attempts) == (TaskState.PENDING, 0)

    async def test_only_errors_that_may_pass_are_tried_again(self, queue: AsyncTaskQueue[Any]) -> None:
        other = await queue.enqueue(fail, max_retries=3, retry_delay=0, retry_on=OSError)
        given_up = await queue.enqueue(fail, max_retries=3, retry_delay=0, give_up_on=[ValueError])
        tried = await queue.enqueue(fail, max_retries=3, retry_delay=0, retry_on=[Exception])
        async with working(queue):
            await until_all(queue, [other, given_up, tried], TaskState.ERROR)
        assert [(await queue.get_task(id_)).attempts for id_ in (other, given_up, tried)] == [1, 1, 4]


# ── control ──────────────────────────────────────────────────────────────────


class ControlTests(EngineTests):
    """What users do with tasks that are there."""

    async def test_a_cancelled_task_never_starts(self, queue: AsyncTaskQueue[Any]) -> None:
        task_id = await queue.enqueue(nothing)
        assert await queue.cancel(task_id)
        assert not await queue.cancel(task_id)
        assert await claim(queue.store) == []
        assert await states(queue, [task_id]) == [TaskState.CANCELLED]

    async def test_a_running_task_is_told_to_stop(self, queue: AsyncTaskQueue[Any]) -> None:
        task_id = await queue.enqueue(run_until_cancelled)
        async with AsyncWorker(queue, **{**QUICK, "lease": 3.0}).pool():
            await until(queue, task_id, TaskState.RUNNING)
            assert await queue.cancel(task_id)
            await until(queue, task_id, TaskState.CANCELLED)

    async def test_of_a_cancel_and_a_claim_one_wins(self, queue: AsyncTaskQueue[Any]) -> None:
        ids = await queue.enqueue_many([TaskCall(func=nothing) for _ in range(30)])

        async def claim_all() -> list[str]:
            return [record.id for _ in ids for record in await claim(queue.store)]

        claimed, *cancelled = await together([claim_all(), *(self._cancel(queue, id_) for id_ in ids)])
        assert isinstance(claimed, list)
        assert all(cancelled), "a cancel always takes: a task that runs is asked to stop"
        running = await states(queue, claimed)
        assert running == [TaskState.RUNNING] * len(claimed)
        rest = [id_ for id_ in ids if id_ not in claimed]
        assert await states(queue, rest) == [TaskState.CANCELLED] * len(rest)

    async def _cancel(self, queue: AsyncTaskQueue[Any], task_id: str) -> bool:
        return await queue.cancel(task_id)

    async def test_a_paused_queue_is_passed_over(self, queue: AsyncTaskQueue[Any]) -> None:
        task_id = await queue.enqueue(nothing)
        await queue.pause_queue()
        assert await claim(queue.store) == []
        assert [stats.paused for stats in await queue.stats() if stats.name == QUEUE] == [True]
        await queue.resume_queue()
        async with working(queue):
            await until(queue, task_id, TaskState.SUCCESS)

    async def test_an_id_is_enqueued_once(self, queue: AsyncTaskQueue[Any]) -> None:
        ids = await together([queue.enqueue(nothing, task_id="mine") for _ in range(10)])
        assert set(ids) == {"mine"}
        async with working(queue):
            await until(queue, "mine", TaskState.SUCCESS)
        await queue.enqueue(nothing, task_id="mine")
        assert await states(queue, ["mine"]) == [TaskState.SUCCESS]

    @needs(Capability.UNIQUE)
    async def test_a_key_is_held_until_its_task_ends(self, queue: AsyncTaskQueue[Any]) -> None:
        ids = await together([queue.enqueue(nothing, unique_key="key") for _ in range(10)])
        (holder,) = set(ids)
        async with working(queue):
            await until(queue, holder, TaskState.SUCCESS)
            assert await queue.enqueue(nothing, unique_key="key") != holder

    @needs(Capability.PRIORITY)
    async def test_a_higher_priority_goes_first(self, queue: AsyncTaskQueue[Any]) -> None:
        low, high = await queue.enqueue(nothing, priority=-5), await queue.enqueue(nothing, priority=5)
        assert [record.id for _ in range(2) for record in await claim(queue.store, limit=1)] == [high, low]


__all__ = ["ControlTests", "DependencyTests", "ExpiryTests", "FailureTests", "SchedulingTests"]
