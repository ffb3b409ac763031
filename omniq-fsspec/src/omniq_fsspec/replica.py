"""What a process has open of a place in files: a replica of its tables, and the bodies that they refer to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from msgspec.structs import replace
from omniq.models.task import TaskState
from omniq.storage import rules
from omniq.storage.base import Guarantees
from omniq.storage.embedded import let_threads_run
from omniq.storage.log import Replica, uptime
from omniq.storage.table_store import Step, Tables, Written
from omniq.sync import Portal
from omniq.texts import get_logger

from omniq_fsspec.bodies import QUEUES, RESULTS, Bodies
from omniq_fsspec.config import Place
from omniq_fsspec.filesystems import files_of
from omniq_fsspec.memory import PlaceConnection

T = TypeVar("T")

_logger = get_logger("omniq.storage")

ORPHANED: Final = 3600.0
"""Seconds after which a file with bodies that no row refers to is deleted: whoever wrote it is gone, or will notice."""


class FileReplica(Replica):
    """A replica whose rows refer to bodies in files beside the log."""

    def __init__(self, place: Place) -> None:
        super().__init__(files_of(place))
        self.bodies = Bodies(self.files)
        self._swept_at = uptime() if self.files.trust else -math.inf  # where each look costs, whoever stays looks

    def begin(self) -> Tables:
        self.bodies.forget()
        return super().begin()

    def note(self, written: Written) -> list[str]:
        return self.bodies.count(written)

    async def salvage(self) -> None:
        """Let the tasks whose bodies are there, and whose rows are lost, be found in the dead-letter queue."""
        unused = [name for name in await self.files.list(QUEUES) if not self.bodies.is_used(name)]
        lost = await self.bodies.tasks_in(unused)

        def enter(tables: Tables, now: float) -> int:
            new = [task for task in lost if task.id not in tables.tasks.rows]
            for task in new:
                row = rules.new_record(task, now)
                tables.tasks.put(replace(row, state=TaskState.ERROR, finished_at=now, unique=None))
            return len(new)

        if lost and (count := await self.carry_out(enter)):
            _logger.error("%s: %d tasks were lost, and are dead letters now", self.files.location, count)

    async def tidy(self) -> None:
        """Delete what isn't needed any more, now and then."""
        await super().tidy()
        if uptime() - self._swept_at > ORPHANED:
            self._swept_at = uptime()
            written = {**await self.files.list(QUEUES), **await self.files.list(RESULTS)}
            before = max([self.now(), *written.values()]) - ORPHANED
            await self.files.delete(
                [name for name, at in written.items() if at < before and not self.bodies.is_used(name)]
            )

    async def drop(self) -> None:
        """Remove all that is kept. Raises `StoreError`."""
        await self.rest()
        await self.files.open()
        await self.files.drop()


class FileConnection(PlaceConnection):
    """A replica on an event loop of its own, which all event loops of the process share."""

    def __init__(self, place: Place) -> None:
        self._portal = Portal("omniq-files")
        self._calls: set[Future[Any]] = set()
        self._replica = FileReplica(place)
        super().__init__(self._replica.files)
        self.bodies = self._replica.bodies

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        if asyncio.get_running_loop() is self._portal.loop:
            return await work
        call = self._portal.submit(work)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        with let_threads_run():
            return await asyncio.wrap_future(call)

    async def open(self) -> None:
        await self.run(self._replica.open())

    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        return await self.run(self._replica.carry_out(step, may_lag=may_lag))

    async def guarantees(self) -> Guarantees:
        return self.files.guarantees()

    def now(self) -> float:
        return self._replica.now()

    def watch(self) -> None:
        self._portal.loop.call_soon_threadsafe(self._replica.watch)

    async def tidy(self) -> None:
        await self.run(self._replica.tidy())

    async def drop(self) -> None:
        await self.run(self._replica.drop())

    async def close(self) -> None:
        while self._calls:
            await asyncio.wait(map(asyncio.wrap_future, list(self._calls)))
        await self.run(self._replica.close())
        self._portal.stop()

    def abandon(self) -> None:
        self._portal.submit(self._replica.close()).add_done_callback(lambda _: self._portal.end())
