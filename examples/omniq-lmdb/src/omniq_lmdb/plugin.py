"""What this distribution brings. Imports nothing of it."""

from __future__ import annotations

from omniq.plugins import EventStoreSpec, ResultStoreSpec, TaskQueueSpec, hookimpl
from omniq.storage.capabilities import Capability

SHARED = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})
QUEUE = SHARED | {Capability.ATOMIC_RESULTS, Capability.PRIORITY, Capability.UNIQUE}
CONFIG = "omniq_lmdb.config:"
STORES = "omniq_lmdb.stores:"


@hookimpl
def omniq_task_queues() -> list[TaskQueueSpec]:
    return [TaskQueueSpec("lmdb", STORES + "LMDBTasks", CONFIG + "LMDBTaskQueueConfig", (), ("lmdb",), QUEUE)]


@hookimpl
def omniq_result_stores() -> list[ResultStoreSpec]:
    return [ResultStoreSpec("lmdb", STORES + "LMDBResults", CONFIG + "LMDBResultStorageConfig", (), ("lmdb",), SHARED)]


@hookimpl
def omniq_event_stores() -> list[EventStoreSpec]:
    return [EventStoreSpec("lmdb", STORES + "LMDBEvents", CONFIG + "LMDBEventStorageConfig", (), ("lmdb",), SHARED)]
