"""Opening a database file: its directory, pragmas and schema, forks, and what becomes of SQLite's errors."""

from __future__ import annotations

import functools
import os
import sqlite3
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from typing import Any, Final
from urllib.parse import quote

import msgspec
from omniq.errors import PayloadTooLarge, StoreError, StoreFull, StoreUnavailable, ValueRefused
from omniq.storage import embedded
from omniq.storage.connected import check_layout, is_transport_error, make_file, raised_as
from omniq.storage.embedded import OpenFiles
from omniq.texts import get_logger

from omniq_sqlite.codec import as_text, primary_code
from omniq_sqlite.config import SQLiteConfig
from omniq_sqlite.dialect import DIALECT

_log = get_logger("omniq.storage")

SCHEMA_VERSION = 6
OLDEST_SQLITE = (3, 38, 0)

_NOTED_PROJECT = """
    create table if not exists installation (
        number integer primary key check (number = 1), project text not null
    ) strict;
"""
"""A file of layout 6 that was made before this was noted belongs to the first project that opens it."""

_IN_USE = ("-wal", "-shm")
"""What SQLite adds to the name of a database for the files beside it, as long as somebody has it open."""
BESIDE = (*_IN_USE, "-journal")
_CHECKPOINT_PAGES = 4000
_RETRY_EVERY = 0.01
_KINDS: Final[Mapping[int, type[StoreError]]] = {
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_TOOBIG: PayloadTooLarge,
    sqlite3.SQLITE_MISMATCH: ValueRefused,
    **dict.fromkeys((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL), StoreUnavailable),
    **dict.fromkeys((sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM), StoreUnavailable),
}
"""What an error is, by SQLite's code for it. Others are for good."""


def store_errors(path: str) -> AbstractContextManager[None]:
    """Turn what SQLite and the system raise into the `StoreError` that it amounts to."""
    return raised_as(kind_of, lambda error: f"{path}: {_words(error)}")


def _words(error: BaseException) -> str:
    return f"a row can't be read: {error}" if isinstance(error, msgspec.DecodeError) else str(error)


def kind_of(error: BaseException) -> type[StoreError] | None:
    """`StoreUnavailable` where a repeat may succeed, else `StoreError`; None for what isn't of SQLite or the system."""
    if isinstance(error, sqlite3.Error):
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_DBMOVED:
            return StoreUnavailable
        for_good = ValueRefused if isinstance(error, sqlite3.DataError) else StoreError
        return _KINDS.get(primary_code(error), for_good)
    if isinstance(error, msgspec.DecodeError):
        return StoreError
    if isinstance(error, OverflowError):
        return ValueRefused
    return StoreUnavailable if is_transport_error(error) else None


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
    make_file(settings.file, trust_owner=settings.trust_owner, beside=BESIDE)
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
        _ensure_schema(connection, settings)
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


def _ensure_schema(connection: sqlite3.Connection, settings: SQLiteConfig) -> None:
    version, tables = connection.execute(
        "select (select user_version from pragma_user_version), (select count(*) from sqlite_schema)"
    ).fetchone()
    if version or tables:
        check_layout(f"sqlite:{settings.file}", version, SCHEMA_VERSION, "omniq-sqlite")
    else:
        ddl = DIALECT.schema("omniq_sqlite")
        connection.executescript(f"begin immediate; {ddl} pragma user_version = {SCHEMA_VERSION}; commit;")
    project = _project_of(connection)
    if project is None and _noted(_beside(settings).file) != settings.project:
        project = _take_over(connection, settings.project)
    if project != settings.project:
        raise OfAnotherProject(
            f"sqlite:{settings.file}: this file belongs to the project {project!r}, not to {settings.project!r}: "
            f"give each project a path of its own, or a base_dir, in which each has its file"
        )


class OfAnotherProject(StoreError):
    """Raised where a file belongs to another project."""


def _beside(settings: SQLiteConfig) -> SQLiteConfig:
    """The settings with the project's own file beside the one that is named, in case that is another's."""
    return settings.for_project(settings.project)


def _project_of(connection: sqlite3.Connection) -> str | None:
    """The project that the file belongs to; None if it is new, or was made before that was noted."""
    if connection.execute("select 1 from sqlite_schema where name = 'installation'").fetchone() is None:
        return None
    found = connection.execute("select project from installation").fetchone()
    return None if found is None else as_text(found[0])


def _take_over(connection: sqlite3.Connection, project: str) -> str:
    """Note to which project the file belongs, unless somebody else was first; returns what is noted."""
    connection.executescript(f"begin immediate; {_NOTED_PROJECT} commit;")
    connection.execute("insert or ignore into installation (number, project) values (1, ?)", [project])
    return _project_of(connection) or project


def _noted(path: str) -> str | None:
    """The project that a file belongs to; None if that can't be told."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as file:
        return _project_of(file)
    return None


def own_file(settings: SQLiteConfig) -> str:
    """The file that is the project's: the one that is named, unless that is another's; then the one beside it."""
    beside = _beside(settings).file
    if _noted(settings.file) == settings.project or _noted(beside) != settings.project:
        return settings.file
    return beside


class Link(embedded.Link[sqlite3.Connection]):
    """A connection that opens at its first use, and closes before a fork and after an error."""

    def __init__(self, settings: SQLiteConfig, *, read_only: bool) -> None:
        super().__init__(settings.file, _IN_USE)
        self._settings = settings
        self._read_only = read_only

    def _open(self) -> sqlite3.Connection:
        try:
            return open_connection(self._settings, read_only=self._read_only)
        except OfAnotherProject as error:
            self._settings = _beside(self._settings)
            self.path = self._settings.file
            connection = open_connection(self._settings, read_only=self._read_only)
            _log.warning("%s; %s is that of %r now", error, self.path, self._settings.project)
            return connection

    def _leave(self, connection: sqlite3.Connection, files: OpenFiles) -> None:
        then, now = files.then, files.now()
        is_another = now[""] != then[""]
        if is_another or now["-wal"] in (None, then["-wal"]):  # else that of somebody else would go into the database
            with suppress(sqlite3.Error):
                connection.execute("pragma wal_checkpoint(truncate)")
        if is_another:  # it would take for its own what the old one has left beside it
            for end in _IN_USE:
                if now[end] is not None and now[end] == then[end]:
                    with suppress(FileNotFoundError):
                        os.unlink(self.path + end)
