"""What the stores of a place have in common: their connection, and bodies that are kept apart from rows."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

from omniq.storage.base import Guarantees, Store
from omniq.storage.connected import ConnectedStore, Connections
from omniq.storage.table_store import Step

from omniq_fsspec.config import FileConfig, MemoryConfig, Place
from omniq_fsspec.memory import MemoryConnection, PlaceConnection
from omniq_fsspec.replica import FileConnection

T = TypeVar("T")
K = TypeVar("K")
R = TypeVar("R")


_taken: ContextVar[PlaceConnection] = ContextVar("omniq_fsspec_connection")
"""That of the verb which is being carried out."""


def open_place(place: Place) -> PlaceConnection:
    """What a loop opens of a place."""
    return MemoryConnection(place) if place.is_memory else FileConnection(place)


class PlaceStore(ConnectedStore[PlaceConnection]):
    """A store of a place."""

    connections: ClassVar[Connections[PlaceConnection]] = Connections(open_place, of_process=True)

    def __init_subclass__(cls, contract: type[Store] | None = None) -> None:
        """Let the verbs of a contract run where the connection is."""
        super().__init_subclass__()
        for name in contract.__abstractmethods__ - Store.__abstractmethods__ | {"replace_bodies"} if contract else ():
            if hasattr(cls, name):
                setattr(cls, name, _where_the_connection_is(getattr(cls, name)))

    def __init__(self, config: FileConfig | MemoryConfig) -> None:
        super().__init__(config)
        self._config = config
        self.networked = config.settings.is_networked

    @property
    def _connection(self) -> PlaceConnection:
        return _taken.get(None) or super()._connection

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


def _where_the_connection_is(verb: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
    @functools.wraps(verb)
    async def call(self: PlaceStore, /, *args: Any, **how: Any) -> T:
        connection = self._connection
        return await connection.run(_through(connection, functools.partial(verb, self, *args, **how)))

    return call


async def _through(connection: PlaceConnection, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Let the work use this connection, and take none for the event loop on which it runs."""
    token = _taken.set(connection)
    try:
        return await work()
    finally:
        _taken.reset(token)
