"""Tasks that fail in every way that Python knows don't hurt the worker or the tasks beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.errors import TaskFailed
from omniq.models import TaskState

from tests.core import oddities, tasks
from tests.core.support import KINDS, SOON, front_door, lines, plant, reference_place, results_of, working

WAYS: dict[Callable[..., Any], tuple[str, str]] = {
    oddities.exit_politely: ("SystemExit", "bye"),
    oddities.exit_politely_async: ("SystemExit", "bye"),
    oddities.interrupt: ("KeyboardInterrupt", ""),
    oddities.interrupt_async: ("KeyboardInterrupt", ""),
    oddities.cancel_itself: ("asyncio.exceptions.CancelledError", ""),
    oddities.cancel_itself_async: ("asyncio.exceptions.CancelledError", ""),
    oddities.recurse: ("RecursionError", "maximum recursion depth exceeded"),
    oddities.fail_unprintably: ("tests.core.oddities.Unprintable", "its text can't be had"),
    oddities.fail_with_half_a_character: ("ValueError", "half of one"),
}
"""By which error a task fails, and what its text begins with or says."""


@pytest.mark.parametrize("kind", KINDS)
async def test_no_error_of_a_task_ends_the_worker(oq: AsyncOmniQ, kind: str) -> None:
    ids = {func: await oq.enqueue(func) for func in WAYS}
    async with working(oq, kind, max_workers=1) as pool:
        for func, (error_type, text) in WAYS.items():
            with pytest.raises(TaskFailed) as failed:
                await oq.get_result(ids[func], timeout=SOON)
            assert failed.value.error_type == error_type
            assert text in failed.value.error_message
            assert func.__name__ in failed.value.remote_traceback
        assert await oq.get_result(await oq.enqueue(tasks.add, [1, 2]), timeout=SOON) == 3
        assert not pool.finished.is_set()
    assert {(task.attempts, task.crashes) for task in await oq.list_dead()} == {(1, 0)}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_called_and_awaited_runs_everywhere(oq: AsyncOmniQ, kind: str) -> None:
    ids = [
        await oq.enqueue(oddities.return_an_awaitable, [1, 2]),
        await oq.enqueue(oddities.Adder(3), [4]),
        await oq.enqueue(oddities.Adder, [5]),
    ]
    async with working(oq, kind):
        awaited, called, made = await results_of(oq, ids)
    assert (awaited, called) == (3, 7)
    assert isinstance(made, oddities.Adder)
    assert made.x == 5


@pytest.mark.parametrize("kind", KINDS)
async def test_a_result_that_cannot_be_stored_fails_at_once(oq: AsyncOmniQ, log: Path, kind: str) -> None:
    task_id = await oq.enqueue(oddities.return_a_generator, [str(log)], max_retries=5, retry_delay=0.01)
    async with working(oq, kind):
        with pytest.raises(TaskFailed, match="generator") as failed:
            await oq.get_result(task_id, timeout=SOON)
    assert failed.value.error_type == "omniq.errors.SerializationError"
    assert len(lines(log)) == 1
    task = await oq.get_task(task_id)
    assert (task.state, task.attempts) == (TaskState.ERROR, 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_text_that_is_no_unicode_is_a_result_like_any_other(oq: AsyncOmniQ, kind: str) -> None:
    task_id = await oq.enqueue(oddities.return_half_a_character)
    async with working(oq, kind):
        assert await oq.get_result(task_id, timeout=SOON) == "\ud83d"


@pytest.mark.parametrize("kind", KINDS)
async def test_tasks_whose_function_is_missing_fail_by_themselves(kind: str) -> None:
    async with front_door(reference_place()) as oq:
        missing = [await plant(oq, func="tests.core.tasks:gone") for _ in range(1200)]
        good = await oq.enqueue(tasks.add, [1, 2])
        async with working(oq, kind, max_workers=1, prefetch=1500):
            assert await oq.get_result(good, timeout=SOON) == 3
            for task_id in missing[::100]:
                with pytest.raises(TaskFailed, match="gone") as failed:
                    await oq.get_result(task_id, timeout=SOON)
                assert failed.value.error_type == "omniq.errors.FunctionNotFound"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_missing_function_is_looked_for_again(oq: AsyncOmniQ, kind: str) -> None:
    task_id = await plant(oq, func="tests.core.tasks:gone", max_retries=2, retry_delay=0.01)
    async with working(oq, kind):
        with pytest.raises(TaskFailed, match="has no 'gone'"):
            await oq.get_result(task_id, timeout=SOON)
    assert (await oq.get_task(task_id)).attempts == 3
