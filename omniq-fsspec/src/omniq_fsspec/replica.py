"""What an event loop has open of a place in files: a replica of its tables, and the bodies that they refer to."""

from __future__ import annotations

import math
from typing import Final

from msgspec.structs import replace
from omniq.models.task import TaskState
from omniq.storage import rules
from omniq.storage.base import Guarantees
from omniq.storage.log import Replica, uptime
from omniq.storage.table_store import Tables, Written
from omniq.texts import get_logger

from omniq_fsspec.bodies import QUEUES, RESULTS, Bodies
from omniq_fsspec.config import Place
from omniq_fsspec.filesystems import files_of
from omniq_fsspec.memory import PlaceConnection

_logger = get_logger("omniq.storage")

ORPHANED: Final = 3600.0
"""Seconds after which a file with bodies that no row refers to is deleted: whoever wrote it is gone, or will notice."""


class FileReplica(Replica, PlaceConnection):
    """A replica whose rows refer to bodies in files beside the log."""

    def __init__(self, place: Place) -> None:
        self.place_files = files_of(place)
        super().__init__(self.place_files)
        self.bodies = Bodies(self.place_files)
        self._swept_at = -math.inf

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

    async def guarantees(self) -> Guarantees:
        return self.place_files.guarantees()

    async def drop(self) -> None:
        await self.forget()
        await self.place_files.open()
        await self.place_files.drop()
