"""Rows in this process's memory, and what becomes of tasks there.

A table decides and changes rows at once, without waiting for anything. It remembers what each row was before the step
that is under way, so that a store can undo the step, write down what it changed, and tell whom it concerns.
`omniq.storage.table_store` makes stores of tables.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from heapq import heapify, heappop, heappush, nlargest, nsmallest
from itertools import islice
from math import inf
from typing import Generic, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from omniq.models.task import TERMINAL, TaskState
from omniq.storage import rules
from omniq.storage.records import (
    MAX_LEASE,
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
)

R = TypeVar("R", bound=Struct)

# ── orders ──────────────────────────────────────────────────────────────────

Key: TypeAlias = tuple[float, str]
"""A number to order by, and the row's id."""

PROMOTED = 200
"""Tasks of a queue that come due at once in a claim, at least: a step must not grow with all that are due."""
_SMALL = 64


class Order(Generic[R]):
    """Rows in the order of a number that each has, or None if it doesn't belong here.

    A row is never taken out when it changes: its old key no longer has the number that `number_of` gives, and is
    skipped. So leaving costs nothing. Entering and taking cost O(1) where rows come in order, as they mostly do, and
    else O(log n).
    """

    def __init__(self, rows: Mapping[str, R], number_of: Callable[[R], float | None]) -> None:
        self._rows = rows
        self._number_of = number_of
        self._line: deque[Key] = deque()
        """The keys that came in order."""
        self._heap: list[Key] = []
        """The others."""

    def __len__(self) -> int:
        """How many keys there are, stale ones included."""
        return len(self._line) + len(self._heap)

    def enter(self, number: float, id_: str, *, first: bool = False) -> None:
        """Note a row under the number that it has now; of equal numbers, who comes first is first, or this one."""
        if first and (not self._line or number <= self._line[0][0]):
            self._line.appendleft((number, id_))
        elif not self._line or self._line[-1][0] <= number:
            self._line.append((number, id_))
        else:
            heappush(self._heap, (number, id_))
        if len(self._line) + len(self._heap) > _SMALL + 2 * len(self._rows):
            self._compact()

    def first(self) -> R | None:
        """The row with the smallest key."""
        while (key := self._smallest()) is not None:
            row = self._live(key)
            if row is not None:
                return row
            self._drop_smallest()
        return None

    def take(self, until: float = inf) -> R | None:
        """Take out the first row, if its number isn't beyond `until`."""
        while (key := self._smallest()) is not None and key[0] <= until:
            self._drop_smallest()
            row = self._live(key)
            if row is not None:
                return row
        return None

    def __iter__(self) -> Iterator[R]:
        """All rows, in no order."""
        found = {key[1]: row for key in (*self._line, *self._heap) if (row := self._live(key)) is not None}
        return iter(found.values())

    def _smallest(self) -> Key | None:
        if self._heap and not (self._line and self._line[0][0] <= self._heap[0][0]):
            return self._heap[0]
        return self._line[0] if self._line else None

    def _drop_smallest(self) -> None:
        if self._heap and not (self._line and self._line[0][0] <= self._heap[0][0]):
            heappop(self._heap)
        else:
            self._line.popleft()

    def _live(self, key: Key) -> R | None:
        row = self._rows.get(key[1])
        return row if row is not None and self._number_of(row) == key[0] else None

    def _compact(self) -> None:
        """Drop the stale keys: of two keys for each row, one is stale."""
        self._line = deque(key for key in self._line if self._live(key) is not None)
        self._heap = list({key for key in self._heap if self._live(key) is not None})
        heapify(self._heap)


# ── tables ──────────────────────────────────────────────────────────────────


class Table(Generic[R]):
    """Rows by id, and what those were that the step under way has written."""

    def __init__(self) -> None:
        self.rows: dict[str, R] = {}
        self.before: dict[str, R | None] = {}
        """By id, each row that was written since `settle`, as it was then."""

    def write(self, id_: str, row: R | None) -> None:
        """Put the row in the place of the one that has its id, or delete that."""
        old = self.rows.get(id_)
        self.before.setdefault(id_, old)
        if row is None:
            self.rows.pop(id_, None)
        else:
            self.rows[id_] = row
        self._index(old, row)

    def undo(self) -> None:
        """Let every row be what it was at the last `settle`."""
        before, self.before = self.before, {}
        for id_, row in reversed(before.items()):
            self.write(id_, row)
        self.before = {}

    def settle(self) -> dict[str, R | None]:
        """What has been written since the last call, each row as it was then. From now on, it can't be undone."""
        before, self.before = self.before, {}
        return before

    def _index(self, old: R | None, row: R | None) -> None:
        """Keep what leads to rows in step."""


class QueueRecord(Struct, frozen=True):
    """What is set for a queue."""

    name: str
    paused: bool = False


class AskedRecord(Struct, frozen=True):
    """That somebody asks what a worker runs, until it has been told."""

    name: str


# ── tasks ───────────────────────────────────────────────────────────────────
_DUE = (TaskState.PENDING, TaskState.SCHEDULED)
_NUMBERS = {state: number for number, state in enumerate(TaskState)}
_STATES = tuple(TaskState)


class QueueIndex:
    """One queue's tasks."""

    def __init__(self, rows: dict[str, TaskRecord]) -> None:
        self._rows = rows
        self.due: dict[int, Order[TaskRecord]] = {}
        """By priority, the highest first, what is due."""
        self.later = Order(rows, lambda row: row.run_at if row.state is TaskState.SCHEDULED else None)
        self.by_state: tuple[dict[str, None], ...] = tuple({} for _ in TaskState)
        """The ids of the tasks in each state, in the order of the states."""

    def in_state(self, state: TaskState) -> dict[str, None]:
        """The ids of the tasks in that state."""
        return self.by_state[_NUMBERS[state]]

    def enter(self, row: TaskRecord, *, first: bool = False) -> None:
        """Note when the task is due; of those that are due then it comes last, or first."""
        if row.state is TaskState.PENDING:
            self._of_priority(row.priority).enter(row.run_at, row.id, first=first)
        elif row.state is TaskState.SCHEDULED:
            self.later.enter(row.run_at, row.id, first=first)

    def first(self) -> TaskRecord | None:
        """The task that is claimed next, of those that are PENDING."""
        return next((row for order in self.due.values() if (row := order.first()) is not None), None)

    def take(self) -> TaskRecord | None:
        """Take out that task, which is claimed now, or entered again."""
        for order in self.due.values():
            if (row := order.take()) is not None:
                return row
        return None

    def next_due(self) -> float:
        """When the next claim can find something: minus infinity for at once, infinity for never."""
        if self.first() is not None:
            return -inf
        row = self.later.first()
        return inf if row is None else row.run_at

    def oldest_due(self, now: float) -> float | None:
        """The earliest `run_at` of what could be claimed."""
        firsts = [row for order in (*self.due.values(), self.later) if (row := order.first()) is not None]
        oldest = min((row.run_at for row in firsts), default=inf)
        return oldest if oldest <= now else None

    def _of_priority(self, priority: int) -> Order[TaskRecord]:
        order = self.due.get(priority)
        if order is None:
            pending: Callable[[TaskRecord], float | None]
            pending = lambda row: row.run_at if row.state is TaskState.PENDING else None  # noqa: E731
            order = self.due[priority] = Order(self._rows, pending)
            self.due = dict(sorted(self.due.items(), reverse=True))
        return order


class TaskTable(Table[TaskRecord]):
    """Tasks by id. Every method takes the time as `now`, in seconds since the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.queues: Table[QueueRecord] = Table()
        self._queues: dict[str, QueueIndex] = {}
        self._ended = {state: Order(self.rows, partial(_ended_at, state)) for state in TERMINAL}
        self._expiring = Order(self.rows, lambda row: row.expires_at if row.finished_at is None else None)
        self._children: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._of_schedule: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._of_name: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._holders: dict[str, str] = {}
        """Who holds which unique key."""
        self._is_undoing = False
        """Whether tasks come back to where they were in their lines."""

    # ── writing ──────────────────────────────────────────────────────────────

    def undo(self) -> None:
        self._is_undoing = True
        super().undo()
        self._is_undoing = False

    def put(self, row: TaskRecord) -> TaskRecord:
        """As `write`, in fewer steps: every task comes here three times. Returns the row."""
        old = self.rows.get(row.id)
        if row.id not in self.before:
            self.before[row.id] = old
        self.rows[row.id] = row
        self._index(old, row)
        return row

    def add(self, tasks: Sequence[NewTask], now: float) -> list[Added]:
        """Store those of the tasks that are new, whose parents are known, and whose keys nobody holds."""
        named = {id_ for task in tasks for id_ in (task.id, *task.depends_on)}
        known = named & self.rows.keys()
        stand_ins = {task.id for task in tasks if task.id in known and rules.is_stand_in(self.rows[task.id])}
        verdicts = rules.judge(tasks, known - stand_ins, self._holders.copy())
        for task, verdict in zip(tasks, verdicts, strict=True):
            if verdict.status is AddStatus.NEW:
                self.put(rules.new_record(task, now))
        return verdicts

    def claim(
        self,
        queues: Sequence[str],
        now: float,
        *,
        limit: int,
        lease: float,
        worker: str,
        max_bytes: int,
        size_of: Callable[[bytes], int] = len,
    ) -> list[TaskRecord]:
        """Hand out up to `limit` due tasks in order, with bodies of `max_bytes` together; `size_of` tells one's."""
        taken: list[TaskRecord] = []
        room = max_bytes
        for line in self._open_queues(queues):
            for due in islice(iter(partial(line.later.take, now), None), max(limit, PROMOTED)):
                self.put(replace(due, state=TaskState.PENDING))
            while len(taken) < limit and (row := line.take()) is not None:
                room -= size_of(row.body)
                if room < 0 and taken:
                    line.enter(row, first=True)
                    return taken
                taken.append(self.put(rules.claimed(row, now, lease=lease, worker=worker)))
        return taken

    def extend(self, lease: Lease, until: float) -> LeaseStatus:
        """Let the lease end at `until`, if it is still held."""
        row = self.rows.get(lease.task_id)
        if row is None or row.state is not TaskState.RUNNING or (row.epoch, row.worker) != (lease.epoch, lease.worker):
            return LeaseStatus(held=False)
        self.put(replace(row, lease_until=until))
        return LeaseStatus(held=True, cancel_requested=row.cancel_requested)

    def held(self, worker: str) -> list[Lease]:
        """The leases of one worker."""
        return [Lease(row.id, row.epoch, worker) for row in self._running() if row.worker == worker]

    def lapsed(self, now: float, limit: int, after: LapsedLease | None) -> list[LapsedLease]:
        """Up to `limit` leases that have run out, in order."""
        start = (-inf, "") if after is None else (after.lease_until, after.task_id)
        ends = ((_lease_end(row, now), row.id) for row in self._running())
        first = nsmallest(limit, (place for place in ends if start < place and place[0] <= now))
        return [LapsedLease(id_, self.rows[id_].epoch, self.rows[id_].worker or "", until) for until, id_ in first]

    def reap(self, leases: Sequence[LapsedLease], now: float, seen: Mapping[str, float]) -> list[TaskRecord]:
        """Put the tasks that are still under these leases back in line; `seen` tells when workers were seen last."""
        found = [(self.rows.get(lapsed.task_id), lapsed) for lapsed in leases]
        known = [(replace(row, lease_until=_lease_end(row, now)), lapsed) for row, lapsed in found if row is not None]
        over = [row for row, lapsed in known if rules.is_unrenewed(row, lapsed, now)]
        return [self.put(rules.reaped(row, seen.get(row.worker or ""))) for row in over]

    def change(self, change: Change, now: float) -> ChangeStatus:
        """Apply the change if its conditions hold."""
        status, row = rules.decide(self.rows.get(change.task_id), change, now)
        if row is not None:
            self.put(row)
        return status

    def replace_body(self, new: NewBody) -> bool:
        """Replace a task's body; returns whether it had the old one."""
        row = self.rows.get(new.task_id)
        if row is None or row.body != new.old:
            return False
        self.put(replace(row, body=new.body))
        return True

    def purge(self, before: float, states: Collection[TaskState], limit: int) -> int:
        """Delete up to `limit` tasks that ended so by that time, except parents that a child waits for."""
        kept: list[TaskRecord] = []
        gone = 0
        for ended in [self._ended[state] for state in states]:
            while gone < limit and (row := ended.take(before)) is not None:
                if self._is_awaited(row.id):
                    kept.append(row)
                else:
                    self.write(row.id, None)
                    gone += 1
        for row in kept:
            self._ended[row.state].enter(row.finished_at or 0.0, row.id)
        return gone

    def delete(self, task_id: str, states: Collection[TaskState]) -> bool:
        """Delete a task that ended so, unless a child waits for it; returns whether it was."""
        row = self.rows.get(task_id)
        if row is None or row.state not in states or row.finished_at is None or self._is_awaited(task_id):
            return False
        self.write(task_id, None)
        return True

    def pause(self, queue_name: str, *, paused: bool) -> None:
        """Let `claim` pass over the queue, or no longer."""
        if paused is not self.is_paused(queue_name):
            self.queues.write(queue_name, QueueRecord(queue_name, paused=True) if paused else None)

    # ── reading ──────────────────────────────────────────────────────────────

    def is_paused(self, queue_name: str) -> bool:
        """Whether `claim` passes over the queue."""
        return queue_name in self.queues.rows

    def find(self, where: TaskFilter, now: float, *, newest_first: bool, limit: int, cursor: str | None) -> TaskPage:
        """The tasks that match and whose id comes after `cursor`, or before it if `newest_first`."""
        ids = (id_ for id_ in self._candidates(where, now) if rules.is_meant(self.rows[id_], where, now))
        if newest_first:
            page = nlargest(limit + 1, (id_ for id_ in ids if cursor is None or id_ < cursor))
        else:
            page = nsmallest(limit + 1, (id_ for id_ in ids if cursor is None or id_ > cursor))
        more = len(page) > limit
        return TaskPage([self.rows[id_] for id_ in page[:limit]], page[limit - 1] if more else None)

    def stats(self, now: float) -> list[QueueStats]:
        """Every queue that holds tasks or is paused."""
        lines = self._queues.items()
        counts = [(name, state, len(line.in_state(state))) for name, line in lines for state in TaskState]
        oldest = {name: due for name, line in lines if (due := line.oldest_due(now)) is not None}
        return rules.queue_stats(counts, self.queues.rows, oldest)

    @property
    def parents(self) -> Collection[str]:
        """The ids of the tasks that others depend on."""
        return self._children

    def children(self, task_id: str) -> list[str]:
        """The ids of the tasks that depend on it."""
        return list(self._children.get(task_id, ()))

    def next_due(self, queues: Sequence[str], now: float) -> dict[str, float]:
        """In how many seconds each of the queues has something to claim; those that have nothing are left out."""
        due = {queue: self._queues[queue].next_due() for queue in queues if queue in self._queues}
        return {queue: at - now for queue, at in due.items() if at < inf and not self.is_paused(queue)}

    # ── inside ───────────────────────────────────────────────────────────────

    def _index(self, old: TaskRecord | None, row: TaskRecord | None) -> None:
        if old is None or row is None or old.queue_name != row.queue_name:
            self._leave(old)
            self._enter(row)
        elif old.state is not row.state or old.run_at != row.run_at:
            line = self._queues[row.queue_name]
            del line.by_state[_NUMBERS[old.state]][old.id]
            line.by_state[_NUMBERS[row.state]][row.id] = None
            if row.state in _DUE:
                line.enter(row, first=self._is_undoing)
        if old is not None and old.unique is not None and self._holders.get(old.unique) == old.id:
            del self._holders[old.unique]
        if row is None:
            return
        if row.unique is not None:
            self._holders[row.unique] = row.id
        if row.finished_at is not None:
            if old is None or old.finished_at != row.finished_at or old.state is not row.state:
                self._ended[row.state].enter(row.finished_at, row.id)
        elif row.expires_at is not None and (old is None or old.finished_at is not None):
            self._expiring.enter(row.expires_at, row.id)

    def _enter(self, row: TaskRecord | None) -> None:
        if row is None:
            return
        line = self._queues.get(row.queue_name)
        if line is None:
            line = self._queues[row.queue_name] = QueueIndex(self.rows)
        line.by_state[_NUMBERS[row.state]][row.id] = None
        line.enter(row)
        for index, key in self._groups_of(row):
            index[key][row.id] = None

    def _leave(self, row: TaskRecord | None) -> None:
        if row is None:
            return
        del self._queues[row.queue_name].by_state[_NUMBERS[row.state]][row.id]
        for index, key in self._groups_of(row):
            index[key].pop(row.id, None)
            if not index[key]:
                del index[key]

    def _groups_of(self, row: TaskRecord) -> Iterator[tuple[defaultdict[str, dict[str, None]], str]]:
        """Where the task is found by what never changes."""
        yield self._of_name, row.name
        if row.schedule_id is not None:
            yield self._of_schedule, row.schedule_id
        for parent in dict.fromkeys(row.depends_on):
            yield self._children, parent

    def _open_queues(self, names: Sequence[str]) -> Iterator[QueueIndex]:
        return (self._queues[name] for name in names if name in self._queues and not self.is_paused(name))

    def _running(self) -> Iterator[TaskRecord]:
        return (self.rows[id_] for line in self._queues.values() for id_ in line.in_state(TaskState.RUNNING))

    def _is_awaited(self, task_id: str) -> bool:
        return any(self.rows[child].state is TaskState.WAITING for child in self._children.get(task_id, ()))

    def _candidates(self, where: TaskFilter, now: float) -> Collection[str]:
        """The ids of the smallest group that is known to hold all that match."""
        groups: list[Collection[str]] = [self.rows]
        if where.expired:
            groups.append([row.id for row in self._expiring if rules.is_expired(row, now)])
        if where.schedule_id is not None:
            groups.append(self._of_schedule.get(where.schedule_id, ()))
        if where.name is not None:
            groups.append(self._of_name.get(where.name, ()))
        if where.states or where.queue_name is not None:
            lines = self._queues.values() if where.queue_name is None else self._queues_named(where.queue_name)
            groups.append([id_ for line in lines for state in where.states or _STATES for id_ in line.in_state(state)])
        return min(groups, key=len)

    def _queues_named(self, name: str) -> Collection[QueueIndex]:
        return [self._queues[name]] if name in self._queues else []


def _ended_at(state: TaskState, row: TaskRecord) -> float | None:
    return row.finished_at if row.state is state else None


def _lease_end(row: TaskRecord, now: float) -> float:
    """When its lease runs out; 0 if it never would."""
    return 0.0 if row.lease_until is None or row.lease_until > now + MAX_LEASE else row.lease_until
