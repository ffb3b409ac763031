"""Stores that keep something open, such as a pool or threads, and share it with all others at the same place."""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from omniq.errors import StoreError
from omniq.loops import PerLoop
from omniq.storage.base import Store


class Settings(Protocol):
    """What a connection needs to know, hashable: stores with equal settings share one."""

    @property
    def location(self) -> str:
        """Where that is, as `Store.location`."""


class StoreConfig(Protocol):
    """A store's configuration."""

    @property
    def settings(self) -> Settings:
        """What its connection needs to know."""


def check_layout(location: str, found: int, known: int, distribution: str) -> None:
    """See that what is kept at a place is OmniQ's, and of a layout that this version of the distribution knows.

    Raises `StoreError`. Layouts count from 1.
    """
    if found < 1:
        raise StoreError(f"{location}: what is kept there isn't OmniQ's: give OmniQ a place of its own")
    if found != known:
        remedy = f"upgrade {distribution}" if found > known else "give OmniQ a place of its own"
        raise StoreError(
            f"{location}: {'a newer' if found > known else 'an older'} {distribution} wrote this (layout {found}, this "
            f"one knows {known}): {remedy}"
        )


class Connection(ABC):
    """What is open at one place. It lives from the first store that takes it to the last one that gives it back."""

    defunct = False
    """Nobody may use it any more, nor close it: it is a forked child's parent's, or was retired."""
    _users = 0
    _key: Any = None

    @abstractmethod
    async def close(self) -> None:
        """Close it, after what it was asked for."""

    @abstractmethod
    async def drop(self) -> None:
        """Remove everything that is kept there, as `Store.drop`."""

    @abstractmethod
    def abandon(self) -> None:
        """Close it at once: the loop of the last user has ended."""


T = TypeVar("T", bound=Connection)


class Connections(Generic[T]):
    """The connections that are open of one kind: one for each place, and each event loop unless `of_process`."""

    def __init__(self, make: Callable[[Any], T], *, of_process: bool = False) -> None:
        self._make = make
        self._of_process = of_process
        self._open: dict[tuple[object, Settings], T] = {}
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def take(self, settings: Settings) -> T:
        """The connection for these settings, made at the first call. Raises what making it raises."""
        key = (None if self._of_process else asyncio.get_running_loop(), settings)
        with self._lock:
            connection = self._open.get(key)
            if connection is None:
                connection = self._open[key] = self._make(settings)
                connection._key = key
            connection._users += 1
            return connection

    async def give_back(self, connection: T) -> None:
        """One user less; the last one closes it."""
        if self._is_last(connection):
            await connection.close()

    def drop(self, connection: T) -> None:
        """As `give_back`, for a loop that has ended."""
        if self._is_last(connection):
            connection.abandon()

    def retire(self, connection: T) -> None:
        """Let nobody take it any more: who has it takes a new one at the next use, and the caller closes this one."""
        with self._lock:
            connection.defunct = True
            self._open.pop(connection._key, None)

    def _is_last(self, connection: T) -> bool:
        with self._lock:
            connection._users -= 1
            if connection._users or connection.defunct:
                return False
            del self._open[connection._key]
            return True

    def _forget(self) -> None:
        """They are the parent's: let a forked child open its own."""
        self._lock = threading.Lock()
        for connection in self._open.values():
            connection.defunct = True
        self._open.clear()


class ConnectionUser(Generic[T]):
    """What works through a `Connection`: a store, or the documents of one."""

    connections: ClassVar[Connections[Any]]

    def __init__(self, config: StoreConfig) -> None:
        settings = self._settings = config.settings
        self._location = settings.location
        self._taken: PerLoop[T] = PerLoop(lambda: self.connections.take(settings), self.connections.drop)

    @property
    def location(self) -> str:
        """Where that is, as `Store.location`."""
        return self._location

    @property
    def _connection(self) -> T:
        """Taken at the first use in each loop, and again after a fork."""
        connection = self._taken.get()
        if connection.defunct:
            self._taken.pop()
            connection = self._taken.get()
        return connection

    async def close(self) -> None:
        """Give the running loop's connection back."""
        if connection := self._taken.pop():
            await self.connections.give_back(connection)

    async def drop(self) -> None:
        """Remove everything that is kept there."""
        await self._connection.drop()


class ConnectedStore(ConnectionUser[T], Store):
    """A store that works through a `Connection`."""
