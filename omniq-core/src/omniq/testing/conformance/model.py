"""A queue as plain dicts, built on the rules: what random walks compare a store with, and what they do.

Where the contract leaves a store the choice (which of several equal tasks it hands out, reaps or purges first), the
model is shown what the store chose, checks that it was free to, and follows. Durations are multiples of 1000 seconds
and the clock moves a little further than that (`STEP`), so that no decision hangs on the moment at which a store reads
its clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TypeAlias

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Struct
from msgspec.structs import replace

from omniq import clock
from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.records import (
    NEW,
    Added,
    Change,
    ChangeStatus,
    Lease,
    LeaseStatus,
    NewTask,
    ScheduleRecord,
    TaskRecord,
)
from omniq.testing.builders import IN_LINE, TOLERANCE, assert_same, new_task

Rank: TypeAlias = tuple[int, int, float]
"""Place of the queue in the list, negated priority, `run_at`: the smaller is claimed first."""


class TaskModel:
    """Tasks, and what each verb of the contract must do to them.

    With `ranked`, a higher priority must be claimed first. Methods that are shown the store's answer check
    it; the others return what it must be.
    """

    def __init__(self, *, ranked: bool) -> None:
        self.tasks: dict[str, TaskRecord] = {}
        self._paused: set[str] = set()
        self._ranked = ranked
        self._purged: set[str] = set()
        self._survivors: set[str] = set()
        """Parents of tasks that were purged."""

    def epoch(self, task_id: str) -> int:
        """The task's epoch; 0 where it isn't there."""
        task = self.tasks.get(task_id)
        return 0 if task is None else task.epoch

    def alike(self, task_id: str) -> tuple[TaskState, ...]:
        """The states that the task may be said to be in."""
        task = self.tasks.get(task_id)
        return IN_LINE if task is None or task.state in IN_LINE else (task.state,)

    def add(self, task: NewTask) -> Added:
        holders = {held.unique: id_ for id_, held in self.tasks.items() if held.unique is not None}
        (verdict,) = rules.judge([task], set(self.tasks), holders)
        if verdict == NEW:
            self.tasks[task.id] = rules.new_record(task, clock.now())
        return verdict

    def claim(self, handed: Sequence[TaskRecord], queues: Sequence[str], limit: int, lease: float, worker: str) -> None:
        """Check that these tasks were due, and none that was left should have come before them."""
        due = {task.id for task in self.tasks.values() if task.queue_name in queues and self._is_due(task)}
        _check_choice([record.id for record in handed], due, limit)
        ranks = {id_: self._rank(self.tasks[id_], queues) for id_ in due}
        for record in handed:
            mine = ranks.pop(record.id)
            assert not any(_precedes(other, mine) for other in ranks.values()), f"{record.id} came too early"
        for record in handed:
            self._follow(record, rules.claimed(self.tasks[record.id], clock.now(), lease=lease, worker=worker))

    def extend(self, lease: Lease, seconds: float) -> LeaseStatus:
        task = self.tasks.get(lease.task_id)
        if task is None or task.state is not TaskState.RUNNING or task.epoch != lease.epoch:
            return LeaseStatus(held=False)
        self.tasks[task.id] = replace(task, lease_until=clock.now() + seconds)
        return LeaseStatus(held=True, cancel_requested=task.cancel_requested)

    def reap(self, reaped: Sequence[TaskRecord], limit: int) -> None:
        """Check that these leases had run out."""
        now = clock.now()
        lapsed = {task.id for task in self.tasks.values() if task.lease_until is not None and task.lease_until <= now}
        _check_choice([record.id for record in reaped], lapsed, limit)
        for record in reaped:
            expected = rules.reaped(self.tasks[record.id], None)
            assert_same(record, replace(expected, body=b""))
            self.tasks[record.id] = expected

    def transition(self, change: Change) -> ChangeStatus:
        status, record = rules.decide(self.tasks.get(change.task_id), change, clock.now())
        if record is not None:
            self.tasks[record.id] = record
        return status

    def purge(self, left: Iterable[str], older_than: float, limit: int) -> int:
        """Check that what isn't left was old and not waited for; returns how many those are."""
        before = clock.now() - older_than
        old = {task.id for task in self.tasks.values() if task.finished_at is not None and task.finished_at < before}
        waiting = [task for task in self.tasks.values() if task.state is TaskState.WAITING]
        gone = self.tasks.keys() - set(left)
        _check_choice(gone, old - {parent for task in waiting for parent in task.depends_on}, limit)
        self._survivors.update(parent for id_ in gone for parent in self.tasks[id_].depends_on)
        self.tasks = {id_: task for id_, task in self.tasks.items() if id_ not in gone}
        self._purged |= gone
        return len(gone)

    def pause(self, queue_name: str, *, paused: bool) -> None:
        (self._paused.add if paused else self._paused.discard)(queue_name)

    def check(self, task_id: str, record: TaskRecord | None) -> None:
        """Compare with what the store holds; PENDING and SCHEDULED are one where `run_at` has come."""
        assert_same(_settled(record), _settled(self.tasks.get(task_id)))

    def check_children(self, task_id: str, children: Sequence[str]) -> None:
        """Compare with the edges that the store holds; a purged task of that id blurs them."""
        if task_id not in self._purged:
            assert sorted(children) == sorted(self._children(task_id))

    def check_has_children(self, task_id: str, *, said: bool) -> None:
        """A task with children that wait has some; one that never had any has none."""
        children = self._children(task_id)
        waits = any(self.tasks[child].state is TaskState.WAITING for child in children)
        assert task_id in self._purged or waits <= said <= (bool(children) or task_id in self._survivors)

    def _children(self, task_id: str) -> set[str]:
        return {task.id for task in self.tasks.values() if task_id in task.depends_on}

    def _is_due(self, task: TaskRecord) -> bool:
        ready = task.state in IN_LINE and task.run_at <= clock.now()
        return ready and task.queue_name not in self._paused

    def _rank(self, task: TaskRecord, queues: Sequence[str]) -> Rank:
        return queues.index(task.queue_name), -task.priority if self._ranked else 0, task.run_at

    def _follow(self, record: TaskRecord, expected: TaskRecord) -> None:
        assert_same(record, expected)
        self.tasks[record.id] = expected


class ScheduleModel:
    """Schedules, and what each verb of the contract must do to them; each returns what the store must answer."""

    def __init__(self) -> None:
        self.rows: dict[str, ScheduleRecord] = {}

    def version(self, schedule_id: str) -> int | None:
        row = self.rows.get(schedule_id)
        return None if row is None else row.version

    def put(self, schedule: ScheduleRecord, if_version: int | None) -> bool:
        if self.version(schedule.id) != if_version:
            return False
        self.rows[schedule.id] = replace(schedule, version=(schedule.version if if_version is None else if_version) + 1)
        return True

    def move(self, schedule_id: str, if_version: int, next_run: float | None) -> bool:
        row = self.rows.get(schedule_id)
        return row is not None and self.put(replace(row, next_run=next_run), if_version)

    def delete(self, schedule_id: str) -> bool:
        return self.rows.pop(schedule_id, None) is not None

    def listed(self, *, within: float | None) -> list[ScheduleRecord]:
        """All by id, or the active ones whose slot has come by then."""
        by = clock.now() + (within or 0.0)
        rows = [self.rows[id_] for id_ in sorted(self.rows)]
        if within is None:
            return rows
        return [row for row in rows if not row.paused and row.next_run is not None and row.next_run <= by]


def _check_choice(chosen: Collection[str], eligible: set[str], limit: int) -> None:
    """As many as there are and the limit allows, each once, none that isn't eligible."""
    assert len(chosen) == len(set(chosen)) == min(limit, len(eligible))
    assert set(chosen) <= eligible


def _precedes(one: Rank, other: Rank) -> bool:
    return one[:2] < other[:2] or (one[:2] == other[:2] and one[2] < other[2] - TOLERANCE)


def _settled(record: TaskRecord | None) -> TaskRecord | None:
    if record is None or record.state is not TaskState.SCHEDULED:
        return record
    return replace(record, state=rules.due_state(record.run_at, clock.now()))


TASK_IDS = [f"t{n}" for n in range(6)]


SLOT_IDS = ["s-slot-0", "s-slot-1"]


QUEUES = ["first", "second"]


SCHEDULE_IDS = ["r", "s"]


STEP = 1003.0


IDS = st.sampled_from(TASK_IDS)


NUMBERS = st.integers(0, 11)
"""Which of the tasks that there are."""


OFFSETS = st.sampled_from([0, 0, 0, -1, 1])
"""How far an epoch or a version is from the right one: mostly not at all."""


SECONDS = st.sampled_from([0.0, 1000.0, 2000.0])


SLOTS = st.sampled_from([None, -500.0, 500.0, 1500.0])
"""Seconds from now to a schedule's next slot, if it has one."""


LEASES = st.sampled_from([1000.0, 3000.0])


LIMITS = st.integers(1, 4)


ENDS = st.sampled_from(sorted(TERMINAL))


FROM_STATES = st.just(()) | st.sampled_from(
    [
        (TaskState.RUNNING,),
        IN_LINE,
        (*IN_LINE, TaskState.WAITING),
        (TaskState.ERROR, TaskState.CANCELLED, TaskState.EXPIRED),
        tuple(TaskState),
    ]
)
"""Empty for the state that the task is in."""


TASKS = st.builds(
    new_task,
    IDS,
    queue=st.sampled_from(QUEUES),
    priority=st.integers(-1, 1),
    delay=st.just(0.0) | SECONDS,
    ttl=st.sampled_from([None, 1000.0, 3000.0]),
    parents=st.just(()) | st.lists(IDS, max_size=2, unique=True).map(tuple),
    unique=st.sampled_from([None, None, "key"]),
)


class Wish(Struct, frozen=True):
    """A change to one of the tasks that there are; epoch and `from_states` are still relative to that task."""

    number: int
    change: Change


def _changes(to: SearchStrategy[TaskState], **effects: SearchStrategy[object]) -> SearchStrategy[Change]:
    return st.builds(Change, task_id=st.just(""), to=to, from_states=FROM_STATES, epoch=st.none() | OFFSETS, **effects)


CHANGES = st.one_of(
    _changes(ENDS, attempted=st.booleans(), crashed=st.booleans()),
    _changes(st.just(TaskState.PENDING), delay=st.none() | SECONDS, attempted=st.booleans(), crashed=st.booleans()),
    _changes(st.just(TaskState.PENDING), fresh=st.just(True)),
    _changes(st.just(TaskState.EXPIRED), if_expired=st.just(True)),
    _changes(st.just(TaskState.CANCELLED), request_cancel=st.just(True)),
)


WISHES = st.builds(Wish, NUMBERS, CHANGES)
