"""Tasks that depend on others: they wait, run in order, and never wait for what can't come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from omniq import AsyncOmniQ
from omniq.errors import DependencyCycle, InvalidTask, TaskCancelled, TaskFailed, UnknownParent
from omniq.models import TaskState
from omniq.queue.options import EnqueueOptions, TaskCall
from omniq.storage.records import Change, TaskRecord, WorkerRecord
from omniq.testing import ReferenceQueueStore, VirtualClock
from omniq.workers import leases, settling

from tests.core import oddities, tasks
from tests.core.support import (
    KINDS,
    SOON,
    front_door,
    lines,
    reference_place,
    results_of,
    states_of,
    until_states,
    working,
)


def call(task_id: str, log: Path, *parents: str, **options: Any) -> TaskCall:
    """A task that notes its id."""
    options = {"task_id": task_id, "depends_on": parents, **options}
    return TaskCall(func=tasks.append, func_args=[str(log), task_id], options=cast("EnqueueOptions", options))


class TestEnqueueing:
    async def test_a_child_waits_for_its_parents(self, oq: AsyncOmniQ) -> None:
        one, other = await oq.enqueue(tasks.nothing), await oq.enqueue(tasks.nothing)
        child = await oq.enqueue(tasks.nothing, depends_on=[one, await oq.get_task(other), one])
        task = await oq.get_task(child)
        assert (task.state, task.depends_on) == (TaskState.WAITING, (one, other))

    async def test_a_single_parent_needs_no_list(self, oq: AsyncOmniQ) -> None:
        parent = await oq.enqueue(tasks.nothing)
        for depends_on in (parent, await oq.get_task(parent)):
            child = await oq.enqueue(tasks.nothing, depends_on=depends_on)
            assert (await oq.get_task(child)).depends_on == (parent,)

    async def test_an_unknown_parent_is_refused(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(UnknownParent, match="depends_on.*nobody"):
            await oq.enqueue(tasks.nothing, depends_on=["nobody"])
        assert await oq.list_tasks() == []

    async def test_of_many_none_is_added_when_a_parent_is_unknown(self, oq: AsyncOmniQ, log: Path) -> None:
        known = await oq.enqueue(tasks.nothing)
        calls = [call("a", log, known), call("b", log, "a", "nobody"), call("c", log)]
        with pytest.raises(UnknownParent, match=r"depends_on: of task b: .*nobody"):
            await oq.enqueue_many(calls)
        assert [task.id for task in await oq.list_tasks()] == [known]

    async def test_a_circle_is_refused_and_nothing_is_added(self, oq: AsyncOmniQ, log: Path) -> None:
        calls = [call("a", log, "c"), call("b", log, "a"), call("c", log, "b"), call("d", log)]
        with pytest.raises(DependencyCycle, match="depends_on: .*circle"):
            await oq.enqueue_many(calls)
        assert await oq.list_tasks() == []

    async def test_a_task_cannot_depend_on_itself(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(InvalidTask, match="depends_on: task t can't depend on itself"):
            await oq.enqueue(tasks.nothing, task_id="t", depends_on="t")

    async def test_a_bad_call_adds_none_of_them(self, oq: AsyncOmniQ, log: Path) -> None:
        with pytest.raises(InvalidTask, match="priority"):
            await oq.enqueue_many([call("a", log), call("b", log, priority=101)])
        assert await oq.list_tasks() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_children_come_in_any_order_and_run_after_their_parents(oq: AsyncOmniQ, log: Path, kind: str) -> None:
    calls = [call("d", log, "b", "c"), call("b", log, "a"), call("c", log, "a"), call("a", log)]
    assert await oq.enqueue_many(calls) == ["d", "b", "c", "a"]
    async with working(oq, kind):
        await results_of(oq, "dbca")
    ran = lines(log)
    assert sorted(ran) == ["a", "b", "c", "d"]
    assert (ran[0], ran[-1]) == ("a", "d")


async def test_a_worker_that_is_drained_has_run_the_children_too(oq: AsyncOmniQ, log: Path) -> None:
    await oq.enqueue_many([call(f"t{n}", log, *([f"t{n - 1}"] if n else [])) for n in range(20)])
    async with working(oq, "async") as pool:
        await pool.drain()
        assert lines(log) == [f"t{n}" for n in range(20)]


async def test_a_long_chain_runs_to_its_end(oq: AsyncOmniQ, log: Path) -> None:
    chain = [f"t{n}" for n in range(500)]
    calls = [call(id_, log, *parent) for id_, parent in zip(chain, [[], *([id_] for id_ in chain)], strict=False)]
    await oq.enqueue_many(reversed(calls))
    async with working(oq, "async"):
        await oq.get_result(chain[-1], timeout=30)
    assert lines(log) == chain


async def test_many_parents_and_many_children(oq: AsyncOmniQ, log: Path) -> None:
    parents = [f"p{n}" for n in range(200)]
    children = [f"c{n}" for n in range(200)]
    await oq.enqueue_many(
        [
            *(call(id_, log) for id_ in parents),
            call("middle", log, *parents),
            *(call(id_, log, "middle") for id_ in children),
        ]
    )
    async with working(oq, "thread", max_workers=4):
        await results_of(oq, children)
    ran = lines(log)
    assert ran[200] == "middle"
    assert sorted(ran) == sorted([*parents, "middle", *children])


class TestParentsThatHaveEnded:
    async def test_a_child_of_finished_parents_runs_at_once(self, oq: AsyncOmniQ) -> None:
        parents = [await oq.enqueue(tasks.add, [n, 1]) for n in range(3)]
        async with working(oq, "async"):
            await results_of(oq, parents)
            child = await oq.enqueue(tasks.add, [1, 2], depends_on=parents)
            assert await oq.get_result(child, timeout=SOON) == 3

    async def test_a_child_of_a_failed_parent_is_cancelled_at_once(self, oq: AsyncOmniQ) -> None:
        parent = await oq.enqueue(tasks.nothing)
        await oq.cancel(parent)
        child = await oq.enqueue(tasks.nothing, depends_on=parent)
        assert (await oq.get_task(child)).state is TaskState.CANCELLED

    async def test_a_parent_that_was_forgotten_is_unknown(self, oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
        parent = await oq.enqueue(tasks.nothing)
        await oq.cancel(parent)
        virtual_clock.advance(7200)
        await oq.task_queue.ttl.purge(retention=3600)
        with pytest.raises(UnknownParent):
            await oq.enqueue(tasks.nothing, depends_on=parent)

    async def test_no_child_misses_the_end_of_its_parent(self, oq: AsyncOmniQ) -> None:
        async with working(oq, "async"):
            children = []
            for n in range(60):
                parent = await oq.enqueue(tasks.nothing_async)
                await asyncio.sleep(0.0003 * (n % 8))
                children.append(await oq.enqueue(tasks.nothing_async, depends_on=parent))
            assert await results_of(oq, children) == [None] * 60


class TestParentsThatFail:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_children_and_their_children_are_cancelled(self, oq: AsyncOmniQ, log: Path, kind: str) -> None:
        parent = await oq.enqueue(tasks.fail)
        child = await oq.enqueue(tasks.append, [str(log), "child"], depends_on=parent)
        grandchild = await oq.enqueue(tasks.append, [str(log), "grandchild"], depends_on=child)
        async with working(oq, kind):
            for task_id in (child, grandchild):
                with pytest.raises(TaskCancelled, match=task_id):
                    await oq.get_result(task_id, timeout=SOON)
        result = await oq.result_store.get(child)
        assert result is not None
        assert result.error_type == "ParentFailed"
        assert lines(log) == []

    async def test_a_long_chain_is_cancelled_to_its_end(self, oq: AsyncOmniQ, log: Path) -> None:
        await oq.enqueue_many([call(f"t{n}", log, *([f"t{n - 1}"] if n else [])) for n in range(500)])
        await oq.cancel("t0")
        assert set(await states_of(oq, [f"t{n}" for n in range(500)])) == {TaskState.CANCELLED}

    async def test_a_child_may_want_to_run_all_the_same(self, oq: AsyncOmniQ) -> None:
        bad, good = await oq.enqueue(tasks.fail), await oq.enqueue(tasks.nothing, run_in=0.2)
        child = await oq.enqueue(tasks.add, [1, 2], depends_on=[bad, good], on_parent_failure="run")
        async with working(oq, "async"):
            await until_states(oq, [bad], TaskState.ERROR)
            assert await states_of(oq, [child]) == [TaskState.WAITING]
            assert await oq.get_result(child, timeout=SOON) == 3

    async def test_a_child_may_be_held_until_its_parent_has_succeeded(
        self, oq: AsyncOmniQ, log: Path, gate: Path
    ) -> None:
        parent = await oq.enqueue(tasks.fail_without, [str(gate), str(log)])
        child = await oq.enqueue(tasks.add, [1, 2], depends_on=parent, on_parent_failure="hold")
        async with working(oq, "async") as pool:
            with pytest.raises(TaskFailed):
                await oq.get_result(parent, timeout=SOON)
            await pool.drain()
            assert await states_of(oq, [child]) == [TaskState.WAITING]
            gate.touch()
            await oq.requeue(parent)
            assert await oq.get_result(child, timeout=SOON) == 3

    async def test_one_failed_parent_is_enough(self, oq: AsyncOmniQ) -> None:
        never = await oq.enqueue(tasks.nothing, run_in=3600)
        bad = await oq.enqueue(tasks.nothing)
        child = await oq.enqueue(tasks.nothing, depends_on=[never, bad])
        await oq.cancel(bad)
        assert await states_of(oq, [never, child]) == [TaskState.SCHEDULED, TaskState.CANCELLED]

    async def test_the_children_of_an_expired_parent_are_cancelled(
        self, oq: AsyncOmniQ, virtual_clock: VirtualClock
    ) -> None:
        parent = await oq.enqueue(tasks.nothing, ttl=60)
        child = await oq.enqueue(tasks.nothing, depends_on=parent)
        virtual_clock.advance(61)
        await oq.task_queue.ttl.expire()
        assert await states_of(oq, [parent, child]) == [TaskState.EXPIRED, TaskState.CANCELLED]

    async def test_the_children_of_poison_are_cancelled(self, oq: AsyncOmniQ, log: Path) -> None:
        parent = await oq.enqueue(oddities.die, [str(log), "exit"])
        child = await oq.enqueue(tasks.nothing, depends_on=parent)
        async with working(oq, "process", max_crashes=1):
            with pytest.raises(TaskCancelled):
                await oq.get_result(child, timeout=SOON)


async def test_a_waiting_task_is_cancelled_at_once(oq: AsyncOmniQ) -> None:
    parent = await oq.enqueue(tasks.nothing)
    child = await oq.enqueue(tasks.nothing, depends_on=parent)
    assert await oq.cancel(child) is True
    assert await states_of(oq, [parent, child]) == [TaskState.PENDING, TaskState.CANCELLED]


async def test_a_child_that_is_due_later_waits_for_that_too(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    parent = await oq.enqueue(tasks.nothing)
    child = await oq.enqueue(tasks.add, [1, 2], depends_on=parent, run_in=3600)
    async with working(oq, "async"):
        await oq.get_result(parent, timeout=SOON)
        await until_states(oq, [child], TaskState.SCHEDULED)
        virtual_clock.advance(3601)
        assert await oq.get_result(child, timeout=SOON) == 3


async def test_a_sweep_heals_what_a_crash_left_waiting(oq: AsyncOmniQ) -> None:
    store = oq.task_queue.store
    parents = [await oq.enqueue(tasks.nothing) for _ in range(2)]
    children = [await oq.enqueue(tasks.nothing, depends_on=parent) for parent in parents]
    grandchild = await oq.enqueue(tasks.nothing, depends_on=children[1])
    for record, end in zip(
        await store.claim(["default"], limit=2, lease=60, worker="w"), (TaskState.SUCCESS, TaskState.ERROR), strict=True
    ):
        await store.transition([Change(task_id=record.id, to=end, from_states=(record.state,), epoch=record.epoch)])
    assert await states_of(oq, [*children, grandchild]) == [TaskState.WAITING] * 3
    await oq.task_queue.dependencies.sweep()
    assert sorted(await states_of(oq, children)) == [TaskState.CANCELLED, TaskState.PENDING]
    held = [task.id for task in await oq.list_tasks(state="cancelled")]
    assert (grandchild in held) == (children[1] in held)


async def test_children_that_a_dead_worker_left_waiting_are_seen_to_by_the_living(
    oq: AsyncOmniQ, virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had settled all that it held, so that no lease of its runs out."""
    monkeypatch.setattr(leases, "SWEEP_INTERVAL", 3600.0)
    store = oq.task_queue.store
    async with working(oq, "async"):
        await store.beat(WorkerRecord(name="dead"))
        parent = await oq.enqueue(tasks.nothing, run_in=3600)
        child = await oq.enqueue(tasks.add, [1, 2], depends_on=parent)
        success = Change(task_id=parent, to=TaskState.SUCCESS, from_states=(TaskState.PENDING, TaskState.SCHEDULED))
        await store.transition([success])
        assert await states_of(oq, [child]) == [TaskState.WAITING]
        virtual_clock.advance(60)
        assert await oq.get_result(child, timeout=SOON) == 3


class CountingReads(ReferenceQueueStore):
    """Counts the tasks that are read."""

    reads = 0

    async def get(self, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord | None]:
        CountingReads.reads += len(ids)
        return await super().get(ids, bodies=bodies)


async def test_a_child_of_many_parents_takes_reads_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "MAX_SETTLED", 1)  # each parent's end is told by itself
    monkeypatch.setattr(CountingReads, "reads", 0)
    count = 400
    async with front_door(reference_place(queue=CountingReads)) as oq:
        parents = await oq.enqueue_many([TaskCall(func=tasks.nothing) for _ in range(count)])
        child = await oq.enqueue(tasks.add, [1, 2], depends_on=parents)
        async with working(oq, "async", max_workers=1):
            assert await oq.get_result(child, timeout=SOON) == 3
    assert CountingReads.reads < 30 * count  # and not in proportion to their square: that would be 80,000
