"""Versioned documents and ordered index entries: all that is asked of the driver.

This works as it stands, on Python's own sqlite3. To make the store yours, put your driver's calls in the place of the
five steps that are numbered below; nothing outside of this module knows what the documents are kept in. Run the tests
after each.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from omniq.errors import StoreError, StoreFull, StoreUnavailable, ValueRefused
from omniq.storage.base import Guarantees
from omniq.storage.connected import Connection, Connections, ConnectionUser, make_file
from omniq.storage.documents import Document, Documents, Entry, JobThreads, Write

from .config import ShelfConfig

T = TypeVar("T")

TABLES = """
begin immediate;
create table if not exists document (key text primary key, version text, value blob) without rowid;
create table if not exists entry (name text, place blob, key text, primary key (name, place, key)) without rowid;
commit;
"""
BESIDE = ("-wal", "-shm")
"""What the names of the files end with that SQLite keeps beside its own."""
PATIENCE = 10.0
"""Seconds that are waited for other processes."""
LAST = b"\xff" * 41
"""Comes after the `order` of every entry."""


# ── what is open ─────────────────────────────────────────────────────────────
#
# (1) Connect, close and drop. Queue, results and events share what is open at their place. It is made for the first
#     call, whichever that is, closed when the last of them was, and made anew after a fork and after `drop`.


class File(Connection):
    """An open file, in which a thread of its own does one job after the other. An async driver needs no thread."""

    _kept: ClassVar[set[sqlite3.Connection]] = set()
    """Those that are open. A forked child inherits them, and so never closes one of its parent's."""

    def __init__(self, settings: ShelfConfig) -> None:
        self._path = settings.path
        self._thread = JobThreads("omniq-shelf")
        self._database: sqlite3.Connection | None = None

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._thread.do(lambda: self._do(job))

    def _do(self, job: Callable[[sqlite3.Connection], T]) -> T:
        if self._database is None:
            self._database = _open(self._path)
            self._kept.add(self._database)
        with self._database:  # commits what the job has begun, or rolls it back
            return job(self._database)

    async def close(self) -> None:
        """After the jobs that were begun."""
        await asyncio.wrap_future(self._thread.end(self._close))

    async def drop(self) -> None:
        """Remove all that the project keeps here, as if it had never been."""
        ShelfDocuments.connections.retire(self)  # whoever has it takes a new one
        await asyncio.wrap_future(self._thread.end(self._remove))

    def abandon(self) -> None:
        """As `close`, where nobody is left to wait for it."""
        self._thread.end(self._close)

    def _close(self) -> None:
        if self._database is not None:
            self._kept.discard(self._database)
            self._database.close()

    def _remove(self) -> None:
        self._close()
        for end in ("", *BESIDE):
            Path(self._path + end).unlink(missing_ok=True)


# ── documents and index entries ──────────────────────────────────────────────


class ShelfDocuments(ConnectionUser[File], Documents):
    """The documents of one project."""

    # Whether the writes of a group happen as a whole or not at all. If your store can't, say False, and take
    # ATOMIC_RESULTS and UNIQUE from the capabilities in stores.py.
    atomic: ClassVar[bool] = True
    # Whether others than this machine's users may reach the data: OmniQ warns then of payloads that aren't signed.
    networked: ClassVar[bool] = False

    # What is open: one for the process. Leave `of_process` out if yours is bound to an event loop. `location`, `close`
    # and `drop` come with it.
    connections: ClassVar[Connections[File]] = Connections(File, of_process=True)

    async def connect(self) -> None:
        await self._run(lambda database: None)

    # (2) Guarantees: what holds as the store is set up now. If a server can be asked for its settings, ask it.

    async def guarantees(self) -> Guarantees:
        return Guarantees(
            survives_process_kill=True,
            survives_power_loss=True,
            survives_failover=False,
            clock="host",  # "server" if you override `now`
            push=False,
            atomic_results=True,
            evidence=("journal_mode=wal", "synchronous=full"),
        )

    # (3) Read: the documents in the order of the keys, in one round trip if you can.

    async def read(self, keys: Sequence[str]) -> list[Document | None]:
        return await self._run(lambda database: [_read(database, key) for key in keys])

    # (4) Write: each group if the versions are those that it names, with its index entries. What is said to be
    #     written has to be as safe as the guarantees tell.

    async def write(self, groups: Sequence[Sequence[Write]]) -> list[bool]:
        def job(database: sqlite3.Connection) -> list[bool]:
            database.execute("begin immediate")
            return [_write(database, group) for group in groups]

        return await self._run(job)

    # (5) Scan: a page of an index, in the order of `order` and then of `key`, both byte by byte.

    async def scan(
        self, index: str, *, after: Entry | None = None, until: bytes | None = None, limit: int, reverse: bool = False
    ) -> list[Entry]:
        return await self._run(lambda database: _scan(database, index, after, until, limit, reverse))

    # What may be skipped: `count` (the kit scans) and `now` (the kit takes this host's clock).

    async def _run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """The job's answer. Your driver's errors become OmniQ's: none of its own may get out."""
        try:
            return await self._connection.run(job)
        except sqlite3.DataError as error:  # too large, or nothing that the store takes: for good
            raise ValueRefused(f"{self.location}: {error}") from error
        except sqlite3.OperationalError as error:  # busy, unreachable: the same call may succeed later
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            raise (StoreFull if full else StoreUnavailable)(f"{self.location}: {error}") from error
        except OSError as error:
            raise StoreUnavailable(f"{self.location}: {error}") from error
        except sqlite3.Error as error:
            raise StoreError(f"{self.location}: {error}") from error


def _open(path: str) -> sqlite3.Connection:
    make_file(path, trust_owner=False, beside=BESIDE)  # for this user alone, and nobody else's
    database = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        _enter_wal_mode(database)
        database.execute("pragma synchronous = full")  # a commit is on the disk
        database.executescript(TABLES)
    except BaseException:
        database.close()
        raise
    return database


def _enter_wal_mode(database: sqlite3.Connection) -> None:
    """Let those who read not wait for those who write. SQLite itself doesn't wait for others who open the file."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            database.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


# ── the statements ───────────────────────────────────────────────────────────


def _read(database: sqlite3.Connection, key: str) -> Document | None:
    row = database.execute("select value, version from document where key = ?", (key,)).fetchone()
    return None if row is None else Document(*row)


def _write(database: sqlite3.Connection, group: Sequence[Write]) -> bool:
    if not all(write.always or _version(database, write.key) == write.if_version for write in group):
        return False
    for write in group:
        if write.value is None:
            database.execute("delete from document where key = ?", (write.key,))
        else:
            # A version must never come back, not even after the document was deleted and written anew.
            version = os.urandom(12).hex()
            database.execute("replace into document values (?, ?, ?)", (write.key, version, write.value))
        database.executemany("insert or ignore into entry values (?, ?, ?)", map(_row, write.put))
        database.executemany("delete from entry where name = ? and place = ? and key = ?", map(_row, write.drop))
    return True


def _version(database: sqlite3.Connection, key: str) -> str | None:
    row = database.execute("select version from document where key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _row(entry: Entry) -> tuple[str, bytes, str]:
    return entry.index, entry.order, entry.key


def _scan(
    database: sqlite3.Connection, index: str, after: Entry | None, until: bytes | None, limit: int, reverse: bool
) -> list[Entry]:
    beyond, direction = ("<", "desc") if reverse else (">", "asc")
    start = (LAST if reverse else b"", "") if after is None else (after.order, after.key)
    # What begins with `until` is meant too.
    end = LAST if until is None else until + LAST
    rows = database.execute(
        f"select place, key from entry where name = ? and (place, key) {beyond} (?, ?) and place <= ? "
        f"order by place {direction}, key {direction} limit ?",
        (index, *start, end, limit),
    )
    return [Entry(index, place, key) for place, key in rows]
