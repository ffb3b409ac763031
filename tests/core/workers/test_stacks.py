"""What a worker is doing: each task in its hands, and where it is; asked here, by a signal, and from afar."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.errors import InvalidTask, WorkerError, WorkerNotFound
from omniq.models import TaskState
from omniq.storage import BaseTaskQueue
from omniq.storage.records import WorkerRecord
from omniq.testing import VirtualClock
from omniq.workers import AsyncWorkerPool
from omniq.workers.stacks import Stack

from tests.core.support import SOON, front_door, reference_place, until, until_states, working
from tests.core.workers import stack_tasks
from tests.core.workers.stack_tasks import SECRET

pytestmark = pytest.mark.timeout(120)

SYNC, ASYNC, COMPUTING = "blocking_here", "awaiting_here", "computing_here"
PLACES: list[tuple[str, dict[Callable[..., Any], str]]] = [
    ("async", {stack_tasks.wait: SYNC, stack_tasks.wait_async: ASYNC}),
    ("async", {stack_tasks.block_the_loop: SYNC}),
    ("async", {stack_tasks.wait_then_block_the_loop: SYNC}),
    ("thread", {stack_tasks.wait: SYNC, stack_tasks.wait_async: ASYNC}),
    ("process", {stack_tasks.compute: COMPUTING, stack_tasks.wait_async: ASYNC}),
    ("gevent", {stack_tasks.wait: SYNC, stack_tasks.wait_async: ASYNC}),
    ("gevent", {stack_tasks.compute: COMPUTING}),
]
"""Kinds of workers, tasks, and where these are to be found."""


@pytest.fixture
async def oq() -> AsyncIterator[AsyncOmniQ]:
    async with front_door(reference_place()) as oq:
        yield oq


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A file that a task makes when it has begun."""
    return tmp_path / "started"


@pytest.mark.parametrize(("kind", "places"), PLACES)
async def test_each_task_is_told_with_the_code_where_it_is(
    oq: AsyncOmniQ, gate: Path, started: Path, kind: str, places: dict[Callable[..., Any], str]
) -> None:
    ids = {await oq.enqueue(func, [str(gate), str(started), SECRET]): func for func in places}
    async with working(oq, kind) as pool:
        text = await from_another_thread(pool, places.values(), gate)
        assert [await oq.get_result(id_) for id_ in ids] == ["done"] * len(ids)
    by_id = {str(id_): func for id_, func in ids.items()}
    head, *told = text.split("\n\n")
    assert head == f"worker {pool.name}: {len(ids)} running"
    assert len(told) == len(ids)
    for part in told:
        task, *stack = part.splitlines()
        func = by_id[task.removeprefix("task ").partition(":")[0]]
        assert f": {func.__module__}:{func.__qualname__}, queue default, attempt 1, running for " in task
        calls = [line.rpartition(", in ")[2] for line in stack if line.startswith("  File ")]
        assert calls[0] == func.__qualname__
        assert places[func] in calls
        assert f'File "{stack_tasks.__file__}"' in stack[0]
    assert not any(hidden in text for hidden in ("omniq/workers", "omniq_gevent", "execution.py", SECRET))


async def from_another_thread(pool: AsyncWorkerPool, places: Iterable[str], gate: Path) -> str:
    """What the worker tells, whose loop may be stuck until the gate is open, once its tasks have come there."""

    def ask() -> str:
        try:
            deadline = time.monotonic() + SOON
            while not all(f", in {place}\n" in (text := pool.look().result(SOON)) for place in places):
                assert time.monotonic() < deadline, text
                time.sleep(0.02)
            return text
        finally:
            gate.touch()

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize("kind", ["process", "gevent"])
async def test_a_child_that_lets_no_thread_have_its_turn_is_asked_by_a_signal(
    oq: AsyncOmniQ, started: Path, kind: str
) -> None:
    task_id = await oq.enqueue(stack_tasks.hold_the_lock, [str(started)], max_retries=0, timeout=30)
    async with working(oq, kind) as pool:
        await until(started.exists)
        for _ in range(2):  # an answer that comes late isn't taken for the next one
            text = await pool.stacks()
            assert f"task {task_id}" in text
            assert "in hold_the_lock" in text
        await pool.stop(0)


@pytest.mark.parametrize("kind", ["async", "process"])
async def test_what_waits_for_a_slot_is_told_too_and_what_is_alike_together(
    oq: AsyncOmniQ, gate: Path, started: Path, kind: str
) -> None:
    ids = [await oq.enqueue(stack_tasks.wait, [str(gate), str(started)]) for _ in range(3)]
    async with working(oq, kind, max_workers=2, prefetch=1) as pool:
        await until_states(oq, ids, TaskState.RUNNING)
        await until(started.exists)
        text = ""

        async def told() -> None:
            nonlocal text
            while text.count("in blocking_here") != 1 or text.count(", running for ") != 2:
                text = await pool.stacks()

        await asyncio.wait_for(told(), SOON)
        assert text.startswith(f"worker {pool.name}: 2 running, 1 waiting for a slot")
        assert text.count("waiting for a slot for ") == 1
        gate.touch()


async def test_deep_stacks_and_long_texts_are_cut(oq: AsyncOmniQ, gate: Path, started: Path) -> None:
    await oq.enqueue(stack_tasks.recurse, [str(gate), str(started)])
    async with working(oq, "thread") as pool:
        await until(started.exists)
        text = await pool.stacks()
        gate.touch()
    assert "calls are left out)" in text
    assert len(text) < 20_000


async def test_a_worker_that_does_not_run_tells_nothing(oq: AsyncOmniQ) -> None:
    pool = oq.worker_pool("thread")
    with pytest.raises(WorkerError, match="isn't running"):
        await pool.stacks()
    await pool.start()
    assert (await pool.stacks()).endswith("no tasks")
    await pool.stop()
    with pytest.raises(WorkerError, match="isn't running"):
        await pool.stacks()


# ── from afar ───────────────────────────────────────────────────────────────


async def test_all_who_ask_are_answered_anew(oq: AsyncOmniQ, gate: Path, started: Path) -> None:
    async with working(oq, "thread", lease=1.5) as pool:
        await until_seen(oq)
        assert await asyncio.gather(*(oq.inspect_worker(pool.name) for _ in range(3))) == 3 * [
            f"worker {pool.name}: no tasks"
        ]
        task_id = await oq.enqueue(stack_tasks.wait, [str(gate), str(started)])
        await until(started.exists)
        assert f"task {task_id}: " in await oq.inspect_worker(pool.name)
        gate.touch()
        await oq.get_result(task_id)
        assert task_id not in await oq.inspect_worker(pool.name)


async def test_an_answer_is_told_for_a_while(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    async with working(oq, "thread", lease=1.5) as pool:
        await until_seen(oq)
        await oq.inspect_worker(pool.name)
        (told,) = await oq.workers()
        assert told.stacks.startswith("worker ")
        virtual_clock.advance(40)

        async def is_forgotten() -> None:
            while any(worker.stacks for worker in await oq.task_queue.store.workers()):
                await asyncio.sleep(0.05)

        await asyncio.wait_for(is_forgotten(), SOON)
        (later,) = await oq.task_queue.store.workers()
        assert later.stacks_at == told.stacks_at


async def test_a_runner_that_can_not_tell_keeps_its_leases(oq: AsyncOmniQ, gate: Path, started: Path) -> None:
    async with working(oq, "thread", lease=1.5) as pool:
        pool.runners.main.stacks = broken  # type: ignore[method-assign]
        task_id = await oq.enqueue(stack_tasks.wait, [str(gate), str(started)])
        await until(started.exists)
        await until_seen(oq)
        assert await oq.inspect_worker(pool.name) == "what the worker is doing can't be told: ValueError"
        (record,) = await oq.task_queue.store.get([task_id])
        assert record is not None
        assert record.lease_until is not None

        async def is_renewed() -> None:
            while record.lease_until == (await oq.task_queue.store.get([task_id]))[0].lease_until:  # type: ignore[union-attr]
                await asyncio.sleep(0.05)

        await asyncio.wait_for(is_renewed(), SOON)
        gate.touch()


async def broken() -> dict[str, Stack]:
    raise ValueError("secret")


async def test_who_can_not_answer_is_told(oq: AsyncOmniQ) -> None:
    with pytest.raises(WorkerNotFound, match="there is no worker 'w' in reference:"):
        await oq.inspect_worker("w")
    store = oq.task_queue.store
    await store.beat(WorkerRecord(name="w"))
    with pytest.raises(WorkerError, match=r"hasn't answered within 0\.1 s"):
        await oq.inspect_worker("w", dt.timedelta(milliseconds=100))
    assert await store.beat(WorkerRecord(name="w"))  # of the one who has given up
    asking = asyncio.create_task(oq.inspect_worker("w", None))
    await until_asked(store)
    await store.beat(WorkerRecord(name="w"), leaving=True)
    with pytest.raises(WorkerError, match="has stopped without an answer"):
        await asking


async def test_one_that_is_gone_is_not_asked(oq: AsyncOmniQ, virtual_clock: VirtualClock) -> None:
    store = oq.task_queue.store
    await store.beat(WorkerRecord(name="w", lease=30.0))
    virtual_clock.advance(46)
    assert await oq.workers() == []
    assert [worker.name for worker in await oq.workers(alive=False)] == ["w"]
    with pytest.raises(WorkerError, match="doesn't live any more: it was last seen at"):
        await oq.inspect_worker("w")


@pytest.mark.parametrize("name", [None, "", 7, "a\nb", "x" * 300, b"w"])
async def test_a_name_is_a_text(oq: AsyncOmniQ, name: Any) -> None:
    with pytest.raises(InvalidTask, match="name: expected"):
        await oq.inspect_worker(name)


async def until_seen(oq: AsyncOmniQ) -> None:
    async def seen() -> None:
        while not await oq.workers():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(seen(), SOON)


async def until_asked(store: BaseTaskQueue) -> None:
    async def asked() -> None:
        while not await store.beat(WorkerRecord(name="w")):
            await asyncio.sleep(0.01)

    await asyncio.wait_for(asked(), SOON)
