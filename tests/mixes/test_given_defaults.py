"""Defaults for tasks reach every queue: one that OmniQ makes, one that it is given, one of a backend, and one alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from omniq import AsyncOmniQ
from omniq.backend import SQLiteBackend
from omniq.config.convert import convert
from omniq.config.loader import TaskDefaults
from omniq.queue import AsyncSQLiteTaskQueue, AsyncTaskQueue

from tests.core import tasks

GIVEN = {"max_retries": 7, "ttl": 60.0, "timeout": 5.0}
VARIABLES = {"OMNIQ_RETRY_ATTEMPTS": "7", "OMNIQ_TASK_TTL": "60", "OMNIQ_TASK_TIMEOUT": "5"}


def made(config: Mapping[str, Any]) -> AsyncTaskQueue[Any]:
    return AsyncOmniQ(config=config).task_queue


def given(config: Mapping[str, Any]) -> AsyncTaskQueue[Any]:
    return AsyncOmniQ(task_queue=AsyncSQLiteTaskQueue(), config=config).task_queue


def of_a_backend(config: Mapping[str, Any]) -> AsyncTaskQueue[Any]:
    assert not config
    return AsyncOmniQ.from_backend(SQLiteBackend()).task_queue


def alone(config: Mapping[str, Any]) -> AsyncTaskQueue[Any]:
    assert not config
    return AsyncSQLiteTaskQueue()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def defaults_of(queue: AsyncTaskQueue[Any]) -> dict[str, object]:
    """What a task has that says nothing."""
    async with queue:
        task = await queue.get_task(await queue.enqueue(tasks.nothing))
    assert task.expires_at is not None
    return {
        "max_retries": task.max_retries,
        "ttl": (task.expires_at - task.run_at).total_seconds(),
        "timeout": task.timeout,
    }


@pytest.mark.parametrize("queue", [made, given, of_a_backend, alone])
async def test_of_the_environment(
    queue: Callable[[Mapping[str, Any]], AsyncTaskQueue[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert await defaults_of(queue({})) == GIVEN


@pytest.mark.parametrize("queue", [made, given])
async def test_of_a_configuration(queue: Callable[[Mapping[str, Any]], AsyncTaskQueue[Any]]) -> None:
    assert await defaults_of(queue({"defaults": GIVEN})) == GIVEN


async def test_a_queue_s_own_win() -> None:
    own = AsyncTaskQueue.from_backend(SQLiteBackend())
    queue = AsyncTaskQueue(lambda _: own.store, own.config, defaults=convert(GIVEN, TaskDefaults))
    assert await defaults_of(AsyncOmniQ(task_queue=queue, config={"defaults": {"max_retries": 1}}).task_queue) == GIVEN
    assert await defaults_of(queue) == GIVEN
