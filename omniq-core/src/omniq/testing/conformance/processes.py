"""The suite for stores that several processes share: `CROSS_PROCESS`, `PERSISTENT` and `PUSH`.

A child process can't be given a store, only a recipe for one: the fixture `recipe` returns a callable
that can be pickled, such as `functools.partial(MyQueueStore, my_config)`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias

import pytest
import pytest_asyncio

from omniq.models.task import TaskState
from omniq.storage.base import Capability
from omniq.storage.queue import BaseTaskQueue
from omniq.testing.conformance.base import Conformance, needs
from omniq.testing.conformance.builders import PATIENCE, QUEUE, add, change, claim, finish, new_task, states

Recipe: TypeAlias = Callable[[], BaseTaskQueue]
Work: TypeAlias = Callable[[BaseTaskQueue], Coroutine[Any, Any, None]]

CHILD_TIMEOUT = 30.0
"""Seconds that a child process may take, its start included."""


async def connect_only(store: BaseTaskQueue) -> None:
    """Nothing but what `connect` does."""


async def work_off(store: BaseTaskQueue) -> None:
    """Claim and end tasks until there are none."""
    while claimed := await claim(store, limit=3, worker=str(os.getpid())):
        assert await change(store, *map(finish, claimed)) == ["applied"] * len(claimed)
        await asyncio.sleep(0)


async def add_one(store: BaseTaskQueue) -> None:
    """Add one task."""
    await add(store, new_task())


async def add_and_die(store: BaseTaskQueue) -> None:
    """Add, claim and end tasks, then die without a farewell."""
    await add(store, *[new_task(f"t{n}") for n in range(10)])
    first, second, _ = await claim(store, limit=3)
    await change(store, finish(first), finish(second))
    os._exit(0)


def child(recipe: Recipe, work: Work) -> None:
    """What a child process runs."""

    async def session() -> None:
        store = recipe()
        await store.connect()
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(session())


async def in_children(recipe: Recipe, *works: Work) -> list[int | None]:
    """Do the works at once, each in a process of its own; returns the processes' exit codes."""
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=child, args=(recipe, work), daemon=True) for work in works]
    for process in processes:
        process.start()
    try:
        for process in processes:
            await asyncio.to_thread(process.join, CHILD_TIMEOUT)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()


class ProcessConformance(Conformance):
    """What the processes that share a store see of each other."""

    @pytest.fixture
    def recipe(self) -> Recipe:
        """A picklable callable that makes a store, not yet connected, always at the same empty place."""
        pytest.fail("override this fixture: it returns a picklable callable that makes a store at one empty place")

    @pytest_asyncio.fixture
    async def store(self, recipe: Recipe) -> AsyncIterator[BaseTaskQueue]:
        """This process's own store."""
        store = recipe()
        await store.connect()
        yield store
        await store.close()

    async def test_two_stores_of_one_place_have_one_location(self, store: BaseTaskQueue, recipe: Recipe) -> None:
        assert recipe().location == store.location

    async def test_processes_may_connect_at_once(self, recipe: Recipe) -> None:
        needs(recipe(), Capability.CROSS_PROCESS)
        assert await in_children(recipe, *[connect_only] * 4) == [0] * 4

    async def test_processes_share_the_tasks(self, store: BaseTaskQueue, recipe: Recipe) -> None:
        needs(store, Capability.CROSS_PROCESS)
        added = await add(store, *[new_task() for _ in range(100)])
        assert await in_children(recipe, work_off, work_off, work_off) == [0, 0, 0]
        records = await store.get(added)
        assert {(r.state, r.epoch) for r in records if r is not None} == {(TaskState.SUCCESS, 1)}

    async def test_what_was_acknowledged_survives_its_process(self, store: BaseTaskQueue, recipe: Recipe) -> None:
        needs(store, Capability.PERSISTENT)
        assert await in_children(recipe, add_and_die) == [0]
        found = await states(store, [f"t{n}" for n in range(10)])
        assert sorted(str(state) for state in found) == ["pending"] * 7 + ["running"] + ["success"] * 2

    async def test_a_wait_is_ended_from_another_process(self, store: BaseTaskQueue, recipe: Recipe) -> None:
        needs(store, Capability.PUSH)
        async with asyncio.timeout(CHILD_TIMEOUT + PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(store.wait([QUEUE], 100 * CHILD_TIMEOUT))
            await asyncio.sleep(0.05)
            assert await in_children(recipe, add_one) == [0]
