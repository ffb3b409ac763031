"""What a worker is doing: each task in its hands, and where it is; asked here, by a signal, and from afar."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.errors import WorkerError
from omniq.models import TaskState
from omniq.workers import AsyncWorkerPool

from tests.core.support import SOON, until, until_states, working
from tests.core.workers import stack_tasks
from tests.core.workers.stack_tasks import SECRET

pytestmark = pytest.mark.timeout(120)

SYNC, ASYNC = "blocking_here", "awaiting_here"
PLACES: list[tuple[str, Callable[..., Any], str]] = [
    ("async", stack_tasks.wait, SYNC),
    ("async", stack_tasks.wait_async, ASYNC),
    ("async", stack_tasks.block_the_loop, SYNC),
    ("async", stack_tasks.wait_then_block_the_loop, SYNC),
    ("thread", stack_tasks.wait, SYNC),
    ("thread", stack_tasks.wait_async, ASYNC),
    ("thread", stack_tasks.block_the_loop, SYNC),
    ("process", stack_tasks.wait, SYNC),
    ("process", stack_tasks.wait_async, ASYNC),
    ("gevent", stack_tasks.wait, SYNC),
    ("gevent", stack_tasks.wait_async, ASYNC),
    ("gevent", stack_tasks.block_the_loop, SYNC),
]


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A file that a task makes when it has begun."""
    return tmp_path / "started"


@pytest.mark.parametrize(("kind", "func", "where"), PLACES)
async def test_each_task_is_told_with_the_code_where_it_is(
    oq: AsyncOmniQ, gate: Path, started: Path, kind: str, func: Callable[..., Any], where: str
) -> None:
    secret = [] if func in (stack_tasks.block_the_loop, stack_tasks.wait_then_block_the_loop) else [SECRET]
    task_id = await oq.enqueue(func, [str(gate), str(started), *secret])
    async with working(oq, kind) as pool:
        text = await from_another_thread(pool, where, gate)
        assert await oq.get_result(task_id) == "done"
    head, task, *stack = [line for line in text.splitlines() if line]
    assert head == f"worker {pool.name}: 1 running"
    assert task.startswith(f"task {task_id}: {func.__module__}:{func.__qualname__}, queue default, attempt 1, running")
    calls = [line.rpartition(", in ")[2] for line in stack if line.startswith("  File ")]
    assert calls[0] == func.__qualname__
    assert where in calls
    assert f'File "{stack_tasks.__file__}"' in stack[0]
    assert not any(part in text for part in ("omniq/workers", "omniq_gevent", "execution.py"))
    assert SECRET not in text


async def from_another_thread(pool: AsyncWorkerPool, where: str, gate: Path) -> str:
    """What the worker tells, whose loop may be stuck until the gate is open, once the task has come there."""

    def ask() -> str:
        try:
            deadline = time.monotonic() + SOON
            while where not in (text := pool.look().result(SOON)) and time.monotonic() < deadline:
                pass
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


@pytest.mark.parametrize("kind", ["async", "thread", "process", "gevent"])
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
