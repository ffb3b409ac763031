"""A queue as plain dicts, built on the rules: what the random walks compare a store with.

The model is told what a store may choose freely (which of several equal tasks it hands out, reaps or
purges first), checks that the choice was legal, and follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from msgspec.structs import replace

from omniq import clock
from omniq.models.state import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.records import (
    Added,
    Change,
    Changed,
    ChangeStatus,
    Lease,
    LeaseStatus,
    NewTask,
    ScheduleRecord,
    TaskRecord,
)
from omniq.testing.conformance.builders import TOLERANCE, assert_same, exactly


class Model:
    """Tasks and schedules, and what each verb must do to them.

    With `ranked`, a higher priority must be claimed first.
    """

    never: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *, ranked: bool) -> None:
        self.tasks: dict[str, TaskRecord] = {}
        self.schedules: dict[str, ScheduleRecord] = {}
        self.paused: set[str] = set()
        self._ranked = ranked
        self._purged: set[str] = set()

    # ── tasks ────────────────────────────────────────────────────────────────

    def add(self, task: NewTask) -> Added:
        if task.id in self.tasks:
            return Added.DUPLICATE
        if not self.tasks.keys() >= set(task.depends_on):
            return Added.UNKNOWN_PARENT
        self.tasks[task.id] = rules.new_record(task, clock.now())
        return Added.NEW

    def claim(self, handed: Sequence[TaskRecord], queues: Sequence[str], limit: int, lease: float, worker: str) -> None:
        """Check that these are the right tasks in the right order, and follow."""
        due = {t.id for t in self.tasks.values() if t.queue_name in queues and self._is_due(t)}
        ids = [record.id for record in handed]
        assert len(set(ids)) == len(ids) == min(limit, len(due))
        assert set(ids) <= due
        rank = self._rank(queues)
        order = [*(rank(self.tasks[id_]) for id_ in ids), *sorted(rank(self.tasks[id_]) for id_ in due - set(ids))]
        for n, later in enumerate(order):
            assert all(_may_precede(earlier, later) for earlier in order[: min(n, len(ids))])
        for record in handed:
            self._follow(record, rules.claimed(self.tasks[record.id], clock.now(), lease=lease, worker=worker))

    def extend(self, lease: Lease, seconds: float) -> LeaseStatus:
        task = self.tasks.get(lease.task_id)
        if task is None or task.state is not TaskState.RUNNING or task.epoch != lease.epoch:
            return LeaseStatus(held=False)
        self.tasks[task.id] = replace(task, lease_until=clock.now() + seconds)
        return LeaseStatus(held=True, cancel_requested=task.cancel_requested)

    def reap(self, reaped: Sequence[TaskRecord], limit: int) -> None:
        """Check that these had lapsed, and follow."""
        now = clock.now()
        lapsed = {t.id for t in self.tasks.values() if t.lease_until is not None and t.lease_until <= now}
        self._check_choice({record.id for record in reaped}, lapsed, len(reaped), limit)
        for record in reaped:
            self._follow(record, rules.reaped(self.tasks[record.id]))

    def transition(self, change: Change) -> Changed:
        status, record = rules.decide(self.tasks.get(change.task_id), change, clock.now())
        if record is not None:
            self.tasks[record.id] = record
        return Changed(status, bool(self.children(change.task_id)))

    def purge(self, left: Iterable[str], count: int, older_than: float, limit: int) -> None:
        """Check that what isn't left any more had to go, and follow."""
        before = clock.now() - older_than
        awaited = {parent for t in self.tasks.values() if t.state is TaskState.WAITING for parent in t.depends_on}
        old = {t.id for t in self.tasks.values() if t.finished_at is not None and t.finished_at < before}
        gone = self.tasks.keys() - set(left)
        self._check_choice(gone, old - awaited, count, limit)
        for task_id in gone:
            del self.tasks[task_id]
        self._purged |= gone

    def children(self, task_id: str) -> set[str]:
        """The ids of the tasks that depend on it."""
        return {task.id for task in self.tasks.values() if task_id in task.depends_on}

    def has_known_children(self, task_id: str) -> bool:
        """Whether the edges of this task are certain: not, if a task of that id was purged before its children."""
        return task_id in self.tasks and task_id not in self._purged

    # ── schedules ────────────────────────────────────────────────────────────

    def version(self, schedule_id: str) -> int | None:
        schedule = self.schedules.get(schedule_id)
        return None if schedule is None else schedule.version

    def put_schedule(self, schedule: ScheduleRecord, if_version: int | None) -> bool:
        if self.version(schedule.id) != if_version:
            return False
        self.schedules[schedule.id] = replace(schedule, version=(if_version or 0) + 1)
        return True

    def fire(self, schedule_id: str, if_version: int, next_run: float | None, task: NewTask) -> bool:
        if self.version(schedule_id) != if_version:
            return False
        self.add(task)
        return self.put_schedule(replace(self.schedules[schedule_id], next_run=next_run), if_version)

    def due_schedules(self) -> set[str]:
        now = clock.now()
        return {s.id for s in self.schedules.values() if not s.paused and s.next_run is not None and s.next_run <= now}

    # ── inside ───────────────────────────────────────────────────────────────
