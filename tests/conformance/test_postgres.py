"""PostgreSQL passes the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

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
from omniq_postgres.config import PostgresEventStorageConfig, PostgresResultStorageConfig, PostgresTaskQueueConfig
from omniq_postgres.events import PostgresEventStore
from omniq_postgres.queue import PostgresQueueStore
from omniq_postgres.results import PostgresResultStore

from tests.servers.postgres import postgres_url

__all__ = ["postgres_url"]


@pytest.fixture
async def queue(postgres_url: str) -> AsyncIterator[BaseTaskQueue]:
    store = PostgresQueueStore(PostgresTaskQueueConfig.from_url(postgres_url))
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def results(postgres_url: str) -> AsyncIterator[BaseResultStorage]:
    store = PostgresResultStore(PostgresResultStorageConfig.from_url(postgres_url))
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def events(postgres_url: str) -> AsyncIterator[BaseEventStorage]:
    store = PostgresEventStore(PostgresEventStorageConfig.from_url(postgres_url))
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
    def recipe(self, postgres_url: str) -> Recipe:
        return partial(PostgresQueueStore, PostgresTaskQueueConfig.from_url(postgres_url))
