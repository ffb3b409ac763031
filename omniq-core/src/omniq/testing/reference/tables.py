"""The reference store's tables, and its verbs on tasks."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush, nlargest, nsmallest
from itertools import count
from math import inf
from typing import ClassVar, Generic, TypeAlias, TypeVar

from msgspec.structs import replace

from omniq.models.task import TaskState, new_id
from omniq.storage import rules
from omniq.storage.base import Guarantees
from omniq.storage.documents import Document, Documents, Entry, Write
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
    ResultRecord,
    ScheduleRecord,
    TaskFilter,
    TaskPage,
    TaskRecord,
    WorkerRecord,
)

# ── tables ──────────────────────────────────────────────────────────────────


R = TypeVar("R")


Key: TypeAlias = tuple[float, float, str]
"""Two numbers to order by, then the record's id."""


_SMALL = 64


class Index(Generic[R]):
    """Records in the order of their keys.

    A record is never taken out when it changes: its old key no longer equals the one that `key` gives, and
    is skipped. So adding costs O(log n), leaving costs nothing, and taking costs O(log n) on average.
    """

    def __init__(self, records: Mapping[str, R], key: Callable[[R], Key | None]) -> None:
        self._records = records
        self._key = key
        self._heap: list[Key] = []
        self._compact_at = _SMALL

    def __len__(self) -> int:
        """How many keys there are, stale ones included."""
        return len(self._heap)

    def add(self, record: R) -> None:
        """Enter a record as it is now; one whose key is None doesn't belong here."""
        key = self._key(record)
        if key is None:
            return
        heappush(self._heap, key)
        if len(self._heap) > self._compact_at:
            self._compact()

    def first(self) -> R | None:
        """The record with the smallest key."""
        while self._heap:
            record = self._live(self._heap[0])
            if record is not None:
                return record
            heappop(self._heap)
        return None

    def take(self, until: float = inf) -> R | None:
        """Take out the first record, if its key doesn't begin beyond `until`."""
        record = self.first()
        if record is None or self._heap[0][0] > until:
            return None
        heappop(self._heap)
        return record

    def _live(self, key: Key) -> R | None:
        record = self._records.get(key[2])
        return record if record is not None and self._key(record) == key else None

    def _compact(self) -> None:
        """Drop the stale keys, at the latest when they are as many as the live ones."""
        self._heap = list({key for key in self._heap if self._live(key) is not None})
        heapify(self._heap)
        self._compact_at = max(_SMALL, 2 * len(self._heap))


class ScheduleTable:
    """Schedules by id, written by compare-and-set on their version."""

    def __init__(self) -> None:
        self._rows: dict[str, ScheduleRecord] = {}

    def get(self, schedule_id: str, version: int) -> ScheduleRecord | None:
        """The schedule, if that is its version."""
        row = self._rows.get(schedule_id)
        return row if row is not None and row.version == version else None

    def put(self, schedule: ScheduleRecord, if_version: int | None) -> bool:
        """Write the schedule over that version; returns whether it was still there."""
        row = self._rows.get(schedule.id)
        if (None if row is None else row.version) != if_version:
            return False
        self._rows[schedule.id] = replace(
            schedule, version=(schedule.version if if_version is None else if_version) + 1
        )
        return True

    def find(self, ids: Iterable[str] | None) -> list[ScheduleRecord]:
        """All schedules, or those of `ids` that exist, by id."""
        wanted = sorted(self._rows if ids is None else set(ids) & self._rows.keys())
        return [self._rows[id_] for id_ in wanted]

    def delete(self, schedule_id: str) -> bool:
        """Returns whether it was there."""
        return self._rows.pop(schedule_id, None) is not None


class ResultTable:
    """Results by task, kept until they expire."""

    def __init__(self) -> None:
        self._rows: dict[str, ResultRecord] = {}
        self._expiring = Index(self._rows, _expiry)
        self._of_schedule: defaultdict[str, dict[str, None]] = defaultdict(dict)

    def put(self, record: ResultRecord, now: float) -> bool:
        """Store the record if the one that is there gives way; returns whether it was stored."""
        old = self._rows.get(record.task_id)
        if old is not None and not rules.gives_way(old, record):
            return False
        if old is not None:
            self._delete(old)
        expires_at = None if record.ttl is None else now + record.ttl
        self._insert(replace(record, finished_at=now, expires_at=expires_at))
        return True

    def replace_body(self, new: NewBody) -> bool:
        """Replace a result's body; returns whether it had the old one."""
        row = self._rows.get(new.task_id)
        if row is None or row.body != new.old:
            return False
        self._rows[row.task_id] = replace(row, body=new.body)
        return True

    def get(self, task_id: str, now: float) -> ResultRecord | None:
        """The task's result, unless it has expired."""
        row = self._rows.get(task_id)
        return None if row is None or (row.expires_at is not None and row.expires_at <= now) else row

    def find(self, schedule_id: str, now: float) -> list[ResultRecord]:
        """The schedule's results that haven't expired, oldest first."""
        rows = (self.get(id_, now) for id_ in self._of_schedule.get(schedule_id, ()))
        return sorted((row for row in rows if row is not None), key=lambda row: row.finished_at)

    def purge(self, now: float, limit: int) -> int:
        """Delete up to `limit` expired results; returns how many."""
        gone = 0
        while gone < limit and (row := self._expiring.take(now)) is not None:
            self._delete(row)
            gone += 1
        return gone

    def _insert(self, row: ResultRecord) -> None:
        self._rows[row.task_id] = row
        self._expiring.add(row)
        if row.schedule_id is not None:
            self._of_schedule[row.schedule_id][row.task_id] = None

    def _delete(self, row: ResultRecord) -> None:
        del self._rows[row.task_id]
        if row.schedule_id is None:
            return
        siblings = self._of_schedule[row.schedule_id]
        del siblings[row.task_id]
        if not siblings:
            del self._of_schedule[row.schedule_id]


def _expiry(row: ResultRecord) -> Key | None:
    return None if row.expires_at is None else (row.expires_at, row.epoch, row.task_id)


class DictDocuments(Documents):
    """Documents in this process. There is nothing to open or to close."""

    atomic: ClassVar[bool] = True
    networked: ClassVar[bool] = False

    def __init__(self) -> None:
        self._location = f"dict:{new_id()}"
        self._lock = threading.Lock()
        self._versions = count(1)
        self._documents: dict[str, Document] = {}
        self._indexes: defaultdict[str, list[Entry]] = defaultdict(list)

    @property
    def location(self) -> str:
        return self._location

    async def connect(self) -> None:
        """Safe to repeat."""

    async def close(self) -> None:
        """Safe to repeat. The documents stay."""

    async def drop(self) -> None:
        """Safe to repeat."""
        with self._lock:
            self._documents.clear()
            self._indexes.clear()

    async def guarantees(self) -> Guarantees:
        return Guarantees(
            survives_process_kill=False,
            survives_power_loss=False,
            survives_failover=False,
            clock="host",
            push=False,
            atomic_results=self.atomic,
        )

    async def read(self, keys: Sequence[str]) -> list[Document | None]:
        with self._lock:
            return [self._documents.get(key) for key in keys]

    async def write(self, groups: Sequence[Sequence[Write]]) -> list[bool]:
        with self._lock:
            return [self._write_group(group) for group in groups]

    def _write_group(self, group: Sequence[Write]) -> bool:
        if not all(self._holds(write) for write in group):
            return False
        for write in group:
            self._write(write)
        return True

    def _holds(self, write: Write) -> bool:
        stored = self._documents.get(write.key)
        return write.always or (None if stored is None else stored.version) == write.if_version

    def _write(self, write: Write) -> None:
        if write.value is None:
            self._documents.pop(write.key, None)
        else:
            self._documents[write.key] = Document(write.value, next(self._versions))
        for entry in write.put:
            self._put(entry)
        for entry in write.drop:
            self._drop(entry)

    def _put(self, entry: Entry) -> None:
        index = self._indexes[entry.index]
        place = bisect_left(index, entry)
        if place == len(index) or index[place] != entry:
            index.insert(place, entry)

    def _drop(self, entry: Entry) -> None:
        index = self._indexes[entry.index]
        place = bisect_left(index, entry)
        if place < len(index) and index[place] == entry:
            del index[place]
        if not index:
            del self._indexes[entry.index]

    async def scan(
        self, index: str, *, after: Entry | None = None, until: bytes | None = None, limit: int, reverse: bool = False
    ) -> list[Entry]:
        with self._lock:
            entries = self._indexes.get(index, [])
            if reverse:
                end = len(entries) if after is None else bisect_left(entries, after)
                return entries[max(0, end - limit) : end][::-1]
            start = 0 if after is None else bisect_right(entries, after)
            found = entries[start : start + limit]
        return [entry for entry in found if until is None or entry.order[: len(until)] <= until]


# ── tasks ───────────────────────────────────────────────────────────────────


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
