"""The state machine of a task, as pure functions.

A store that can read and write a task in one atomic step applies these; a store that decides on its
server (SQL, Lua) must decide the same, and the conformance suite compares.
"""

from __future__ import annotations

from msgspec.structs import replace

from omniq.models.state import QUEUED, TERMINAL, TaskState
from omniq.storage.records import Change, ChangeStatus, LapsedLease, NewTask, TaskRecord


def new_record(task: NewTask, now: float) -> TaskRecord:
    """The record of a task that is added now."""
    run_at = now + task.delay if task.run_at is None else task.run_at
    return TaskRecord(
        id=task.id,
        queue_name=task.queue_name,
        body=task.body,
        name=task.name,
        state=TaskState.WAITING if task.depends_on else due_state(run_at, now),
        priority=task.priority,
        created_at=now,
        run_at=run_at,
        expires_at=None if task.ttl is None else run_at + task.ttl,
        depends_on=task.depends_on,
        schedule_id=task.schedule_id,
    )


def due_state(run_at: float, now: float) -> TaskState:
    """SCHEDULED until `run_at`, PENDING from then on."""
    return TaskState.PENDING if run_at <= now else TaskState.SCHEDULED


def claimed(record: TaskRecord, now: float, *, lease: float, worker: str) -> TaskRecord:
    """The record after a claim."""
    return replace(
        record,
        state=TaskState.RUNNING,
        epoch=record.epoch + 1,
        claimed_at=now,
        lease_until=now + lease,
        worker=worker,
    )


def is_unrenewed(record: TaskRecord, seen: LapsedLease, now: float) -> bool:
    """Whether the task is still under the lease that was seen to have run out."""
    return (
        record.state is TaskState.RUNNING
        and (record.epoch, record.worker) == (seen.epoch, seen.worker)
        and record.lease_until is not None
        and record.lease_until <= min(now, seen.lease_until)
    )


def reaped(record: TaskRecord, worker_seen: float | None) -> TaskRecord:
    """The record after its lease was taken from a worker that was last seen at that time, if ever.

    A worker that was seen after the lease ran out is alive: what kept it from renewing isn't the task's fault.
    """
    alive = worker_seen is not None and record.lease_until is not None and worker_seen > record.lease_until
    return replace(
        record,
        state=TaskState.PENDING,
        crashes=record.crashes if alive else record.crashes + 1,
        lease_until=None,
        worker=None,
    )


def is_expired(record: TaskRecord, now: float) -> bool:
    """Whether it waits to be started and may no longer be."""
    return record.state in QUEUED and record.expires_at is not None and record.expires_at <= now


def decide(record: TaskRecord | None, change: Change, now: float) -> tuple[ChangeStatus, TaskRecord | None]:
    """What becomes of a change, and the record to write if it is applied."""
    if record is None:
        return ChangeStatus.MISSING, None
    if change.epoch is not None and record.epoch != change.epoch:
        return ChangeStatus.REFUSED, None
    if change.worker is not None and record.worker != change.worker:
        return ChangeStatus.REFUSED, None
    if record.state not in change.from_states:
        repeated = change.epoch is not None and change.to in TERMINAL and record.state is change.to
        return (ChangeStatus.REPEATED if repeated else ChangeStatus.REFUSED), None
    if change.if_expired and (record.expires_at is None or record.expires_at > now):
        return ChangeStatus.REFUSED, None
    if change.request_cancel:
        return ChangeStatus.APPLIED, replace(record, cancel_requested=True)
    return ChangeStatus.APPLIED, changed(record, change, now)


def changed(record: TaskRecord, change: Change, now: float) -> TaskRecord:
    """The record after a change that is applied."""
    run_at = now if change.fresh else record.run_at if change.delay is None else now + change.delay
    return replace(
        record,
        state=due_state(run_at, now) if change.to is TaskState.PENDING else change.to,
        run_at=run_at,
        attempts=0 if change.fresh else record.attempts + change.attempted,
        crashes=0 if change.fresh else record.crashes + change.crashed,
        expires_at=None if change.fresh else record.expires_at,
        cancel_requested=False if change.fresh else record.cancel_requested,
        finished_at=now if change.to in TERMINAL else None,
        lease_until=None,
        worker=record.worker if change.to in TERMINAL else None,
    )
