"""Several processes and one SQLite file: opening, waking each other up, forks."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import closing
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.resource_tracker import ensure_running
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import pytest
from omniq.models.task import TaskState
from omniq.storage.records import NEW, NewTask, ResultRecord
from omniq.storage.wakeups import Wakeups
from omniq.sync import Portal
from omniq.testing import VirtualClock
from omniq.testing.builders import until_told
from omniq_sqlite.config import SQLiteResultStorageConfig, SQLiteTaskQueueConfig
from omniq_sqlite.opening import Link
from omniq_sqlite.queue import SQLiteQueueStore
from omniq_sqlite.results import SQLiteResultStore
from omniq_sqlite.watching import Watcher

QUEUE = "default"
PATIENCE = 60.0
"""Seconds that a wait would take if nothing woke it; far more than a wake-up takes on a busy machine."""
SPAWN: SpawnContext = multiprocessing.get_context("spawn")


def new_task(task_id: str, delay: float = 0.0) -> NewTask:
    return NewTask(id=task_id, queue_name=QUEUE, body=b"", delay=delay)


@pytest.fixture(scope="module", autouse=True)
def resource_tracker() -> None:
    """The process that `multiprocessing` keeps for good isn't one that a test has left behind."""
    ensure_running()


@pytest.fixture
def config(tmp_path: Path) -> SQLiteTaskQueueConfig:
    return SQLiteTaskQueueConfig(base_dir=str(tmp_path))


@pytest.fixture
async def queue(config: SQLiteTaskQueueConfig) -> AsyncIterator[SQLiteQueueStore]:
    store = SQLiteQueueStore(config)
    await store.connect()
    yield store
    await store.close()


async def test_who_does_not_lead_leaves_a_new_task_to_who_does(
    queue: SQLiteQueueStore, config: SQLiteTaskQueueConfig
) -> None:
    wakeups = Wakeups()  # as of another process, whose own looks come seldom
    with closing(Link(config.settings, read_only=True)) as link, VirtualClock() as clock:
        watcher = Watcher(wakeups, link)
        watcher.look()
        wait = asyncio.create_task(wakeups.for_tasks([QUEUE], PATIENCE))
        await asyncio.sleep(0)
        await queue.add([new_task("t")])
        assert watcher.look(left_for=30.0)
        clock.advance(31.0)
        await asyncio.sleep(0.01)
        assert not wait.done()
        assert watcher.look(left_for=30.0)  # though nobody has written since
        await asyncio.wait_for(wait, PATIENCE / 2)
        assert not watcher.look(left_for=30.0)


# ── what the other processes run ─────────────────────────────────────────────


async def add(store: SQLiteQueueStore, *tasks: NewTask) -> None:
    await store.connect()
    assert await store.add(tasks) == [NEW] * len(tasks)
    await store.close()


def add_together(config: SQLiteTaskQueueConfig, barrier: Barrier, task_id: str) -> None:
    barrier.wait(PATIENCE)
    asyncio.run(add(SQLiteQueueStore(config), new_task(task_id)))


def add_when_told(config: SQLiteTaskQueueConfig, told: Event, task: NewTask) -> None:
    assert told.wait(PATIENCE)
    asyncio.run(add(SQLiteQueueStore(config), task))


def put_when_told(config: SQLiteResultStorageConfig, told: Event, task_id: str) -> None:
    async def put() -> None:
        store = SQLiteResultStore(config)
        await store.put([ResultRecord(task_id=task_id, epoch=1, status=TaskState.SUCCESS, body=b"")])
        await store.close()

    assert told.wait(PATIENCE)
    asyncio.run(put())


def add_in_fork(store: SQLiteQueueStore, task_id: str) -> None:
    """Uses the parent's very store."""
    asyncio.run(add(store, new_task(task_id)))


# ── the tests ────────────────────────────────────────────────────────────────


@pytest.mark.slow
async def test_ten_processes_may_create_the_file(config: SQLiteTaskQueueConfig) -> None:
    barrier = SPAWN.Barrier(10)
    children = [SPAWN.Process(target=add_together, args=(config, barrier, f"t{n}")) for n in range(10)]
    for child in children:
        child.start()
    for child in children:
        await asyncio.to_thread(child.join)
    assert [child.exitcode for child in children] == [0] * 10
    store = SQLiteQueueStore(config)
    (stats,) = await store.stats()
    assert stats.counts == {TaskState.PENDING: 10}
    await store.close()


async def seconds_until_woken(waiting: Coroutine[Any, Any, object], told: Event) -> float:
    """Start to wait, let the other process write, and see how long the wait takes from then on."""
    wait = asyncio.create_task(waiting)
    await asyncio.sleep(0)
    began = time.monotonic()
    told.set()
    await wait
    return time.monotonic() - began


@pytest.mark.parametrize("delay", [0.0, 0.2])
async def test_another_processs_task_ends_a_wait(
    delay: float, queue: SQLiteQueueStore, config: SQLiteTaskQueueConfig
) -> None:
    told = SPAWN.Event()
    child = SPAWN.Process(target=add_when_told, args=(config, told, new_task("a", delay)))
    child.start()
    assert await seconds_until_woken(queue.wait([QUEUE], PATIENCE), told) < PATIENCE / 2
    assert [task.id for task in await queue.claim([QUEUE], limit=1, lease=1.0, worker="w")] == ["a"]
    await asyncio.to_thread(child.join)


async def test_another_processs_result_ends_a_wait(tmp_path: Path) -> None:
    config = SQLiteResultStorageConfig(base_dir=str(tmp_path))
    results = SQLiteResultStore(config)
    told = SPAWN.Event()
    child = SPAWN.Process(target=put_when_told, args=(config, told, "a"))
    child.start()
    assert await seconds_until_woken(until_told(results, ["a", "b"], PATIENCE), told) < PATIENCE / 2
    await asyncio.to_thread(child.join)
    await results.close()


async def test_a_wait_sees_what_came_before_it(queue: SQLiteQueueStore) -> None:
    began = time.monotonic()
    await queue.add([new_task("a")])
    await queue.wait(["other", QUEUE], PATIENCE)
    assert time.monotonic() - began < PATIENCE / 2


async def test_waiting_costs_next_to_nothing(queue: SQLiteQueueStore) -> None:
    await queue.add([new_task("a")])
    began = time.process_time()
    await queue.wait(["other"], 1.0)
    assert time.process_time() - began < 0.2


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system can't fork")
def test_a_fork_amid_writes_harms_neither_side(config: SQLiteTaskQueueConfig) -> None:
    fork: ForkContext = multiprocessing.get_context("fork")
    store = SQLiteQueueStore(config)
    portal = Portal("test-portal")
    portal.call(store.connect())
    children = [fork.Process(target=add_in_fork, args=(store, f"child{n}")) for n in range(5)]
    for n, child in enumerate(children):
        adding = portal.submit(store.add([new_task(f"parent{n}")]))
        child.start()
        assert adding.result(PATIENCE) == [NEW]
    for child in children:
        child.join(PATIENCE)
    assert [child.exitcode for child in children] == [0] * 5
    found = portal.call(store.get([f"{side}{n}" for side in ("parent", "child") for n in range(5)]))
    assert None not in found
    portal.call(store.close())
    portal.stop()
