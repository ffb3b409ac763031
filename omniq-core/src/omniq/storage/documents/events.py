"""Events as documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from omniq.ids import new_id
from omniq.models.event import TaskEvent
from omniq.models.state import EventType
from omniq.storage.base import BaseEventStorage
from omniq.storage.damage import event_of
from omniq.storage.documents.base import Document, DocumentStore, Entry, Write, in_order
from omniq.storage.documents.tasks import short

ALL = "events"
"""The index of all events: by time."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(TaskEvent).decode


class DocumentEventStorage(DocumentStore, BaseEventStorage):
    """The contract of an event storage on any store that implements `Documents`."""

    async def append(self, events: Sequence[TaskEvent]) -> None:
        if events:
            await self.documents.write([[_write(new_id(), event)] for event in events])

    async def query(
        self,
        *,
        task_id: str | None = None,
        schedule_id: str | None = None,
        types: Sequence[EventType] = (),
        since: float | None = None,
        limit: int = 100,
    ) -> list[TaskEvent]:
        index = _of_task(task_id) if task_id is not None else _of(schedule_id) if schedule_id is not None else ALL
        found: list[TaskEvent] = []
        last: Entry | None = None
        while len(found) < limit:
            page = await self.documents.scan(index, after=last, limit=limit, reverse=True)
            if not page:
                break
            last = page[-1]
            events = await self._read(page)
            found += [event for event in events if _matches(event, schedule_id, types, since)]
            if since is not None and events and events[-1].time < since:
                break
        return found[:limit][::-1]

    async def _read(self, page: Sequence[Entry]) -> list[TaskEvent]:
        found = await self.documents.read([_key(entry.key) for entry in page])
        return [_load(document) for document in found if document is not None]

    async def purge(self, *, before: float, limit: int = 1000) -> int:
        page = await self.documents.scan(ALL, until=in_order(before), limit=limit) if limit else []
        found = await self.documents.read([_key(entry.key) for entry in page]) if page else []
        groups = [
            [_deletion(entry.key, document)]
            for entry, document in zip(page, found, strict=True)
            if document is not None and _load(document).time < before
        ]
        return sum(await self.documents.write(groups)) if groups else 0


def _load(document: Document) -> TaskEvent:
    """The stored event; a damaged one has stand-ins for what can't be read."""
    try:
        return _decode(document.value)
    except ValueError:
        return _damaged(document.value)


def _damaged(value: bytes) -> TaskEvent:
    try:
        stored: Any = msgspec.json.decode(value)
        values = dict(stored)
    except (ValueError, TypeError):
        values = {"type": None, "time": 0.0}
    return event_of(values)


def _key(id_: str) -> str:
    return f"event/{id_}"


def _of_task(task_id: str) -> str:
    return f"events/task/{short(task_id)}"


def _of(schedule_id: str) -> str:
    return f"events/schedule/{short(schedule_id)}"


def _write(id_: str, event: TaskEvent) -> Write:
    return Write(key=_key(id_), value=_encode(event), put=_entries(id_, event))


def _deletion(id_: str, document: Document) -> Write:
    return Write(key=_key(id_), value=None, if_version=document.version, drop=_entries(id_, _load(document)))


def _entries(id_: str, event: TaskEvent) -> tuple[Entry, ...]:
    order = in_order(event.time)
    indexes = [ALL]
    if event.task_id is not None:
        indexes.append(_of_task(event.task_id))
    if event.schedule_id is not None:
        indexes.append(_of(event.schedule_id))
    return tuple(Entry(index, order, id_) for index in indexes)


def _matches(event: TaskEvent, schedule_id: str | None, types: Sequence[EventType], since: float | None) -> bool:
    return (
        (schedule_id is None or event.schedule_id == schedule_id)
        and (not types or event.type in types)
        and (since is None or event.time >= since)
    )
