"""The stores: the document kit over LMDB's documents."""

from __future__ import annotations

from typing import ClassVar

from omniq.storage.base import BaseResultStorage, Capability
from omniq.storage.documents import DocumentEventStorage, DocumentResultStorage, DocumentTaskQueue

from omniq_lmdb.config import LMDBConfig
from omniq_lmdb.documents import LMDBDocuments

SHARED = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})


class LMDBTasks(DocumentTaskQueue):
    """Tasks and schedules."""

    capabilities: ClassVar[frozenset[Capability]] = SHARED | {
        Capability.ATOMIC_RESULTS,
        Capability.PRIORITY,
        Capability.UNIQUE,
    }

    def __init__(self, config: LMDBConfig) -> None:
        super().__init__(LMDBDocuments(config))
        self._config = config

    def result_storage(self) -> BaseResultStorage:
        return LMDBResults(self._config)


class LMDBResults(DocumentResultStorage):
    """Results."""

    capabilities: ClassVar[frozenset[Capability]] = SHARED

    def __init__(self, config: LMDBConfig) -> None:
        super().__init__(LMDBDocuments(config))


class LMDBEvents(DocumentEventStorage):
    """Events."""

    capabilities: ClassVar[frozenset[Capability]] = SHARED

    def __init__(self, config: LMDBConfig) -> None:
        super().__init__(LMDBDocuments(config))
