"""SQLite passes the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from omniq.storage.base import BaseEventStorage, BaseResultStorage
from omniq.storage.queue import BaseTaskQueue
from omniq.testing.conformance import (
    AtomicResultsConformance,
    EventStorageConformance,
    ProcessConformance,
    ResultStorageConformance,
    ScheduleConformance,
    StatefulConformance,
    TaskQueueConformance,
)
from omniq.testing.conformance.processes import Recipe
from omniq_sqlite.config import SQLiteEventStorageConfig, SQLiteResultStorageConfig, SQLiteTaskQueueConfig
from omniq_sqlite.events import SQLiteEventStore
from omniq_sqlite.queue import SQLiteQueueStore
from omniq_sqlite.results import SQLiteResultStore


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[BaseTaskQueue]:
    store = SQLiteQueueStore(SQLiteTaskQueueConfig(base_dir=str(tmp_path)))
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def results(tmp_path: Path) -> AsyncIterator[BaseResultStorage]:
    store = SQLiteResultStore(SQLiteResultStorageConfig(base_dir=str(tmp_path)))
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def events(tmp_path: Path) -> AsyncIterator[BaseEventStorage]:
    store = SQLiteEventStore(SQLiteEventStorageConfig(base_dir=str(tmp_path)))
    await store.connect()
    yield store
    await store.close()


class TestQueue(TaskQueueConformance):
    @pytest.fixture
    def store(self, queue: BaseTaskQueue) -> BaseTaskQueue:
        return queue


class TestSchedules(ScheduleConformance):
    @pytest.fixture
    def store(self, queue: BaseTaskQueue) -> BaseTaskQueue:
        return queue


class TestRandomWalks(StatefulConformance):
    @pytest.fixture
    def store(self, queue: BaseTaskQueue) -> BaseTaskQueue:
        return queue


class TestResults(ResultStorageConformance):
    @pytest.fixture
    def store(self, results: BaseResultStorage) -> BaseResultStorage:
        return results


class TestEvents(EventStorageConformance):
    @pytest.fixture
    def store(self, events: BaseEventStorage) -> BaseEventStorage:
        return events


class TestAtomicResults(AtomicResultsConformance):
    @pytest.fixture
    def stores(self, queue: BaseTaskQueue, results: BaseResultStorage) -> tuple[BaseTaskQueue, BaseResultStorage]:
        return queue, results


class TestProcesses(ProcessConformance):
    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Recipe:
        return partial(SQLiteQueueStore, SQLiteTaskQueueConfig(base_dir=str(tmp_path)))
