"""All tables of a store, and what steps write in them.

A step is a function of the tables and the time. It decides and changes rows at once; what it has changed is then
written down, shared or merely kept, as the store's `carry_out` says: as a whole, or not at all.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from msgspec.structs import replace

from omniq.models.task import TaskState
from omniq.storage import rules
from omniq.storage.lines import Line
from omniq.storage.records import (
    Change,
    Changed,
    ChangeStatus,
    Firing,
    NewBody,
    ResultRecord,
    ScheduleRecord,
)
from omniq.storage.tables import AskedRecord, Key, Order, Table, TaskTable
from omniq.storage.wakeups import News

T = TypeVar("T")


class ScheduleTable(Table[ScheduleRecord]):
    """Schedules by id, written by compare-and-set on their version."""

    def get(self, schedule_id: str, version: int) -> ScheduleRecord | None:
        """The schedule, if that is its version."""
        row = self.rows.get(schedule_id)
        return row if row is not None and row.version == version else None

    def put(self, schedule: ScheduleRecord, if_version: int | None) -> bool:
        """Write the schedule over that version; returns whether it was still there."""
        row = self.rows.get(schedule.id)
        if (None if row is None else row.version) != if_version:
            return False
        version = (schedule.version if if_version is None else if_version) + 1
        self.write(schedule.id, replace(schedule, version=version))
        return True

    def find(self, ids: Iterable[str] | None, due_by: float | None = None) -> list[ScheduleRecord]:
        """All schedules by id, or those of `ids` that exist; of these only active ones with a slot by `due_by`."""
        rows = [self.rows[id_] for id_ in sorted(self.rows if ids is None else set(ids) & self.rows.keys())]
        return rows if due_by is None else [row for row in rows if _is_due(row, due_by)]

    def delete(self, schedule_id: str) -> bool:
        """Returns whether it was there."""
        there = schedule_id in self.rows
        if there:
            self.write(schedule_id, None)
        return there


def _is_due(schedule: ScheduleRecord, by: float) -> bool:
    return not schedule.paused and schedule.next_run is not None and schedule.next_run <= by


class ResultTable(Table[ResultRecord]):
    """Results by task, kept until they expire."""

    def __init__(self) -> None:
        super().__init__()
        self._expiring = Order(self.rows, lambda row: row.expires_at)
        self._of_schedule: defaultdict[str, list[Key]] = defaultdict(list)

    def put(self, record: ResultRecord, now: float) -> bool:
        """Store the record if the one that is there gives way; returns whether it was stored."""
        old = self.rows.get(record.task_id)
        if old is not None and not rules.gives_way(old, record):
            return False
        expires_at = None if record.ttl is None else now + record.ttl
        self.write(record.task_id, replace(record, finished_at=now, expires_at=expires_at))
        return True

    def replace_body(self, new: NewBody) -> bool:
        """Replace a result's body; returns whether it had the old one."""
        row = self.rows.get(new.task_id)
        if row is None or row.body != new.old:
            return False
        self.write(row.task_id, replace(row, body=new.body))
        return True

    def get(self, task_id: str, now: float) -> ResultRecord | None:
        """The task's result, unless it has expired."""
        row = self.rows.get(task_id)
        return None if row is None or (row.expires_at is not None and row.expires_at <= now) else row

    def find(self, schedule_id: str, now: float, *, newest_first: bool, limit: int) -> list[ResultRecord]:
        """Up to `limit` of the schedule's results that haven't expired, in the order of their ends."""
        keys = self._of_schedule.get(schedule_id, [])
        rows = (self.get(id_, now) for _, id_ in (reversed(keys) if newest_first else keys))
        return [row for row, _ in zip((row for row in rows if row is not None), range(limit), strict=False)]

    def purge(self, now: float, limit: int) -> int:
        """Delete up to `limit` expired results; returns how many."""
        gone = 0
        while gone < limit and (row := self._expiring.take(now)) is not None:
            self.write(row.task_id, None)
            gone += 1
        return gone

    def _index(self, old: ResultRecord | None, row: ResultRecord | None) -> None:
        if old is not None and old.schedule_id is not None:
            keys = self._of_schedule[old.schedule_id]
            del keys[bisect_left(keys, (old.finished_at, old.task_id))]
            if not keys:
                del self._of_schedule[old.schedule_id]
        if row is not None and row.schedule_id is not None:
            insort(self._of_schedule[row.schedule_id], (row.finished_at, row.task_id))
        if row is not None and row.expires_at is not None:
            self._expiring.enter(row.expires_at, row.task_id)


class Tables:
    """All that a store keeps at one place."""

    def __init__(self) -> None:
        self.tasks = TaskTable()
        self.schedules = ScheduleTable()
        self.results = ResultTable()
        self.asked = Table[AskedRecord]()

    def change(self, change: Change, now: float) -> Changed:
        """Apply a change of a task, and store its result, if its conditions hold."""
        status = self.tasks.change(change, now)
        if status is ChangeStatus.APPLIED and change.result is not None:
            self.results.put(change.result, now)
        return Changed(status, change.task_id in self.tasks.parents)

    def fire(self, firing: Firing, now: float) -> bool:
        """Add a slot's task and move its schedule on, if that is at its version; returns whether it was."""
        schedule = self.schedules.get(firing.schedule_id, firing.if_version)
        if schedule is None:
            return False
        self.tasks.add([firing.task], now)
        return self.schedules.put(replace(schedule, next_run=firing.next_run, last_run=firing.slot), firing.if_version)

    def forget_asked(self, workers: Iterable[str]) -> bool:
        """Forget that these were asked what they run; returns whether any was."""
        asked = [name for name in workers if name in self.asked.rows]
        for name in asked:
            self.asked.write(name, None)
        return bool(asked)

    @property
    def by_name(self) -> Mapping[str, Table[Any]]:
        """The tables, by what their rows are called."""
        rest: dict[str, Table[Any]] = {"schedule": self.schedules, "result": self.results, "asked": self.asked}
        return {"task": self.tasks, "queue": self.tasks.queues, **rest}

    def apply(self, lines: Iterable[Line]) -> None:
        """Have the rows as the lines tell them."""
        by_name = self.by_name
        for line in lines:
            if line.task is not None:
                by_name["task"].write(line.task.id, line.task)
            elif line.result is not None:
                by_name["result"].write(line.result.task_id, line.result)
            elif line.schedule is not None:
                by_name["schedule"].write(line.schedule.id, line.schedule)
            elif line.queue is not None:
                by_name["queue"].write(line.queue.name, line.queue)
            elif line.asked is not None:
                by_name["asked"].write(line.asked.name, line.asked)
            for name, ids in (line.gone or {}).items():
                for id_ in ids if name in by_name else ():
                    by_name[name].write(id_, None)

    @property
    def written(self) -> Written:
        """What has been written since the last `settle`."""
        return Written(self, {name: table.before for name, table in self.by_name.items()})

    def undo(self) -> None:
        """Let every row be what it was at the last `settle`."""
        for table in self.by_name.values():
            table.undo()

    def settle(self) -> Written:
        """What has been written since the last call. From now on, it can't be undone."""
        return Written(self, {name: table.settle() for name, table in self.by_name.items()})


class Written:
    """What steps have written: by the names of tables and the ids of rows, what the rows were before."""

    def __init__(self, tables: Tables, before: Mapping[str, Mapping[str, Any]]) -> None:
        self.tables = tables
        self.before = before

    def __bool__(self) -> bool:
        return any(self.before.values())

    def rows(self, name: str) -> Iterator[tuple[Any, Any]]:
        """Each row of a table that was written, as it was before and as it is now; None where there was or is none."""
        rows = self.tables.by_name[name].rows
        return ((old, rows.get(id_)) for id_, old in self.before[name].items())

    def lines(self) -> list[Mapping[str, Any]]:
        """What was written, to be encoded as lines that `decode_rows` reads."""
        lines: list[Mapping[str, Any]] = []
        gone: dict[str, list[str]] = {}
        for name, before in self.before.items():
            rows = self.tables.by_name[name].rows
            lines += ({name: row} for id_ in before if (row := rows.get(id_)) is not None)
            if ids := [id_ for id_, old in before.items() if old is not None and id_ not in rows]:
                gone[name] = ids
        return [*lines, {"gone": gone}] if gone else lines

    def news(self, now: float) -> News:
        """What those who wait are to be told of it."""
        due: dict[str, float] = {}
        rows = self.tables.tasks.rows
        for id_, old in self.before["task"].items():
            row = rows.get(id_)
            if row is not None and row.state in _DUE and (old is None or old.state is not row.state):
                due[row.queue_name] = min(row.run_at - now, due.get(row.queue_name, math.inf))
        opened = {name: -math.inf for name in self.before["queue"] if name not in self.tables.tasks.queues.rows}
        return News({**due, **opened}, [id_ for id_ in self.before["result"] if id_ in self.tables.results.rows])


@contextmanager
def undoing(tables: Tables) -> Iterator[None]:
    """Undo what was written if an error comes."""
    try:
        yield
    except BaseException:
        tables.undo()
        raise


_DUE = frozenset({TaskState.PENDING, TaskState.SCHEDULED})

Step: TypeAlias = Callable[[Tables, float], T]
"""Decides and changes, given the tables and the store's time (seconds since the epoch), and returns an answer."""
