"""The stores: the document kit over `ShelfDocuments`."""

from __future__ import annotations

from typing import ClassVar

from omniq.storage.base import BaseResultStorage, Capability
from omniq.storage.documents import DocumentEventStorage, DocumentResultStorage, DocumentTaskQueue

from .config import ShelfConfig
from .documents import ShelfDocuments

# What your store can't do goes from here, and is then refused where users ask for it. CROSS_PROCESS: several processes
# may use one place. PERSISTENT: what was written outlives them all.
SHARED = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})


class ShelfTasks(DocumentTaskQueue):
    """Tasks and schedules.

    Every verb of `BaseTaskQueue` may be overridden where your store knows a shorter way. If it can push, override
    `wait` (`omniq.storage.channel`) and declare PUSH; until then, idle workers look once a second for what other
    processes add.
    """

    # ATOMIC_RESULTS and UNIQUE need documents that are `atomic`. PRIORITY comes with the kit.
    capabilities: ClassVar[frozenset[Capability]] = SHARED | {
        Capability.ATOMIC_RESULTS,
        Capability.PRIORITY,
        Capability.UNIQUE,
    }

    def __init__(self, config: ShelfConfig) -> None:
        super().__init__(ShelfDocuments(config))
        self._config = config

    def result_storage(self) -> BaseResultStorage:
        return ShelfResults(self._config)


class ShelfResults(DocumentResultStorage):
    """Results. If they go elsewhere, delete this, its config and spec, and let `result_storage` return None."""

    capabilities: ClassVar[frozenset[Capability]] = SHARED

    def __init__(self, config: ShelfConfig) -> None:
        super().__init__(ShelfDocuments(config))


class ShelfEvents(DocumentEventStorage):
    """Events. If your store shall keep none, delete this, its config and its spec."""

    capabilities: ClassVar[frozenset[Capability]] = SHARED

    def __init__(self, config: ShelfConfig) -> None:
        super().__init__(ShelfDocuments(config))
