"""Stores in a stream: tasks, schedules and results as rows of tables that all processes have alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, TypeVar
from urllib.parse import quote, unquote

import msgspec
from msgspec.structs import replace

from omniq.storage import rules
from omniq.storage.base import BaseResultStorage, BaseTaskQueue, Capability
from omniq.storage.places import PlaceStore
from omniq.storage.records import WorkerRecord
from omniq.storage.stream import load_bodies, size_of, store_bodies
from omniq.storage.stream_replica import StreamReplica
from omniq.storage.table_store import TableQueueStore, TableResultStore

K = TypeVar("K")
R = TypeVar("R")


class StreamStore(PlaceStore[StreamReplica]):
    """A store in a project's stream; large bodies are messages of their own."""

    @property
    def max_item_bytes(self) -> int:
        return self._place.stream.max_message

    async def store_bodies(self, records: Sequence[K], write: Callable[[Sequence[K]], Awaitable[R]]) -> R:
        """As `TableStore.store_bodies`."""
        await self._place.open()
        return await write(await store_bodies(self._place.stream, records))

    async def load_bodies(self, rows: Sequence[K]) -> Sequence[K]:
        """As `TableStore.load_bodies`."""
        return await load_bodies(self._place.stream, rows)


class StreamResultStore(StreamStore, TableResultStore, contract=BaseResultStorage):
    """Results in a stream."""

    async def hear(self, timeout: float) -> None:
        await self._connection.run(self._place.hear(timeout))


class StreamQueueStore(StreamStore, TableQueueStore, contract=BaseTaskQueue):
    """Tasks and schedules in a stream. What workers tell of themselves are messages of their own."""

    capabilities: ClassVar[frozenset[Capability]] = TableQueueStore.capabilities | {
        Capability.CROSS_PROCESS,
        Capability.PERSISTENT,
        Capability.PUSH,
    }
    max_items: ClassVar[int] = 500
    max_bytes: ClassVar[int] = 128 * 1024
    size_of: ClassVar[Callable[[bytes], int]] = staticmethod(size_of)

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
