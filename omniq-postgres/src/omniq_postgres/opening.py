"""A connection to a server: what it is told, the schema that it finds, and what becomes of the driver's errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import resources
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urlencode

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from omniq.errors import StoreError, StoreFull, StoreUnavailable, ValueRefused
from omniq.loops import close_transport
from omniq.storage.transport import is_transport_error

from omniq_postgres.config import PostgresConfig
from omniq_postgres.tls import tls_advice

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
    ForeignConnection: TypeAlias = Connection | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    """A caller's own, perhaps from a pool."""

SCHEMA_VERSION: Final = 3
CACHE_SIZE: Final = 100

_TRANSIENT_CLASSES: Final = frozenset({"08", "40", "53", "57", "58"})
"""Connection, rollback, resources, operator's intervention, system."""
_TRANSIENT: Final = frozenset({"25006", "25P03", "55P03"})
"""A standby that only reads, a transaction that was idle for too long, a lock that wasn't to be had."""
_OF_VALUES: Final = frozenset({"22", "54"})
"""Data that can't be, and what is too large."""
_DISK_FULL: Final = "53100"
_TABLE: Final = re.compile(r"permission denied for table (\w+)")
_VERBS: Final = {"insert into": "INSERT", "update": "UPDATE", "delete from": "DELETE"}
_LOCKING: Final = re.compile(r"\bfor (no key update|update|key share)\b")
_NO_STATEMENT: Final = frozenset({"26000", "42P05"})

_SAFE_PATH: Final = "pg_catalog, pg_temp"
"""Ours are the server's own functions, operators and types; nobody else's that are named alike, in `public` say, and
would be a better match. The tables are always named with their schema."""
_DIRECT: Final = {"enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off", "search_path": _SAFE_PATH}
"""Each of our statements has its index, and a plan that was made while a table was small must not outlive that. A
bitmap scan steps over the dead again and again, where an index scan marks them for the next one."""


@contextmanager
def store_errors(settings: PostgresConfig) -> Iterator[None]:
    """Turn what asyncpg and the event loop raise into the `StoreError` that it amounts to."""
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        kind, advice = kind_of(error), tls_advice(error, settings)
        if kind is None:
            raise
        kind = StoreUnavailable if advice else kind
        words = advice or _words(error) + _missing_right(error, settings)
        raise kind(f"{settings.location}: {words}") from error


def kind_of(error: BaseException) -> type[StoreError] | None:
    """`StoreUnavailable` where a repeat may succeed, else `StoreError`; None for what isn't of driver or network."""
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        if code == _DISK_FULL:
            return StoreFull
        if code[:2] in _OF_VALUES:
            return ValueRefused
        return StoreUnavailable if is_transient(error) else StoreError
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        if isinstance(error, asyncpg.ClientConfigurationError):
            return StoreError
        return ValueRefused if isinstance(error, ValueError) else StoreUnavailable
    return StoreUnavailable if is_transport_error(error) else None


def is_transient(error: asyncpg.PostgresError) -> bool:
    """Whether the same statement may succeed later, on another connection."""
    code = error.sqlstate or ""
    return code[:2] in _TRANSIENT_CLASSES or code in _TRANSIENT


def _words(error: BaseException) -> str:
    """The message, and the server's without its details, which may quote data."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if not isinstance(error, asyncpg.PostgresError):
        return str(error) or type(error).__name__
    hint = " (behind a pooler, set statement_cache_size=0)" if error.sqlstate in _NO_STATEMENT else ""
    return f"{error.args[0] if error.args else type(error).__name__}{hint}"


def _missing_right(error: BaseException, settings: PostgresConfig) -> str:
    """Which right the role lacks, as far as the refused statement tells."""
    if not isinstance(error, asyncpg.InsufficientPrivilegeError):
        return ""
    table = _TABLE.search(str(error))
    if table is None:
        return f" (for the role {settings.username!r})"
    query = getattr(error, "query", None) or f'insert into "".{table[1]}'  # COPY comes without its text
    verbs = {verb for begin, verb in _VERBS.items() if re.search(rf'\b{begin} "[^"]*"\.{table[1]}\b', query)}
    if _LOCKING.search(query):
        verbs.add("UPDATE")
    return f": the role {settings.username!r} needs {' and '.join(sorted(verbs) or ['SELECT'])} on it"


async def open_connection(settings: PostgresConfig, *, direct: bool) -> Connection:
    """Connect. Without `direct`, nothing is asked for that a pooler between us and the server wouldn't bear."""
    wanted = CACHE_SIZE if settings.statement_cache_size is None else settings.statement_cache_size
    hosts, ports = _addresses(settings)
    return await asyncpg.connect(
        f"postgresql:///?{urlencode(_ssl_options(settings))}",
        host=hosts,
        port=ports,
        user=settings.username,
        password=settings.password,
        database=settings.database,
        timeout=settings.timeout,
        command_timeout=settings.timeout,
        statement_cache_size=wanted if direct or settings.statement_cache_size is not None else 0,
        server_settings={"application_name": "omniq", **(_DIRECT if direct else {})},
        target_session_attrs=SessionAttribute.read_write if len(hosts) > 1 else None,
    )


def _addresses(settings: PostgresConfig) -> tuple[list[str], list[int]]:
    """The hosts and their ports: a host may bring its own."""
    hosts, ports = [], []
    for address in settings.host.split(","):
        host, colon, port = address.rpartition(":")
        own = bool(colon) and port.isdigit() and (":" not in host or host.endswith("]"))
        hosts.append(host.strip("[]") if own else address)
        ports.append(int(port) if own else settings.port)
    return hosts, ports


def _ssl_options(settings: PostgresConfig) -> dict[str, str]:
    given = {name: getattr(settings, name) for name in ("sslmode", "sslrootcert", "sslcert", "sslkey")}
    return {name: value for name, value in given.items() if value is not None}


def hang_up(connection: Connection) -> None:
    """Close the connection at once, though its loop may have been closed."""
    close_transport(connection._transport)  # type: ignore[attr-defined]  # the driver can't once its loop is closed


_TAKE_SAFE_PATH: Final = f"set local search_path = {_SAFE_PATH}"
_SWAP_PATH: Final = f"""
    with old as materialized (select pg_catalog.current_setting('search_path') as path)
    select path, pg_catalog.set_config('search_path', '{_SAFE_PATH}', true) from old
"""
_PUT_BACK_PATH: Final = "select pg_catalog.set_config('search_path', $1, true)"


async def take_safe_path(connection: ForeignConnection) -> None:
    """Look names up in the server's own catalogue only, until the end of the open transaction."""
    await connection.execute(_TAKE_SAFE_PATH)


@asynccontextmanager
async def safe_path(connection: ForeignConnection) -> AsyncIterator[None]:
    """The same for what is done inside. After an error, the caller's rollback puts back what was."""
    (path, _) = await connection.fetchrow(_SWAP_PATH)  # type: ignore[misc]  # there is a row
    yield
    await connection.fetchval(_PUT_BACK_PATH, path)


async def is_pooled(connection: Connection) -> bool:
    """Whether a pooler stands between us and the server: it answers for another process than it announced."""
    return bool(connection.get_server_pid() != await connection.fetchval("select pg_backend_pid()"))


def in_schema(sql: str, schema: str) -> str:
    """A statement that is written for the schema "omniq", for another one."""
    return sql.replace("omniq.", f'"{schema}".')


async def ensure_schema(connection: Connection, settings: PostgresConfig) -> None:
    """Create the schema where it is missing, in a transaction that the caller has open. Raises `StoreError`.

    Safe for many processes at once: the lock is released with the transaction, and the next in line finds all done.
    """
    if not await _is_current(connection, settings):
        await connection.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", settings.schema_name)
        if not await _is_current(connection, settings):
            await _create(connection, settings)


async def _is_current(connection: Connection, settings: PostgresConfig) -> bool:
    """Whether the schema is there. Raises `StoreError` if it is another project's or of another version."""
    schema = settings.schema_name
    known = await connection.fetchval(
        "select exists (select from pg_tables where schemaname = $1 and tablename = 'installation')", schema
    )
    if not known:
        return False
    sql = in_schema("select version, project from omniq.installation", schema)
    version, project = await connection.fetchrow(sql) or (0, settings.project)
    if project != settings.project:
        raise StoreError(
            f"{settings.location}: this schema belongs to the project {project!r}, not to {settings.project!r}: "
            f"give each project a schema of its own"
        )
    if version != SCHEMA_VERSION:
        age, advice = ("a newer", "upgrade") if version > SCHEMA_VERSION else ("an older", "give a new schema to")
        raise StoreError(
            f"{settings.location}: {age} omniq-postgres made this schema (version {version}, this one knows "
            f"{SCHEMA_VERSION}): {advice} omniq-postgres"
        )
    return True


async def _create(connection: Connection, settings: PostgresConfig) -> None:
    schema = settings.schema_name
    exists = await connection.fetchval("select exists (select from pg_namespace where nspname = $1)", schema)
    if not exists:  # who may not create a schema may be given one
        await connection.execute(f'create schema "{schema}"')
    ddl = resources.files("omniq_postgres").joinpath("schema.sql").read_text("utf-8")
    await connection.execute(in_schema(ddl, schema))
    sql = in_schema("insert into omniq.installation (version, project) values ($1, $2)", schema)
    await connection.execute(sql, SCHEMA_VERSION, settings.project)
