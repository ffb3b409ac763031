"""What the stores of a place have in common: their connection, and bodies that are kept apart from rows."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, ClassVar, Final, TypeVar

from omniq import clock
from omniq.storage.base import Guarantees, Store
from omniq.storage.connected import ConnectedStore, Connection, Connections
from omniq.storage.embedded import let_threads_run
from omniq.storage.table_store import Step
from omniq.sync import Portal

from omniq_fsspec.config import Address, FileConfig, MemoryConfig
from omniq_fsspec.places import ORPHANED, FilePlace, MemoryPlace

TOO_LATE: Final = ORPHANED / 2

T = TypeVar("T")
K = TypeVar("K")
R = TypeVar("R")


class PlaceConnection(Connection):
    """A place, as all event loops of this process use it: in files, on an event loop of its own."""

    def __init__(self, address: Address) -> None:
        self.place = MemoryPlace.at(address.root) if address.is_memory else FilePlace(address)
        self._portal = None if address.is_memory else Portal("omniq-files")
        self._calls: set[Future[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a verb of a store returns, on the event loop of the place."""
        if self._portal is None or asyncio.get_running_loop() is self._portal.loop:
            return await work
        call = self._portal.submit(work)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        with let_threads_run():
            return await asyncio.wrap_future(call)

    def watch(self) -> None:
        """Let those who wait be told of what others write."""
        if self._portal is not None:
            self._portal.loop.call_soon_threadsafe(self.place.watch)

    async def drop(self) -> None:
        await self.run(self.place.drop())

    async def close(self) -> None:
        while self._calls:
            await asyncio.wait(map(asyncio.wrap_future, list(self._calls)))
        if self._portal is not None and isinstance(self.place, FilePlace):
            await self.run(self.place.close())
            self._portal.stop()

    def abandon(self) -> None:
        if self._portal is not None and isinstance(self.place, FilePlace):
            portal = self._portal
            portal.submit(self.place.close()).add_done_callback(lambda _: portal.end())


_taken: ContextVar[PlaceConnection] = ContextVar("omniq_fsspec_connection")
"""That of the verb which is being carried out."""


class PlaceStore(ConnectedStore[PlaceConnection]):
    """A store of a place."""

    connections: ClassVar[Connections[PlaceConnection]] = Connections(PlaceConnection, of_process=True)

    def __init_subclass__(cls, contract: type[Store] | None = None) -> None:
        """Let the verbs of a contract run where the place is."""
        super().__init_subclass__()
        for name in contract.__abstractmethods__ - Store.__abstractmethods__ | {"replace_bodies"} if contract else ():
            if hasattr(cls, name):
                setattr(cls, name, _where_the_place_is(getattr(cls, name)))

    def __init__(self, config: FileConfig | MemoryConfig) -> None:
        super().__init__(config)
        self._config = config
        self.networked = config.settings.is_networked

    @property
    def _connection(self) -> PlaceConnection:
        return _taken.get(None) or super()._connection

    @property
    def _place(self) -> MemoryPlace | FilePlace:
        return self._connection.place

    async def connect(self) -> None:
        connection = self._connection
        await connection.run(connection.place.open())

    async def guarantees(self) -> Guarantees:
        return self._place.files.guarantees()

    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        """As `TableStore.carry_out`."""
        connection = self._connection
        return await connection.run(connection.place.carry_out(step, may_lag=may_lag))

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


def _where_the_place_is(verb: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
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
