"""Results and events on documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from omniq.models.event import TaskEvent
from omniq.storage.base import BaseEventStorage, BaseResultStorage
from omniq.storage.documents.base import Document, DocumentStore, Entry, Write, in_order, out_of_order
from omniq.storage.documents.tasks import short
from omniq.storage.records import EventFilter, EventPage, NewBody, ResultRecord
from omniq.storage.rules import cursor_at, event_in, gives_way, matches, place_of, result_of
from omniq.storage.wakeups import News

# ── results ─────────────────────────────────────────────────────────────────


EXPIRING = "results"
"""The index of the results that end some time: by that time."""

_encode_result = msgspec.msgpack.Encoder().encode
_decode_result = msgspec.msgpack.Decoder(ResultRecord).decode


def result_key(task_id: str) -> str:
    return f"result/{task_id}"


def of_schedule(schedule_id: str) -> str:
    """The index of the results of a schedule's tasks: by their end."""
    return f"results/{short(schedule_id)}"


def write(old: Document | None, record: ResultRecord, now: float) -> Write:
    """The write that stores a result of now in the place of the old one."""
    expires_at = None if record.ttl is None else now + record.ttl
    stored = replace(record, finished_at=now, expires_at=expires_at)
    before, after = set(_entries(_load_result(old))), set(_entries(stored))
    return Write(
        key=result_key(record.task_id),
        value=_encode_result(stored),
        if_version=None if old is None else old.version,
        put=tuple(after - before),
        drop=tuple(before - after),
    )


class DocumentResultStorage(DocumentStore, BaseResultStorage):
    """The contract of a result storage on any store that implements `Documents`."""

    async def put(self, records: Sequence[ResultRecord]) -> list[bool]:
        stored: dict[str, bool] = {}
        while left := [record for record in records if record.task_id not in stored]:
            stored |= await self._put(left)
        self.wakeups.tell(News(ended=[record.task_id for record in records]))
        return [stored[record.task_id] for record in records]

    async def _put(self, records: Sequence[ResultRecord]) -> dict[str, bool]:
        """What is said of those that somebody else wrote meanwhile comes next time."""
        now = self.documents.now()
        found = await self.documents.read([result_key(record.task_id) for record in records])
        pairs = list(zip(records, found, strict=True))
        refused = {record.task_id: False for record, old in pairs if _stays(_load_result(old), record)}
        wanted = [(record, old) for record, old in pairs if record.task_id not in refused]
        written = await self.documents.write([[write(old, record, now)] for record, old in wanted]) if wanted else []
        return refused | {record.task_id: True for (record, _), ok in zip(wanted, written, strict=True) if ok}

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        now = self.documents.now()
        found = await self.documents.read([result_key(task_id) for task_id in ids]) if ids else []
        return [_current(_load_result(document), now) for document in found]

    async def find(self, schedule_id: str, *, newest_first: bool = True, limit: int = 100) -> list[ResultRecord]:
        index, now = of_schedule(schedule_id), self.documents.now()
        found: list[ResultRecord] = []
        last: Entry | None = None
        while len(found) < limit:
            page = await self.documents.scan(index, after=last, limit=limit, reverse=newest_first)
            if not page:
                break
            last = page[-1]
            records = await self.get([entry.key for entry in page])
            found += [record for record in records if record is not None and _current(record, now)]
        return found[:limit]

    async def replace_bodies(self, bodies: Sequence[NewBody]) -> list[bool]:
        replaced = [False] * len(bodies)
        left = dict(enumerate(bodies))
        while left:
            found = await self.documents.read([result_key(new.task_id) for new in left.values()])
            pairs = [(n, document) for n, document in zip(left, found, strict=True) if _has_body(document, left[n].old)]
            writes = [[_body_write(document, left[n].body)] for n, document in pairs if document is not None]
            written = await self.documents.write(writes) if writes else []
            for (n, _), ok in zip(pairs, written, strict=True):
                replaced[n] = ok
            left = {n: left[n] for (n, _), ok in zip(pairs, written, strict=True) if not ok}
        return replaced

    async def purge(self, *, limit: int = 1000) -> int:
        until, deleted = in_order(self.documents.now()), 0
        while deleted < limit:
            page = await self.documents.scan(EXPIRING, until=until, limit=limit - deleted)
            if not page:
                break
            found = await self.documents.read([result_key(entry.key) for entry in page])
            pairs = zip(page, found, strict=True)
            groups = [[_deletion_of_result(entry, document)] for entry, document in pairs if document is not None]
            deleted += sum(await self.documents.write(groups)) if groups else 0
        return deleted


def _deletion_of_result(entry: Entry, document: Document) -> Write:
    record = _load_result(document)
    assert record is not None
    return Write(key=result_key(entry.key), value=None, if_version=document.version, drop=(entry, *_entries(record)))


def _load_result(document: Document | None) -> ResultRecord | None:
    """The stored result; a damaged one has its `damage`, and stand-ins for what can't be read."""
    if document is None:
        return None
    try:
        return _decode_result(document.value)
    except ValueError:
        return _damaged_result(document.value)


def _damaged_result(value: bytes) -> ResultRecord:
    try:
        stored: Any = msgspec.msgpack.decode(value)
        values = dict(stored)
    except (ValueError, TypeError):
        values = {"task_id": "", "epoch": None, "status": None, "body": b""}
    return result_of(values)


def _has_body(document: Document | None, body: bytes) -> bool:
    record = _load_result(document)
    return record is not None and record.damage is None and record.body == body


def _body_write(document: Document, body: bytes) -> Write:
    record = _decode_result(document.value)
    changed = _encode_result(replace(record, body=body))
    return Write(key=result_key(record.task_id), value=changed, if_version=document.version)


def _stays(stored: ResultRecord | None, record: ResultRecord) -> bool:
    return stored is not None and not gives_way(stored, record)


def _current(record: ResultRecord | None, now: float) -> ResultRecord | None:
    expired = record is not None and record.expires_at is not None and record.expires_at <= now
    return None if expired else record


def _entries(record: ResultRecord | None) -> Iterator[Entry]:
    if record is None:
        return
    if record.expires_at is not None:
        yield Entry(EXPIRING, in_order(record.expires_at), record.task_id)
    if record.schedule_id is not None:
        yield Entry(of_schedule(record.schedule_id), in_order(record.finished_at), record.task_id)


# ── events ──────────────────────────────────────────────────────────────────


ALL = "events"
"""The index of all events: by time."""

_encode_event = msgspec.json.Encoder().encode


class DocumentEventStorage(DocumentStore, BaseEventStorage):
    """The contract of an event storage on any store that implements `Documents`."""

    async def append(self, events: Sequence[TaskEvent]) -> None:
        await self.documents.write([[_write(event)] for event in events])

    async def query(
        self, where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
    ) -> EventPage:
        index = _index(where)
        found: list[tuple[Entry, TaskEvent]] = []
        last = _start(index, where, cursor, oldest_first)
        scan = partial(self.documents.scan, index, limit=limit, reverse=not oldest_first)
        while len(found) <= limit and (page := await scan(after=last)):
            last = page[-1]
            found += [(entry, event) for entry, event in await self._read(page) if matches(event, where)]
            if _is_past(last, where, oldest_first):
                break
        more = _cursor(found[limit - 1][0]) if len(found) > limit else None
        return EventPage([event for _, event in found[:limit]], more)

    async def _read(self, page: Sequence[Entry]) -> list[tuple[Entry, TaskEvent]]:
        found = await self.documents.read([_key(entry.key) for entry in page])
        pairs = zip(page, found, strict=True)
        return [(entry, event_in(document.value)) for entry, document in pairs if document is not None]

    async def purge(self, *, before: float, limit: int = 1000) -> int:
        page = await self.documents.scan(ALL, until=in_order(before), limit=limit)
        found = await self.documents.read([_key(entry.key) for entry in page]) if page else []
        groups = [
            [_deletion_of_event(entry, document)]
            for entry, document in zip(page, found, strict=True)
            if document is not None and event_in(document.value).time < before
        ]
        return sum(await self.documents.write(groups)) if groups else 0


def _key(id_: str) -> str:
    return f"event/{id_}"


def _of_task(task_id: str) -> str:
    return f"events/task/{short(task_id)}"


def _of(schedule_id: str) -> str:
    return f"events/schedule/{short(schedule_id)}"


def _write(event: TaskEvent) -> Write:
    entries = (Entry(index, in_order(event.time), event.id) for index in _indexes(event))
    return Write(key=_key(event.id), value=_encode_event(event), put=tuple(entries))


def _deletion_of_event(entry: Entry, document: Document) -> Write:
    drop = tuple(Entry(index, entry.order, entry.key) for index in _indexes(event_in(document.value)))
    return Write(key=_key(entry.key), value=None, if_version=document.version, drop=(entry, *drop))


def _indexes(event: TaskEvent) -> list[str]:
    of_task = [] if event.task_id is None else [_of_task(event.task_id)]
    return [ALL, *of_task] if event.schedule_id is None else [ALL, *of_task, _of(event.schedule_id)]


def _index(where: EventFilter) -> str:
    if where.task_id is not None:
        return _of_task(where.task_id)
    return ALL if where.schedule_id is None else _of(where.schedule_id)


def _start(index: str, where: EventFilter, cursor: str | None, oldest_first: bool) -> Entry | None:
    """Beyond which entry a page begins: the cursor's, or the edge of the time that is asked for."""
    edge = where.since if oldest_first else where.until
    places = [] if cursor is None else [place_of(cursor)]
    places += [] if edge is None else [(edge, "")]
    if not places:
        return None
    time, id_ = max(places) if oldest_first else min(places)
    return Entry(index, in_order(time), id_)


def _is_past(entry: Entry, where: EventFilter, oldest_first: bool) -> bool:
    """Whether all that comes after this entry is beyond the time that is asked for."""
    if oldest_first:
        return where.until is not None and entry.order >= in_order(where.until)
    return where.since is not None and entry.order < in_order(where.since)


def _cursor(entry: Entry) -> str:
    (time,) = out_of_order(entry.order)
    return cursor_at(time, entry.key)
