"""What a process has open of a database file: one writer, one reader and one watcher for all its stores."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import ExitStack
from typing import TypeVar

from omniq.loops import PerLoop
from omniq.storage.base import Store
from omniq.storage.guarantees import Guarantees
from omniq.storage.wakeups import Wakeups

from omniq_sqlite.config import DatabaseSettings, SQLiteConfig
from omniq_sqlite.lanes import Job, LinkThread, Reader, Writer
from omniq_sqlite.opening import Link, longest_row
from omniq_sqlite.watching import Watcher

T = TypeVar("T")

BESIDE_A_BODY = 64 * 1024
"""Bytes that the other columns of a row may have."""

_open: dict[DatabaseSettings, Database] = {}
_lock = threading.Lock()


class Database:
    """One file, as used by this process. It lives from the first `acquire` to the last `release`."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.defunct = False
        """It was opened before a fork, in the parent."""
        self._settings = settings
        self._users = 0
        with ExitStack() as started:  # all of the threads, or none
            self._writer = Writer("omniq-sqlite-writer", Link(settings))
            started.callback(self._writer.ask_to_end)
            self._reader = Reader("omniq-sqlite-reader", Link(settings, read_only=True))
            started.callback(self._reader.ask_to_end)
            self.watcher = Watcher(
                "omniq-sqlite-watcher", Link(settings, read_only=True), Wakeups.at(settings.location)
            )
            started.pop_all()

    @classmethod
    def acquire(cls, settings: DatabaseSettings) -> Database:
        """The database that this process shares for these settings."""
        with _lock:
            database = _open.get(settings)
            if database is None:
                database = _open[settings] = cls(settings)
            database._users += 1
        return database

    async def release(self) -> None:
        """Give it back; the last one ends the threads, after what they were asked for."""
        if self._is_last():
            for thread in self._threads:
                await thread.end()

    def abandon(self) -> None:
        """As `release`, for a loop that has ended."""
        if self._is_last():
            for thread in self._threads:
                thread.end_now()

    @property
    def _threads(self) -> tuple[LinkThread, ...]:
        """In the order of their end: the writer last, since who closes last moves the WAL into the file."""
        return self._reader, self.watcher, self._writer

    def _is_last(self) -> bool:
        """One user less; returns whether there is none left."""
        with _lock:
            self._users -= 1
            if self._users or self.defunct:
                return False
            del _open[self._settings]
            return True

    async def read(self, job: Job[T]) -> T:
        """What a reading job returns; it sees every commit that was reported before."""
        return await self._reader.do(job)

    async def write(self, job: Job[T]) -> T:
        """What a writing job returns, once the transaction that it shares with others is committed."""
        return await self._writer.do(job)


def _after_fork_in_child() -> None:
    """The threads are gone: let the child open its own."""
    global _lock
    _lock = threading.Lock()
    for database in _open.values():
        database.defunct = True
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class SQLiteStore(Store):
    """What the three stores have in common."""

    networked: bool = False

    def __init__(self, config: SQLiteConfig) -> None:
        self._settings = config.settings
        self._databases = PerLoop(lambda: Database.acquire(self._settings), Database.abandon)

    @property
    def location(self) -> str:
        return self._settings.location

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
        await self._database.read(_nothing)

    async def close(self) -> None:
        if database := self._databases.pop():
            await database.release()

    @property
    def _database(self) -> Database:
        """Opened at the first use in each loop, and again after a fork."""
        database = self._databases.get()
        if database.defunct:
            self._databases.pop()
            database = self._databases.get()
        return database


def _nothing(connection: sqlite3.Connection) -> None:
    """A job that only needs the connection to be open, and so the schema to be there."""
