"""Handing out tasks, keeping them, and taking them back from the dead."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import accumulate

import msgspec
from msgspec import Struct
from omniq import clock
from omniq.batching import MAX_BYTES
from omniq.storage.records import Lease, LeaseStatus, TaskRecord

from omniq_sqlite.wire import decode_texts, encode, fetch_tasks, fetch_text

PROMOTE_LIMIT = 1000
"""SCHEDULED tasks that one claim makes PENDING at most, however few it is asked for."""

_PROMOTE = """
    update task set state = 'pending' where id in (
        select task.id from json_each(?1) as queue cross join task
        where task.state = 'scheduled' and task.queue_name = queue.value and task.run_at <= ?2
            and queue.value not in (select queue_name from paused_queue)
        limit ?3)
"""
SELECT_DUE = """
    select json_array(json_group_array(id), json_group_array(size)) from (
        select id, (select length(body) from large_body where task_id = task.id) as size from task
        where state = 'pending' and queue_name = ?1 and ?1 not in (select queue_name from paused_queue)
        order by priority desc, run_at, id limit ?2)
"""
_CLAIM = """
    update task set state = 'running', epoch = epoch + 1, claimed_at = ?2, lease_until = ?3, worker = ?4
    where id in (select value from json_each(?1))
"""
_CURRENT_LEASES = """
    select json_group_array(json_array(id, epoch, cancel_requested)) from task
    where state = 'running' and id in (select value from json_each(?))
"""
_EXTEND = "update task set lease_until = ?2 where id in (select value from json_each(?1))"
_ANY_LAPSED = "select exists (select 1 from task where state = 'running' and lease_until <= ?)"
_SELECT_LAPSED = """
    select json_group_array(id) from (
        select id from task where state = 'running' and lease_until <= ? order by lease_until limit ?)
"""
_REAP = """
    update task set state = 'pending', crashes = crashes + 1, lease_until = null, worker = null
    where id in (select value from json_each(?))
"""


class _CurrentLease(Struct, array_like=True, frozen=True, gc=False):
    task_id: str
    epoch: int
    cancel_requested: int


_decode_due = msgspec.json.Decoder(tuple[list[str], list[int | None]]).decode
_decode_leases = msgspec.json.Decoder(list[_CurrentLease]).decode


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
    queues = list(dict.fromkeys(queues))
    connection.execute(_PROMOTE, (encode(queues), now, max(limit, PROMOTE_LIMIT)))
    ids: list[str] = []
    sizes: list[int | None] = []
    for queue in queues:
        if len(ids) < limit:
            found, large = _decode_due(fetch_text(connection, SELECT_DUE, queue, limit - len(ids)))
            ids += found
            sizes += large
    ids = ids[: _affordable(sizes, max_bytes)]
    if ids:
        connection.execute(_CLAIM, (encode(ids), now, now + lease, worker))
    return fetch_tasks(connection, ids)


def _affordable(sizes: Sequence[int | None], max_bytes: int) -> int:
    """How many of the tasks have large bodies of no more than `max_bytes` together; small ones aren't counted."""
    if not any(sizes):
        return len(sizes)
    totals = accumulate(size or 0 for size in sizes)
    return next((max(1, count) for count, total in enumerate(totals) if total > max_bytes), len(sizes))


def extend_leases(connection: sqlite3.Connection, leases: Sequence[Lease], lease: float) -> list[LeaseStatus]:
    """What was found of each lease."""
    ids = encode([lease.task_id for lease in leases])
    current = {row.task_id: row for row in _decode_leases(fetch_text(connection, _CURRENT_LEASES, ids))}
    statuses = [_status(current.get(lease.task_id), lease) for lease in leases]
    if held := [lease.task_id for lease, status in zip(leases, statuses, strict=True) if status.held]:
        connection.execute(_EXTEND, (encode(held), clock.now() + lease))
    return statuses


def _status(current: _CurrentLease | None, lease: Lease) -> LeaseStatus:
    if current is None or current.epoch != lease.epoch:
        return LeaseStatus(held=False)
    return LeaseStatus(held=True, cancel_requested=bool(current.cancel_requested))


def any_lapsed(connection: sqlite3.Connection) -> bool:
    """Whether `reap_tasks` would find something."""
    return bool(connection.execute(_ANY_LAPSED, (clock.now(),)).fetchone()[0])


def reap_tasks(connection: sqlite3.Connection, limit: int) -> list[TaskRecord]:
    """The tasks that were taken back."""
    ids = decode_texts(fetch_text(connection, _SELECT_LAPSED, clock.now(), limit))
    if ids:
        connection.execute(_REAP, (encode(ids),))
    return fetch_tasks(connection, ids, bodies=False)
