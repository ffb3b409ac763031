"""Opening a database file: its directory, pragmas and schema, forks, and what becomes of SQLite's errors."""

from __future__ import annotations

import functools
import math
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import msgspec
from omniq.errors import PayloadTooLarge, StoreError, StoreFull, StoreUnavailable, ValueRefused
from omniq.logs import get_logger
from omniq.storage.connected import check_layout
from omniq.storage.local import Identity, identity, make_file
from omniq.storage.transport import is_transport_error

from omniq_sqlite.config import SQLiteConfig
from omniq_sqlite.dialect import DIALECT
from omniq_sqlite.wire import primary_code

SCHEMA_VERSION = 3
OLDEST_SQLITE = (3, 38, 0)

LOOK_INTERVAL = 0.05
"""Seconds, while a connection is in use, between two looks whether its file is still the one at its path."""

_log = get_logger("omniq.sqlite")
_IN_USE = ("-wal", "-shm")
"""What SQLite adds to the name of a database for the files beside it, as long as somebody has it open."""
_JOURNAL = "-journal"
_CHECKPOINT_PAGES = 4000
_RETRY_EVERY = 0.01
_TRANSIENT = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
    }
)


@contextmanager
def store_errors(path: str) -> Iterator[None]:
    """Turn what SQLite and the system raise into the `StoreError` that it amounts to."""
    try:
        yield
    except Exception as error:
        kind = kind_of(error)
        if kind is None:
            raise
        words = "a row can't be read: " if isinstance(error, msgspec.DecodeError) else ""
        raise kind(f"{path}: {words}{error}") from error


def kind_of(error: Exception) -> type[StoreError] | None:
    """`StoreUnavailable` where a repeat may succeed, else `StoreError`; None for what isn't of SQLite or the system."""
    if isinstance(error, sqlite3.Error):
        code = primary_code(error)
        if code == sqlite3.SQLITE_FULL:
            return StoreFull
        if code == sqlite3.SQLITE_TOOBIG:
            return PayloadTooLarge
        if code == sqlite3.SQLITE_MISMATCH or isinstance(error, sqlite3.DataError):
            return ValueRefused
        moved = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_DBMOVED
        return StoreUnavailable if moved or code in _TRANSIENT else StoreError
    if isinstance(error, msgspec.DecodeError):
        return StoreError
    if isinstance(error, OverflowError):
        return ValueRefused
    return StoreUnavailable if is_transport_error(error) else None


class OpenFiles:
    """A database and the files beside it, as they are when a connection opens."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._then = self._now()

    def _now(self) -> dict[str, Identity]:
        return {end: identity(self._path + end) for end in ("", *_IN_USE)}

    @property
    def harm(self) -> str | None:
        """What has happened to them since, if something has."""
        now = self._now()
        if now[""] != self._then[""]:
            return "the file was deleted" if now[""] is None else "the file was replaced"
        return None if now == self._then else f"its {' or '.join(_IN_USE)} was deleted or replaced"

    def leave(self, connection: sqlite3.Connection) -> None:
        """Save what can be saved of files that were harmed, and let them harm no new database."""
        then, now = self._then, self._now()
        is_another = now[""] != then[""]
        if is_another or now["-wal"] in (None, then["-wal"]):  # else that of somebody else would go into the database
            with suppress(sqlite3.Error):
                connection.execute("pragma wal_checkpoint(truncate)")
        if is_another:  # it would take for its own what the old one has left beside it
            for end in _IN_USE:
                if now[end] is not None and now[end] == then[end]:
                    with suppress(FileNotFoundError):
                        os.unlink(self._path + end)


class _NamedByNumber(sqlite3.Connection):
    """Passes values on under the names "1", "2", … where a statement numbers its parameters (`?1`).

    Python 3.12 before 3.12.4 takes numbers for names, and warns of values without.
    """

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if isinstance(parameters, Sequence) and "?1" in sql:
            parameters = {str(number): value for number, value in enumerate(parameters, 1)}
        return super().execute(sql, parameters)


_CONNECTION = _NamedByNumber if (3, 12) <= sys.version_info < (3, 12, 4) else sqlite3.Connection


def open_connection(settings: SQLiteConfig, *, read_only: bool) -> sqlite3.Connection:
    """Open the file, which is created and given its schema where it's new.

    Any thread may use the connection, one at a time. Safe for many processes at once. Raises `StoreError`
    and `sqlite3.Error`.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(f"SQLite {needed} or newer is needed, this Python has {sqlite3.sqlite_version}")
    make_file(settings.file, trust_owner=settings.trust_owner, beside=(*_IN_USE, _JOURNAL))
    connection = sqlite3.connect(
        settings.file,
        timeout=settings.busy_timeout,
        isolation_level=None,
        check_same_thread=False,
        factory=_CONNECTION,
    )
    try:
        connection.text_factory = _text
        _configure(connection, settings)
        _ensure_schema(connection, settings.file)
        connection.execute(f"pragma query_only = {int(read_only)}")
    except BaseException:
        connection.close()
        raise
    return connection


@functools.cache
def longest_row() -> int:
    """Bytes that this SQLite takes as one row or one value."""
    with closing(sqlite3.connect(":memory:")) as connection:
        return connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)


def _text(raw: bytes) -> str:
    """Text that isn't UTF-8 was damaged by somebody else: with surrogate escapes, so that its row can be told."""
    return raw.decode("utf-8", "surrogateescape")


def _configure(connection: sqlite3.Connection, settings: SQLiteConfig) -> None:
    if _enter_wal_mode(connection, settings.busy_timeout) != "wal":
        raise StoreError(f"{settings.file}: this file system can't share memory, which SQLite's WAL mode needs")
    connection.execute(f"pragma synchronous = {settings.synchronous}")
    connection.execute("pragma temp_store = memory")
    connection.execute("pragma mmap_size = 0")
    connection.execute(f"pragma wal_autocheckpoint = {_CHECKPOINT_PAGES}")


def _enter_wal_mode(connection: sqlite3.Connection, patience: float) -> str:
    """The mode that the file is in then. SQLite doesn't wait for the lock that this needs, so we have to."""
    deadline = time.monotonic() + patience
    while True:
        try:
            mode: str = connection.execute("pragma journal_mode = wal").fetchone()[0]
            return mode
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_EVERY)


def _ensure_schema(connection: sqlite3.Connection, path: str) -> None:
    version, tables = connection.execute(
        "select (select user_version from pragma_user_version), (select count(*) from sqlite_schema)"
    ).fetchone()
    if version or tables:
        check_layout(f"sqlite:{path}", version, SCHEMA_VERSION, "omniq-sqlite")
    else:
        ddl = DIALECT.schema("omniq_sqlite")
        connection.executescript(f"begin immediate; {ddl} pragma user_version = {SCHEMA_VERSION}; commit;")


# ── connections that come and go ─────────────────────────────────────────────


class Link:
    """A connection that opens at its first use, and closes before a fork and after an error.

    SQLite remembers per process which locks it has taken on a file. A child that inherited an open connection
    would trust in locks that only its parent holds, and could damage the file.
    """

    def __init__(self, settings: SQLiteConfig, *, read_only: bool) -> None:
        self.path = settings.file
        self.lock = threading.Lock()
        """Held during a use, so that a fork waits for its end."""
        self._settings = settings
        self._read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._files: OpenFiles | None = None
        self._next_look = -math.inf
        with _links_lock:
            _links.add(self)

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone. Raises what `open_connection` raises."""
        self._look_at_files()
        with self.lock:
            if self._connection is None:
                self._connection = open_connection(self._settings, read_only=self._read_only)
                self._files = OpenFiles(self.path)
            try:
                yield self._connection
            except BaseException:
                self.drop()  # it may be the connection that is broken
                raise

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self.lock:
            self.drop()

    def drop(self) -> None:
        """`close` for who holds `lock`."""
        connection, self._connection, self._files = self._connection, None, None
        if connection is not None:
            connection.close()

    def _look_at_files(self) -> None:
        """Leave a file that was deleted or replaced, now and then: nobody else sees what is written to it."""
        files = self._files
        if files is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_INTERVAL
        if files.harm:
            with _links_lock, ExitStack() as held:
                for link in _links_to(self.path):
                    held.enter_context(link.lock)
                self.leave_harmed()  # unless another thread has seen to it

    def leave_harmed(self) -> None:
        """Close all of this process's connections to files that were harmed, so that no new one shares them.

        For who holds the locks of all of them. Does nothing if the files are as they were.
        """
        if self._files is None or self._connection is None or not (harm := self._files.harm):
            return
        _log.error(
            "%s: %s while it was in use: tasks and results that were written to it may be lost; "
            "going on with the file that is there now, or a new one",
            self.path,
            harm,
        )
        self._files.leave(self._connection)
        for link in _links_to(self.path):
            link.drop()


_links: weakref.WeakSet[Link] = weakref.WeakSet()
_links_lock = threading.Lock()
_held = ExitStack()
"""The locks that are held during a fork."""


def _links_to(path: str) -> list[Link]:
    return [link for link in _links if link.path == path]


def _before_fork() -> None:
    _held.enter_context(_links_lock)
    links = list(_links)
    for link in links:
        _held.enter_context(link.lock)
    for link in links:
        link.leave_harmed()  # once it is closed, nobody could tell any more
        link.drop()


def _after_fork_in_child() -> None:
    """The links, and what their threads hold, are the parent's."""
    global _links_lock
    _held.pop_all()
    _links.clear()
    _links_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_held.close, after_in_child=_after_fork_in_child)
