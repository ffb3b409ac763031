"""Handing out tasks, keeping them, and taking them back from the dead."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from itertools import accumulate

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from omniq import clock
from omniq.batching import MAX_BYTES
from omniq.models.config import TEN_YEARS
from omniq.storage.records import MAX_COUNT, LapsedLease, Lease, LeaseStatus, TaskRecord

from omniq_sqlite.damage import DAMAGE, check_damage, give_stand_ins, is_named
from omniq_sqlite.wire import (
    encode,
    fetch_sound_tasks,
    fetch_tasks,
    fetch_text,
    fetch_texts,
    ticks_of,
    time_at,
    to_seconds,
    to_ticks,
)

PROMOTE_LIMIT = 1000
"""SCHEDULED tasks that one claim makes PENDING at most, however few it is asked for."""

MAX_LEASE = 2 * TEN_YEARS
"""Seconds from now for which no lease holds: a task that is said to run for longer is taken back."""

MANY_QUEUES = 16
"""From more than that, those that hold something are picked first."""

_NEXT_NAME = "select min(queue_name) from task where state = '{state}'"
_HOLDING = f"""
    with recursive holding (name) as (
        {_NEXT_NAME} union all
        select ({_NEXT_NAME} and queue_name > holding.name) from holding where holding.name is not null)
    select json_group_array(name) from holding where name is not null
"""
_PROMOTE = """
    update task set state = 'pending' where id in (
        select task.id from json_each(?1) as queue cross join task
        where task.state = 'scheduled' and task.queue_name = queue.value and task.run_at <= ?2
            and queue.value not in (select queue_name from paused_queue)
        limit ?3)
"""
SELECT_DUE = """
    select json_group_array(id) from (
        select id from task
        where state = 'pending' and queue_name = ?1 and ?1 not in (select queue_name from paused_queue)
        order by priority desc, run_at, id limit ?2)
"""
_CLAIM = f"""
    update task set state = 'running', epoch = ifnull(min(epoch, {MAX_COUNT}), 0) + 1,
        claimed_at = ?2, lease_until = ?3, worker = ?4
    where id in (select value from json_each(?1))
"""
_ANY_LARGE_BODY = "select exists (select 1 from large_body)"
_LARGE_BODIES = "select task_id, length(body) from large_body where task_id in (select value from json_each(?))"
_CURRENT_LEASES = """
    select json_group_array(json_array(id, cast(epoch as integer), worker, cancel_requested is 1)) from task
    where state = 'running' and id in (select value from json_each(?))
"""
_EXTEND = "update task set lease_until = ?2 where id in (select value from json_each(?1))"
_HELD = """
    select json_group_array(json_array(id, cast(epoch as integer), worker)) from task
    where state = 'running' and worker = ?
"""
_LEASE = "id, cast(epoch as integer) as epoch, ifnull(worker, '') as worker"
_LEASELESS = f"""
    select * from (
        select {_LEASE}, 0.0 as lease_until from task
        where state = 'running' and {{condition}} and (0.0, id) > (?3, ?4) order by +id limit ?5)
"""
_LAPSED = f"""
    select json_group_array(json_array(id, epoch, worker, {ticks_of("lease_until")})) from (
        {_LEASELESS.format(condition="lease_until is null")}
        union all {_LEASELESS.format(condition="lease_until > ?2")}
        union all select * from (
            select {_LEASE}, lease_until from task
            where state = 'running' and lease_until <= ?1 and (lease_until, id) > (?3, ?4)
            order by lease_until, id limit ?5)
        order by lease_until, id limit ?5)
"""
_SELECT_UNRENEWED = f"""
    with seen as materialized (select value from json_each(?1))
    select json_group_array(id) from seen cross join task on id = value ->> 0
    where state = 'running' and cast(epoch as integer) = value ->> 1 and ifnull(worker, '') = value ->> 2
        and (lease_until <= min({time_at(3)}, ?2) or lease_until is null or lease_until > ?3)
"""
_REAP = f"""
    update task set state = 'pending', lease_until = null, worker = null,
        crashes = ifnull(min(crashes, {MAX_COUNT}), 0) + not exists (
            select 1 from worker where name = task.worker and last_seen > task.lease_until)
    where id in (select value from json_each(?))
"""


class _CurrentLease(Struct, array_like=True, frozen=True, gc=False):
    task_id: str
    epoch: int
    worker: str
    cancel_requested: int


class _Lapsed(Struct, array_like=True, frozen=True, gc=False):
    task_id: str
    epoch: int
    worker: str
    lease_until: int


_decode_leases = msgspec.json.Decoder(list[_CurrentLease]).decode
_decode_held = msgspec.json.Decoder(list[tuple[str, int, str]]).decode
_decode_lapsed = msgspec.json.Decoder(list[_Lapsed]).decode


def holding(connection: sqlite3.Connection, queues: Sequence[str]) -> Sequence[str]:
    """The queues among these that may have something to claim: a walk from one name to the next in the index."""
    if len(queues) <= MANY_QUEUES:
        return queues
    states = ("pending", "scheduled")
    found = {name for state in states for name in fetch_texts(connection, _HOLDING.format(state=state))}
    return [queue for queue in queues if queue in found]


def claim_tasks(
    connection: sqlite3.Connection,
    queues: Sequence[str],
    limit: int,
    lease: float,
    worker: str,
    max_bytes: int = MAX_BYTES,
) -> list[TaskRecord]:
    """The tasks claimed, in the order of the claim."""
    now = clock.now()
    queues = holding(connection, list(dict.fromkeys(queues)))
    connection.execute(_PROMOTE, (encode(queues), now, max(limit, PROMOTE_LIMIT)))
    ids: list[str] = []
    for queue in queues:
        if len(ids) < limit:
            ids += _named(connection, fetch_texts(connection, SELECT_DUE, queue, limit - len(ids)))
    ids = _affordable(connection, ids, max_bytes)
    if ids:
        connection.execute(_CLAIM, (encode(ids), now, now + lease, worker))
    return _fetch_claimed(connection, ids)


def _fetch_claimed(connection: sqlite3.Connection, ids: Sequence[str]) -> list[TaskRecord]:
    """The tasks, of which damaged ones get stand-ins in the file too, so that their claims can be ended like others."""
    try:
        return fetch_sound_tasks(connection, ids)
    except DAMAGE as error:
        check_damage(error)
    damage = give_stand_ins(connection, ids)
    return [replace(task, damage=damage.get(task.id)) for task in fetch_tasks(connection, ids)]


def _named(connection: sqlite3.Connection, ids: Sequence[str]) -> list[str]:
    """Those ids by which a task can be told; the tasks of the others are set aside, as dead letters."""
    named = [id_ for id_ in ids if is_named(id_)]
    if len(named) < len(ids):
        give_stand_ins(connection, [id_ for id_ in ids if not is_named(id_)], set_aside=True)
    return named


def _affordable(connection: sqlite3.Connection, ids: list[str], max_bytes: int) -> list[str]:
    """The first of the tasks, whose large bodies have no more than `max_bytes` together; small ones aren't counted."""
    if not ids or not connection.execute(_ANY_LARGE_BODY).fetchone()[0]:
        return ids
    sizes = dict(connection.execute(_LARGE_BODIES, [encode(ids)]))
    totals = accumulate(sizes.get(id_, 0) for id_ in ids)
    return ids[: next((max(1, count) for count, total in enumerate(totals) if total > max_bytes), len(ids))]


def extend_leases(connection: sqlite3.Connection, leases: Sequence[Lease], lease: float) -> list[LeaseStatus]:
    """What was found of each lease."""
    ids = encode([lease.task_id for lease in leases])
    current = {row.task_id: row for row in _decode_leases(fetch_text(connection, _CURRENT_LEASES, ids))}
    statuses = [_status(current.get(lease.task_id), lease) for lease in leases]
    if held := [lease.task_id for lease, status in zip(leases, statuses, strict=True) if status.held]:
        connection.execute(_EXTEND, (encode(held), clock.now() + lease))
    return statuses


def _status(current: _CurrentLease | None, lease: Lease) -> LeaseStatus:
    if current is None or (current.epoch, current.worker) != (lease.epoch, lease.worker):
        return LeaseStatus(held=False)
    return LeaseStatus(held=True, cancel_requested=bool(current.cancel_requested))


def held_leases(connection: sqlite3.Connection, worker: str) -> list[Lease]:
    """The leases that a worker holds."""
    return [Lease(*row) for row in _decode_held(fetch_text(connection, _HELD, worker))]


def lapsed_leases(connection: sqlite3.Connection, limit: int, after: LapsedLease | None) -> list[LapsedLease]:
    """Leases that have run out, in order."""
    start = (-math.inf, "") if after is None else (after.lease_until, after.task_id)
    now = clock.now()
    rows = _decode_lapsed(fetch_text(connection, _LAPSED, now, now + MAX_LEASE, *start, limit))
    return [LapsedLease(row.task_id, row.epoch, row.worker, to_seconds(row.lease_until)) for row in rows]


def reap_tasks(connection: sqlite3.Connection, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
    """The tasks that were taken back."""
    now = clock.now()
    seen = encode([(lease.task_id, lease.epoch, lease.worker, to_ticks(lease.lease_until)) for lease in leases])
    if ids := _named(connection, fetch_texts(connection, _SELECT_UNRENEWED, seen, now, now + MAX_LEASE)):
        connection.execute(_REAP, (encode(ids),))
    return fetch_tasks(connection, ids, bodies=False)
