"""How tasks ended, or how far they have come, in the table `result`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar, Final

from omniq.storage.capabilities import Capability
from omniq.storage.records import MAX_COUNT, NewBody, ResultRecord
from omniq.storage.results import BaseResultStorage
from omniq.storage.sql.steps import Given, Statement, Steps, Table, do, get, kinds, select, write
from omniq.storage.sql.store import SQLStore, reads, writes
from omniq.storage.sql.tables import RESULTS
from omniq.storage.wakeups import News

NEW: Final = kinds("task_id text, epoch integer, status text, schedule_id text, ttl real, body bytes")

_GIVES_WAY = f"""
    (result.epoch < {{0}}.epoch or result.epoch > {MAX_COUNT}
        or (result.epoch = {{0}}.epoch and ({{0}}.status <> 'running' or result.status = 'running')))
"""
"""As `rules.gives_way` decides."""
IF_IT_GIVES_WAY: Final = f"""
    on conflict (task_id) do update set epoch = excluded.epoch, status = excluded.status,
        schedule_id = excluded.schedule_id, finished_at = excluded.finished_at, expires_at = excluded.expires_at,
        body = excluded.body
    where {_GIVES_WAY.format("excluded")}
"""
PUT: Final = f"""
    with {{given}}, {{clock}}
    insert into omniq.result (task_id, epoch, status, schedule_id, finished_at, expires_at, body)
    select task_id, epoch, status, schedule_id, now, now + ttl, body from given cross join clock where true
    {IF_IT_GIVES_WAY}
"""
_COMPARED: Final = kinds("task_id text, epoch integer, status text")
_REFUSED = f"""
    with {{given}}
    select given.task_id from given join omniq.result as result on result.task_id = given.task_id
    where not {_GIVES_WAY.format("given")}
"""
_FIND = """
    select {{columns}} from omniq.result
    where schedule_id = :schedule_id and (expires_at is null or expires_at > {{now}})
    order by finished_at {order}, task_id {order} limit :limit
"""
_PURGE = """
    delete from omniq.result where task_id in (
        select task_id from omniq.result where expires_at <= {now} order by expires_at limit :limit {skip_locked})
"""
_REWRITTEN: Final = kinds("task_id text, old bytes, body bytes")
_REWRITE = """
    with {{given}}
    update omniq.{table} set body = given.body from given
    where {table}.{key} = given.task_id and {table}.body = given.old
"""
_HAVE_ANOTHER = """
    with {{given}}
    select given.task_id from given left join omniq.{table} as {table}
        on {table}.{key} = given.task_id and {table}.body = given.old
    where {table}.{key} is null
"""


def _refused(records: Sequence[ResultRecord]) -> Statement:
    return Statement(_REFUSED, {}, Given.of(_COMPARED, records))


def put(records: Sequence[ResultRecord]) -> Steps[list[bool]]:
    """As `BaseResultStorage.put`."""
    refused = partial(_refused, records)
    stored = yield from write("result.task_id", PUT, Given.of(NEW, records), unchanged=refused)
    return [record.task_id in stored for record in records]


def find(schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> Steps[list[ResultRecord]]:
    """As `BaseResultStorage.find`."""
    text = _FIND.format(order="desc" if newest_first else "asc")
    return (yield from select(RESULTS, text, limit=limit, schedule_id=schedule_id)).records


def purge(*, limit: int = 1000) -> Steps[int]:
    """As `BaseResultStorage.purge`."""
    return (yield from do(_PURGE, limit=limit))


def replace_bodies(table: Table[Any], bodies: Sequence[NewBody]) -> Steps[list[bool]]:
    """Replace the bodies of a table's rows that have the old ones; returns whether each was replaced."""
    names = {"table": table.name, "key": table.key}
    given = Given.of(_REWRITTEN, sorted(bodies, key=attrgetter("task_id")))  # who locks in one order locks nobody out
    others = partial(Statement, _HAVE_ANOTHER.format(**names), {}, given)
    replaced = yield from write("given.task_id", _REWRITE.format(**names), given, unchanged=others)
    return [new.task_id in replaced for new in bodies]


class SQLResultStore(SQLStore, BaseResultStorage):
    """Results in a table."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.CROSS_PROCESS, Capability.PERSISTENT})

    get = reads(partial(get, RESULTS))
    find = reads(find)
    purge = writes(purge)
    replace_bodies = writes(partial(replace_bodies, RESULTS))

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        stored = await self._write(partial(put, records))
        self._tell(News(ended=[record.task_id for record, done in zip(records, stored, strict=True) if done]))
        return stored
