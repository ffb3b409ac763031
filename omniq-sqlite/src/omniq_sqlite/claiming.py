"""Handing out tasks, keeping them, and taking them back from the dead."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from itertools import accumulate

from omniq import clock
from omniq.storage.records import MAX_COUNT, Lease, LeaseStatus, TaskRecord
from omniq.storage.sql.claiming import holding

from omniq_sqlite.damage import set_nameless_aside, write_stand_ins
from omniq_sqlite.dialect import carry_out
from omniq_sqlite.wire import encode, fetch_rows, fetch_tasks, fetch_texts

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
    select id from task
    where state = 'pending' and queue_name = ?1 and ?1 not in (select queue_name from paused_queue)
    order by priority desc, run_at, id limit ?2
"""
_CLAIM = f"""
    update task set state = 'running', epoch = ifnull(min(epoch, {MAX_COUNT}), 0) + 1,
        claimed_at = ?2, lease_until = ?3, worker = ?4
    where id in (select value from json_each(?1))
"""
_LARGE_BODIES = """
    select task_id, length(body) from large_body
    where exists (select 1 from large_body) and task_id in (select value from json_each(?))
"""
_OF_LEASES = """
    (select key as number, value from json_each(?1)) cross join task on id = value ->> 0
    where state = 'running' and cast(epoch as integer) = value ->> 1 and ifnull(worker, '') = value ->> 2
"""
_STILL_HELD = f"select number, cancel_requested is 1 from {_OF_LEASES}"
_EXTEND = "update task set lease_until = ?2 where id in (select value from json_each(?1))"


def claim_tasks(
    connection: sqlite3.Connection, queues: Sequence[str], *, limit: int, lease: float, worker: str, max_bytes: int
) -> list[TaskRecord]:
    """As `BaseTaskQueue.claim`."""
    now = clock.now()
    queues = carry_out(connection, partial(holding, queues))
    connection.execute(_PROMOTE, (encode(queues), now, max(limit, PROMOTE_LIMIT)))
    ids: list[str] = []
    for queue in queues:
        if len(ids) < limit:
            due = fetch_texts(connection, SELECT_DUE, queue, limit - len(ids))
            ids += set_nameless_aside(connection, due)
    if not ids:
        return []
    ids = _affordable(connection, ids, max_bytes)
    connection.execute(_CLAIM, (encode(ids), now, now + lease, worker))
    tasks = fetch_tasks(connection, ids)
    write_stand_ins(connection, tasks)
    return tasks


def _affordable(connection: sqlite3.Connection, ids: list[str], max_bytes: int) -> list[str]:
    """The first of the tasks, whose large bodies have no more than `max_bytes` together; small ones aren't counted."""
    sizes = dict(connection.execute(_LARGE_BODIES, [encode(ids)]))
    totals = accumulate(sizes.get(id_, 0) for id_ in ids)
    return ids[: next((max(1, count) for count, total in enumerate(totals) if total > max_bytes), len(ids))]


def extend_leases(connection: sqlite3.Connection, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
    """As `BaseTaskQueue.extend`."""
    asked = encode([(held.task_id, held.epoch, held.worker) for held in leases])
    cancels = dict(fetch_rows(connection, 2, _STILL_HELD, asked))
    connection.execute(_EXTEND, (encode([leases[number].task_id for number in cancels]), clock.now() + lease))
    return [LeaseStatus(number in cancels, bool(cancels.get(number))) for number in range(len(leases))]
