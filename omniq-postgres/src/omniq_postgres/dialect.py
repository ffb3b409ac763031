"""PostgreSQL's way to say it, and how steps are carried out: batches cross as arrays, one per column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, TypeVar

import asyncpg
import msgspec
from omniq import clock
from omniq.storage import sql as steps
from omniq.storage.sql import EVENTS, TASKS, Dialect, Given, Kind, Kinds, Page, Statement, Table, Verb

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
    ForeignConnection: TypeAlias = Connection | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    """A caller's own, perhaps from a pool."""

R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T")

NOW_AT = "(select extract(epoch from clock_timestamp())::float8 + {}::float8)"
"""SQL for the server's time plus `omniq.clock.offset()`, which is the parameter."""
NOW = NOW_AT.format("$1")
"""The same, where the offset is the statement's first parameter."""

_TYPES: Final[Mapping[Kind, str]] = {
    **dict.fromkeys(("real", "time"), "float8"),
    **dict.fromkeys(("json", "texts"), "text"),
    "bytes": "bytea",
}
"""What a column is sent as, where that has another name."""
_CASTS: Final[Mapping[Kind, str]] = {"json": "::jsonb", "texts": "::text[]"}
_COLUMNS: Final = {"depends_on": "coalesce(depends_on, array[]::text[])"}
"""SQL for what isn't simply a column."""


@lru_cache(maxsize=1000)
def in_schema(sql: str, schema: str) -> str:
    """A statement that is written for the schema "omniq", for another one."""
    return sql.replace("omniq.", f'"{schema}".')


class Session:
    """A connection whose statements are written for the schema "omniq"."""

    def __init__(self, connection: ForeignConnection, schema: str) -> None:
        self.connection = connection
        self.schema = schema

    async def fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """The rows that a statement returns."""
        return await self.connection.fetch(in_schema(sql, self.schema), *values)

    async def execute(self, sql: str, *values: object) -> int:
        """How many rows a statement has changed."""
        status = await self.connection.execute(in_schema(sql, self.schema), *values)
        return int(status.rpartition(" ")[2])


class PostgresDialect(Dialect):
    """SQL for a schema "omniq"; `Session` puts another name in its place."""

    words: ClassVar[Mapping[str, str]] = {
        "now": NOW_AT.format(":now"),
        "false": "false",
        "text": ":{}",
        "any": "= any(:{})",
        "skip_locked": "for update skip locked",
        "lock": "for update",
        "key_share": "for key share",
    }
    types: ClassVar[Mapping[str, str]] = {
        "key": 'text collate "C"',
        "time": "double precision",
        "bytes": "bytea",
        "boolean": "boolean",
        "object": "jsonb",
        "texts": "text[]",
        "epoch": "extract(epoch from now())",
        "body": "bytea not null",
        "small": "smallint",
        "bigint": "bigint",
        "tasks": "with (fillfactor = 70)",
        "keyed": "",
    }

    def given(self, kinds: Kinds) -> str:
        arrays = {name: f":{name}::{_TYPES.get(kind, kind)}[]" for name, kind in kinds}
        columns = ", ".join(
            f"(case when cardinality({arrays[name]}) = 1 then ({arrays[name]})[1] else sent.{name} end)"
            f"{_CASTS.get(kind, '')} as {name}"
            for name, kind in kinds
        )
        rows = f"unnest({', '.join(arrays.values())}) with ordinality as sent ({', '.join(arrays)}, place)"
        return f"given as materialized (select {columns}, place from {rows})"

    def parameter(self, number: int) -> str:
        return f"${number}"

    def now(self) -> float:
        return clock.offset()

    def sent(self, given: Given) -> Mapping[str, object]:
        """Each column as an array; one whose values are all the same, but for the keys, as an array of one."""
        columns = enumerate(zip(*given, strict=True))
        return {
            name: _sent(kind, column[:1] if given.is_alike(number) else column)
            for number, ((name, kind), column) in columns
        }


DIALECT: Final = PostgresDialect()


# ── carrying steps out ───────────────────────────────────────────────────────


async def carry_out(session: Session, verb: Verb[T]) -> T:
    """What the verb comes to."""
    going = verb()
    answer = None
    while True:
        try:
            step = going.send(answer)
        except StopIteration as end:
            done: T = end.value
            return done
        answer = await _answer(session, step)


async def carry_out_at_once(session: Session, verb: Verb[T]) -> T:
    """What the verb comes to, in one transaction."""
    async with session.connection.transaction():
        return await carry_out(session, verb)


async def _answer(session: Session, step: steps.Step) -> Any:
    match step:
        case steps.Get(table, keys, bodies):
            where = f"{table.key} {{any[keys]}} and {table.where}"
            text = f"select {columns(table, bodies)} from omniq.{table.name} where {where}"
            rows = await _fetch(session, Statement(text, {"keys": keys}))
            found = dict(zip([row[table.key] for row in rows], records(table, rows), strict=True))
            return [found.get(key) for key in keys]
        case steps.Select(text, values):
            text = text.replace("{columns}", columns(step.table, step.bodies))
            rows = await _fetch(session, Statement(text, values))
            page = Page(records(step.table, rows[: step.limit]))
            if len(rows) == len(page.records):
                return page
            last = rows[len(page.records) - 1]
            return page._replace(key=last[step.table.key], place=last[step.place] if step.place else None)
        case steps.Ask():
            return await _fetch(session, step)
        case steps.Write(text, values):
            rows = await _fetch(session, Statement(f"{text} returning {step.key}", values, step.given))
            return {row[0] for row in rows}
        case steps.Call(job):
            return await job(session)
        case steps.Atomic(verb):
            while True:
                with suppress(steps.Overtaken):
                    return await carry_out_at_once(session, verb)
        case steps.Do():
            sql, bound = DIALECT.bound(step)
            return await session.execute(sql, *bound)


async def _fetch(session: Session, statement: Statement) -> list[asyncpg.Record]:
    sql, values = DIALECT.bound(statement)
    return await session.fetch(sql, *values)


def _sent(kind: Kind, column: Sequence[Any]) -> Sequence[Any]:
    """A column's values as they are sent: what the server can't take as an array goes as texts."""
    if kind == "texts":
        return list(map(_array, column))
    return list(map(_json, column)) if kind == "json" else column


def _array(texts: Sequence[str] | None) -> str | None:
    """Text for the server to read as an array, since arrays of arrays of different lengths can't be sent."""
    if not texts:
        return None
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def _json(data: object) -> str | None:
    """The data as JSON; without the character zero, which the server's text can't hold."""
    if data is None:
        return None
    text = msgspec.json.encode(data).decode()
    return msgspec.json.encode(_without_zeros(data)).decode() if "\\u0000" in text else text


def _without_zeros(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, dict):
        return {_without_zeros(key): _without_zeros(item) for key, item in value.items()}
    return [_without_zeros(item) for item in value] if isinstance(value, list | tuple) else value


# ── rows as records ──────────────────────────────────────────────────────────


@cache
def columns(table: Table[Any], bodies: bool = True) -> str:
    """SQL for what is read of a table."""
    names = [name for field in table.fields if (name := field.name) != "body" or bodies]
    sql = [f'{table.columns.get(name, _COLUMNS.get(name, name))} as "{name}"' for name in names]
    return ", ".join(sql if table.key in names else [table.key, *sql])


def records(table: Table[R], rows: Sequence[asyncpg.Record]) -> list[R]:
    """The records that rows are, at one go if all are sound."""
    if table is EVENTS:  # whose data are JSON
        return [record(table, row) for row in rows]
    try:
        found = msgspec.convert(list(map(dict, rows)), list[table.record])  # type: ignore[name-defined]
    except ValueError:
        return [record(table, row) for row in rows]
    return list(map(table.derived, found)) if table.derived else found


def record(table: Table[R], row: asyncpg.Record) -> R:
    """The record that a row is; a damaged one has its `damage`."""
    values = dict(row)
    try:
        if "data" in values:
            values["data"] = msgspec.json.decode(values["data"] or "{}")
        found = msgspec.convert(values, table.record)
    except (ValueError, RecursionError):
        found = table.damaged(values)
    return table.derived(found) if table.derived else found


# ── tasks ────────────────────────────────────────────────────────────────────

CLOCK: Final = f"clock as materialized (select {NOW} as now)"
"""SQL for statements that need the same time in several places."""
IS_RUNNING: Final = "task.lease_until is not null"
"""SQL for the state RUNNING where ids are given. Were it asked by name, the server might walk `task_running` instead,
and in it the dead of all that ran."""
WITHOUT_BODY: Final = columns(TASKS, bodies=False)
COLUMNS: Final = columns(TASKS)
task_record = partial(record, TASKS)
"""The task that a row with all its columns is; a damaged one has its `damage`."""
