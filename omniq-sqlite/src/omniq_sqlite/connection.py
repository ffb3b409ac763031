"""What a process has open of a database file: a writer, a reader and a watcher, which all its stores share.

Each is a connection on a thread of its own. SQLite has one writer at a time and syncs once per commit, so that the
writes of an event loop which come while a transaction is in flight share the next one (group commit). Every call into
SQLite gives up the GIL, and beside a busy event loop it takes milliseconds to get it back: what counts is the number of
statements, not that of rows.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, ClassVar, TypeAlias, TypeVar

import aiosqlite
from aiosqlite.core import _connection_worker_thread
from omniq.errors import StoreUnavailable
from omniq.storage import embedded
from omniq.storage.base import Guarantees
from omniq.storage.connected import ConnectedStore, Connection, Connections
from omniq.storage.embedded import Poller, let_threads_run
from omniq.storage.sql import SQLStore, Verb
from omniq.storage.wakeups import Wakeups
from omniq.threads import Thread, new_future, new_queue, start_thread

from omniq_sqlite.config import SQLiteConfig
from omniq_sqlite.dialect import carry_out
from omniq_sqlite.opening import BESIDE, Link, kind_of, longest_row, own_file, store_errors
from omniq_sqlite.watching import Watcher

T = TypeVar("T")

Job: TypeAlias = Callable[[sqlite3.Connection], T]
"""Something to do with a connection. It may be run again, after a rollback if it writes."""

GROUP_LIMIT = 500
BESIDE_A_BODY = 64 * 1024
"""Bytes that the other columns of a row may have."""


class _Call:
    """A job, and what has come of it."""

    def __init__(self, job: Job[Any]) -> None:
        self.job = job
        self.outcome: Future[Any] = new_future()


class ConnectionThread(aiosqlite.Connection):
    """A daemon thread with a connection, for all event loops of this process.

    It does at one go all that was asked for while it was busy. Raises `StoreUnavailable` when it can't be started.
    """

    def __init__(self, name: str, settings: SQLiteConfig, *, read_only: bool = True) -> None:
        self._link = Link(settings, read_only=read_only)
        super().__init__(self._as_connection, iter_chunk_size=GROUP_LIMIT)
        self._tx = new_queue()  # which its thread can wait for
        self._begin = "begin" if read_only else "begin immediate"
        self._connection = self._as_connection()  # from the start: it opens the file when it is used
        self._waiting: deque[_Call] = deque()
        try:
            self._thread: Thread = start_thread(self._serve, name)  # type: ignore[assignment] # of the system
        except RuntimeError as error:
            raise StoreUnavailable(f"{settings.file}: {error}") from error

    async def do(self, job: Job[T]) -> T:
        """What the job returns. Cancelling the caller doesn't undo the job.

        Raises `StoreUnavailable` or `StoreError`, and what the job raises.
        """
        call = _Call(job)
        self._waiting.append(call)
        with store_errors(self._link.path), let_threads_run():
            answer: T = await self._execute(self._answer, call)  # type: ignore[no-untyped-call]
            return answer

    def begin(self, work: Callable[[Link], None]) -> None:
        """Keep the thread busy with something of its own; `stop` waits for its end."""
        self._tx.put_nowait((None, lambda: work(self._link)))

    async def close(self) -> None:
        """Let the thread finish what it was asked for, and wait for its end."""
        if ended := self.stop():
            await ended
        self._thread.join()

    def close_now(self) -> None:
        """As `close`, but the caller's thread waits."""
        self.stop()
        self._thread.join()

    def __del__(self) -> None:
        """Warn of nothing: a forked child lets go of what its parent has open."""

    def _as_connection(self) -> Any:
        """What aiosqlite only ever closes."""
        return self._link

    def _serve(self) -> None:
        """Be aiosqlite's thread, until it has closed the connection; what comes behind that is of no use to anybody.

        It breaks off where the loop of a caller was closed meanwhile.
        """
        while self._connection is not None:
            with suppress(RuntimeError):
                _connection_worker_thread(self._tx)

    def _answer(self, call: _Call) -> Any:
        """Do this call together with all that wait by now, unless an earlier one has taken it along."""
        self._tx.put_nowait((None, _nothing))  # aiosqlite keeps what it did last, with its data, until the next
        if not call.outcome.done():
            self._try([self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP_LIMIT))])
        return call.outcome.result(timeout=0)

    def _try(self, calls: Sequence[_Call]) -> None:
        """Do them at one go; if that fails, one by one, so that the one which failed hurts nobody but its caller."""
        try:
            with self._link.use() as connection:
                answers = self._work(connection, calls)
        except Exception as error:
            if len(calls) > 1 and kind_of(error) is not StoreUnavailable:  # else there is no use in trying each
                for call in calls:
                    self._try([call])
                return
            for call in calls:
                call.outcome.set_exception(error)
        else:
            for call, answer in zip(calls, answers, strict=True):
                call.outcome.set_result(answer)

    def _work(self, connection: sqlite3.Connection, calls: Sequence[_Call]) -> list[Any]:
        """Do them in one transaction: they share one commit, and what a job reads in several steps is of one time."""
        connection.execute(self._begin)
        try:
            answers = [call.job(connection) for call in calls]
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:  # after a full disk, for instance, SQLite has rolled back by itself
                connection.execute("rollback")  # closing doesn't, as long as a cursor lives
            raise
        return answers


class Database(Connection):
    """One file, as used by this process."""

    def __init__(self, settings: SQLiteConfig) -> None:
        self._path, self._settings = settings.file, settings
        self.wakeups = Wakeups.at(settings.location)
        with ExitStack() as started:  # all of the threads, or none
            self._writer = ConnectionThread("omniq-sqlite-writer", settings, read_only=False)
            started.callback(self._writer.stop)
            self._reader = ConnectionThread("omniq-sqlite-reader", settings)
            started.callback(self._reader.stop)
            self._watching = ConnectionThread("omniq-sqlite-watcher", settings)
            started.pop_all()
        self._poller = Poller(self.wakeups, settings.location)
        self._watching.begin(lambda link: self._poller.run(Watcher(self.wakeups, link).look))

    async def close(self) -> None:
        self._poller.stop()
        for thread in self._threads:
            await thread.close()

    def abandon(self) -> None:
        self._poller.stop()
        for thread in self._threads:
            thread.close_now()

    async def drop(self) -> None:
        with store_errors(self._path):
            await asyncio.to_thread(self._remove)

    def _remove(self) -> None:
        embedded.remove(own_file(self._settings), BESIDE)

    @property
    def _threads(self) -> tuple[ConnectionThread, ...]:
        """In the order of their end: the writer last, since who closes last moves the WAL into the file."""
        return self._reader, self._watching, self._writer

    async def hear(self, timeout: float) -> None:
        """As `BaseResultStorage.hear`: while it is open, its watcher tells of what others have committed."""
        await asyncio.sleep(timeout)

    async def read(self, job: Job[T]) -> T:
        """What a reading job returns; it sees every commit that was reported before."""
        return await self._reader.do(job)

    async def write(self, job: Job[T]) -> T:
        """What a writing job returns, once the transaction that it shares with others is committed."""
        return await self._writer.do(job)


class SQLiteStore(ConnectedStore[Database], SQLStore):
    """What the three stores have in common."""

    connections: ClassVar[Connections[Database]] = Connections(Database, of_process=True)
    networked: bool = False
    _settings: SQLiteConfig

    @property
    def max_item_bytes(self) -> int:
        return longest_row() - BESIDE_A_BODY

    async def guarantees(self) -> Guarantees:
        synchronous = await self._connection.write(_synchronous)
        return Guarantees(
            survives_process_kill=True,
            survives_power_loss=synchronous in ("full", "extra"),
            survives_failover=False,
            clock="host",
            push=False,
            atomic_results=True,
            evidence=("journal_mode=wal", f"synchronous={synchronous}"),
        )

    async def connect(self) -> None:
        await self._connection.read(_nothing)

    async def _read(self, verb: Verb[T]) -> T:
        return await self._connection.read(partial(carry_out, verb=verb))

    async def _write(self, verb: Verb[T], *, atomic: bool = True) -> T:
        return await self._connection.write(partial(carry_out, verb=verb))


def _synchronous(connection: sqlite3.Connection) -> str:
    """How what is written is secured."""
    return ("off", "normal", "full", "extra")[connection.execute("pragma synchronous").fetchone()[0]]


def _nothing(connection: sqlite3.Connection | None = None) -> None:
    """A job that only needs the connection to be open, and so the schema to be there."""
