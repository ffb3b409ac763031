"""The stores, and what their servers see of an idle worker: its questions, and the connection on which it is pushed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import asyncpg

from tests.servers.nats import NATSServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

PATIENCE = 30.0
"""Seconds within which a connection must be open, on a busy machine too."""
# What a listening connection has said last: that it listens, or later whether the server is still there.
LISTENERS = "from pg_stat_activity where application_name = 'omniq' and query ~* '^(listen|select 1$)'"


class Place(Protocol):
    """A store that holds nothing yet."""

    @property
    def url(self) -> str: ...

    async def asked(self) -> int:
        """How often the server was asked something so far, by anybody."""

    async def listeners(self) -> int:
        """How many connections are open to be pushed on."""

    async def kill_listeners(self) -> None:
        """Cut them, on the server."""


class SQLitePlace:
    """A file; no server, and nothing to be pushed on."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/idle.db"

    async def asked(self) -> int:
        return 0

    async def listeners(self) -> int:
        return 0

    async def kill_listeners(self) -> None:
        return None


class FilePlace(SQLitePlace):
    """A folder; as little as a file has anybody that could be asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"file://{folder}/idle"


class PostgresPlace:
    """A server of its own, on which nobody else works."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.url = server.url

    async def asked(self) -> int:
        return await self._ask(
            "select sum(xact_commit + xact_rollback)::int from pg_stat_database where datname = current_database()"
        )

    async def listeners(self) -> int:
        return await self._ask(f"select count(*) {LISTENERS}")

    async def kill_listeners(self) -> None:
        await self._ask(f"select count(pg_terminate_backend(pid)) {LISTENERS}")

    async def _ask(self, sql: str) -> int:
        connection = await asyncpg.connect(self.url)
        try:
            return int(await connection.fetchval(sql))
        finally:
            await connection.close()


class RedisPlace:
    """A server of its own, on which nobody else works."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.url = server.url

    async def asked(self) -> int:
        stats = await asyncio.to_thread(self.server.ask, "INFO", "commandstats")
        return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha", "ping"))

    async def listeners(self) -> int:
        channel = "{omniq:default}:news"
        return int((await asyncio.to_thread(self.server.ask, "PUBSUB NUMSUB", channel))[0][1])

    async def kill_listeners(self) -> None:
        await asyncio.to_thread(self.server.ask, "CLIENT KILL", "TYPE", "pubsub")


class NATSPlace:
    """A server of its own, on which nobody else works. It has no way to cut a connection."""

    def __init__(self, server: NATSServer) -> None:
        self.server = server
        self.url = server.url

    async def asked(self) -> int:
        """All messages that came in."""
        return int((await asyncio.to_thread(self.server.told, "varz"))["in_msgs"])

    async def listeners(self) -> int:
        found = await asyncio.to_thread(self.server.told, "subsz?subs=1&test=omniq-news.default")
        return len(found.get("subscriptions_list") or ())

    async def kill_listeners(self) -> None:
        raise NotImplementedError


async def until_listening(at: Place) -> None:
    """Wait until a connection is open to be pushed on. Raises `TimeoutError`."""
    async with asyncio.timeout(PATIENCE):
        while not await at.listeners():
            await asyncio.sleep(0.005)


def place(name: str) -> AbstractContextManager[Place]:
    """The store of that name, in a place of its own."""
    places: dict[str, Callable[[], AbstractContextManager[Place]]]
    places = {"sqlite": _sqlite, "file": _file, "files": _file, "nats": _nats, "postgres": _postgres, "redis": _redis}
    return places[name]()


@contextmanager
def _sqlite() -> Iterator[SQLitePlace]:
    with tempfile.TemporaryDirectory() as folder:
        yield SQLitePlace(Path(folder))


@contextmanager
def _file() -> Iterator[FilePlace]:
    with tempfile.TemporaryDirectory() as folder:
        yield FilePlace(Path(folder))


@contextmanager
def _nats() -> Iterator[NATSPlace]:
    server = NATSServer()
    server.start()
    try:
        yield NATSPlace(server)
    finally:
        server.remove()


@contextmanager
def _postgres() -> Iterator[PostgresPlace]:
    server = PostgresServer()
    server.create()
    server.start()
    try:
        yield PostgresPlace(server)
    finally:
        server.remove()


@contextmanager
def _redis() -> Iterator[RedisPlace]:
    server = RedisServer()
    server.start()
    try:
        yield RedisPlace(server)
    finally:
        server.remove()
