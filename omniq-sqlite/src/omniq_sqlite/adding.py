"""Storing new tasks and their edges to their parents."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from omniq import clock
from omniq.models.state import TaskState
from omniq.storage.records import DUPLICATE, NEW, UNKNOWN_PARENT, Added, NewTask, TaskRecord
from omniq.storage.rules import new_record

from omniq_sqlite.wire import (
    LARGE_BODY,
    Bodies,
    body_at,
    encode,
    fetch_texts,
    maybe_ticks,
    time_at,
    to_ticks,
)

_INSERT = f"""
    with row as materialized (select value from json_each(?1))
    insert into task (id, queue_name, state, priority, created_at, run_at, expires_at, depends_on, schedule_id, name,
        body)
    select value ->> 0, value ->> 1, value ->> 2, value ->> 3, {time_at(4)}, {time_at(5)}, {time_at(6)},
        value ->> 7, value ->> 8, value ->> 9, {body_at(10)}
    from row
"""
_INSERT_LARGE = "insert into large_body (task_id, body) values (?, ?)"
_INSERT_EDGES = "insert or ignore into edge (parent, child) select value ->> 0, value ->> 1 from json_each(?)"
_EXISTING = "select json_group_array(id) from task where id in (select value from json_each(?))"


def add_tasks(connection: sqlite3.Connection, tasks: Sequence[NewTask]) -> tuple[list[Added], bool]:
    """What became of each task, and whether one of them is due."""
    now = clock.now()
    if _is_plain(tasks):
        try:
            return [NEW] * len(tasks), _insert(connection, tasks, now)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
                raise  # else some are there already, and SQLite has undone the statement
    verdicts = _judge(tasks, _existing(connection, tasks))
    return verdicts, _insert(connection, [t for t, v in zip(tasks, verdicts, strict=True) if v is NEW], now)


def _is_plain(tasks: Sequence[NewTask]) -> bool:
    """Whether one statement can add them all, if only none of them is there yet."""
    return len({task.id for task in tasks}) == len(tasks) and not any(task.depends_on for task in tasks)


def _existing(connection: sqlite3.Connection, tasks: Sequence[NewTask]) -> set[str]:
    """Which of the tasks and of their parents are there."""
    ids = {task.id for task in tasks}.union(*(task.depends_on for task in tasks))
    return set(fetch_texts(connection, _EXISTING, encode(ids)))


def _judge(tasks: Sequence[NewTask], known: set[str]) -> list[Added]:
    """What becomes of each task; `known` grows by the new ones."""
    verdicts = []
    for task in tasks:
        if task.id in known:
            verdicts.append(DUPLICATE)
        elif not known.issuperset(task.depends_on):
            verdicts.append(UNKNOWN_PARENT)
        else:
            known.add(task.id)
            verdicts.append(NEW)
    return verdicts


def _insert(connection: sqlite3.Connection, tasks: Sequence[NewTask], now: float) -> bool:
    """Whether one of them is due."""
    records = [new_record(task, now) for task in tasks]
    bodies = Bodies()
    rows = encode([_row(record, bodies) for record in records])
    connection.execute(_INSERT, (rows, bodies.joined()))
    connection.executemany(_INSERT_LARGE, [(r.id, r.body) for r in records if len(r.body) > LARGE_BODY])
    if edges := [(parent, record.id) for record in records for parent in record.depends_on]:
        connection.execute(_INSERT_EDGES, (encode(edges),))
    return any(record.state is TaskState.PENDING for record in records)


def _row(record: TaskRecord, bodies: Bodies) -> tuple[object, ...]:
    return (
        record.id,
        record.queue_name,
        record.state,
        record.priority,
        to_ticks(record.created_at),
        to_ticks(record.run_at),
        maybe_ticks(record.expires_at),
        record.depends_on or None,
        record.schedule_id,
        record.name,
        *(bodies.place(record.body) if len(record.body) <= LARGE_BODY else (None, None)),
    )
