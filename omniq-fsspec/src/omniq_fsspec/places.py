"""What a process has of a place: tables, the bodies that their rows refer to, and what workers tell of themselves."""

from __future__ import annotations

import math
import time
from collections import deque
from itertools import takewhile
from typing import Final, TypeVar

from omniq import clock
from omniq.storage import rules
from omniq.storage.embedded import MemoryTables
from omniq.storage.log import Replica, end_by_results
from omniq.storage.log_files import TEMPORARY, Workers
from omniq.storage.records import NewTask, ResultRecord, TaskRecord
from omniq.storage.table_set import Step, Tables, Written
from omniq.texts import get_logger

from omniq_fsspec.bodies import QUEUES, RESULTS, Bodies
from omniq_fsspec.config import Address
from omniq_fsspec.filesystems import PROBES, MemoryFiles, files_of

T = TypeVar("T")

_logger = get_logger("omniq.storage")

ABOUT_TO_READ: Final = 1.0
"""Seconds that may pass between a step and reading the bodies to which it led."""
ORPHANED: Final = 3600.0
"""Seconds after which a file that no row refers to is deleted: whoever wrote it is gone, or will notice."""


class MemoryPlace(MemoryTables):
    """A place in this process's memory."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.files = MemoryFiles(Address(location))
        self.bodies = Bodies(self.files, small=(NewTask, TaskRecord, ResultRecord))
        self.workers = Workers(self.files)
        self._unused: deque[tuple[float, str]] = deque()
        """Files that aren't needed any more, and since when."""

    async def open(self) -> None:
        """There is nothing to read."""

    async def close(self) -> None:
        """There is nothing to give back."""

    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        """As `TableStore.carry_out`."""
        answer = self.do(step)
        if over := self._long_unused():
            await self.files.delete(over)
        return answer

    def _long_unused(self) -> list[str]:
        """Files that nobody can be about to read any more; each is given out once."""
        with self.lock:
            before = time.monotonic() - ABOUT_TO_READ
            count = sum(1 for _ in takewhile(lambda unused: unused[0] < before, self._unused))
            return [self._unused.popleft()[1] for _ in range(count)]

    def on_written(self, written: Written) -> None:
        self._unused.extend((time.monotonic(), name) for name in self.bodies.count(written))

    def now(self) -> float:
        """The place's clock."""
        return clock.now()

    def watch(self) -> None:
        """There are no other processes."""

    async def vacuum(self) -> None:
        """All that isn't needed is deleted by and by."""

    async def drop(self) -> None:
        """Remove all that is kept."""
        with self.lock:
            Tables.__init__(self)
            self.bodies.forget()
        await self.files.drop()


class FilePlace(Replica):
    """A replica whose rows refer to bodies in files beside the log."""

    def __init__(self, address: Address) -> None:
        super().__init__(files_of(address))
        self.bodies = Bodies(self.files)
        self.workers = Workers(self.files)
        self._swept_at = clock.uptime() if self.files.trust else -math.inf  # where each look costs, whoever stays looks

    def begin(self) -> Tables:
        self.bodies.forget()
        return super().begin()

    def on_written(self, written: Written) -> list[str]:
        return self.bodies.count(written)

    async def has_rows(self) -> bool:
        return bool(await self.files.list(QUEUES))

    async def recovery(self) -> Step[int]:
        """Let the tasks whose bodies are there, and whose rows are lost, be found in the dead-letter queue."""
        lost = await self.bodies.tasks_in(list(await self.files.list(QUEUES)))

        def enter(tables: Tables, now: float) -> int:
            new = [task for task in lost if task.id not in tables.tasks.rows]
            for task in new:  # whose row may be about to come: then it is added over this one
                tables.tasks.put(rules.stand_in(task, now))
            if new:
                _logger.error("%s: %d tasks were lost, and are dead letters now", self.files.location, len(new))
            return end_by_results(tables, now)

        return enter

    async def vacuum(self) -> None:
        """Delete what isn't needed any more, now and then."""
        await super().vacuum()
        if clock.uptime() - self._swept_at > ORPHANED:
            self._swept_at = clock.uptime()
            found = [await self.files.list(folder) for folder in (QUEUES, RESULTS, TEMPORARY, PROBES)]
            written = {name: at for files in found for name, at in files.items()}
            await self.carry_out(lambda tables, now: None)  # all rows that came by now are known
            before = max([self.now() - clock.offset(), *written.values()]) - ORPHANED
            await self.files.delete(
                [name for name, at in written.items() if at < before and not self.bodies.is_used(name)]
            )

    async def drop(self) -> None:
        """Remove all that is kept. Raises `StoreError`."""
        await self.quiesce()
        await self.files.open()
        await self.files.drop()
