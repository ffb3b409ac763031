"""What a process has open of a database file: a writer, a reader and a watcher, which all its stores share.

Each is a connection on a thread of its own. SQLite has one writer at a time and syncs once per commit, so that the
writes of an event loop which come while a transaction is in flight share the next one (group commit). Every call into
SQLite gives up the GIL, and beside a busy event loop it takes milliseconds to get it back: what counts is the number of
statements, not that of rows.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, ClassVar, TypeAlias, TypeVar

import aiosqlite
from aiosqlite.core import _connection_worker_thread
from omniq.background import start_thread
from omniq.batching import Batcher
from omniq.errors import Closed, StoreUnavailable
from omniq.loops import PerLoop
from omniq.storage.connected import ConnectedStore, Connection, Connections
from omniq.storage.guarantees import Guarantees
from omniq.storage.wakeups import Wakeups

from omniq_sqlite.config import DatabaseSettings, SQLiteConfig
from omniq_sqlite.opening import Link, longest_row, store_errors
from omniq_sqlite.watching import Watcher

T = TypeVar("T")

Job: TypeAlias = Callable[[sqlite3.Connection], T]
"""Something to do with a connection. It may be run again, after a rollback if it writes."""

GROUP_LIMIT = 500
BESIDE_A_BODY = 64 * 1024
"""Bytes that the other columns of a row may have."""


class _Breaks:
    """Lets a loop's thread sleep for an instant now and then, while the loop waits for a connection.

    At every turn a busy loop gives up the GIL to poll, and has taken it again before another thread is awake.
    Since the loop never holds it for the whole switch interval, it isn't asked to let go of it either: a thread that
    comes back from SQLite can starve for a second. These breaks let it in within a millisecond.
    """

    INTERVAL = 0.001
    LENGTH = 0.00001

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self.INTERVAL, self._take_one)

    def _take_one(self) -> None:
        time.sleep(self.LENGTH)
        self._timer = self._loop.call_later(self.INTERVAL, self._take_one)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._timer.cancel()


class ConnectionThread(aiosqlite.Connection):
    """A daemon thread with a connection, which does at one go what an event loop has asked for meanwhile.

    Raises `StoreUnavailable` when it can't be started.
    """

    def __init__(self, name: str, settings: DatabaseSettings, *, read_only: bool = True) -> None:
        self._link = Link(settings, read_only=read_only)
        super().__init__(self._as_connection, iter_chunk_size=GROUP_LIMIT)
        self._connection = self._as_connection()  # from the start: it opens the file when it is used
        self._batches: PerLoop[Batcher[Job[Any], Any]] = PerLoop(lambda: Batcher(self._do_group, limit=GROUP_LIMIT))
        try:
            self._thread = start_thread(self._serve, name)
        except RuntimeError as error:
            raise StoreUnavailable(f"{settings.path}: {error}") from error

    async def do(self, job: Job[T]) -> T:
        """What the job returns. Cancelling the caller doesn't undo the job.

        Raises `StoreUnavailable` or `StoreError`, and what the job raises.
        """
        answer: T = await self._batches.get().submit(job)
        return answer

    def begin(self, work: Callable[[Link], None]) -> None:
        """Keep the thread busy with something of its own; `stop` waits for its end."""
        self._tx.put_nowait((None, lambda: work(self._link)))

    async def close(self) -> None:
        """Let the thread finish what it was asked for, and wait for its end."""
        if batches := self._batches.pop():
            await batches.drain()
        if ended := self.stop():
            await ended
        self._thread.join()

    def close_now(self) -> None:
        """As `close`, but the caller's thread waits, and his loop's calls are given up."""
        self.stop()
        self._thread.join()

    def __del__(self) -> None:
        """Warn of nothing: a forked child lets go of what its parent has open."""

    def _as_connection(self) -> Any:
        """What aiosqlite only ever closes."""
        return self._link

    async def _do_group(self, jobs: Sequence[Job[Any]]) -> list[Any]:
        if not self._running:
            raise Closed(f"{self._link.path} was closed while a call waited for it")
        with store_errors(self._link.path), _Breaks():
            # A function without arguments, since aiosqlite logs what it calls.
            answers: list[Any] = await self._execute(lambda: self._run(jobs))  # type: ignore[no-untyped-call]
            return answers

    def _run(self, jobs: Sequence[Job[Any]]) -> list[Any]:
        self._tx.put_nowait((None, _nothing))  # aiosqlite keeps what it did last, with its data
        with self._link.use() as connection:
            return self._work(connection, jobs)

    def _work(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> list[Any]:
        return [job(connection) for job in jobs]

    def _serve(self) -> None:
        """Be aiosqlite's thread, until it is stopped. It breaks off where the loop of a caller was closed meanwhile."""
        while self._running or not self._tx.empty():
            with suppress(RuntimeError):
                _connection_worker_thread(self._tx)


class Writer(ConnectionThread):
    """Runs each group in one transaction, so that all its jobs share one commit. If one fails, the group does."""

    def _work(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> list[Any]:
        connection.execute("begin immediate")
        try:
            answers = super()._work(connection, jobs)
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:  # after a full disk, for instance, SQLite has rolled back by itself
                connection.execute("rollback")  # closing doesn't, as long as a cursor lives
            raise
        return answers


class Database(Connection):
    """One file, as used by this process."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.wakeups = Wakeups.at(settings.location)
        with ExitStack() as started:  # all of the threads, or none
            self._writer = Writer("omniq-sqlite-writer", settings, read_only=False)
            started.callback(self._writer.stop)
            self._reader = ConnectionThread("omniq-sqlite-reader", settings)
            started.callback(self._reader.stop)
            self._watching = ConnectionThread("omniq-sqlite-watcher", settings)
            started.pop_all()
        self._watcher = Watcher(self.wakeups)
        self._watching.begin(self._watcher.watch)

    async def close(self) -> None:
        self._watcher.stop()
        for thread in self._threads:
            await thread.close()

    def abandon(self) -> None:
        self._watcher.stop()
        for thread in self._threads:
            thread.close_now()

    @property
    def _threads(self) -> tuple[ConnectionThread, ...]:
        """In the order of their end: the writer last, since who closes last moves the WAL into the file."""
        return self._reader, self._watching, self._writer

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
    _settings: DatabaseSettings

    def __init__(self, config: SQLiteConfig) -> None:
        super().__init__(config.settings)

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
        await self._connection.read(_nothing)


def _nothing(connection: sqlite3.Connection | None = None) -> None:
    """A job that only needs the connection to be open, and so the schema to be there."""
