"""Stores that share what a process keeps of one place: all event loops use it, on one that belongs to the place."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from omniq.storage.base import Store
from omniq.storage.connected import ConnectedStore, Connection, Connections
from omniq.storage.embedded import let_threads_run
from omniq.storage.table_set import Step
from omniq.sync import Portal

T = TypeVar("T")


class Place(Protocol):
    """Tables of one place, as a process has them."""

    async def open(self) -> None:
        """Read what is there. Safe to repeat. Raises `StoreError`."""

    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        """As `TableStore.carry_out`."""

    def watch(self) -> None:
        """Let those who wait be told of what others write."""

    async def drop(self) -> None:
        """Remove all that is kept. Raises `StoreError`."""

    async def close(self) -> None:
        """Give back what is open, after the calls under way."""

    def now(self) -> float:
        """The place's clock."""


P = TypeVar("P", bound=Place)


class PlaceConnection(Connection, Generic[P]):
    """A place, as all event loops of this process use it."""

    def __init__(self, place: P, *, thread: str | None) -> None:
        """`thread` names that of the place's own event loop; None: it is used on those of its callers."""
        self.place = place
        self._portal = None if thread is None else Portal(thread)
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
        await self.run(self.place.close())
        if self._portal is not None:
            self._portal.stop()

    def abandon(self) -> None:
        if self._portal is not None:
            portal = self._portal
            portal.submit(self.place.close()).add_done_callback(lambda _: portal.end())


_WITH_DEFAULTS = {"get_recent", "replace_bodies"}
"""Verbs that a contract doesn't insist on."""
_taken: ContextVar[PlaceConnection[Any]] = ContextVar("omniq_place")
"""That of the verb which is being carried out."""


class PlaceStore(ConnectedStore[PlaceConnection[P]]):
    """A store of a place; `class Tasks(PlaceStore, TableQueueStore, contract=BaseTaskQueue)` runs the verbs there."""

    connections: ClassVar[Connections[PlaceConnection[Any]]]

    def __init_subclass__(cls, contract: type[Store] | None = None) -> None:
        super().__init_subclass__()
        for name in contract.__abstractmethods__ - Store.__abstractmethods__ | _WITH_DEFAULTS if contract else ():
            if hasattr(cls, name):
                setattr(cls, name, _where_the_place_is(getattr(cls, name)))

    @property
    def _connection(self) -> PlaceConnection[P]:
        return _taken.get(None) or super()._connection

    @property
    def _place(self) -> P:
        return self._connection.place

    async def connect(self) -> None:
        connection = self._connection
        await connection.run(connection.place.open())

    async def carry_out(self, step: Step[T], *, may_lag: bool = False) -> T:
        """As `TableStore.carry_out`."""
        connection = self._connection
        return await connection.run(connection.place.carry_out(step, may_lag=may_lag))


def _where_the_place_is(verb: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Coroutine[Any, Any, T]]:
    @functools.wraps(verb)
    async def call(self: PlaceStore[Any], /, *args: Any, **how: Any) -> T:
        connection = self._connection
        return await connection.run(_through(connection, functools.partial(verb, self, *args, **how)))

    return call


async def _through(connection: PlaceConnection[Any], work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Let the work use this connection, and take none for the event loop on which it runs."""
    token = _taken.set(connection)
    try:
        return await work()
    finally:
        _taken.reset(token)
