"""Redis and Valkey pass the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
from omniq.storage.base import BaseResultStorage
from omniq.storage.queue import BaseTaskQueue
from omniq.testing.conformance import (
    AtomicResultsConformance,
    ProcessConformance,
    ResultStorageConformance,
    ScheduleConformance,
    StatefulConformance,
    TaskQueueConformance,
)
from omniq.testing.conformance.processes import Recipe
from omniq_redis.config import RedisResultStorageConfig, RedisTaskQueueConfig
from omniq_redis.queue import RedisQueueStore
from omniq_redis.results import RedisResultStore

from tests.servers.redis import redis_url

__all__ = ["redis_url"]


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[BaseTaskQueue]:
    store = RedisQueueStore(RedisTaskQueueConfig.from_url(redis_url))
    await store.connect()
    yield store
    await store.close()


@pytest.fixture
async def results(redis_url: str) -> AsyncIterator[BaseResultStorage]:
    store = RedisResultStore(RedisResultStorageConfig.from_url(redis_url))
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


class TestAtomicResults(AtomicResultsConformance):
    @pytest.fixture
    def stores(self, queue: BaseTaskQueue, results: BaseResultStorage) -> tuple[BaseTaskQueue, BaseResultStorage]:
        return queue, results


class TestProcesses(ProcessConformance):
    @pytest.fixture
    def recipe(self, redis_url: str) -> Recipe:
        return partial(RedisQueueStore, RedisTaskQueueConfig.from_url(redis_url))
