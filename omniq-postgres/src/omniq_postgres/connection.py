"""What a process has open of a server: per event loop one pool and one channel for all its stores."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

import asyncpg
from omniq.background import in_empty_context
from omniq.errors import StoreUnavailable
from omniq.storage.connected import ConnectedStore, Connections
from omniq.storage.connected import Connection as Connected
from omniq.storage.guarantees import Guarantees

from omniq_postgres.config import PostgresConfig
from omniq_postgres.guarantees import look_up_guarantees
from omniq_postgres.opening import (
    ensure_schema,
    hang_up,
    in_schema,
    is_pooled,
    is_transient,
    open_connection,
    safe_path,
    store_errors,
    take_safe_path,
)
from omniq_postgres.watching import open_channel

if TYPE_CHECKING:
    from omniq_postgres.opening import Connection, ForeignConnection

T = TypeVar("T")

RETRIES = 5
REPEATABLE = (asyncpg.TransactionRollbackError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""After these, a job is done again: a deadlock, or a connection that was seen to be lost before anything was sent."""
FAREWELL = 0.2
"""Seconds that a server may take to hear of the end of a connection, which is closed then without it."""
LONG_IDLE = 0.1
"""Seconds without use after which a connection may have died without anybody looking."""


class Session:
    """A connection whose statements are written for the schema "omniq"."""

    def __init__(self, connection: ForeignConnection, texts: dict[str, str], schema: str) -> None:
        self.connection = connection
        self.used_at = 0.0
        self._texts = texts
        self.schema = schema

    async def fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """The rows that a statement returns."""
        return await self.connection.fetch(self._texts.get(sql) or self._text(sql), *values)

    def _text(self, sql: str) -> str:
        text = self._texts[sql] = in_schema(sql, self.schema)
        return text


Job: TypeAlias = Callable[[Session], Awaitable[T]]
"""Something to do with a session. It may be run again after a rollback."""


class Database(Connected):
    """One schema, as used by one event loop."""

    def __init__(self, settings: PostgresConfig) -> None:
        self.settings = settings
        self.pooled = False
        """A pooler stands between us and the server."""
        self._prepared = False
        self._preparing = asyncio.Lock()
        self._texts: dict[str, str] = {}
        self._idle: list[Session] = []
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        """All that it has opened."""
        self._slots = asyncio.Semaphore(settings.pool_size)
        self.channel = open_channel(self)

    async def close(self) -> None:
        await self.channel.close()
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(self._close, idle))

    async def _close(self, session: Session) -> None:
        with suppress(StoreUnavailable), store_errors(self.settings):  # it was lost already
            await session.connection.close(timeout=FAREWELL)

    def abandon(self) -> None:
        """Hang up at once: its loop has ended."""
        self.defunct = True
        self._users = 0
        for connection in list(self._connections):
            hang_up(connection)
        self.channel.abandon()

    async def connect(self, *, direct: bool) -> Connection:
        """A new connection, which whoever asked for it ends, or else `abandon`."""
        connection = await open_connection(self.settings, direct=direct)
        self._connections.add(connection)
        return connection

    async def run(self, job: Job[T]) -> T:
        """What the job returns. Raises `StoreUnavailable` or `StoreError`, and what the job raises."""
        with store_errors(self.settings):
            await self.prepare()
            for _ in range(RETRIES):
                try:
                    return await self._run_once(job)
                except REPEATABLE as error:
                    if isinstance(error, ValueError):  # of the arguments
                        raise
            return await self._run_once(job)

    async def join(self, connection: ForeignConnection, job: Job[T]) -> T:
        """What the job returns, done in the transaction that the caller has open on a connection of its own.

        Without one, it is done in one of its own. Raises `StoreUnavailable` or `StoreError`.
        """
        with store_errors(self.settings):
            await self.prepare()
            async with connection.transaction(), safe_path(connection):
                return await job(Session(connection, self._texts, self.settings.schema_name))

    @property
    def listens(self) -> bool:
        """Whether notifications are to be had. Known once it is prepared."""
        return not self.pooled if self.settings.notify is None else self.settings.notify

    async def prepare(self) -> None:
        """Find or create the schema, once."""
        if self._prepared:
            return
        async with self._preparing:
            if not self._prepared:
                with store_errors(self.settings):
                    await self._look_around()
                self._prepared = True

    async def _look_around(self) -> None:
        connection = await self.connect(direct=False)
        try:
            async with connection.transaction():
                await take_safe_path(connection)
                self.pooled = await is_pooled(connection)
                await ensure_schema(connection, self.settings)
            await connection.close(timeout=self.settings.timeout)
        finally:
            connection.terminate()
        self._idle.append(await self._open())

    async def _run_once(self, job: Job[T]) -> T:
        async with self._session() as session:
            if not self.pooled:
                return await job(session)
            async with session.connection.transaction():  # which a pooler keeps on one server
                await take_safe_path(session.connection)
                return await job(session)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        async with self._slots:
            session = await self._take()
            try:
                yield session
            except BaseException as error:
                if not _is_refusal(error):  # else nobody knows what the connection is in the middle of
                    session.connection.terminate()
                raise
            finally:
                self._give_back(session)

    def _give_back(self, session: Session) -> None:
        if not self._users:
            session.connection.terminate()
        if not session.connection.is_closed():
            session.used_at = time.monotonic()
            self._idle.append(session)

    async def _take(self) -> Session:
        while self._idle:
            session = self._idle.pop()
            if time.monotonic() - session.used_at > LONG_IDLE:
                await _let_the_loop_look()
            if not session.connection.is_closed():
                return session
        return await self._open()

    async def _open(self) -> Session:
        connection = await in_empty_context(
            self.connect(direct=not self.pooled), drop=lambda connection: connection.terminate()
        )
        return Session(connection, self._texts, self.settings.schema_name)


def _is_refusal(error: BaseException) -> bool:
    """Whether the server answered, and its connection is as good as before."""
    return isinstance(error, asyncpg.PostgresError) and not is_transient(error)


async def _let_the_loop_look() -> None:
    """Let the loop see that the server has hung up, if it has: in three turns it polls, reads and reports."""
    for _ in range(3):
        await asyncio.sleep(0)


class PostgresStore(ConnectedStore[Database]):
    """What the three stores have in common."""

    connections: ClassVar[Connections[Database]] = Connections(Database)
    _settings: PostgresConfig

    async def guarantees(self) -> Guarantees:
        return await look_up_guarantees(self._connection)

    async def connect(self) -> None:
        await self._connection.prepare()
