"""What the reference stores keep their records in, and the document kit's primitives over a dict, at their plainest."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import ClassVar, Generic, TypeAlias, TypeVar

from msgspec.structs import replace

from omniq.ids import new_id
from omniq.storage import rules
from omniq.storage.base import Guarantees
from omniq.storage.documents import Document, Documents, Entry, Write
from omniq.storage.records import NewBody, ResultRecord, ScheduleRecord

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
