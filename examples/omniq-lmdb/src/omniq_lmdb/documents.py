"""Documents and index entries in an LMDB environment: one transaction per call, on threads beside the loop."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby, islice
from typing import Any, ClassVar, TypeVar

import lmdb
from omniq.errors import StoreError, StoreUnavailable
from omniq.storage.base import Guarantees
from omniq.storage.connected import Connection, Connections, ConnectionUser
from omniq.storage.documents import Document, Documents, Entry, JobThreads, Write

from omniq_lmdb.config import LMDBConfig

T = TypeVar("T")

WHOLE = 479
"""Bytes of a key that LMDB stores as they are: it takes 511, and ids may be longer. A digest stands for the rest."""


class Environment(Connection):
    """An open LMDB environment. A process may open each folder once only, so all its stores share it."""

    _ends: ClassVar[dict[str, Future[None]]] = {}

    def __init__(self, settings: LMDBConfig) -> None:
        self.path = settings.path
        if ended := self._ends.pop(self.path, None):
            ended.result()  # the one before, which does the jobs that were begun
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        self.lmdb = lmdb.open(self.path, map_size=settings.max_size, max_dbs=2, mode=0o600)
        self.documents = self.lmdb.open_db(b"documents")
        self.entries = self.lmdb.open_db(b"entries")
        self.threads = JobThreads("omniq-lmdb", 4)

    async def close(self) -> None:
        await asyncio.wrap_future(self._end(self.lmdb.close))

    async def drop(self) -> None:
        LMDBDocuments.connections.retire(self)  # whoever has it takes a new one
        await asyncio.wrap_future(self._end(self._remove))

    def abandon(self) -> None:
        self._end(self.lmdb.close)

    def _end(self, last: Callable[[], None]) -> Future[None]:
        self._ends[self.path] = ended = self.threads.end(last)
        return ended

    def _remove(self) -> None:
        self.lmdb.close()
        shutil.rmtree(self.path)


class LMDBDocuments(ConnectionUser[Environment], Documents):
    """The documents of one project, in a folder of its own."""

    atomic: ClassVar[bool] = True
    networked: ClassVar[bool] = False
    connections: ClassVar[Connections[Environment]] = Connections(Environment, of_process=True)

    async def connect(self) -> None:
        await self._run(lambda _: None)

    async def guarantees(self) -> Guarantees:
        flags = await self._run(lambda env: env.lmdb.flags())
        return Guarantees(
            survives_process_kill=True,
            survives_power_loss=flags["sync"] and flags["metasync"],
            survives_failover=False,
            clock="host",
            push=False,
            atomic_results=True,
            evidence=tuple(f"{name}={'on' if flags[name] else 'off'}" for name in ("sync", "metasync")),
        )

    async def read(self, keys: Sequence[str]) -> list[Document | None]:
        return await self._run(lambda env: _read(env, keys))

    async def write(self, groups: Sequence[Sequence[Write]]) -> list[bool]:
        return await self._run(lambda env: _write(env, groups))

    async def scan(
        self, index: str, *, after: Entry | None = None, until: bytes | None = None, limit: int, reverse: bool = False
    ) -> list[Entry]:
        return await self._run(lambda env: _scan(env, index, after, until, limit, reverse))

    async def _run(self, job: Callable[[Environment], T]) -> T:
        try:
            env = self._connection
            return await env.threads.do(lambda: job(env))
        except (lmdb.MapFullError, lmdb.ReadersFullError, OSError) as error:
            raise StoreUnavailable(f"{self.location}: {error}") from error
        except lmdb.Error as error:
            raise StoreError(f"{self.location}: {error}") from error


def _read(env: Environment, keys: Sequence[str]) -> list[Document | None]:
    with env.lmdb.begin(env.documents) as txn:
        return [_document(txn.get(_cut(key.encode()))) for key in keys]


def _document(stored: Any) -> Document | None:
    return None if stored is None else Document(stored[8:], int.from_bytes(stored[:8], "big"))


def _write(env: Environment, groups: Sequence[Sequence[Write]]) -> list[bool]:
    with env.lmdb.begin(write=True) as txn:
        return [_write_group(env, txn, group) for group in groups]


def _write_group(env: Environment, txn: lmdb.Transaction, group: Sequence[Write]) -> bool:
    for write in group:
        stored = _document(txn.get(_cut(write.key.encode()), db=env.documents))
        if not write.always and (None if stored is None else stored.version) != write.if_version:
            return False
    for write in group:
        key = _cut(write.key.encode())
        if write.value is None:
            txn.delete(key, db=env.documents)
        else:
            txn.put(key, txn.id().to_bytes(8, "big") + write.value, db=env.documents)
        for entry in write.put:
            txn.put(_entry_key(entry), bytes([len(entry.order)]) + entry.key.encode(), db=env.entries)
        for entry in write.drop:
            txn.delete(_entry_key(entry), db=env.entries)
    return True


def _scan(
    env: Environment, index: str, after: Entry | None, until: bytes | None, limit: int, reverse: bool
) -> list[Entry]:
    with env.lmdb.begin(env.entries) as txn, txn.cursor() as cursor:
        found = _entries(cursor, index, after, reverse)
        past = (entry for entry in found if after is None or (entry < after if reverse else entry > after))
        return list(islice((e for e in past if until is None or e.order[: len(until)] <= until), limit))


def _entries(cursor: lmdb.Cursor, index: str, after: Entry | None, reverse: bool) -> Iterator[Entry]:
    """The entries of an index in order, from the neighbours of `after` on."""
    prefix = index.encode() + b"\0"
    edge = prefix if after is None else _entry_key(after)[:WHOLE]
    rows: Iterator[tuple[Any, Any]]
    if reverse:
        there = cursor.set_range(prefix[:-1] + b"\1" if after is None else edge + b"\xff" * 32)
        rows = cursor.iterprev() if not there or cursor.prev() else iter(())
    else:
        rows = cursor.iternext() if cursor.set_range(edge) else iter(())
    # Keys that were cut at the same place are in the order of their digests: they are put right here.
    for _, alike in groupby(rows, lambda row: row[0][:WHOLE]):
        group = [_entry(index, prefix, row) for row in alike if row[0].startswith(prefix)]
        if not group:
            return
        yield from sorted(group, reverse=reverse)


def _entry(index: str, prefix: bytes, row: tuple[Any, Any]) -> Entry:
    key, value = row
    return Entry(index, key[len(prefix) : len(prefix) + value[0]], value[1:].decode())


def _entry_key(entry: Entry) -> bytes:
    return _cut(entry.index.encode() + b"\0" + entry.order + entry.key.encode())


def _cut(key: bytes) -> bytes:
    return key if len(key) <= WHOLE else key[:WHOLE] + hashlib.sha256(key).digest()
