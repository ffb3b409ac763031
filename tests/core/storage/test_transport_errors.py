"""What drivers and event loops raise reaches a caller as a `StoreError` that says whether a repeat may succeed."""

from __future__ import annotations

import asyncio
import errno
import socket
import sqlite3
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager

import asyncpg
import hiredis
import pytest
from omniq.errors import StoreError, StoreFull, StoreUnavailable, ValueRefused
from omniq_postgres import opening as postgres
from omniq_postgres.config import PostgresTaskQueueConfig
from omniq_redis import opening as redis
from omniq_redis.config import RedisTaskQueueConfig
from omniq_sqlite import opening as sqlite
from redis import exceptions as redis_errors

Raises = Callable[[], AbstractContextManager[None]]

STORES: dict[str, Raises] = {
    "postgres": lambda: postgres.store_errors(PostgresTaskQueueConfig().settings),
    "redis": lambda: redis.store_errors(RedisTaskQueueConfig().settings),
    "sqlite": lambda: sqlite.store_errors("/a.db"),
}
CLOSED = "unable to perform operation on <TCPTransport closed=True reading=False 0x55b4>; the handler is closed"
OF_NETWORKS: tuple[BaseException, ...] = (
    RuntimeError(CLOSED),
    RuntimeError("SSL transport is closed"),
    RuntimeError("File descriptor 7 is used by transport <_SelectorSocketTransport fd=7>"),
    RuntimeError("can't start new thread"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ConnectionResetError("Connection lost"),
    ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    TimeoutError(),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    ssl.SSLError(1, "[SSL: APPLICATION_DATA_AFTER_CLOSE_NOTIFY]"),
    ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed"),
    asyncio.IncompleteReadError(b"", 5),
    *(OSError(number, "no more") for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)),
)


def of_server(sqlstate: str) -> asyncpg.PostgresError:
    return asyncpg.PostgresError.new({"S": "ERROR", "C": sqlstate, "M": "no"})


def of_sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("no")
    error.sqlite_errorcode = code
    return error


OF_DRIVERS: tuple[tuple[str, BaseException, type[StoreError]], ...] = (
    ("postgres", asyncpg.InterfaceError("connection is closed"), StoreUnavailable),
    ("postgres", asyncpg.InterfaceError("another operation is in progress"), StoreUnavailable),
    ("postgres", asyncpg.ConnectionDoesNotExistError("closed in the middle of operation"), StoreUnavailable),
    ("postgres", asyncpg.InternalClientError("got result for unknown protocol state"), StoreUnavailable),
    ("postgres", of_server("53300"), StoreUnavailable),
    ("postgres", of_server("25006"), StoreUnavailable),
    ("postgres", of_server("57P01"), StoreUnavailable),
    ("postgres", of_server("53100"), StoreFull),
    ("postgres", of_server("28000"), StoreError),
    ("postgres", of_server("28P01"), StoreError),
    ("postgres", of_server("42501"), StoreError),
    ("postgres", of_server("22021"), ValueRefused),
    ("postgres", of_server("54000"), ValueRefused),
    ("redis", redis_errors.ConnectionError("Connection closed by server."), StoreUnavailable),
    ("redis", redis_errors.InvalidResponse("Protocol Error"), StoreUnavailable),
    ("redis", hiredis.ProtocolError("Protocol error"), StoreUnavailable),
    ("redis", redis_errors.OutOfMemoryError("command not allowed"), StoreFull),
    ("redis", redis_errors.ResponseError("user_script:9: OOM command not allowed"), StoreFull),
    ("redis", redis_errors.NoPermissionError("no permissions to run 'evalsha'"), StoreError),
    ("redis", redis_errors.AuthenticationError("WRONGPASS"), StoreError),
    ("redis", redis_errors.ResponseError("string exceeds maximum allowed size"), ValueRefused),
    ("sqlite", of_sqlite(sqlite3.SQLITE_BUSY), StoreUnavailable),
    ("sqlite", of_sqlite(sqlite3.SQLITE_CANTOPEN), StoreUnavailable),
    ("sqlite", of_sqlite(sqlite3.SQLITE_IOERR_WRITE), StoreUnavailable),
    ("sqlite", of_sqlite(sqlite3.SQLITE_READONLY_DBMOVED), StoreUnavailable),
    ("sqlite", of_sqlite(sqlite3.SQLITE_FULL), StoreFull),
    ("sqlite", of_sqlite(sqlite3.SQLITE_READONLY), StoreError),
    ("sqlite", sqlite3.DataError("string or blob too big"), ValueRefused),
)


def seen(store: str, error: BaseException) -> BaseException:
    """What becomes of an error that a driver raises."""
    with pytest.raises(BaseException) as raised, STORES[store]():  # noqa: PT011
        raise error
    return raised.value


@pytest.mark.parametrize("error", OF_NETWORKS, ids=lambda error: f"{type(error).__name__}-{error}"[:40])
@pytest.mark.parametrize("store", STORES)
def test_a_lost_connection_is_an_outage(store: str, error: BaseException) -> None:
    found = seen(store, error)
    assert type(found) is StoreUnavailable
    assert found.__cause__ is error


@pytest.mark.parametrize(("store", "error", "kind"), OF_DRIVERS, ids=lambda value: str(value)[:40])
def test_a_drivers_error_says_whether_to_repeat(store: str, error: BaseException, kind: type[StoreError]) -> None:
    found = seen(store, error)
    assert type(found) is kind
    assert found.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("a bug"), TypeError("a bug"), KeyError("a bug")], ids=repr)
@pytest.mark.parametrize("store", STORES)
def test_a_bug_stays_what_it_is(store: str, error: Exception) -> None:
    assert seen(store, error) is error


@pytest.mark.parametrize("store", ["postgres", "redis"])
async def test_a_cancellation_that_nobody_asked_for_is_an_outage(store: str) -> None:
    assert type(seen(store, asyncio.CancelledError())) is StoreUnavailable


@pytest.mark.parametrize("store", ["postgres", "redis"])
async def test_a_cancellation_that_somebody_asked_for_is_one(store: str) -> None:
    async def call() -> None:
        with STORES[store]():
            await asyncio.sleep(60)

    calling = asyncio.create_task(call())
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
