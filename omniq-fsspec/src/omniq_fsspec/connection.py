"""What the stores of a place have in common: their connection, and bodies that are kept apart from rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, TypeVar

from omniq.storage.base import Guarantees
from omniq.storage.connected import ConnectedStore, Connections
from omniq.storage.table_store import Step

from omniq_fsspec.config import FileConfig, MemoryConfig, Place
from omniq_fsspec.memory import MemoryConnection, PlaceConnection
from omniq_fsspec.replica import FileReplica

T = TypeVar("T")
K = TypeVar("K")
R = TypeVar("R")


def open_place(place: Place) -> PlaceConnection:
    """What a loop opens of a place."""
    return MemoryConnection(place) if place.is_memory else FileReplica(place)


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

    async def keep(self, records: Sequence[K], write: Callable[[Sequence[K]], Awaitable[R]]) -> R:
        """As `TableStore.keep`: the bodies go to files of their own."""
        bodies = self._connection.bodies
        kept = await bodies.keep(records)
        try:
            return await write(kept)
        finally:
            await bodies.discard(kept)

    async def fetch(self, rows: Sequence[K]) -> Sequence[K]:
        """As `TableStore.fetch`."""
        return await self._connection.bodies.fetch(rows)
