"""How batches cross into SQLite and back: as one JSON text and one blob in, as one JSON text out.

Times go as whole ticks of 2⁻²² seconds, since SQLite prints floats with 15 digits and an epoch time has 17. Floats
from 2004 to 2106 are whole numbers of ticks, so that every time comes back exactly as it was given.

A single row can spoil such a text, by a number out of bounds, a value of another type, or text that isn't UTF-8. Then
each row is read alone, whatever is in it: text that isn't UTF-8 reaches Python with surrogate escapes, and goes back as
a blob that SQLite casts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Final, Generic, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct, defstruct
from msgspec.structs import FieldInfo
from omniq import clock
from omniq.storage.records import MAX_TIME, TaskRecord
from omniq.storage.sql import TASKS, Table

R = TypeVar("R", bound=Struct)

TICKS = float(1 << 22)
"""Ticks per second."""
FOREVER = MAX_TIME
"""Later times than that, beyond the year 36,000, would overflow SQLite's integers."""
LARGE_BODY = 32 * 1024
"""Bodies of more bytes than that are kept, and read, apart, so that a batch doesn't become one giant text."""
KEY: Final = "in (cast(?1 as text), ?1)"
"""SQL for a key of any type, given as a blob."""
DAMAGE: Final = (ValueError, sqlite3.OperationalError)
"""What reading a batch may raise where a row is damaged; `check_damage` tells."""

_FIRST, _LAST = "\udc00", "\udcff"
"""What the bytes of ids that aren't text are escaped as; Python's surrogate escapes are among them."""

_LAST_TICK = int(FOREVER * TICKS)
Ticks = Annotated[int, Meta(ge=-_LAST_TICK, le=_LAST_TICK)]
Flag = Annotated[int, Meta(ge=0, le=1)]


# ── into SQLite ──────────────────────────────────────────────────────────────


def encode(value: object) -> str:
    """JSON for a parameter of `json_each`."""
    return _encode(value).decode()


_encode = msgspec.json.Encoder(enc_hook=str.__str__).encode  # of a subclass of str, the text itself


def to_ticks(seconds: float) -> int:
    return round(min(seconds, FOREVER) * TICKS)


def all_ticks(times: Iterable[float | None]) -> list[int | None]:
    """The ticks of all times, without a call for each."""
    return [None if t is None else round(t * TICKS) if t < FOREVER else _LAST_TICK for t in times]


def time_at(index: int) -> str:
    """SQL for the time whose ticks are at this index of the JSON array `value`."""
    return f"value ->> {index} / {TICKS}"


# ── and back ─────────────────────────────────────────────────────────────────


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension; zero where the error is of Python's making."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def check_damage(error: Exception) -> None:
    """Raise the error again, unless a damaged row explains it."""
    if isinstance(error, sqlite3.Error) and primary_code(error) != sqlite3.SQLITE_ERROR:
        raise error


def as_blob(id_: str) -> bytes:
    """An id as `KEY` takes it, and by which SQLite orders it."""
    if is_named(id_):
        return id_.encode()
    return b"".join(char.encode() if not _FIRST <= char <= _LAST else bytes([ord(char) - ord(_FIRST)]) for char in id_)


def is_named(id_: str) -> bool:
    """Whether the id is text, as those who ask for a task give it."""
    return id_.isascii() or not any(_FIRST <= char <= _LAST for char in id_)


def ticks_of(column: str) -> str:
    """SQL for the ticks of a time."""
    return f"cast({column} * {TICKS} as integer)"


def fetch_rows(connection: sqlite3.Connection, columns: int, sql: str, *parameters: object) -> list[Any]:
    """The rows that a statement selects, or the values of its only column, at one go.

    Text that isn't UTF-8 has surrogate escapes.
    """
    rows: list[Any]
    try:
        rows = msgspec.json.decode(connection.execute(_packed(columns, sql), parameters).fetchone()[0])
    except DAMAGE as error:
        check_damage(error)
        rows = connection.execute(sql, parameters).fetchall()
        return [value for (value,) in rows] if columns == 1 else rows
    return rows


@cache
def _packed(columns: int, sql: str) -> str:
    names = ", ".join(f"c{number}" for number in range(columns))
    row = names if columns == 1 else f"json_array({names})"
    return f"with found ({names}) as ({sql}) select json_group_array({row}) from found"


def fetch_texts(connection: sqlite3.Connection, sql: str, *parameters: object) -> list[str]:
    """The one column that a statement selects, as texts. One that isn't UTF-8 has surrogate escapes: `is_named`."""
    return [as_text(value) for value in fetch_rows(connection, 1, sql, *parameters)]


def as_text(value: object) -> str:
    """The text that a value is. A blob's bytes are all escaped, as those of a text are which aren't UTF-8."""
    return "".join(chr(ord(_FIRST) + byte) for byte in value) if isinstance(value, bytes) else str(value)


def _flag(value: object) -> object:
    return bool(value) if value in (0, 1) else value


def _parsed(value: object) -> object:
    """What a JSON text says, or the value itself where it is none."""
    try:
        parsed: object = msgspec.json.decode(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
    return parsed


HEX_BODY: Final = f"case when length(body) <= {LARGE_BODY} then hex(body) end"
_EMPTY: Final[Mapping[str, Callable[[], object]]] = {"depends_on": tuple, "data": dict}
"""What a null stands for, in columns that hold JSON."""
_SQL: Final[Mapping[str, Mapping[str, str]]] = {
    "task": {"body": "coalesce(body, (select body from large_body where task_id = id))"}
}
"""What isn't simply a column, by table and field."""


class _Column:
    """How the values of a field are printed in SQL, as which type they are decoded, and how Python reads them then."""

    def __init__(self, field: FieldInfo, sql: str) -> None:
        self.name, self.raw, self.sql, self.type = field.name, sql, sql, field.type
        self.read = f"row.{field.name}"
        self.parse: Callable[[object], object] = lambda value: value
        """What makes the value of a damaged row ready for a look."""
        if field.name in ("time", "next_run", "last_run") or field.name.endswith(("_at", "_until")):
            self.sql, self.read = ticks_of(sql), f"row.{field.name} / {TICKS}"
            self.type = Ticks
            if type(None) in get_args(field.type):
                self.type, self.read = Ticks | None, f"None if row.{field.name} is None else {self.read}"
        elif field.name == "body":
            self.sql, self.type, self.read = HEX_BODY, str | None, "body"
        elif field.type is bool:
            self.type, self.read, self.parse = Flag, f"bool(row.{field.name})", _flag
        elif empty := _EMPTY.get(field.name):
            self.sql, self.type, self.read = f"json({sql})", field.type | None, f"row.{field.name} or {empty()}"
            self.parse = lambda value: empty() if value is None else _parsed(value)


class Reader(Generic[R]):
    """The records of a table by their keys: read all as one text, or one by one if a row is damaged."""

    def __init__(self, table: Table[R]) -> None:
        name, key, record = table.name, table.key, table.record
        sql = {**_SQL.get(name, {}), **table.columns}
        self._columns = [_Column(field, sql.get(field.name, field.name)) for field in table.fields]
        self._names = [column.name for column in self._columns]
        self._key_of, self._damaged, self._derived = attrgetter(key), table.damaged, table.derived
        where = table.where.format(now=":now")
        chosen = f"from {name} where {key} in (select value from json_each(:keys)) and {where}"
        beside = [] if key in self._names else [key]
        printed = ", ".join([*beside, *(column.sql for column in self._columns)])
        self._fetch_all = f"select json_group_array(json_array({printed})) {chosen}"
        self._fetch_bodiless = self._fetch_all.replace(HEX_BODY, "''")
        self._fetch_large = f"select {key}, {sql.get('body', 'body')} {chosen}"
        self._fetch_raw = f"select {', '.join(c.raw for c in self._columns)} from {name} where {key} {KEY}"
        types = [(column.name, column.type) for column in self._columns]
        row = defstruct("Row", [*beside, *types], array_like=True, frozen=True, gc=False)
        self._decode: Callable[[str], list[Any]] = msgspec.json.Decoder(list[row]).decode  # type: ignore[valid-type]
        # Written out, since this runs for every task of every batch, and `**` takes a dict for each.
        values = ", ".join(f"{column.name}={column.read}" for column in self._columns)
        self._made_of: Callable[[Any, bytes], R] = eval(f"lambda row, body: record({values})", {"record": record})

    def fetch(self, connection: sqlite3.Connection, keys: Sequence[Any], *, bodies: bool = True) -> list[R | None]:
        """The records with these keys, or None for those that aren't there; damaged ones with their `damage`.

        Without `bodies`, those are empty, and aren't read.
        """
        if not keys:
            return []
        try:
            found = self._fetch(connection, keys, bodies)
        except DAMAGE as error:
            check_damage(error)
            found = {key: record for key in keys for record in self._fetch_alone(connection, key)}
        records = [found.get(key) for key in keys]
        return [record and self._derived(record) for record in records] if self._derived else records

    def _fetch(self, connection: sqlite3.Connection, keys: Sequence[Any], with_bodies: bool) -> dict[Any, R]:
        """Raises one of `DAMAGE` if a row is damaged."""
        sql = self._fetch_all if with_bodies else self._fetch_bodiless
        now = clock.now()
        rows = self._decode(connection.execute(sql, {"keys": encode(keys), "now": now}).fetchone()[0])
        if "body" not in self._names:
            return {self._key_of(row): self._made_of(row, b"") for row in rows}
        found = {self._key_of(row): row for row in rows}
        large = [key for key, row in found.items() if row.body is None]
        apart = dict(connection.execute(self._fetch_large, {"keys": encode(large), "now": now})) if large else {}
        if len(apart) < len(large) or None in apart.values():
            raise ValueError("there is no body, unless the row was deleted between the two statements")
        return {
            key: self._made_of(row, apart[key] if row.body is None else bytes.fromhex(row.body))
            for key, row in found.items()
        }

    def _fetch_alone(self, connection: sqlite3.Connection, key: Any) -> list[R]:
        rows = connection.execute(self._fetch_raw, [as_blob(key) if isinstance(key, str) else key]).fetchall()
        parsed = [[column.parse(value) for column, value in zip(self._columns, row, strict=True)] for row in rows]
        return [self._damaged(dict(zip(self._names, values, strict=True))) for values in parsed]


@cache
def reader(table: Table[R]) -> Reader[R]:
    """What reads the table's records."""
    return Reader(table)


def fetch_tasks(connection: sqlite3.Connection, ids: Sequence[str], *, bodies: bool = True) -> list[TaskRecord]:
    """Those of the tasks that exist, in the order of `ids`."""
    return [task for task in reader(TASKS).fetch(connection, ids, bodies=bodies) if task is not None]
