"""How tasks ended, in the table `result`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import ClassVar

import msgspec
from msgspec import Struct
from omniq import clock
from omniq.backend.component import Configured, configured_by
from omniq.models.state import TaskState
from omniq.results.engine import AsyncResultStorage
from omniq.results.facade import ResultStorage
from omniq.storage.capabilities import Capability
from omniq.storage.records import MAX_COUNT, Count, NewBody, ResultRecord
from omniq.storage.results import BaseResultStorage
from omniq.storage.wakeups import News

from omniq_sqlite.config import SQLiteResultStorageConfig
from omniq_sqlite.connection import SQLiteStore
from omniq_sqlite.damage import DAMAGE, check_damage, read_results
from omniq_sqlite.resigning import replace_result_bodies
from omniq_sqlite.wire import (
    LARGE_BODY,
    Bodies,
    Ticks,
    body_at,
    encode,
    fetch_text,
    fetch_texts,
    maybe_seconds,
    ticks_of,
    time_at,
    to_seconds,
    to_ticks,
)

_EPOCHS = f"""
    select json_group_array(json_array(task_id, cast(epoch as integer))) from result
    where epoch <= {MAX_COUNT} and task_id in (select value from json_each(?))
"""
_UPSERT = f"""
    with row as materialized (select value from json_each(?1))
    insert into result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
    select value ->> 0, value ->> 1, value ->> 2, value ->> 3, ?3, {time_at(4)},
        {body_at(5)}
    from row where true
    on conflict (task_id) do update set epoch = excluded.epoch, status = excluded.status,
        schedule_id = excluded.schedule_id, finished_at = excluded.finished_at, expires_at = excluded.expires_at,
        body = excluded.body
    where excluded.epoch >= result.epoch or result.epoch > {MAX_COUNT}
"""
_BODY = f"case when length(body) <= {LARGE_BODY} then hex(body) end"
_FETCH = f"""
    select json_group_array(json_array(task_id, epoch, status, schedule_id, {ticks_of("finished_at")},
        {ticks_of("expires_at")}, {_BODY}))
    from result where task_id in (select value from json_each(?1)) and (expires_at is null or expires_at > ?2)
"""
_FETCH_LARGE = "select task_id, body from result where task_id in (select value from json_each(?))"
_OF_SCHEDULE = """
    select json_group_array(task_id) from (
        select task_id from result where schedule_id = ?1 and (expires_at is null or expires_at > ?2)
        order by finished_at {0}, task_id {0} limit ?3)
"""
_ANY_EXPIRED = "select exists (select 1 from result where expires_at <= ?)"
_PURGE = "delete from result where task_id in (select task_id from result where expires_at <= ? limit ?)"


class _ResultRow(Struct, array_like=True, frozen=True, gc=False):
    """A result as `_FETCH` prints it."""

    task_id: str
    epoch: Count
    status: TaskState
    schedule_id: str | None
    finished_at: Ticks
    expires_at: Ticks | None
    body: str | None


_decode_epochs = msgspec.json.Decoder(list[tuple[str, int]]).decode
_decode_results = msgspec.json.Decoder(list[_ResultRow]).decode


class SQLiteResultStore(SQLiteStore, BaseResultStorage):
    """Results in a file, by default the one in which the queue is."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        stored = await self._connection.write(partial(_put, records=records)) if records else []
        self.wakeups.tell(News(ended=[r.task_id for r, done in zip(records, stored, strict=True) if done]))
        return stored

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        return await self._connection.write(partial(replace_result_bodies, bodies=bodies)) if bodies else []

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        found = await self._connection.read(partial(_fetch, ids=ids)) if ids else {}
        return [found.get(id_) for id_ in ids]

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        sql = _OF_SCHEDULE.format("desc" if newest_first else "asc")

        def job(connection: sqlite3.Connection) -> list[ResultRecord]:
            ids = fetch_texts(connection, sql, schedule_id, clock.now(), limit)
            found = _fetch(connection, ids)
            return [found[id_] for id_ in ids if id_ in found]

        return await self._connection.read(job)

    async def purge(self, *, limit: int = 1000) -> int:
        if not await self._connection.read(_any_expired):
            return 0
        return await self._connection.write(
            lambda connection: connection.execute(_PURGE, (clock.now(), limit)).rowcount
        )

    async def hear(self, timeout: float) -> None:
        await self._connection.hear(timeout)


def store_results(connection: sqlite3.Connection, records: Sequence[ResultRecord], now: float) -> None:
    """Store each record unless the stored one has a higher epoch."""
    for parcel in _parcels(records):
        bodies = Bodies()
        rows = encode([_row(record, now, bodies) for record in parcel])
        connection.execute(_UPSERT, (rows, bodies.joined(), now))


def _parcels(records: Sequence[ResultRecord]) -> Iterator[Sequence[ResultRecord]]:
    """The records in order: small ones together, each large one alone."""
    for is_large, group in groupby(records, lambda record: len(record.body) > LARGE_BODY):
        if is_large:
            yield from ([record] for record in group)
        else:
            yield list(group)


def _row(record: ResultRecord, now: float, bodies: Bodies) -> tuple[object, ...]:
    expires_at = None if record.ttl is None else to_ticks(now + record.ttl)
    place = bodies.place(record.body)
    return (record.task_id, record.epoch, record.status, record.schedule_id, expires_at, *place)


def _put(connection: sqlite3.Connection, records: Sequence[ResultRecord]) -> list[bool]:
    ids = encode([record.task_id for record in records])
    epochs = dict(_decode_epochs(fetch_text(connection, _EPOCHS, ids)))
    stored = []
    for record in records:
        newest = epochs[record.task_id] = max(record.epoch, epochs.get(record.task_id, record.epoch))
        stored.append(record.epoch == newest)
    store_results(connection, records, clock.now())
    return stored


def _fetch(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, ResultRecord]:
    """Those that are there and haven't expired; damaged ones with their `damage`."""
    try:
        return _fetch_sound(connection, ids)
    except DAMAGE as error:
        check_damage(error)
        found = read_results(connection, ids)
        now = clock.now()
        return {id_: record for id_, record in found.items() if record.expires_at is None or record.expires_at > now}


def _fetch_sound(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, ResultRecord]:
    rows = _decode_results(fetch_text(connection, _FETCH, encode(ids), clock.now()))
    large = [row.task_id for row in rows if row.body is None]
    bodies: dict[str, bytes] = dict(connection.execute(_FETCH_LARGE, [encode(large)])) if large else {}
    return {
        row.task_id: _record(row, body)
        for row in rows
        if (body := bodies.get(row.task_id) if row.body is None else bytes.fromhex(row.body)) is not None
    }


def _record(row: _ResultRow, body: bytes) -> ResultRecord:
    return ResultRecord(
        task_id=row.task_id,
        epoch=row.epoch,
        status=row.status,
        body=body,
        ttl=_ttl(row),
        schedule_id=row.schedule_id,
        finished_at=to_seconds(row.finished_at),
        expires_at=maybe_seconds(row.expires_at),
    )


def _ttl(row: _ResultRow) -> float | None:
    """The seconds from `put` to the expiry, freed of the rounding of their sum."""
    return None if row.expires_at is None else round(to_seconds(row.expires_at - row.finished_at), 6)


def _any_expired(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(_ANY_EXPIRED, (clock.now(),)).fetchone()[0])


class AsyncSQLiteResultStorage(Configured, AsyncResultStorage[SQLiteResultStorageConfig]):
    """Results in a SQLite file. Takes the fields of `SQLiteResultStorageConfig`."""

    @configured_by(SQLiteResultStorageConfig)
    def __init__(self, config: SQLiteResultStorageConfig) -> None:
        super().__init__(SQLiteResultStore, config)


class SQLiteResultStorage(Configured, ResultStorage):
    """`AsyncSQLiteResultStorage` with methods that block; `aio` is its async core."""

    @configured_by(SQLiteResultStorageConfig)
    def __init__(self, config: SQLiteResultStorageConfig) -> None:
        super().__init__(AsyncSQLiteResultStorage.from_config(config))
