"""What a process has open of a server: per event loop one pool and one channel for all its stores."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

import asyncpg
from omniq.loops import close_transport, in_empty_context
from omniq.storage.base import Guarantees
from omniq.storage.channel import ALL, Channel, IdleWorkers
from omniq.storage.connected import ConnectedStore, Connections
from omniq.storage.connected import Connection as Connected
from omniq.storage.sql import SQLStore, Verb
from omniq.storage.wakeups import News, Wakeups

from omniq_postgres import opening
from omniq_postgres.config import PostgresConfig
from omniq_postgres.dialect import DIALECT, Session, carry_out, carry_out_at_once
from omniq_postgres.opening import store_errors
from omniq_postgres.watching import CALL, LEAVE, NOTIFY, WAIT, hear, next_news, payload_of, process_of, results_of

if TYPE_CHECKING:
    from omniq_postgres.dialect import Connection, ForeignConnection

T = TypeVar("T")

RETRIES = 5
REPEATABLE = (asyncpg.TransactionRollbackError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""After these, a job is done again: a deadlock, or a connection that was seen to be lost before anything was sent."""
LONG_IDLE = 0.1
"""Seconds without use after which connections may have died without anybody looking."""


Job: TypeAlias = Callable[[Session], Awaitable[T]]
"""Something to do with a session. It may be run again after a rollback."""


class Database(Connected):
    """One schema, as used by one event loop."""

    def __init__(self, settings: PostgresConfig) -> None:
        self.settings = settings
        self.pooled = True
        """A pooler stands between us and the server, or may do so until it is prepared."""
        self._prepared = False
        self._preparing = asyncio.Lock()
        self._slots = asyncio.Semaphore(settings.pool_size)
        self._idle: list[Connection] = []
        self._used_at = 0.0
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        """All that it has opened."""
        wakeups = Wakeups.at(settings.location)
        self._sender = wakeups.sender
        self.idle = IdleWorkers(self._note_idle, partial(self._fetch, LEAVE))
        send = None if settings.notify is False else self._notify
        self.channel = Channel(wakeups, send=send, listen=self._listen, call=self._call)

    async def close(self) -> None:
        await self.channel.close()
        await self.idle.close()
        while self._idle:
            self._idle.pop().terminate()

    def abandon(self) -> None:
        """Hang up at once: its loop has ended."""
        for connection in list(self._connections):
            close_transport(connection._transport)  # type: ignore[attr-defined]  # the driver can't without a loop
        self.channel.abandon()
        self.idle.abandon()

    # ── calls ────────────────────────────────────────────────────────────────

    async def run(self, job: Job[T]) -> T:
        """What the job returns. Raises `StoreUnavailable` or `StoreError`, and what the job raises."""
        await self.prepare()
        with store_errors(self.settings):
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
        await self.prepare()
        with store_errors(self.settings):
            async with connection.transaction():
                path = await connection.fetchval(opening.SWAP_PATH)
                done = await job(Session(connection, self.settings.schema_name))
                await connection.fetchval(opening.PUT_BACK_PATH, path)  # after an error, a rollback does
                return done

    async def _run_once(self, job: Job[T]) -> T:
        async with self._lent() as connection:
            session = Session(connection, self.settings.schema_name)
            if not self.pooled:
                return await job(session)
            async with connection.transaction():  # which a pooler keeps on one server
                await connection.execute(opening.TAKE_SAFE_PATH)
                return await job(session)

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Connection]:
        async with self._slots:
            connection = await self._take()
            try:
                yield connection
            except BaseException as error:
                if not opening.is_refusal(error):  # else nobody knows what the connection is in the middle of
                    connection.terminate()
                raise
            finally:
                self._used_at = time.monotonic()
                if self._users and not connection.is_closed():
                    self._idle.append(connection)
                else:
                    connection.terminate()

    async def _take(self) -> Connection:
        if time.monotonic() - self._used_at > LONG_IDLE:
            for _ in range(3):  # the loop polls, reads and reports that the server has hung up, if it has
                await asyncio.sleep(0)
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await in_empty_context(self._connect(direct=not self.pooled), drop=asyncpg.Connection.terminate)

    # ── opening ──────────────────────────────────────────────────────────────

    async def prepare(self) -> None:
        """Find or create the schema, once. Raises `StoreUnavailable` or `StoreError`."""
        async with self._preparing:
            if not self._prepared:
                with store_errors(self.settings):
                    await self._look_around()
                self._prepared = True

    async def _look_around(self) -> None:
        async with self._lent() as connection:
            async with connection.transaction():
                await connection.execute(opening.TAKE_SAFE_PATH)
                await opening.ensure_schema(connection, self.settings)
                # A pooler answers for another process than it announced.
                self.pooled = connection.get_server_pid() != await connection.fetchval("select pg_backend_pid()")
            if not self.pooled:  # those that follow it are set up better
                await connection.close(timeout=self.settings.timeout)

    async def _connect(self, *, direct: bool) -> Connection:
        """A new connection, which whoever asked for it ends, or else `abandon`."""
        connection = await opening.open_connection(self.settings, direct=direct)
        self._connections.add(connection)
        return connection

    async def drop(self) -> None:
        """Drop the tables, and the schema if nothing else is in it."""
        await self.run(_drop)
        self._prepared = False

    # ── notifications ────────────────────────────────────────────────────────

    @property
    def listens(self) -> bool:
        """Whether notifications are to be had. Known once it is prepared."""
        return not self.pooled if self.settings.notify is None else self.settings.notify

    async def _notify(self, news: News, tasks: int) -> None:
        due, schema = news.due or {}, self.settings.schema_name
        for queue in due:
            if due[queue] <= 0:
                await self._fetch(CALL, queue, tasks, schema, payload_of(self._sender, News({queue: 0.0})))
        later = News({queue: seconds for queue, seconds in due.items() if seconds > 0})
        for channel, others in ((schema, later), (results_of(schema), News(ended=news.ended))):
            if others.due or others.ended:
                await self._fetch(NOTIFY, channel, payload_of(self._sender, others))

    async def _fetch(self, sql: str, *values: object) -> None:
        if self._prepared:  # else nobody is there
            await self.run(lambda session: session.fetch(sql, *values))

    async def _note_idle(self, worker: str, queues: Sequence[str]) -> None:
        await self._fetch(WAIT, worker, process_of(self._sender), queues)

    async def _call(self, queue: str) -> None:
        await self._notify(News({queue: 0.0}), tasks=1)

    async def _listen(self) -> AsyncIterator[News]:
        await self.prepare()
        if not self.listens:  # through a pooler, notifications don't come
            await asyncio.Event().wait()
        with store_errors(self.settings):
            connection = await self._connect(direct=False)
            schema = self.settings.schema_name
            channels = [schema, results_of(schema)] if self.channel.hears_results else [schema]
            try:
                heard = await hear(connection, channels, self._sender, self.idle)
                yield News()
                while (news := await next_news(connection, heard)) is not None:
                    yield news
            finally:
                connection.terminate()


async def _drop(session: Session) -> None:
    tables = ", ".join(f"omniq.{name}" for name in DIALECT.tables("omniq_postgres"))
    await session.fetch(f"drop table if exists {tables}")
    with suppress(asyncpg.DependentObjectsStillExistError):
        async with session.connection.transaction():
            await session.fetch(f'drop schema "{session.schema}"')


class PostgresStore(ConnectedStore[Database], SQLStore):
    """What the three stores have in common."""

    connections: ClassVar[Connections[Database]] = Connections(Database)
    _settings: PostgresConfig

    async def guarantees(self) -> Guarantees:
        settings = await self._connection.run(lambda session: session.fetch(opening.ASK_SETTINGS))
        return opening.judge(dict(map(tuple, settings)), push=self._connection.listens)

    async def connect(self) -> None:
        await self._connection.prepare()

    def _tell(self, news: News, *, tasks: int = ALL) -> None:
        self._connection.channel.tell(news, tasks=tasks)

    async def _read(self, verb: Verb[T]) -> T:
        return await self._connection.run(partial(carry_out, verb=verb))

    async def _write(self, verb: Verb[T], *, atomic: bool = False) -> T:
        job = carry_out_at_once if atomic else carry_out
        return await self._connection.run(partial(job, verb=verb))
