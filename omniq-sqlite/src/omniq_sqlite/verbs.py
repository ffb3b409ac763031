"""The verbs of the contract as SQL that only SQLite has: claiming, settling, finding; and rows that make no sense."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from itertools import accumulate
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from omniq import clock
from omniq.models.task import TERMINAL, TaskState
from omniq.storage.records import MAX_COUNT, Change, Lease, LeaseStatus, NewBody, TaskFilter, TaskPage, TaskRecord
from omniq.storage.sql import MEND, TASKS, Given, Steps, ask, call, claiming, do, get, kinds, mended, texts
from omniq.storage.sql.claiming import SET_CHANGED, Decided, Ending, Seen, Settled, changed, holding, with_children
from omniq.storage.sql.queue import DELETE_EDGES, restrictions, select_ended, select_old
from omniq.storage.sql.results import NEW, PUT

from omniq_sqlite.codec import LARGE_BODY, as_blob, encode, fetch_rows, fetch_tasks, fetch_texts, is_named, reader
from omniq_sqlite.dialect import carry_out

# ── damaged rows ────────────────────────────────────────────────────────────


def write_stand_ins(connection: sqlite3.Connection, tasks: Iterable[TaskRecord]) -> None:
    """Write the stand-ins of those of the tasks that are damaged in place of what they stand for."""
    damaged = [task.id for task in tasks if task.damage is not None]
    for task in fetch_tasks(connection, damaged):
        _write_stand_in(connection, task.id, task)


def set_nameless_aside(connection: sqlite3.Connection, ids: Sequence[str]) -> list[str]:
    """Those ids by which a task can be told; the tasks of the others become dead letters."""
    nameless = [id_ for id_ in ids if not is_named(id_)]
    for id_, task in zip(nameless, reader(TASKS).fetch(connection, nameless), strict=True):
        if task is not None:
            ended = task.finished_at or 0.0
            _write_stand_in(connection, id_, replace(task, state=TaskState.ERROR, finished_at=ended, lease_until=None))
    return [id_ for id_ in ids if is_named(id_)] if nameless else list(ids)


def _write_stand_in(connection: sqlite3.Connection, id_: str, task: TaskRecord) -> None:
    body = None if len(task.body) > LARGE_BODY else task.body
    carry_out(connection, partial(do, MEND, **mended(task) | {"id": as_blob(id_), "body": body}))


# ── claiming ────────────────────────────────────────────────────────────────


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


# ── settling ────────────────────────────────────────────────────────────────


_ENDING: Final = kinds("id text, epoch integer")
_HELD: Final = """
    with {given}
    select count(*), count((select 1 from omniq.edge where parent = task.id limit 1))
    from given cross join omniq.task as task on task.id = given.id
    where state = 'running' and task.epoch = given.epoch and (:worker is null or worker = :worker)
"""
"""How many are, and how many of those have children: one statement for all, since a thread may wait for the GIL after
each."""
END: Final = f"""
    update omniq.task set state = :state, finished_at = :now, lease_until = null, unique_key = null,
        attempts = min(attempts, {MAX_COUNT}) + :attempted, crashes = min(crashes, {MAX_COUNT}) + :crashed
    where id {{any[ids]}}
"""
UPDATE: Final = f"with {{given}} update omniq.task set {SET_CHANGED} from given where task.id = given.id"
_HAS_OLD = """
    select 1 from task left join large_body on large_body.task_id = task.id
    where task.id = ? and coalesce(task.body, large_body.body) = ?
"""
_REPLACE = "update task set body = ? where id = ?"
_DELETE_ONE_LARGE = "delete from large_body where task_id = ?"
INSERT_LARGE = "insert into large_body (task_id, body) values (?, ?)"


def settle(changes: Sequence[Change]) -> Steps[Settled]:
    """Apply the changes whose conditions hold, all at once: nobody else writes meanwhile.

    A damaged task is decided by its stand-ins, which are written only with a change.
    """
    settled = Settled(parents=set())
    end, look = partial(_end, settled), partial(_look, settled)
    return (yield from claiming.settle(changes, settled, end=end, look=look, write=_write))


def _end(settled: Settled, ending: Ending, changes: Sequence[Change]) -> Steps[Collection[str]]:
    """All tasks, if all are held."""
    ids = [change.task_id for change in changes]
    held = ask(("integer", "integer"), _HELD, Given.of(_ENDING, changes, id=ids), worker=ending.worker)
    ((count, parents),) = yield from held
    if count < len(ids):
        return ()
    yield from do(END, ids=ids, **ending._asdict())
    yield from _put_results(changes, clock.now())
    yield from _note_parents(settled, ids if parents else ())
    return set(ids)


def _look(settled: Settled, ids: Sequence[str]) -> Steps[Seen]:
    tasks = yield from get(TASKS, ids, bodies=False)
    yield from _note_parents(settled, ids)
    return Seen({task.id: task for task in tasks if task is not None}, clock.now())


def _note_parents(settled: Settled, ids: Sequence[str]) -> Steps[None]:
    if ids and settled.parents is not None:
        settled.parents |= yield from with_children(ids)


def _write(decided: Decided) -> Steps[Collection[str]]:
    (found, now, _), changes, records = decided
    yield from call(partial(write_stand_ins, tasks=[found[record.id] for record in records]))
    yield from do(UPDATE, changed(records))
    yield from _put_results(changes, now)
    return found


def _put_results(changes: Sequence[Change], now: float) -> Steps[None]:
    if results := [change.result for change in changes if change.result is not None]:
        yield from do(PUT, Given.of(NEW, results), now=now)


def replace_task_bodies(connection: sqlite3.Connection, bodies: Sequence[NewBody]) -> list[bool]:
    """As `BaseTaskQueue.replace_bodies`."""
    return [_replace(connection, new) for new in bodies]


def _replace(connection: sqlite3.Connection, new: NewBody) -> bool:
    if connection.execute(_HAS_OLD, (new.task_id, new.old)).fetchone() is None:
        return False
    is_large = len(new.body) > LARGE_BODY
    connection.execute(_DELETE_ONE_LARGE, (new.task_id,))
    if is_large:
        connection.execute(INSERT_LARGE, (new.task_id, new.body))
    connection.execute(_REPLACE, (None if is_large else new.body, new.task_id))
    return True


# ── finding ─────────────────────────────────────────────────────────────────


_QUEUED = "state in ('pending', 'scheduled', 'waiting')"
_NO_STATE = " and ".join(f"state <> '{state}'" for state in TaskState)
"""Both to the letter as in the indexes: else SQLite doesn't see that they serve."""
_SCAN = "select id from task indexed by {index} where {restrictions}"
_SCAN_QUEUES = """
    with recursive ended (queue) as (
        select min(queue_name) from task indexed by {index} where {states}
        union all
        select (select min(queue_name) from task indexed by {index} where {states} and queue_name > ended.queue)
        from ended where ended.queue is not null)
    select task.id from ended cross join task on task.id in (
        select id from task indexed by {index} where {restrictions} and queue_name = ended.queue
        order by id {order} limit :limit)
"""
"""The first ones of each queue, from which the first of all are taken."""
_COUNT_SOME = "select count(*) from (select 1 from task indexed by {index} where {states} limit {limit})"
FEW = 20_000
"""Tasks of a state that are looked through for a name, at most; else those of the name are for the state."""

_RESTING = "select queue_name, '{0}', count(*) from task where state = '{0}' group by 1"
_DAMAGED = f"select queue_name, state, count(*) from task where {_NO_STATE} group by 1, 2"
COUNT = " union all ".join([*map(_RESTING.format, TaskState), _DAMAGED])
OLDEST = """
    with recursive rank (queue, priority) as (
        select value, (select max(priority) from task where state = 'pending' and queue_name = value)
            from json_each(:queues)
        union all select queue, (select max(priority) from task
            where state = 'pending' and queue_name = queue and priority < rank.priority)
            from rank where rank.priority is not null)
    select queue, min(run_at) from (
        select queue, (select min(run_at) from task
            where state = 'pending' and queue_name = queue and priority = rank.priority) as run_at from rank
        union all select value, (select min(run_at) from task
            where state = 'scheduled' and queue_name = value and run_at <= :now) from json_each(:queues))
    where run_at is not null group by queue
"""
"""The first task of each priority is looked up."""
_DELETE = "delete from omniq.task where id {any[ids]}"
_DELETE_NAMELESS = "delete from omniq.task where id in ({text[id]}, :id)"
_DELETE_LARGE = "delete from omniq.large_body where task_id {any[ids]}"


def find_tasks(
    where: TaskFilter,
    *,
    newest_first: bool = False,
    limit: int = 100,
    cursor: str | None = None,
    bodies: bool = False,
) -> Steps[TaskPage]:
    """As `BaseTaskQueue.find`; the cursor is the last id."""
    after = None if cursor is None else as_blob(cursor)
    restricted, values = restrictions(where, after, newest_first=newest_first)
    ids: list[str] = []
    for scan in (yield from scans(where)):
        text = scan.sql(restricted, order="desc" if newest_first else "asc")
        ids += yield from texts(text, limit=limit + 1, **values)
    page = sorted(ids, key=as_blob, reverse=newest_first)[:limit]
    tasks = yield from get(TASKS, page, bodies=bodies)
    return TaskPage([task for task in tasks if task is not None], page[-1] if len(ids) > limit else None)


class Scan(Struct, frozen=True):
    """A walk through an index that finds tasks of some states."""

    index: str
    states: str = "true"
    by_queue: bool = False
    """Whether the index is in the order of ids within each queue only, and all queues are wanted."""

    def sql(self, restrictions: str, *, order: str) -> str:
        """SQL for the first `:limit` ids that are found, in order."""
        walk = (_SCAN_QUEUES if self.by_queue else _SCAN).format(
            index=self.index,
            states=self.states,
            restrictions=f"{self.states} and {restrictions}",
            order=order,
        )
        return f"select id from ({walk} order by id {order} limit :limit)"


def scans(where: TaskFilter) -> Steps[list[Scan]]:
    """What together finds the wanted tasks, each by the index with the fewest rows."""
    listed = ", ".join(f"'{state}'" for state in where.states)
    any_of = f"state in ({listed})" if listed else "true"
    if where.expired:
        return [Scan("task_expiring", f"{_QUEUED} and {any_of}")]
    if where.schedule_id is not None:
        return [Scan("task_of_schedule", any_of)]
    if where == TaskFilter():
        return [Scan("sqlite_autoindex_task_1")]
    of_states = [_scan(state, where) for state in dict.fromkeys(where.states)]
    if where.name is not None and not (of_states and (yield from _are_few(of_states))):
        return [Scan("task_of_name", any_of)]
    return of_states or [*(_scan(state, where) for state in TaskState), Scan("task_of_no_state", _NO_STATE)]


def _scan(state: TaskState, where: TaskFilter) -> Scan:
    if state in TERMINAL:
        return Scan("task_ended", f"state = '{state}'", by_queue=where.queue_name is None)
    return Scan(f"task_{state}", f"state = '{state}'")


def _are_few(scans: Sequence[Scan]) -> Steps[bool]:
    count = 0
    for scan in scans:
        text = _COUNT_SOME.format(index=scan.index, states=scan.states, limit=FEW)
        ((found,),) = yield from ask(("integer",), text)
        count += found
    return count < FEW


def purge_tasks(older_than: float, states: Collection[TaskState], limit: int) -> Steps[int]:
    """How many were deleted."""
    old = yield from select_old(older_than, states, limit)
    for id_ in old:
        if not is_named(id_):
            yield from do(_DELETE_NAMELESS, id=as_blob(id_))
    yield from _delete([id_ for id_ in old if is_named(id_)])
    return len(old)


def delete_tasks(ids: Sequence[str], *, states: Collection[TaskState] = TERMINAL) -> Steps[list[bool]]:
    """As `BaseTaskQueue.delete`."""
    gone = yield from select_ended(ids, states)
    yield from _delete(gone)
    return [id_ in gone for id_ in ids]


def _delete(ids: Sequence[str]) -> Steps[None]:
    for sql in (DELETE_EDGES, _DELETE_LARGE, _DELETE):
        yield from do(sql, ids=ids)
