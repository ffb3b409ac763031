"""The document kit passes the suite over a dict: what holds there holds for every store that is built on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

import pytest
from msgspec.structs import replace
from omniq.storage.base import BaseEventStorage, BaseResultStorage, Capability
from omniq.storage.documents import DocumentEventStorage, DocumentResultStorage, DocumentTaskQueue, Write
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
from omniq.testing.documents import DictDocuments


class DictTaskStore(DocumentTaskQueue):
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ATOMIC_RESULTS, Capability.PRIORITY, Capability.UNIQUE}
    )


class SteppedDocuments(DictDocuments):
    """Nothing is atomic but the write of one document, and others may look in between: as on files, say."""

    atomic: ClassVar[bool] = False

    async def write(self, groups: Sequence[Sequence[Write]]) -> list[bool]:
        return list(await asyncio.gather(*map(self._step_through, groups)))

    async def _step_through(self, group: Sequence[Write]) -> bool:
        for write in group:
            await super().write([[replace(write, key=f"entries/{write.key}", always=True, drop=())]])
            await asyncio.sleep(0)
            if await super().write([[replace(write, put=(), drop=())]]) == [False]:
                return False
            await asyncio.sleep(0)
            await super().write([[replace(write, key=f"entries/{write.key}", always=True, put=())]])
        return True


@pytest.fixture
async def stepped() -> AsyncIterator[BaseTaskQueue]:
    store = DocumentTaskQueue(SteppedDocuments())
    await store.connect()
    yield store
    await store.close()


class TestQueueWithoutAtomicGroups(TaskQueueConformance):
    @pytest.fixture
    def store(self, stepped: BaseTaskQueue) -> BaseTaskQueue:
        return stepped


class TestSchedulesWithoutAtomicGroups(ScheduleConformance):
    @pytest.fixture
    def store(self, stepped: BaseTaskQueue) -> BaseTaskQueue:
        return stepped


class TestRandomWalksWithoutAtomicGroups(StatefulConformance):
    @pytest.fixture
    def store(self, stepped: BaseTaskQueue) -> BaseTaskQueue:
        return stepped


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
