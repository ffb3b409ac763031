"""What a process has open of a database file: one writer, one reader and one watcher for all its stores."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import ExitStack
from typing import ClassVar, TypeVar

from omniq.storage.connected import ConnectedStore, Connection, Connections
from omniq.storage.guarantees import Guarantees
from omniq.storage.wakeups import Wakeups

from omniq_sqlite.config import SQLiteConfig
from omniq_sqlite.lanes import Job, LinkThread, Reader, Writer
from omniq_sqlite.opening import Link, longest_row
from omniq_sqlite.watching import Watcher

T = TypeVar("T")

BESIDE_A_BODY = 64 * 1024
"""Bytes that the other columns of a row may have."""


class Database(Connection):
    """One file, as used by this process."""

    def __init__(self, settings: SQLiteConfig) -> None:
        with ExitStack() as started:  # all of the threads, or none
            self._writer = Writer("omniq-sqlite-writer", Link(settings))
            started.callback(self._writer.ask_to_end)
            self._reader = Reader("omniq-sqlite-reader", Link(settings, read_only=True))
            started.callback(self._reader.ask_to_end)
            self.wakeups = Wakeups.at(settings.location)
            self._watcher = Watcher("omniq-sqlite-watcher", Link(settings, read_only=True), self.wakeups)
            started.pop_all()

    async def close(self) -> None:
        for thread in self._threads:
            await thread.end()

    def abandon(self) -> None:
        for thread in self._threads:
            thread.end_now()

    @property
    def _threads(self) -> tuple[LinkThread, ...]:
        """In the order of their end: the writer last, since who closes last moves the WAL into the file."""
        return self._reader, self._watcher, self._writer

    async def hear(self, timeout: float) -> None:
        """As `BaseResultStorage.hear`: while it is open, its watcher tells of what others have committed."""
        await asyncio.sleep(timeout)

    async def read(self, job: Job[T]) -> T:
        """What a reading job returns; it sees every commit that was reported before."""
        return await self._reader.do(job)

    async def write(self, job: Job[T]) -> T:
        """What a writing job returns, once the transaction that it shares with others is committed."""
        return await self._writer.do(job)


class SQLiteStore(ConnectedStore[Database]):
    """What the three stores have in common."""

    connections: ClassVar[Connections[Database]] = Connections(Database, of_process=True)
    networked: bool = False
    _settings: SQLiteConfig

    @property
    def max_item_bytes(self) -> int:
        return longest_row() - BESIDE_A_BODY

    async def guarantees(self) -> Guarantees:
        return Guarantees(
            survives_process_kill=True,
            survives_power_loss=self._settings.synchronous == "FULL",
            survives_failover=False,
            clock="host",
            push=False,
            atomic_results=True,
            evidence=("journal_mode=wal", f"synchronous={self._settings.synchronous.lower()}"),
        )

    async def connect(self) -> None:
        await self._connection.read(_nothing)


def _nothing(connection: sqlite3.Connection) -> None:
    """A job that only needs the connection to be open, and so the schema to be there."""
