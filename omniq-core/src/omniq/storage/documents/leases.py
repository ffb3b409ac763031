"""Leases, workers, queues and schedules on documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, TypeGuard

import msgspec
from msgspec.structs import replace

from omniq.models.task import TaskState
from omniq.storage import rules
from omniq.storage.base import BaseTaskQueue
from omniq.storage.documents import tasks
from omniq.storage.documents.base import Document, Documents, DocumentStore, Entry, Write, in_order
from omniq.storage.documents.tasks import TaskDocument, TaskDocuments
from omniq.storage.records import Firing, LapsedLease, Lease, LeaseStatus, ScheduleRecord, TaskRecord, WorkerRecord
from omniq.storage.rules import schedule_of
from omniq.storage.wakeups import News

# ── the queues' own documents ───────────────────────────────────────────────


NAMES = "queues"
OPEN, PAUSED = b"open", b"paused"


class QueueNames:
    """One document per queue that ever held a task or was paused."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._known: set[str] = set()
        """Those that are known to be stored: they are never deleted."""

    async def remember(self, names: Iterable[str]) -> None:
        """Store the queues that aren't there yet."""
        new = [name for name in names if name not in self._known]
        if new:
            await self._documents.write([[_write(name, OPEN)] for name in new])
            self._known.update(new)

    async def open(self, names: Sequence[str]) -> list[str]:
        """Those of the names that may hold tasks and aren't paused, in the order given."""
        found = await self._read(names)
        return [name for name, queue in zip(names, found, strict=True) if queue is not None and queue.value == OPEN]

    async def paused(self, names: Sequence[str]) -> set[str]:
        """Those of the names that are paused."""
        found = await self._read(names)
        return {name for name, queue in zip(names, found, strict=True) if queue is not None and queue.value == PAUSED}

    async def all(self) -> list[str]:
        """All names, in order."""
        names: list[str] = []
        last: Entry | None = None
        while page := await self._documents.scan(NAMES, after=last, limit=1000):
            names += [entry.key for entry in page]
            last = page[-1]
        return names

    async def pause(self, name: str, *, paused: bool) -> None:
        """Pause the queue, or let it go on."""
        await self.remember([name])
        await self._documents.write([[Write(key=_queue_key(name), value=PAUSED if paused else OPEN, always=True)]])

    async def _read(self, names: Sequence[str]) -> list[Document | None]:
        return await self._documents.read([_queue_key(name) for name in names]) if names else []


def _queue_key(name: str) -> str:
    return f"queue/{name}"


def _write(name: str, state: bytes) -> Write:
    return Write(key=_queue_key(name), value=state, put=(Entry(NAMES, b"", name),))


# ── leases ──────────────────────────────────────────────────────────────────


MANY = 1000
"""Entries that are read at a time where there may be any number."""


class DocumentLeases(DocumentStore, BaseTaskQueue):
    """The part of a task queue on documents that is about who works on what."""

    def __init__(self, documents: Documents) -> None:
        super().__init__(documents)
        self._tasks = TaskDocuments(documents)
        self._queues = QueueNames(documents)
        self._schedules = ScheduleDocuments(documents)

    # ── claims and leases ────────────────────────────────────────────────────

    async def claim(self, queues: Sequence[str], *, limit: int, lease: float, worker: str) -> list[TaskRecord]:
        claimed: list[TaskDocument] = []
        room = _Room(self.max_bytes)
        for queue_name in await self._queues.open(queues):
            seen: list[Entry] = []
            while (left := limit - len(claimed)) and not room.is_full:
                line = await self._due(queue_name, left)
                if not line or line == seen:  # what comes up again wasn't to be had: others were faster
                    break
                claimed += await self._claim(seen := line, room, lease, worker)
        return await self._tasks.records(claimed, bodies=True)

    async def _due(self, queue_name: str, limit: int) -> list[Entry]:
        """The entries of the tasks that are next in line."""
        now, later = self.documents.now(), tasks.later(queue_name)
        line = await self.documents.scan(tasks.due(queue_name), limit=limit)
        for first in await self._firsts(later):
            if tasks.run_at(first) <= now:
                until = tasks.due_by(first, now)
                line += [first, *await self.documents.scan(later, after=first, until=until, limit=limit)]
        return sorted(line, key=attrgetter("order", "key"))[:limit]

    async def _firsts(self, index: str) -> list[Entry]:
        """Of `due` or `later`, the first entry of each priority that there is: one look each."""
        firsts: list[Entry] = []
        after: Entry | None = None
        while page := await self.documents.scan(index, after=after, limit=1):
            firsts += page
            after = Entry(index, tasks.end_of_priority(page[0]), "")
        return firsts

    async def _claim(self, line: Sequence[Entry], room: _Room, lease: float, worker: str) -> list[TaskDocument]:
        now = self.documents.now()

        def step(n: int, found: TaskDocument | None, _: Document | None) -> tuple[TaskDocument | None, list[Write]]:
            if found is None or not (_is_due(found.record, now) or found.record.damage):
                return None, tasks.without_entry(line[n], found)
            if not room.take(found.size):
                return None, []
            taken = replace(found, record=rules.claimed(found.record, now, lease=lease, worker=worker))
            return taken, [tasks.write(found, taken, line[n])]

        answers = await self._tasks.change([entry.key for entry in line], step, once=True)
        return [taken for taken in answers if taken is not None]

    async def extend(self, leases: Sequence[Lease], *, lease: float) -> list[LeaseStatus]:
        until = self.documents.now() + lease

        def step(n: int, found: TaskDocument | None, _: Document | None) -> tuple[LeaseStatus, list[Write]]:
            if found is None or not _is_held(found.record, leases[n]):
                return LeaseStatus(held=False), []
            held = LeaseStatus(held=True, cancel_requested=found.record.cancel_requested)
            return held, [tasks.write(found, replace(found, record=replace(found.record, lease_until=until)))]

        return await self._tasks.change([held.task_id for held in leases], step)

    async def held(self, worker: str) -> list[Lease]:
        held: list[Lease] = []
        last: Entry | None = None
        while page := await self.documents.scan(tasks.LEASES, after=last, limit=MANY):
            last = page[-1]
            found = await self._tasks.read([entry.key for entry in page])
            held += [Lease(task.record.id, task.record.epoch, worker) for task in found if _runs_at(task, worker)]
        return held

    async def lapsed(self, *, limit: int, after: LapsedLease | None = None) -> list[LapsedLease]:
        until = in_order(self.documents.now())
        last = None if after is None else tasks.lease_entry(after.task_id, after.lease_until)
        lapsed: list[LapsedLease] = []
        while len(lapsed) < limit:
            page = await self.documents.scan(tasks.LEASES, after=last, until=until, limit=limit - len(lapsed))
            if not page:
                break
            last = page[-1]
            found = await self._tasks.read([entry.key for entry in page])
            lapsed += [lease for task in found if task is not None and (lease := _lapsed(task.record)) is not None]
        return lapsed

    async def reap(self, leases: Sequence[LapsedLease]) -> list[TaskRecord]:
        now = self.documents.now()
        beside = [tasks.worker_key(lease.worker) for lease in leases]

        def step(
            n: int, found: TaskDocument | None, worker: Document | None
        ) -> tuple[TaskDocument | None, list[Write]]:
            if found is None or not rules.is_unrenewed(found.record, leases[n], now):
                return None, []
            seen = None if worker is None else tasks.load_worker(worker).last_seen
            back = replace(found, record=rules.reaped(found.record, seen))
            return back, [tasks.write(found, back)]

        answers = await self._tasks.change([lease.task_id for lease in leases], step, beside=beside)
        back = [document for document in answers if document is not None]
        if back:
            self.wakeups.tell(News(due=None))
        return await self._tasks.records(back, bodies=False)

    async def beat(self, worker: WorkerRecord, *, leaving: bool = False) -> bool:
        seen = replace(worker, last_seen=self.documents.now())
        (asked,) = await self.documents.read([tasks.asked_key(worker.name)])
        answered = [tasks.asked_write(worker.name, None)] if leaving or asked is not None else []
        await self.documents.write([[tasks.worker_write(seen, leaving=leaving), *answered]])
        return asked is not None

    async def inspect(self, worker: str) -> bool:
        key = tasks.worker_key(worker)
        while (found := (await self.documents.read([key]))[0]) is not None:
            # The worker is written as it is, so that it isn't asked once it has left: nobody would forget that.
            same = Write(key=key, value=found.value, if_version=found.version)
            if all(await self.documents.write([[same, tasks.asked_write(worker, b"")]])):
                return True
        return False

    async def workers(self) -> list[WorkerRecord]:
        names = await self._all_ids(tasks.WORKERS)
        found = await self.documents.read([tasks.worker_key(name) for name in names]) if names else []
        return [tasks.load_worker(document) for document in found if document is not None]

    async def now(self) -> float:
        return self.documents.now()

    async def _forget_workers(self, before: float) -> None:
        gone = [worker for worker in await self.workers() if worker.last_seen <= before]
        if gone:
            forget = [
                (tasks.worker_write(worker, leaving=True), tasks.asked_write(worker.name, None)) for worker in gone
            ]
            await self.documents.write(list(map(list, forget)))

    async def _ids(self, index: str, after: str | None, limit: int, *, reverse: bool = False) -> list[str]:
        start = None if after is None else Entry(index, b"", after)
        return [entry.key for entry in await self.documents.scan(index, after=start, limit=limit, reverse=reverse)]

    async def _all_ids(self, index: str) -> list[str]:
        ids: list[str] = []
        while page := await self._ids(index, ids[-1] if ids else None, MANY):
            ids += page
        return ids


class _Room:
    """How many bytes of bodies one claim still may hand out: one task it may whatever its size."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._used = False
        self.is_full = False

    def take(self, size: int) -> bool:
        """Whether a task with so many bytes may be handed out, too; after one that may not, none may."""
        self.is_full = self.is_full or (self._used and size > self._left)
        if not self.is_full:
            self._left, self._used = self._left - size, True
        return not self.is_full


def _is_due(record: TaskRecord, now: float) -> bool:
    return record.state is TaskState.PENDING or (record.state is TaskState.SCHEDULED and record.run_at <= now)


def _is_held(record: TaskRecord, lease: Lease) -> bool:
    return record.state is TaskState.RUNNING and (record.epoch, record.worker) == (lease.epoch, lease.worker)


def _runs_at(task: TaskDocument | None, worker: str) -> TypeGuard[TaskDocument]:
    return task is not None and task.record.state is TaskState.RUNNING and task.record.worker == worker


def _lapsed(record: TaskRecord) -> LapsedLease | None:
    if record.lease_until is None:
        return None
    return LapsedLease(record.id, record.epoch, record.worker or "", record.lease_until)


# ── schedules ───────────────────────────────────────────────────────────────


IDS, SLOTS = "schedules", "slots"
"""All schedules by id; the active ones by their next slot."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ScheduleRecord).decode


class ScheduleDocuments:
    """The schedules of one place."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def put(self, schedule: ScheduleRecord, if_version: int | None) -> bool:
        """Write the schedule over that version; returns whether it was still there."""
        (found,) = await self._documents.read([_schedule_key(schedule.id)])
        old = _load(found)
        if (None if old is None else old.version) != if_version:
            return False
        version = (schedule.version if if_version is None else if_version) + 1
        return await self._write(found, replace(schedule, version=version))

    async def move(self, firing: Firing) -> bool:
        """Move the schedule to its next slot, if it is at that version."""
        (found,) = await self._documents.read([_schedule_key(firing.schedule_id)])
        schedule = _load(found)
        if schedule is None or schedule.version != firing.if_version:
            return False
        moved = replace(schedule, next_run=firing.next_run, last_run=firing.slot, version=schedule.version + 1)
        return await self._write(found, moved)

    async def versions(self, ids: Sequence[str]) -> dict[str, int]:
        """The versions of those of the schedules that are there."""
        found = [_load(document) for document in await self._documents.read([_schedule_key(id_) for id_ in ids])]
        return {schedule.id: schedule.version for schedule in found if schedule is not None}

    async def find(self, ids: Sequence[str] | None, by: float | None) -> list[ScheduleRecord]:
        """All, or those of `ids`, by id; with `by`, only active ones whose slot comes by then."""
        wanted = await self._ids(by) if ids is None else sorted(set(ids))
        found = [_load(document) for document in await self._documents.read([_schedule_key(id_) for id_ in wanted])]
        return [row for row in found if row is not None and (by is None or _comes_by(row, by))]

    async def delete(self, schedule_id: str) -> bool:
        """Returns whether it was there."""
        while True:
            (found,) = await self._documents.read([_schedule_key(schedule_id)])
            if found is None:
                return False
            drop = tuple(_entries(_load(found)))
            write = Write(key=_schedule_key(schedule_id), value=None, if_version=found.version, drop=drop)
            if await self._documents.write([[write]]) == [True]:
                return True

    async def _ids(self, by: float | None) -> list[str]:
        index, until = (IDS, None) if by is None else (SLOTS, in_order(by))
        ids: list[str] = []
        last: Entry | None = None
        while page := await self._documents.scan(index, after=last, until=until, limit=1000):
            ids += [entry.key for entry in page]
            last = page[-1]
        return sorted(set(ids))

    async def _write(self, found: Document | None, schedule: ScheduleRecord) -> bool:
        old, new = set(_entries(_load(found))), set(_entries(schedule))
        write = Write(
            key=_schedule_key(schedule.id),
            value=_encode(schedule),
            if_version=None if found is None else found.version,
            put=tuple(new - old),
            drop=tuple(old - new),
        )
        return await self._documents.write([[write]]) == [True]


def _schedule_key(schedule_id: str) -> str:
    return f"schedule/{schedule_id}"


def _load(document: Document | None) -> ScheduleRecord | None:
    """The stored schedule; a damaged one has its `damage`, and stand-ins for what can't be read."""
    if document is None:
        return None
    try:
        return _decode(document.value)
    except ValueError:
        return _damaged(document.value)


def _damaged(value: bytes) -> ScheduleRecord:
    try:
        stored: Any = msgspec.msgpack.decode(value)
        values = dict(stored)
    except (ValueError, TypeError):
        values = {"id": "", "queue_name": "", "body": b"", "next_run": None}
    return schedule_of(values)


def _entries(schedule: ScheduleRecord | None) -> list[Entry]:
    if schedule is None:
        return []
    entries = [Entry(IDS, b"", schedule.id)]
    if schedule.next_run is not None and not schedule.paused:
        entries.append(Entry(SLOTS, in_order(schedule.next_run), schedule.id))
    return entries


def _comes_by(schedule: ScheduleRecord, by: float) -> bool:
    return not schedule.paused and schedule.next_run is not None and schedule.next_run <= by
