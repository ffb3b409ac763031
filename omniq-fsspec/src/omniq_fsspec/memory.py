"""What an event loop has open of a place, and what that is in memory."""

from __future__ import annotations

import math
import os
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Coroutine, Iterable
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import quote, unquote

import msgspec
from msgspec.structs import replace
from omniq import clock
from omniq.storage.base import Guarantees
from omniq.storage.connected import Connection
from omniq.storage.log import Files, Part
from omniq.storage.records import WorkerRecord
from omniq.storage.rules import worker_of
from omniq.storage.table_store import Step, Tables, undoing
from omniq.storage.wakeups import Wakeups

from omniq_fsspec.bodies import Bodies
from omniq_fsspec.config import Place
from omniq_fsspec.filesystems import MemoryFiles

T = TypeVar("T")

WORKERS: Final = "workers"
ABOUT_TO_READ: Final = 1.0
"""Seconds that may pass between a step and reading the bodies to which it led."""


class PlaceConnection(Connection):
    """The tables of a place, the bodies that they refer to, and the files of both."""

    def __init__(self, files: Files) -> None:
        self.files: Files = files
        self.bodies = Bodies(files)
        self.tables = Tables()
        self._reports: dict[str, WorkerRecord] = {}
        """What workers of this process have told last."""
        self._forgot_at = -math.inf
        self.wakeups = Wakeups.at(files.location)

    @abstractmethod
    async def open(self) -> None:
        """Read what is there. Raises `StoreError`."""

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a verb of a store returns, on the event loop to which all of this belongs, where that matters."""
        return await work

    @abstractmethod
    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        """As `TableStore.carry_out`."""

    @abstractmethod
    async def guarantees(self) -> Guarantees:
        """As `Store.guarantees`."""

    def now(self) -> float:
        """The place's clock."""
        return clock.now()

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> None:
        """As `BaseTaskQueue.beat`."""
        name, now, known = f"{WORKERS}/{quote(worker.name, safe='')}.json", self.now(), self._reports.get(worker.name)
        if leaving:
            self._reports.pop(worker.name, None)
            await self.files.delete([name])
        elif known is None or now - known.last_seen >= self.files.report_interval or worker.running or known.running:
            self._reports[worker.name] = report = replace(worker, last_seen=now)
            await self.files.write(name, msgspec.json.encode(report), lasting=False)

    async def workers(self) -> list[WorkerRecord]:
        """As `BaseTaskQueue.workers`."""
        names = sorted(await self.files.list(WORKERS))
        found = zip(names, await self.files.read(list(map(Part, names))), strict=True)
        return sorted((_worker_of(name, data) for name, data in found if data is not None), key=lambda w: w.name)

    async def forget_workers(self, older_than: float) -> None:
        """As `TableQueueStore.forget_workers`."""
        now = self.now()
        if now - self._forgot_at > 10 * self.files.report_interval:
            self._forgot_at = now
            for worker in await self.workers():
                if worker.last_seen <= now - older_than:
                    await self.beat(worker, leaving=True)

    def watch(self) -> None:
        """Let `wakeups` be told of what others write, as long as anybody waits."""

    async def tidy(self) -> None:
        """Delete what isn't needed any more."""


def _worker_of(name: str, data: bytes) -> WorkerRecord:
    """What a worker has told; if that can't be read, its name."""
    try:
        return msgspec.json.decode(data, type=WorkerRecord)
    except ValueError:
        return worker_of(unquote(name.removeprefix(f"{WORKERS}/").removesuffix(".json")), b"", 0.0)


# ── memory ──────────────────────────────────────────────────────────────────


class Heap:
    """What a process keeps in memory under one name, for all of its event loops."""

    _heaps: ClassVar[dict[str, Heap]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, place: Place) -> None:
        self.lock = threading.Lock()
        self.files = MemoryFiles(place)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.tables = Tables()
        self.bodies = Bodies(self.files)
        self._left: deque[tuple[float, str]] = deque()
        """Files that aren't needed any more, and since when."""

    def leave(self, unused: Iterable[str]) -> list[str]:
        """Note files that aren't needed any more; returns those that nobody can be about to read."""
        now = time.monotonic()
        self._left.extend((now, name) for name in unused)
        over: list[str] = []
        while self._left and self._left[0][0] < now - ABOUT_TO_READ:
            over.append(self._left.popleft()[1])
        return over

    @classmethod
    def at(cls, place: Place) -> Heap:
        """The heap of that name, which lives as long as the process."""
        with cls._guard:
            if place.location not in cls._heaps:
                cls._heaps[place.location] = cls(place)
            return cls._heaps[place.location]

    @classmethod
    def forget_all(cls) -> None:
        """A forked child has a memory of its own."""
        cls._guard = threading.Lock()
        cls._heaps.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Heap.forget_all)


class MemoryConnection(PlaceConnection):
    """A heap, as one event loop uses it: each step is carried out at once, behind the heap's lock."""

    def __init__(self, place: Place) -> None:
        self._heap = Heap.at(place)
        super().__init__(self._heap.files)
        self.bodies = self._heap.bodies

    async def open(self) -> None:
        """There is nothing to read."""

    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        heap = self._heap
        with heap.lock:
            now = clock.now()
            with undoing(heap.tables):
                answer = step(heap.tables, now)
            written = heap.tables.settle()
            unused = heap.leave(heap.bodies.count(written))
            news = written.news(now)
        self.wakeups.tell(news)
        if unused:
            await self.files.delete(unused)
        return answer

    async def guarantees(self) -> Guarantees:
        return Guarantees(
            survives_process_kill=False,
            survives_power_loss=False,
            survives_failover=False,
            clock="host",
            push=False,
            atomic_results=True,
        )

    async def close(self) -> None:
        """The heap stays."""

    async def drop(self) -> None:
        with self._heap.lock:
            self._heap.clear()
        self.bodies = self._heap.bodies
        await self._heap.files.drop()

    def abandon(self) -> None:
        """The heap stays."""
