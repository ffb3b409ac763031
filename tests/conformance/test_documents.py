"""The document kit passes the suite over a dict: what holds there holds for every store that is built on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

import pytest
from omniq.storage.base import BaseEventStorage, BaseResultStorage, BaseTaskQueue
from omniq.storage.capabilities import Capability
from omniq.storage.documents import DocumentEventStorage, DocumentResultStorage, DocumentTaskQueue
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
from omniq.testing.documents import DictDocuments


class DictTaskStore(DocumentTaskQueue):
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.ATOMIC_RESULTS, Capability.PRIORITY})


@pytest.fixture
async def queue() -> AsyncIterator[BaseTaskQueue]:
    store = DictTaskStore(DictDocuments())
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
    async def store(self) -> AsyncIterator[BaseResultStorage]:
        store = DocumentResultStorage(DictDocuments())
        await store.connect()
        yield store
        await store.close()


class TestEvents(EventStorageConformance):
    @pytest.fixture
    async def store(self) -> AsyncIterator[BaseEventStorage]:
        store = DocumentEventStorage(DictDocuments())
        await store.connect()
        yield store
        await store.close()


class TestAtomicResults(AtomicResultsConformance):
    @pytest.fixture
    def stores(self) -> tuple[BaseTaskQueue, BaseResultStorage]:
        documents = DictDocuments()
        return DictTaskStore(documents), DocumentResultStorage(documents)


class TestProcesses(ProcessConformance):
    @pytest.fixture
    def recipe(self) -> Recipe:
        documents = DictDocuments()
        return lambda: DictTaskStore(documents)
