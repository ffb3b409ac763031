"""A connection to a server: what becomes of the driver's errors, what each side tells the other, and the schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from omniq.errors import StoreError, StoreFull, StoreUnavailable, ValueRefused
from omniq.storage.base import Guarantees
from omniq.storage.connected import check_layout, is_transport_error, raised_as, tls_advice

from omniq_postgres.config import PostgresConfig
from omniq_postgres.dialect import DIALECT, in_schema

if TYPE_CHECKING:
    from omniq_postgres.dialect import Connection

SCHEMA_VERSION: Final = 6
CACHE_SIZE: Final = 100
"""Prepared statements that a connection keeps."""

_KINDS: Final[dict[str, type[StoreError]]] = {
    "53100": StoreFull,
    **dict.fromkeys(("22", "54"), ValueRefused),  # data that can't be, and what is too large
    # Connection, rollback, resources, operator's intervention, system.
    **dict.fromkeys(("08", "40", "53", "57", "58"), StoreUnavailable),
    # A standby that only reads, a transaction that was idle for too long, a lock that wasn't to be had.
    **dict.fromkeys(("25006", "25P03", "55P03"), StoreUnavailable),
}
"""What a server's error is, by its code or by the class of codes, the first two characters. Others are for good."""
_NO_STATEMENT: Final = frozenset({"26000", "42P05"})
_TABLE: Final = re.compile(r"permission denied for table (\w+)")
_LOCKING: Final = re.compile(r"\bfor (no key update|update|key share)\b")
_OWN_PORT: Final = re.compile(r"([^:]*|.*\]):(\d+)")
_TLS_FILES: Final = ("sslrootcert", "sslcert", "sslkey")

_SAFE_PATH: Final = "pg_catalog, pg_temp"
"""Ours are the server's own functions, operators and types; nobody else's that are named alike, in `public` say, and
would be a better match. The tables are always named with their schema."""
_OFF: Final = ("enable_seqscan", "enable_bitmapscan", "jit")
_DIRECT: Final = {**dict.fromkeys(_OFF, "off"), "plan_cache_mode": "force_generic_plan", "search_path": _SAFE_PATH}
"""Each of our statements has its index, and a plan that was made while a table was small must not outlive that. So one
plan serves for any values: to make it anew takes a third of what ending a task does. A bitmap scan steps over the dead
again and again, where an index scan marks them for the next one."""
TAKE_SAFE_PATH: Final = f"set local search_path = {_SAFE_PATH}"
"""Until the end of the open transaction."""
SWAP_PATH: Final = f"""
    with old as materialized (select pg_catalog.current_setting('search_path') as path)
    select path, pg_catalog.set_config('search_path', '{_SAFE_PATH}', true) from old
"""
"""The same for a part of a transaction: returns what was before, which `PUT_BACK_PATH` takes."""
_IS_THERE: Final = "select exists (select from pg_tables where schemaname = $1 and tablename = 'installation')"
PUT_BACK_PATH: Final = "select pg_catalog.set_config('search_path', $1, true)"


# ── what becomes of errors ───────────────────────────────────────────────────


def store_errors(settings: PostgresConfig) -> AbstractContextManager[None]:
    """Turn what asyncpg and the event loop raise into the `StoreError` that it amounts to."""

    def kind_here(error: BaseException) -> type[StoreError] | None:
        kind = kind_of(error)
        return StoreUnavailable if kind is not None and _tls_advice(error, settings) else kind

    return raised_as(kind_here, lambda error: f"{settings.location}: {_words(error, settings)}")


def kind_of(error: BaseException) -> type[StoreError] | None:
    """`StoreUnavailable` where a repeat may succeed, else `StoreError`; None for what isn't of driver or network."""
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        return _KINDS.get(code) or _KINDS.get(code[:2], StoreError)
    if isinstance(error, asyncpg.ClientConfigurationError):
        return StoreError
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return ValueRefused if isinstance(error, ValueError) else StoreUnavailable
    return StoreUnavailable if is_transport_error(error) else None


def is_refusal(error: BaseException) -> bool:
    """Whether the server answered, and its connection is as good as before."""
    return isinstance(error, asyncpg.PostgresError) and kind_of(error) in (StoreError, ValueRefused)


def _words(error: BaseException, settings: PostgresConfig) -> str:
    """What to do about it, or the message, and the server's without its details, which may quote data."""
    if advice := _tls_advice(error, settings):
        return advice
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if not isinstance(error, asyncpg.PostgresError):
        return str(error) or type(error).__name__
    hint = " (behind a pooler, set statement_cache_size=0)" if error.sqlstate in _NO_STATEMENT else ""
    return f"{error.args[0]}{hint}{_missing_right(error, settings)}"


def _tls_advice(error: BaseException, settings: PostgresConfig) -> str | None:
    """What to do about asyncpg's error; None where it isn't one of TLS."""
    if "rejected SSL upgrade" in str(error):
        return "the server does no TLS, and sslmode insists on it: switch ssl on there, or give sslmode=prefer here"
    if isinstance(error, asyncpg.ClientConfigurationError) and "root certificate" in str(error):
        return "give the file of the CA that signs the server's certificate as sslrootcert"
    files = {name: getattr(settings, name) for name in _TLS_FILES}
    return tls_advice(error, files, other_host="give a host that is in it, or sslmode=verify-ca")


def _missing_right(error: BaseException, settings: PostgresConfig) -> str:
    """Which right the role lacks, as far as the refused statement tells."""
    if not isinstance(error, asyncpg.InsufficientPrivilegeError):
        return ""
    table = _TABLE.search(str(error))
    if table is None:
        return f" (for the role {settings.username!r})"
    query = getattr(error, "query", None) or f'insert into "".{table[1]}'  # COPY comes without its text
    found = re.findall(rf'\b(insert|update|delete)(?: into| from)? "[^"]*"\.{table[1]}\b', query)
    verbs = {verb.upper() for verb in found} | ({"UPDATE"} if _LOCKING.search(query) else set())
    return f": the role {settings.username!r} needs {' and '.join(sorted(verbs) or ['SELECT'])} on it"


# ── connecting ───────────────────────────────────────────────────────────────


async def open_connection(settings: PostgresConfig, *, direct: bool) -> Connection:
    """Connect. Without `direct`, nothing is asked for that a pooler between us and the server wouldn't bear."""
    cached = CACHE_SIZE if direct else 0
    hosts, ports = _addresses(settings)
    encryption = {name: value for name in ("sslmode", *_TLS_FILES) if (value := getattr(settings, name)) is not None}
    return await asyncpg.connect(
        f"postgresql:///?{urlencode(encryption)}",
        host=hosts,
        port=ports,
        user=settings.username,
        password=settings.password,
        database=settings.database,
        timeout=settings.timeout,
        command_timeout=settings.timeout,
        statement_cache_size=cached if settings.statement_cache_size is None else settings.statement_cache_size,
        server_settings={"application_name": "omniq", **(_DIRECT if direct else {})},
        target_session_attrs=SessionAttribute.read_write if len(hosts) > 1 else None,
    )


def _addresses(settings: PostgresConfig) -> tuple[list[str], list[int]]:
    """The hosts and their ports: a host may bring its own."""
    hosts, ports = [], []
    for address in settings.host.split(","):
        own = _OWN_PORT.fullmatch(address)
        hosts.append(own[1].strip("[]") if own else address)
        ports.append(int(own[2]) if own else settings.port)
    return hosts, ports


# ── what is found there ──────────────────────────────────────────────────────


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
    if not await connection.fetchval(_IS_THERE, schema):
        return False
    sql = in_schema("select version, project from omniq.installation", schema)
    version, project = await connection.fetchrow(sql) or (0, settings.project)
    if project != settings.project:
        raise StoreError(
            f"{settings.location}: this schema belongs to the project {project!r}, not to {settings.project!r}: "
            f"give each project a schema of its own"
        )
    check_layout(settings.location, version, SCHEMA_VERSION, "omniq-postgres")
    return True


async def _create(connection: Connection, settings: PostgresConfig) -> None:
    schema = settings.schema_name
    # Who may not create a schema may be given one.
    if not await connection.fetchval("select exists (select from pg_namespace where nspname = $1)", schema):
        await connection.execute(f'create schema "{schema}"')
    await connection.execute(in_schema(DIALECT.schema("omniq_postgres"), schema))
    sql = in_schema("insert into omniq.installation (version, project) values ($1, $2)", schema)
    await connection.execute(sql, SCHEMA_VERSION, settings.project)


ASK_SETTINGS: Final = """
    select name, setting from pg_settings
    where name in ('fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names') order by name
"""


def judge(settings: Mapping[str, str], *, push: bool) -> Guarantees:
    """What a server promises as it is set up now."""
    commit = settings["synchronous_commit"]
    waits = commit != "off"
    durable = waits and settings["fsync"] == settings["full_page_writes"] == "on"
    return Guarantees(
        survives_process_kill=waits,
        survives_power_loss=durable,
        survives_failover=durable and settings["synchronous_standby_names"] != "" and commit in ("on", "remote_apply"),
        clock="server",
        push=push,
        atomic_results=True,
        fenced=waits,  # else a server could forget a claim in a crash, and give out its epoch again
        evidence=tuple(f"{name}={value}" for name, value in settings.items()),
    )
