"""The tasks of a space and their order. Not thread-safe: the store holds the space's lock."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from heapq import nlargest, nsmallest
from math import inf

from msgspec.structs import replace

from omniq.models.task import TaskState
from omniq.storage import rules
from omniq.storage.records import (
    Added,
    AddStatus,
    Change,
    ChangeStatus,
    LapsedLease,
    Lease,
    LeaseStatus,
    NewBody,
    NewTask,
    QueueStats,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)
from omniq.testing.reference.tables import Index, Key

DUE = (TaskState.PENDING, TaskState.SCHEDULED)


class Line:
    """One queue: what is due, what will be, and how many tasks are in which state."""

    def __init__(self, records: dict[str, TaskRecord]) -> None:
        self.due = Index(records, _due)
        self.later = Index(records, _later)
        self.counts: Counter[TaskState] = Counter()
        self.paused = False


class TaskTable:
    """Every method takes the time as `now` (seconds since the epoch) and is one atomic step."""

    def __init__(self) -> None:
        self._rows: dict[str, TaskRecord] = {}
        self._lines: dict[str, Line] = {}
        self.workers: dict[str, WorkerRecord] = {}
        self._ended = Index(self._rows, _ended)
        self._children: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._holders: dict[str, str] = {}
        """Who holds which unique key."""

    # ── writing ──────────────────────────────────────────────────────────────

    def add(self, tasks: Sequence[NewTask], now: float) -> list[Added]:
        """Store those of the tasks that are new, whose parents are known, and whose keys nobody holds."""
        named = {id_ for task in tasks for id_ in (task.id, *task.depends_on)}
        verdicts = rules.judge(tasks, named & self._rows.keys(), self._holders.copy())
        for task, verdict in zip(tasks, verdicts, strict=True):
            if verdict.status is AddStatus.NEW:
                self.write(rules.new_record(task, now))
                for parent in task.depends_on:
                    self._children[parent][task.id] = None
        return verdicts

    def claim(
        self, queues: Sequence[str], now: float, *, limit: int, max_bytes: int, lease: float, worker: str
    ) -> list[TaskRecord]:
        """Hand out up to `limit` due tasks in order, with bodies of `max_bytes` together."""
        taken: list[TaskRecord] = []
        room = max_bytes
        for line in self._open_lines(queues):
            self._promote(line, now)
            while len(taken) < limit and (row := line.due.first()) is not None:
                room -= len(row.body)
                if room < 0 and taken:
                    return taken
                line.due.take()
                taken.append(self.write(rules.claimed(row, now, lease=lease, worker=worker)))
        return taken

    def extend(self, lease: Lease, until: float) -> LeaseStatus:
        """Let the lease end at `until`, if it is still held."""
        row = self._rows.get(lease.task_id)
        if row is None or row.state is not TaskState.RUNNING or (row.epoch, row.worker) != (lease.epoch, lease.worker):
            return LeaseStatus(held=False)
        self.write(replace(row, lease_until=until))
        return LeaseStatus(held=True, cancel_requested=row.cancel_requested)

    def held(self, worker: str) -> list[Lease]:
        """The leases of one worker."""
        return [
            Lease(row.id, row.epoch, worker)
            for row in self._rows.values()
            if row.state is TaskState.RUNNING and row.worker == worker
        ]

    def lapsed(self, now: float, limit: int, after: LapsedLease | None) -> list[LapsedLease]:
        """Up to `limit` leases that have run out, in order."""
        start = (-inf, "") if after is None else (after.lease_until, after.task_id)
        ended = ((row.lease_until, row.id) for row in self._rows.values() if row.lease_until is not None)
        first = nsmallest(limit, (place for place in ended if start < place and place[0] <= now))
        return [LapsedLease(id_, self._rows[id_].epoch, self._rows[id_].worker or "", until) for until, id_ in first]

    def reap(self, leases: Sequence[LapsedLease], now: float) -> list[TaskRecord]:
        """Put the tasks that are still under these leases back in line."""
        found = [(self._rows.get(seen.task_id), seen) for seen in leases]
        lapsed = [row for row, seen in found if row is not None and rules.is_unrenewed(row, seen, now)]
        return [self.write(rules.reaped(row, self._last_seen(row.worker))) for row in lapsed]

    def _last_seen(self, worker: str | None) -> float | None:
        record = self.workers.get(worker or "")
        return None if record is None else record.last_seen

    def change(self, change: Change, now: float) -> ChangeStatus:
        """Apply the change if its conditions hold."""
        status, row = rules.decide(self._rows.get(change.task_id), change, now)
        if row is not None:
            self.write(row)
        return status

    def replace_body(self, new: NewBody) -> bool:
        """Replace a task's body; returns whether it had the old one."""
        row = self._rows.get(new.task_id)
        if row is None or row.body != new.old:
            return False
        self._rows[row.id] = replace(row, body=new.body)
        return True

    def purge(self, before: float, limit: int) -> int:
        """Delete up to `limit` tasks that ended by that time, except parents that a child waits for."""
        self.workers = {name: worker for name, worker in self.workers.items() if worker.last_seen > before}
        kept: list[TaskRecord] = []
        gone = 0
        while gone < limit and (row := self._ended.take(before)) is not None:
            if self._is_awaited(row.id):
                kept.append(row)
            else:
                self._delete(row)
                gone += 1
        for row in kept:
            self._ended.add(row)
        return gone

    def pause(self, queue_name: str, *, paused: bool) -> None:
        """Let `claim` pass over the queue, or no longer."""
        self._line(queue_name).paused = paused

    def write(self, row: TaskRecord) -> TaskRecord:
        """Put the record in the place of the one that has its id."""
        line = self._line(row.queue_name)
        old = self._rows.get(row.id)
        if old is not None:
            line.counts[old.state] -= 1
            self._holders.pop(old.unique or "", None)
        if row.unique is not None:
            self._holders[row.unique] = row.id
        line.counts[row.state] += 1
        self._rows[row.id] = row
        for index in (line.due, line.later, self._ended):
            index.add(row)
        return row

    # ── reading ──────────────────────────────────────────────────────────────

    def get(self, task_id: str) -> TaskRecord | None:
        """The task, or None."""
        return self._rows.get(task_id)

    def find(self, where: TaskFilter, now: float, *, newest_first: bool, limit: int, cursor: str | None) -> TaskPage:
        """The tasks that match and whose id comes after `cursor`, or before it if `newest_first`."""
        ids = (id_ for id_, row in self._rows.items() if _matches(row, where, now))
        if newest_first:
            page = nlargest(limit + 1, (id_ for id_ in ids if cursor is None or id_ < cursor))
        else:
            page = nsmallest(limit + 1, (id_ for id_ in ids if cursor is None or id_ > cursor))
        more = len(page) > limit
        return TaskPage([self._rows[id_] for id_ in page[:limit]], page[limit - 1] if more else None)

    def stats(self, now: float) -> list[QueueStats]:
        """Every queue that holds tasks or is paused."""
        counts = [(name, state, n) for name, line in self._lines.items() for state, n in line.counts.items()]
        due: defaultdict[str, list[float]] = defaultdict(list)
        for row in self._rows.values():
            if row.state in DUE and row.run_at <= now:
                due[row.queue_name].append(row.run_at)
        paused = [name for name, line in self._lines.items() if line.paused]
        return rules.queue_stats(counts, paused, {name: min(times) for name, times in due.items()})

    def children(self, task_id: str) -> list[str]:
        """The ids of the tasks that depend on it."""
        return list(self._children.get(task_id, ()))

    def next_due(self, queues: Sequence[str]) -> float:
        """When the next claim of these queues can find something: 0 for at once, infinity for never."""
        return min((_next_due(line) for line in self._open_lines(queues)), default=inf)

    # ── inside ───────────────────────────────────────────────────────────────

    def _line(self, name: str) -> Line:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = Line(self._rows)
        return line

    def _open_lines(self, names: Sequence[str]) -> Iterator[Line]:
        lines = (self._lines.get(name) for name in names)
        return (line for line in lines if line is not None and not line.paused)

    def _delete(self, row: TaskRecord) -> None:
        del self._rows[row.id]
        self._line(row.queue_name).counts[row.state] -= 1
        self._children.pop(row.id, None)
        for parent in row.depends_on:
            self._children.get(parent, {}).pop(row.id, None)

    def _promote(self, line: Line, now: float) -> None:
        while (row := line.later.take(now)) is not None:
            self.write(replace(row, state=TaskState.PENDING))

    def _is_awaited(self, task_id: str) -> bool:
        return any(self._rows[child].state is TaskState.WAITING for child in self._children.get(task_id, ()))


def _due(row: TaskRecord) -> Key | None:
    return (-row.priority, row.run_at, row.id) if row.state is TaskState.PENDING else None


def _later(row: TaskRecord) -> Key | None:
    return (row.run_at, 0.0, row.id) if row.state is TaskState.SCHEDULED else None


def _ended(row: TaskRecord) -> Key | None:
    return (row.finished_at, row.epoch, row.id) if row.finished_at is not None else None


def _next_due(line: Line) -> float:
    if line.due.first() is not None:
        return 0.0
    row = line.later.first()
    return inf if row is None else row.run_at


def _matches(row: TaskRecord, where: TaskFilter, now: float) -> bool:
    return (
        (not where.states or row.state in where.states)
        and (where.queue_name is None or row.queue_name == where.queue_name)
        and (where.name is None or row.name == where.name)
        and (where.schedule_id is None or row.schedule_id == where.schedule_id)
        and (not where.expired or rules.is_expired(row, now))
    )
