"""Unique keys: a task is enqueued once for as long as it hasn't ended, however often it is asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.errors import InvalidTask, UnsupportedCapability
from omniq.models import TaskState
from omniq.queue.options import TaskCall
from omniq.storage.base import Capability
from omniq.testing import ReferenceQueueStore

from tests.core import tasks
from tests.core.support import SOON, front_door, reference_place, results_of, states_of, working


class TestUnique:
    async def test_a_second_call_gets_the_first_ones_task(self, oq: AsyncOmniQ) -> None:
        first = await oq.enqueue(tasks.add, [1, 2], unique_key="sum")
        assert await oq.enqueue(tasks.add, [3, 4], unique_key="sum") == first
        assert await oq.enqueue(tasks.add, [3, 4], unique_key="other") != first
        assert await oq.enqueue(tasks.add, [3, 4]) != first
        assert len(await oq.list_tasks()) == 3

    async def test_once_it_has_ended_another_is_enqueued(self, oq: AsyncOmniQ) -> None:
        first = await oq.enqueue(tasks.add, [1, 2], unique_key="sum")
        async with working(oq, "async"):
            assert await oq.get_result(first, timeout=SOON) == 3
            second = await oq.enqueue(tasks.add, [3, 4], unique_key="sum")
            assert await oq.get_result(second, timeout=SOON) == 7

    async def test_a_cancelled_one_is_in_nobodys_way(self, oq: AsyncOmniQ) -> None:
        first = await oq.enqueue(tasks.nothing, run_in=60, unique_key="key")
        assert await oq.cancel(first)
        assert await oq.enqueue(tasks.nothing, unique_key="key") != first

    async def test_of_many_at_once_one_is_enqueued(self, oq: AsyncOmniQ) -> None:
        ids = await asyncio.gather(*(oq.enqueue(tasks.add, [n, 1], unique_key="key") for n in range(50)))
        assert len(set(ids)) == 1
        assert [task.id for task in await oq.list_tasks()] == [ids[0]]

    async def test_in_a_batch_those_that_are_taken_are_told(self, oq: AsyncOmniQ) -> None:
        holder = await oq.enqueue(tasks.nothing, unique_key="taken")
        calls = [TaskCall(func=tasks.nothing, options={"unique_key": key}) for key in ("a", "taken", "a", "b")]
        ids = await oq.enqueue_many(calls)
        assert ids[1] == holder
        assert ids[0] == ids[2]
        assert len(set(ids)) == 3
        assert await states_of(oq, ids) == [TaskState.PENDING] * 4

    @pytest.mark.parametrize("key", ["", "x" * 256, "\n", 7, b"key"])
    async def test_a_key_that_is_none_is_refused(self, oq: AsyncOmniQ, key: Any) -> None:
        with pytest.raises(InvalidTask, match="unique_key: "):
            await oq.enqueue(tasks.nothing, unique_key=key)
        assert await oq.list_tasks() == []

    async def test_a_schedules_tasks_have_none(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(InvalidTask, match="unique_key: the tasks of a schedule can't have it"):
            await oq.schedule(tasks.nothing, interval=1, unique_key="key")  # type: ignore[call-arg]


class WithoutKeys(ReferenceQueueStore):
    capabilities = ReferenceQueueStore.capabilities - {Capability.UNIQUE}

    async def add(self, new: Any) -> Any:
        self._check_asked(new)
        return await super().add(new)


async def test_a_store_without_keys_refuses_them_and_nothing_else() -> None:
    async with front_door(reference_place(queue=WithoutKeys)) as oq, working(oq, "async"):
        refused = oq.enqueue(tasks.nothing, unique_key="key")
        good = [oq.enqueue(tasks.add, [n, 1]) for n in range(5)]
        answers = await asyncio.gather(refused, *good, return_exceptions=True)
        assert isinstance(answers[0], UnsupportedCapability)
        assert await results_of(oq, [str(id_) for id_ in answers[1:]]) == [n + 1 for n in range(5)]
