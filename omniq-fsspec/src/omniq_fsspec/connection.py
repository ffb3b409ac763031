"""What the stores of a place have in common: their connection, and bodies that are kept apart from rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Final, TypeAlias, TypeVar

from omniq import clock
from omniq.storage.base import Guarantees
from omniq.storage.connected import Connections
from omniq.storage.places import PlaceConnection, PlaceStore

from omniq_fsspec.config import Address, FileConfig, MemoryConfig
from omniq_fsspec.places import ORPHANED, FilePlace, MemoryPlace

TOO_LATE: Final = ORPHANED / 2

K = TypeVar("K")
R = TypeVar("R")
Place: TypeAlias = MemoryPlace | FilePlace


def open_place(address: Address) -> PlaceConnection[Place]:
    """What this process has of a place; files are used on an event loop of their own."""
    if address.is_memory:
        return PlaceConnection[Place](MemoryPlace.at(address.root), thread=None)
    return PlaceConnection[Place](FilePlace(address), thread="omniq-files")


class FilePlaceStore(PlaceStore[Place]):
    """A store of a place in files, or in memory."""

    connections: ClassVar[Connections[PlaceConnection[Place]]] = Connections(open_place, of_process=True)

    def __init__(self, config: FileConfig | MemoryConfig) -> None:
        super().__init__(config)
        self._config = config
        self.networked = config.settings.is_networked

    async def guarantees(self) -> Guarantees:
        return self._place.files.guarantees()

    async def store_bodies(self, records: Sequence[K], write: Callable[[Sequence[K]], Awaitable[R]]) -> R:
        """As `TableStore.store_bodies`: the bodies go to files of their own."""
        await self._place.open()  # the log is begun before there is anything that it should tell of
        bodies = self._place.bodies
        began = clock.uptime()
        kept = await bodies.store(records)
        answer = await write(kept)
        if clock.uptime() - began > TOO_LATE:  # this process was stopped: somebody may have deleted them as orphans
            await bodies.store_again(records, kept)
        await bodies.discard(kept)  # not after an error: then the rows may have been written all the same
        return answer

    async def load_bodies(self, rows: Sequence[K]) -> Sequence[K]:
        """As `TableStore.load_bodies`."""
        return await self._place.bodies.load(rows)
