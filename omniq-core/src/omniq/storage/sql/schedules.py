"""Schedules, in the table `schedule`, and the workers that were seen, in `worker`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import asdict

from omniq.storage.damage import worker_of
from omniq.storage.records import Firing, ScheduleRecord, WorkerRecord
from omniq.storage.sql.steps import Given, Statement, Steps, ask, conditions, do, kinds, select, write
from omniq.storage.sql.tables import SCHEDULES

_INSERT = """
    insert into omniq.schedule (id, queue_name, body, next_run, paused, version)
    values (:id, :queue_name, :body, :next_run, :paused, cast(:version as bigint) + 1) on conflict (id) do nothing
"""
_UPDATE = """
    update omniq.schedule set queue_name = :queue_name, body = :body, next_run = :next_run, paused = :paused,
        version = version + 1
    where id = :id and version = :version
"""
_FIND = "select {{columns}} from omniq.schedule where {where} order by id"
_TERMS: Final = {"ids": "id {any[ids]}", "within": "paused = {false} and next_run <= {now} + :within"}
_DELETE = "delete from omniq.schedule where id = :id"

_FIRED: Final = kinds("schedule_id text, if_version bigint, next_run time")
_ADVANCE = """
    with {given}, due as (
        select schedule.id, given.next_run from given join omniq.schedule as schedule
            on schedule.id = given.schedule_id and schedule.version = given.if_version
        order by schedule.id {lock})
    update omniq.schedule as schedule set next_run = due.next_run, version = schedule.version + 1
    from due where schedule.id = due.id
"""
"""Locked in the order of their ids, so that two schedulers never wait for each other."""
_AT_ANOTHER_VERSION = """
    with {given}
    select given.schedule_id from given left join omniq.schedule as schedule
        on schedule.id = given.schedule_id and schedule.version = given.if_version
    where schedule.id is null
"""

_BEAT = """
    insert into omniq.worker (name, last_seen, report) values (:name, {now}, :report)
    on conflict (name) do update set last_seen = excluded.last_seen, report = excluded.report
"""
_LEAVE = "delete from omniq.worker where name = :name"
_FORGET = "delete from omniq.worker where last_seen <= {now} - :older_than"
_SEEN = "select name, report, last_seen from omniq.worker order by name"


def put_schedule(schedule: ScheduleRecord, *, if_version: int | None) -> Steps[bool]:
    """As `BaseTaskQueue.put_schedule`."""
    values = asdict(schedule)
    if if_version is None:
        return (yield from do(_INSERT, **values)) == 1
    return (yield from do(_UPDATE, **values | {"version": if_version})) == 1


def schedules(ids: Sequence[str] | None = None, *, within: float | None = None) -> Steps[list[ScheduleRecord]]:
    """As `BaseTaskQueue.schedules`."""
    values: dict[str, Any] = {"ids": ids, "within": within}
    return (yield from select(SCHEDULES, _FIND.format(where=conditions(_TERMS, values)), **values)).records


def delete_schedule(schedule_id: str) -> Steps[bool]:
    """As `BaseTaskQueue.delete_schedule`."""
    return (yield from do(_DELETE, id=schedule_id)) == 1


def advance(firings: Sequence[Firing]) -> Steps[set[str]]:
    """Move the schedules to their next slots that have these versions; returns which had."""
    given = Given.of(_FIRED, firings)
    return (
        yield from write("schedule.id", _ADVANCE, given, unchanged=partial(Statement, _AT_ANOTHER_VERSION, {}, given))
    )


def beat(worker: WorkerRecord, *, leaving: bool = False) -> Steps[None]:
    """As `BaseTaskQueue.beat`."""
    if leaving:
        yield from do(_LEAVE, name=worker.name)
    else:
        yield from do(_BEAT, name=worker.name, report=msgspec.json.encode(worker).decode())


def workers() -> Steps[list[WorkerRecord]]:
    """As `BaseTaskQueue.workers`."""
    return [worker_of(*row) for row in (yield from ask(("text", "text", "time"), _SEEN))]


def forget_workers(older_than: float) -> Steps[int]:
    """Forget those that weren't seen for so many seconds; returns how many."""
    return (yield from do(_FORGET, older_than=older_than))
