"""The store passes OmniQ's conformance suite."""

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
from omniq_lmdb.config import LMDBEventStorageConfig, LMDBResultStorageConfig, LMDBTaskQueueConfig
from omniq_lmdb.stores import LMDBEvents, LMDBResults, LMDBTasks


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[BaseTaskQueue]:
    store = LMDBTasks(LMDBTaskQueueConfig(base_dir=str(tmp_path)))
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def results(tmp_path: Path) -> AsyncIterator[BaseResultStorage]:
    store = LMDBResults(LMDBResultStorageConfig(base_dir=str(tmp_path)))
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
    async def store(self, tmp_path: Path) -> AsyncIterator[BaseEventStorage]:
        store = LMDBEvents(LMDBEventStorageConfig(base_dir=str(tmp_path)))
        await store.connect()
        yield store
        await store.close()


class TestAtomicResults(AtomicResultsConformance):
    @pytest.fixture
    def stores(self, queue: BaseTaskQueue, results: BaseResultStorage) -> tuple[BaseTaskQueue, BaseResultStorage]:
        return queue, results


class TestProcesses(ProcessConformance):
    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Recipe:
        return partial(LMDBTasks, LMDBTaskQueueConfig(base_dir=str(tmp_path)))
