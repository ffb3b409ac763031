"""SQLite's way to say it, and how steps are carried out: rows cross as JSON, their bodies in one blob beside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar, Final, TypeVar

from omniq import clock
from omniq.storage import sql as steps
from omniq.storage.sql import Dialect, Given, Kind, Kinds, Page, Statement, Verb

from omniq_sqlite.codec import (
    TICKS,
    all_ticks,
    as_text,
    encode,
    fetch_rows,
    fetch_texts,
    reader,
    ticks_of,
    time_at,
    to_ticks,
)

T = TypeVar("T")

BEYOND_ALL = 1e12
"""A time that is later than any sound one, and before any text in SQLite's order."""


class SQLiteDialect(Dialect):
    """SQL for a file, in which nobody else writes at the same time."""

    prefix: ClassVar[str] = ""
    words: ClassVar[Mapping[str, str]] = {
        "now": ":now",
        "false": "0",
        "text": "cast(:{} as text)",
        "any": "in (select value from json_each(:{}))",
        **dict.fromkeys(("skip_locked", "lock", "key_share"), ""),
    }
    types: ClassVar[Mapping[str, str]] = {
        "key": "text",
        "time": "real",
        "bytes": "blob",
        "boolean": "integer check ({0} in (0, 1))",
        "object": "text check (json_type({0}) = 'object')",
        "texts": "text check (json_type({0}) = 'array')",
        "epoch": "(unixepoch())",
        "body": "blob",  # null where it is in large_body
        **dict.fromkeys(("small", "bigint"), "integer"),
        **dict.fromkeys(("tasks", "keyed"), "strict, without rowid"),
    }

    def given(self, kinds: Kinds) -> str:
        columns, index = [], 0
        for number, (name, kind) in enumerate(kinds):
            sql = {"time": time_at, "bytes": _body_at}.get(kind, "value ->> {}".format)(index)
            columns.append(
                f"iif(:alike & {1 << number}, :all_{name}, {sql}) as {name}" if number else f"{sql} as {name}"
            )
            index += 2 if kind == "bytes" else 1
        rows = "row as materialized (select key, value from json_each(:given))"
        return f"{rows}, given as (select {', '.join(columns)}, key as place from row)"

    def parameter(self, number: int) -> str:
        return f"?{number}"

    def now(self) -> float:
        return clock.now()

    def bound(self, statement: Statement) -> tuple[str, list[Any]]:
        sql, values = super().bound(statement)
        return sql, [encode(value) if isinstance(value, list | tuple) else value for value in values]

    def sent(self, given: Given) -> Mapping[str, object]:
        """The rows as JSON, in which bodies are places in the blob beside it.

        What a column but the first, the key, has alike in all rows goes by itself; in the rows zeros stand for it.
        """
        values: dict[str, object] = {}
        rows: list[Sequence[Any]] = []
        bodies = [b"-"]  # SQLite takes pieces of an empty blob for null
        alike, end = 0, 2
        for number, ((name, kind), column) in enumerate(zip(*given, strict=True)):
            values[f"all_{name}"] = None
            if given.is_alike(number):
                alike |= 1 << number
                values[f"all_{name}"] = _alone(kind, column[0])
                rows += [(0,) * len(column)] * (2 if kind == "bytes" else 1)
            elif kind == "time":
                rows.append(all_ticks(column))
            elif kind == "bytes":
                lengths = [len(body or b"") for body in column]
                *starts, end = accumulate(lengths, initial=end)
                rows += [
                    [None if body is None else start for body, start in zip(column, starts, strict=True)],
                    lengths,
                ]
                bodies += filter(None, column)
            else:
                rows.append([texts or None for texts in column] if kind == "texts" else column)
        return {"given": encode(list(zip(*rows, strict=True))), "bodies": b"".join(bodies), "alike": alike, **values}


def _alone(kind: Kind, value: Any) -> object:
    """A value as a parameter of its own."""
    if value is None or (kind == "texts" and not value):
        return None
    if kind in ("texts", "json"):
        return encode(value)
    return to_ticks(value) / TICKS if kind == "time" else value


def _body_at(index: int) -> str:
    return f"substr(:bodies, value ->> {index}, value ->> {index + 1})"


DIALECT: Final = SQLiteDialect()


def carry_out(connection: sqlite3.Connection, verb: Verb[T]) -> T:
    """What the verb comes to, in the transaction that is open."""
    going = verb()
    go_on: Callable[[], steps.Step] = partial(next, going)
    while True:
        try:
            step = go_on()
        except StopIteration as end:
            done: T = end.value
            return done
        try:
            go_on = partial(going.send, _answer(connection, step))
        except sqlite3.Error as error:
            go_on = partial(going.throw, error)


def _answer(connection: sqlite3.Connection, step: steps.Step) -> Any:
    match step:
        case steps.Do():
            before = connection.total_changes  # a cursor doesn't count what a statement changes that begins with "with"
            connection.execute(*DIALECT.bound(step))
            return connection.total_changes - before
        case steps.Get(table, keys, bodies):
            return reader(table).fetch(connection, keys, bodies=bodies)
        case steps.Select():
            return _select(connection, step)
        case steps.Ask():
            return _ask(connection, step.columns, step)
        case steps.Write():
            changed = {*step.given.columns[0]}.difference(_keys(connection, step.unchanged()))
            if changed:
                connection.execute(*DIALECT.bound(step))
            return changed
        case steps.Call(job):
            return job(connection)
        case steps.Atomic(verb):
            return carry_out(connection, verb)


def _ask(connection: sqlite3.Connection, columns: Sequence[Kind], statement: Statement) -> list[tuple[Any, ...]]:
    sql, values = DIALECT.bound(statement)
    if "time" in columns:
        names = [f"c{number}" for number in range(len(columns))]
        printed = [ticks_of(name) if kind == "time" else name for name, kind in zip(names, columns, strict=True)]
        sql = f"with asked ({', '.join(names)}) as ({sql}) select {', '.join(printed)} from asked"
    rows = fetch_rows(connection, len(columns), sql, *values)
    found = zip(*rows, strict=True) if len(columns) > 1 else [rows]
    read = [map(_READ.get(kind, _same), values) for kind, values in zip(columns, found, strict=False)]
    return list(zip(*read, strict=True))


def _same(value: object) -> object:
    return value


def _time(ticks: int | None) -> float | None:
    return None if ticks is None else ticks / TICKS


_READ: Final[Mapping[Kind, Callable[[Any], object]]] = {"time": _time, "text": as_text}


def _select(connection: sqlite3.Connection, step: steps.Select[Any]) -> Page[Any]:
    """Keys are looked for first, since those tell a row whatever is in it."""
    table = step.table
    place = "null" if step.place is None else ticks_of(f"min({step.place}, {BEYOND_ALL})")
    sql, values = DIALECT.bound(Statement(step.text.replace("{columns}", f"{table.key}, {place}"), step.values))
    found = fetch_rows(connection, 2, sql, *values)
    keys = [key if isinstance(key, int) else as_text(key) for key, _ in found[: step.limit]]
    records = reader(table).fetch(connection, keys, bodies=step.bodies)
    page = Page([record for record in records if record is not None])
    if len(found) == len(keys):
        return page
    return page._replace(key=keys[-1], place=_time(found[len(keys) - 1][1]))


def _keys(connection: sqlite3.Connection, statement: Statement) -> list[str]:
    sql, values = DIALECT.bound(statement)
    return fetch_texts(connection, sql, *values)
