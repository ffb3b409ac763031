"""The document kit passes the suite over a dict: what holds there holds for every store that is built on it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import pytest
from msgspec.structs import replace
from omniq.errors import UnknownBackend
from omniq.plugins.specs import StoreKind
from omniq.storage.base import Capability
from omniq.storage.documents import DocumentEventStorage, DocumentResultStorage, DocumentTaskQueue, Write
from omniq.storage.documents.base import DocumentStore
from omniq.testing.conformance import BackendConformance, Opener
from omniq.testing.reference import DictDocuments


class DictTaskStore(DocumentTaskQueue):
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.ATOMIC_RESULTS, Capability.PRIORITY, Capability.UNIQUE}
    )

    def result_storage(self) -> DocumentResultStorage:
        return DocumentResultStorage(self.documents)


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


documents = cache(lambda project: DictDocuments())
stepped_documents = cache(lambda project: SteppedDocuments())


def open_documents(kind: StoreKind, project: str) -> DocumentStore:
    stores = {"task_queue": DictTaskStore, "result_store": DocumentResultStorage, "event_store": DocumentEventStorage}
    return stores[kind](documents(project))


def open_stepped(kind: StoreKind, project: str) -> DocumentStore:
    """A queue alone: results and events are no different there."""
    if kind != "task_queue":
        raise UnknownBackend(kind)
    return DocumentTaskQueue(stepped_documents(project))


class TestDocuments(BackendConformance):
    @pytest.fixture
    def opener(self) -> Opener:
        return open_documents


class TestDocumentsWithoutAtomicGroups(BackendConformance):
    @pytest.fixture
    def opener(self) -> Opener:
        return open_stepped
