"""Schedules and results of a space. Not thread-safe: the store holds the space's lock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from msgspec.structs import replace

from omniq.storage import rules
from omniq.storage.records import NewBody, ResultRecord, ScheduleRecord
from omniq.testing.reference.index import Index, Key


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
