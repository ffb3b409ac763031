"""What is enqueued, looked at, listed, cancelled, paused and requeued, without a worker or with one."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskCancelled, TaskFailed, TaskNotFound
from omniq.models import Task, TaskState
from omniq.queue.options import TaskCall
from omniq.storage.records import TaskPage
from omniq.testing import VirtualClock

from tests.core import tasks
from tests.core.support import KINDS, SOON, Place, front_door, lines, states_of, working


async def run_all(oq: AsyncOmniQ, kind: str = "async") -> None:
    """Work off what is due, one task at a time."""
    async with working(oq, kind, max_workers=1) as pool:
        await pool.drain()


class TestEnqueue:
    async def test_a_task_is_stored_as_it_was_asked_for(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(
            tasks.add,
            {"x": 1, "y": 2},
            queue_name="high",
            priority=7,
            ttl=dt.timedelta(minutes=1),
            result_ttl=120,
            timeout=30.5,
            max_retries=4,
            retry_delay=0.25,
            metadata={"user": 17, "tags": ["a", "b"]},
        )
        task = await oq.get_task(task_id)
        assert (task.id, task.func, task.queue_name) == (task_id, "tests.core.tasks:add", "high")
        assert (task.state, task.priority, task.timeout, task.result_ttl) == (TaskState.PENDING, 7, 30.5, 120.0)
        assert (task.max_retries, task.retry_delay) == (4, 0.25)
        assert task.metadata == {"user": 17, "tags": ["a", "b"]}
        assert task.expires_at == task.run_at + dt.timedelta(minutes=1)
        assert (task.attempts, task.crashes, task.epoch, task.worker) == (0, 0, 0, None)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_arguments_come_as_a_mapping_or_a_sequence(self, oq: AsyncOmniQ, kind: str) -> None:
        named = await oq.enqueue(tasks.add, {"x": 40, "y": 2})
        placed = await oq.enqueue(tasks.add_async, (1, 2))
        none = await oq.enqueue(tasks.nothing)
        async with working(oq, kind):
            assert await oq.get_result(named, timeout=SOON) == 42
            assert await oq.get_result(placed, timeout=SOON) == 3
            assert await oq.get_result(none, timeout=SOON) is None

    async def test_an_id_of_ones_own_is_enqueued_once(self, oq: AsyncOmniQ, log: Path) -> None:
        for n in range(3):
            assert await oq.enqueue(tasks.append, [str(log), str(n)], task_id="mine") == "mine"
        await run_all(oq)
        assert await oq.enqueue(tasks.append, [str(log), "late"], task_id="mine") == "mine"
        await run_all(oq)
        assert lines(log) == ["0"]

    async def test_of_concurrent_enqueues_under_one_id_one_wins(self, oq: AsyncOmniQ, log: Path) -> None:
        calls = [oq.enqueue(tasks.append, [str(log), str(n)], task_id="mine") for n in range(20)]
        assert set(await asyncio.gather(*calls)) == {"mine"}
        await run_all(oq)
        assert len(lines(log)) == 1

    async def test_many_are_enqueued_at_once_and_their_ids_come_in_order(self, oq: AsyncOmniQ) -> None:
        calls = [TaskCall(func=tasks.add, func_args=(n, 1), options={"task_id": f"t{n}"}) for n in range(1500)]
        assert await oq.enqueue_many(calls) == [f"t{n}" for n in range(1500)]
        assert await states_of(oq, ["t0", "t1499"]) == [TaskState.PENDING] * 2

    async def test_nothing_to_enqueue_is_fine(self, oq: AsyncOmniQ) -> None:
        assert await oq.enqueue_many([]) == []

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_closure_travels_by_value(self, oq: AsyncOmniQ, kind: str) -> None:
        factor = 21
        task_id = await oq.enqueue(lambda x: x * factor, [2])
        async with working(oq, kind):
            assert await oq.get_result(task_id, timeout=SOON) == 42


class TestDelays:
    @pytest.mark.parametrize("delay", [3600, dt.timedelta(hours=1)])
    async def test_run_in_holds_a_task_back(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock, delay: float | dt.timedelta
    ) -> None:
        task_id = await oq.enqueue(tasks.add, [1, 2], run_in=delay)
        async with working(oq, "async") as pool:
            await pool.drain()
            assert (await oq.get_task(task_id)).state is TaskState.SCHEDULED
            virtual_clock.advance(3590)
            await pool.drain()
            assert (await oq.get_task(task_id)).epoch == 0
            virtual_clock.advance(20)
            assert await oq.get_result(task_id, timeout=SOON) == 3

    async def test_run_at_is_kept_in_any_time_zone(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
        due = dt.datetime.fromtimestamp(virtual_clock.now() + 3600, zone)
        task_id = await oq.enqueue(tasks.add, [1, 2], run_at=due)
        task = await oq.get_task(task_id)
        assert abs((task.run_at - due).total_seconds()) < 0.001
        assert (task.state, task.run_at.tzinfo) == (TaskState.SCHEDULED, dt.UTC)
        virtual_clock.advance(3601)
        await run_all(oq)
        assert await oq.get_result(task_id, timeout=SOON) == 3

    async def test_a_time_that_has_passed_is_now(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.add, [1, 2], run_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=1))
        assert (await oq.get_task(task_id)).state is TaskState.PENDING


class TestCancel:
    async def test_a_pending_task_is_cancelled_at_once(self, oq: AsyncOmniQ, log: Path) -> None:
        task_id = await oq.enqueue(tasks.append, [str(log), "ran"])
        assert await oq.cancel(task_id) is True
        assert await oq.cancel(task_id) is False
        assert (await oq.get_task(task_id)).state is TaskState.CANCELLED
        with pytest.raises(TaskCancelled):
            await oq.get_result(task_id, timeout=SOON)
        await run_all(oq)
        assert lines(log) == []

    async def test_a_scheduled_task_is_cancelled_at_once(
        self, oq: AsyncOmniQ, log: Path, virtual_clock: VirtualClock
    ) -> None:
        task_id = await oq.enqueue(tasks.append, [str(log), "ran"], run_in=60)
        assert await oq.cancel(task_id) is True
        virtual_clock.advance(120)
        await run_all(oq)
        assert lines(log) == []
        assert (await oq.get_task(task_id)).state is TaskState.CANCELLED

    async def test_a_task_that_has_ended_is_not_cancelled(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.add, [1, 2])
        await run_all(oq)
        assert await oq.cancel(task_id) is False
        assert await oq.get_result(task_id, timeout=SOON) == 3

    async def test_an_unknown_task_is_not_found(self, oq: AsyncOmniQ) -> None:
        for call in (oq.cancel("nobody"), oq.get_task("nobody"), oq.requeue("nobody")):
            with pytest.raises(TaskNotFound, match="nobody"):
                await call


class TestDeadLetters:
    async def test_a_failed_task_is_listed_and_can_be_looked_at(self, oq: AsyncOmniQ) -> None:
        bad = await oq.enqueue(tasks.fail, queue_name="low", metadata={"order": 5})
        worse = await oq.enqueue(tasks.fail, queue_name="high")
        await oq.enqueue(tasks.add, [1, 2])
        await run_all(oq)
        assert {task.id for task in await oq.list_dead()} == {bad, worse}
        (task,) = await oq.list_dead(queue_name="low")
        assert (task.id, task.attempts) == (bad, 1)
        assert (await oq.get_task(bad)).metadata == {"order": 5}
        assert len(await oq.list_dead(limit=1)) == 1

    async def test_a_requeued_task_starts_afresh(self, oq: AsyncOmniQ, log: Path) -> None:
        task_id = await oq.enqueue(tasks.append, [str(log.parent / "missing" / "log"), "ran"])
        await run_all(oq)
        with pytest.raises(TaskFailed, match="FileNotFoundError"):
            await oq.get_result(task_id, timeout=SOON)
        assert await oq.requeue(task_id) is True
        task = await oq.get_task(task_id)
        assert (task.state, task.attempts, task.crashes) == (TaskState.PENDING, 0, 0)
        (log.parent / "missing").mkdir()
        async with working(oq, "async"):
            assert await oq.get_result(task_id, timeout=SOON) == "ran"
        assert await oq.list_dead() == []

    @pytest.mark.parametrize("func", [tasks.add, tasks.nothing])
    async def test_a_task_in_line_or_one_that_succeeded_is_not_requeued(self, oq: AsyncOmniQ, func: object) -> None:
        assert callable(func)
        task_id = await oq.enqueue(func, [1, 2] if func is tasks.add else None)
        assert await oq.requeue(task_id) is False
        await run_all(oq)
        assert await oq.requeue(task_id) is False

    async def test_a_cancelled_and_an_expired_task_can_be_requeued(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock
    ) -> None:
        cancelled = await oq.enqueue(tasks.add, [1, 2])
        await oq.cancel(cancelled)
        expired = await oq.enqueue(tasks.add, [3, 4], ttl=10)
        virtual_clock.advance(20)
        await oq.task_queue.ttl.expire()
        assert [await oq.requeue(cancelled), await oq.requeue(expired)] == [True, True]
        async with working(oq, "async"):
            assert await oq.get_result(cancelled, timeout=SOON) == 3
            assert await oq.get_result(expired, timeout=SOON) == 7


class TestExpiry:
    async def test_what_was_claimed_while_it_was_looked_for_is_its_worker_s(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its worker may have begun it just in time."""
        task_id = await oq.enqueue(tasks.nothing, ttl=10)
        virtual_clock.advance(20)
        store = oq.task_queue.store

        async def find(*args: object, **options: object) -> TaskPage:
            (record,) = await store.claim(["default"], limit=1, lease=60.0, worker="w")
            return TaskPage([record], None)

        monkeypatch.setattr(store, "find", find)
        assert await oq.task_queue.ttl.expire() == []
        assert (await oq.get_task(task_id)).state is TaskState.RUNNING


class TestLists:
    async def test_tasks_are_listed_by_state_and_queue(self, oq: AsyncOmniQ) -> None:
        high = await oq.enqueue(tasks.nothing, queue_name="high")
        later = await oq.enqueue(tasks.nothing, run_in=60)
        assert {task.id for task in await oq.list_tasks()} == {high, later}
        assert [task.id for task in await oq.list_tasks(state="scheduled")] == [later]
        assert [task.id for task in await oq.list_tasks(state=TaskState.PENDING)] == [high]
        assert [task.id for task in await oq.list_tasks(queue_name="high")] == [high]
        assert await oq.list_tasks(state="scheduled", queue_name="high") == []
        assert len(await oq.list_tasks(limit=1)) == 1

    async def test_two_looks_at_a_task_are_equal(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.nothing)
        before = await oq.get_task(task_id)
        await run_all(oq)
        after = await oq.get_task(task_id)
        assert before == after
        assert before.state is not after.state
        assert len({before, after}) == 1
        assert isinstance(before, Task)

    async def test_stats_count_states_by_queue(self, oq: AsyncOmniQ) -> None:
        await oq.enqueue(tasks.nothing, queue_name="high")
        await oq.enqueue(tasks.nothing, queue_name="high", run_in=60)
        await oq.task_queue.pause_queue("low")
        stats = {entry.name: entry for entry in await oq.task_queue.stats()}
        assert stats["high"].counts == {TaskState.PENDING: 1, TaskState.SCHEDULED: 1}
        assert (stats["high"].paused, stats["low"].paused) == (False, True)

    async def test_a_repr_shows_no_arguments(self, oq: AsyncOmniQ) -> None:
        task_id = await oq.enqueue(tasks.echo, ["a secret"], metadata={"note": "a secret"})
        assert "secret" not in repr(await oq.get_task(task_id))


async def test_a_second_front_door_sees_the_same_tasks(place: Place) -> None:
    async with front_door(place) as one, front_door(place) as other:
        task_id = await one.enqueue(tasks.add, [1, 2])
        async with working(other, "async"):
            assert await one.get_result(task_id, timeout=SOON) == 3
