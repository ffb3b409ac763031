"""What the stores of a place have in common: their connection, and bodies that are kept apart from rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, TypeVar

from msgspec.structs import replace
from omniq.storage.base import Guarantees
from omniq.storage.connected import ConnectedStore, Connections
from omniq.storage.records import NewBody
from omniq.storage.table_store import Step

from omniq_fsspec.config import FileConfig, MemoryConfig, Place
from omniq_fsspec.memory import MemoryConnection, PlaceConnection
from omniq_fsspec.replica import Replica

T = TypeVar("T")
R = TypeVar("R")


def open_place(place: Place) -> PlaceConnection:
    """What a loop opens of a place."""
    return MemoryConnection(place) if place.is_memory else Replica(place)


class PlaceStore(ConnectedStore[PlaceConnection]):
    """A store of a place."""

    connections: ClassVar[Connections[PlaceConnection]] = Connections(open_place)

    def __init__(self, config: FileConfig | MemoryConfig) -> None:
        super().__init__(config)
        self._config = config
        self.networked = config.settings.is_networked

    async def connect(self) -> None:
        await self._connection.open()

    async def guarantees(self) -> Guarantees:
        return await self._connection.guarantees()

    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        """As `TableStore.carry_out`."""
        return await self._connection.carry_out(step, may_lag=may_lag)

    async def _keep(self, records: Sequence[Any], write: Callable[[list[Any]], Awaitable[list[R]]]) -> list[R]:
        """What `write` answers to the records, once their bodies are kept and they have references instead."""
        bodies = self._connection.bodies
        kept = await bodies.keep(records)
        try:
            return await write(kept)
        finally:
            await bodies.discard(kept)

    async def _fetch(self, records: Sequence[Any], again: Callable[[list[Any]], Awaitable[Sequence[Any]]]) -> list[Any]:
        """The records with their bodies; `again` reads rows anew, of which a body was replaced meanwhile."""
        bodies = self._connection.bodies
        found = await bodies.fetch(records)
        if lost := [index for index, record in enumerate(found) if record.damage and not record.body]:
            rows = await again([records[index] for index in lost])
            moved = [(index, row) for index, row in zip(lost, rows, strict=True) if row and row != records[index]]
            for (index, _), record in zip(moved, await bodies.fetch([row for _, row in moved]), strict=True):
                found[index] = record
        return found

    async def _replace(
        self,
        bodies: Sequence[NewBody],
        rows: Sequence[Any],
        write: Callable[[list[NewBody]], Awaitable[list[bool]]],
    ) -> list[bool]:
        """Let rows refer to new bodies where they have the old ones; None stands for a row that isn't there."""
        stored = iter(await self._connection.bodies.fetch([row for row in rows if row is not None]))
        fitting = [
            (new, row)
            for new, row in zip(bodies, rows, strict=True)
            if row is not None and next(stored).body == new.old
        ]

        async def refer(kept: list[Any]) -> list[bool]:
            pairs = zip(fitting, kept, strict=True)
            return await write([NewBody(task_id=n.task_id, old=row.body, body=to.body) for (n, row), to in pairs])

        written = await self._keep([replace(row, body=new.body) for new, row in fitting], refer) if fitting else []
        done = {new.task_id for (new, _), is_done in zip(fitting, written, strict=True) if is_done}
        return [new.task_id in done for new in bodies]
