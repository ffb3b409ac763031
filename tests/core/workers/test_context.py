"""What a task sees of itself, what it leaves to the next one, and what is called after its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ, current_task
from omniq.errors import NoCurrentTask, SerializationError, TaskFailed

from tests.core import tasks
from tests.core.support import KINDS, SOON, lines, until, working


async def test_what_runs_an_async_task_is_named_after_it(oq: AsyncOmniQ) -> None:
    task_id = await oq.enqueue(tasks.names)
    async with working(oq, "async"):
        assert await oq.get_result(task_id, timeout=SOON) == (task_id, task_id, True)


async def test_outside_a_task_there_is_no_current_one(oq: AsyncOmniQ) -> None:
    async with working(oq, "async") as pool:
        await oq.enqueue(tasks.nothing_async)
        await pool.drain()
        with pytest.raises(NoCurrentTask):
            current_task()


class TestCallbacks:
    @pytest.mark.parametrize("callback", [tasks.called_back, tasks.called_back_async])
    @pytest.mark.parametrize("kind", KINDS)
    async def test_success_is_told_with_the_result(
        self, oq: AsyncOmniQ, log: Path, kind: str, callback: Callable[..., Any]
    ) -> None:
        task_id = await oq.enqueue(tasks.echo, [f"{log}|fine"], on_success=callback, on_failure=tasks.fail_as_callback)
        async with working(oq, kind):
            await oq.get_result(task_id, timeout=SOON)
        assert lines(log) == [f"success:{task_id}:fine"]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_failure_is_told_once_after_the_last_attempt(self, oq: AsyncOmniQ, log: Path, kind: str) -> None:
        task_id = await oq.enqueue(
            tasks.fail,
            [f"{log}|broken"],
            on_failure=tasks.called_back,
            on_success=tasks.fail_as_callback,
            max_retries=2,
            retry_delay=0.01,
        )
        async with working(oq, kind):
            with pytest.raises(TaskFailed):
                await oq.get_result(task_id, timeout=SOON)
        assert lines(log) == [f"error:{task_id}:broken"]

    @pytest.mark.parametrize("callback", [tasks.fail_as_callback, tasks.exit_as_callback])
    async def test_a_callback_that_raises_hurts_nobody(
        self, oq: AsyncOmniQ, log: Path, callback: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        task_id = await oq.enqueue(tasks.echo, [str(log)], on_success=callback)
        async with working(oq, "async"):
            assert await oq.get_result(task_id, timeout=SOON) == str(log)
            await until(lambda: f"task {task_id}: its callback" in caplog.text)
            assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        assert len(lines(log)) == 1

    async def test_a_callback_that_does_not_end_does_not_keep_the_worker(
        self, oq: AsyncOmniQ, caplog: pytest.LogCaptureFixture
    ) -> None:
        task_id = await oq.enqueue(tasks.nothing, on_success=tasks.wait_as_callback)
        async with working(oq, "async", grace_period=0.0) as pool:
            await oq.get_result(task_id, timeout=SOON)
            async with asyncio.timeout(3):
                await pool.stop()
        assert f"tests.core.tasks:wait_as_callback of task {task_id}" in caplog.text

    async def test_a_callback_that_no_worker_can_import_is_refused(self, oq: AsyncOmniQ) -> None:
        with pytest.raises(SerializationError, match="on_success"):
            await oq.enqueue(tasks.nothing, on_success=lambda result: None)
