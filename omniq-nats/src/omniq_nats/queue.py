"""The task queue in a NATS stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import ClassVar, Final
from urllib.parse import quote, unquote

import msgspec
from msgspec.structs import replace
from omniq.backend import Configured, configured_by
from omniq.errors import PayloadTooLarge
from omniq.queue import AsyncTaskQueue, TaskQueue
from omniq.storage import rules
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Capability
from omniq.storage.records import Added, NewTask, WorkerRecord
from omniq.storage.stream import size_of
from omniq.storage.table_store import TableQueueStore

from omniq_nats.config import NATSTaskQueueConfig
from omniq_nats.connection import NATSStore
from omniq_nats.results import NATSResultStore

MANY: Final = 400
"""Parents up to which a row is small, however long their ids."""


class NATSQueueStore(NATSStore, TableQueueStore, contract=BaseTaskQueue):
    """Tasks and schedules in a NATS stream. What workers tell of themselves are messages of their own."""

    capabilities: ClassVar[frozenset[Capability]] = TableQueueStore.capabilities | {
        Capability.CROSS_PROCESS,
        Capability.PERSISTENT,
        Capability.PUSH,
    }
    max_items: ClassVar[int] = 500
    max_bytes: ClassVar[int] = 128 * 1024
    size_of: ClassVar[Callable[[bytes], int]] = staticmethod(size_of)

    async def _add(self, tasks: Sequence[NewTask]) -> list[Added]:
        most = self._place.stream.max_message // 2  # rows grow, and travel with results
        for task in tasks:
            if len(task.depends_on) > MANY and (size := len(msgspec.json.encode(task))) > most:
                raise PayloadTooLarge(
                    f"task {task.id}: depends_on: its {len(task.depends_on):,} parents and what else is known of it "
                    f"take {size:,} bytes, and {self.location} allows {most:,}: let it depend on fewer"
                )
        return await super()._add(tasks)

    def result_storage(self) -> BaseResultStorage:
        return NATSResultStore(self._config)

    async def purged(self) -> None:
        await self._place.vacuum()

    async def now(self) -> float:
        await self._place.open()
        return self._place.now()

    # ── workers ──────────────────────────────────────────────────────────────

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        await self._place.open()
        if leaving:
            await self._place.stream.delete(_subject_of(worker.name))
        else:
            report = replace(worker, last_seen=self._place.now())
            await self._place.stream.put(_subject_of(worker.name), msgspec.json.encode(report))
        return await self.was_asked(worker.name)

    async def workers(self) -> list[WorkerRecord]:
        await self._place.open()
        names = await self._place.stream.names("worker.*")
        found = zip(names, await asyncio.gather(*map(self._place.stream.last, names)), strict=True)
        return sorted((_worker_of(name, each.data) for name, each in found if each), key=lambda worker: worker.name)

    async def forget_workers(self, older_than: float) -> None:
        for worker in await self.workers():
            if worker.last_seen <= self._place.now() - older_than:
                await self._place.stream.delete(_subject_of(worker.name))


def _subject_of(worker: str) -> str:
    return f"worker.{quote(worker, safe='').replace('.', '%2E')}"


def _worker_of(subject: str, data: bytes) -> WorkerRecord:
    """What a worker has told; if that can't be read, its name."""
    try:
        return msgspec.json.decode(data, type=WorkerRecord)
    except ValueError:
        return rules.worker_of(unquote(subject.partition(".")[2]), b"", 0.0)


class AsyncNATSTaskQueue(Configured, AsyncTaskQueue[NATSTaskQueueConfig]):
    """A task queue in a NATS stream. Takes the fields of `NATSTaskQueueConfig`."""

    @configured_by(NATSTaskQueueConfig)
    def __init__(self, config: NATSTaskQueueConfig) -> None:
        super().__init__(NATSQueueStore, config)


class NATSTaskQueue(Configured, TaskQueue):
    """`AsyncNATSTaskQueue` with methods that block; `aio` is its async core."""

    @configured_by(NATSTaskQueueConfig)
    def __init__(self, config: NATSTaskQueueConfig) -> None:
        super().__init__(AsyncNATSTaskQueue.from_config(config))
