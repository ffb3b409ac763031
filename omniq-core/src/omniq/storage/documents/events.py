"""Events as documents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import msgspec

from omniq.ids import new_id
from omniq.models.event import TaskEvent
from omniq.storage.damage import event_of
from omniq.storage.documents.base import Document, DocumentStore, Entry, Write, in_order
from omniq.storage.documents.tasks import short
from omniq.storage.events import BaseEventStorage
from omniq.storage.records import EventFilter, EventPage
from omniq.storage.rules import matches

ALL = "events"
"""The index of all events: by time."""

_numbers = count()
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(TaskEvent).decode


class DocumentEventStorage(DocumentStore, BaseEventStorage):
    """The contract of an event storage on any store that implements `Documents`."""

    async def append(self, events: Sequence[TaskEvent]) -> None:
        await self.documents.write([[_write(new_id(), event, next(_numbers))] for event in events])

    async def query(self, where: EventFilter, *, limit: int = 100, cursor: str | None = None) -> EventPage:
        index = _index(where)
        found: list[tuple[Entry, TaskEvent]] = []
        last = _start(index, where, cursor)
        while len(found) <= limit and (page := await self.documents.scan(index, after=last, limit=limit, reverse=True)):
            last = page[-1]
            found += [(entry, event) for entry, event in await self._read(page) if matches(event, where)]
            if where.since is not None and last.order < in_order(where.since):
                break
        more = _cursor(found[limit - 1][0]) if len(found) > limit else None
        return EventPage([event for _, event in found[:limit]], more)

    async def _read(self, page: Sequence[Entry]) -> list[tuple[Entry, TaskEvent]]:
        found = await self.documents.read([_key(entry.key) for entry in page])
        pairs = zip(page, found, strict=True)
        return [(entry, _load(document)) for entry, document in pairs if document is not None]

    async def purge(self, *, before: float, limit: int = 1000) -> int:
        page = await self.documents.scan(ALL, until=in_order(before), limit=limit)
        found = await self.documents.read([_key(entry.key) for entry in page]) if page else []
        groups = [
            [_deletion(entry, document)]
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


def _write(id_: str, event: TaskEvent, number: int) -> Write:
    # Those of one time come in the order in which this process has appended them.
    order = in_order(event.time, number)
    return Write(key=_key(id_), value=_encode(event), put=tuple(Entry(index, order, id_) for index in _indexes(event)))


def _deletion(entry: Entry, document: Document) -> Write:
    drop = tuple(Entry(index, entry.order, entry.key) for index in _indexes(_load(document)))
    return Write(key=_key(entry.key), value=None, if_version=document.version, drop=(entry, *drop))


def _indexes(event: TaskEvent) -> list[str]:
    of_task = [] if event.task_id is None else [_of_task(event.task_id)]
    return [ALL, *of_task] if event.schedule_id is None else [ALL, *of_task, _of(event.schedule_id)]


def _index(where: EventFilter) -> str:
    if where.task_id is not None:
        return _of_task(where.task_id)
    return ALL if where.schedule_id is None else _of(where.schedule_id)


def _start(index: str, where: EventFilter, cursor: str | None) -> Entry | None:
    """Before which entry a page begins."""
    if cursor is not None:
        order, key = cursor.split()
        return Entry(index, bytes.fromhex(order), key)
    return None if where.until is None else Entry(index, in_order(where.until), "")


def _cursor(entry: Entry) -> str:
    return f"{entry.order.hex()} {entry.key}"
