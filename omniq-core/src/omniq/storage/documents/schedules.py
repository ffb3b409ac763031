"""Schedules as documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from omniq.storage.damage import schedule_of
from omniq.storage.documents.base import Document, Documents, Entry, Write, in_order
from omniq.storage.records import Firing, ScheduleRecord

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
        (found,) = await self._documents.read([_key(schedule.id)])
        old = _load(found)
        if (None if old is None else old.version) != if_version:
            return False
        version = (schedule.version if if_version is None else if_version) + 1
        return await self._write(found, replace(schedule, version=version))

    async def move(self, firing: Firing) -> bool:
        """Move the schedule to its next slot, if it is at that version."""
        (found,) = await self._documents.read([_key(firing.schedule_id)])
        schedule = _load(found)
        if schedule is None or schedule.version != firing.if_version:
            return False
        return await self._write(found, replace(schedule, next_run=firing.next_run, version=schedule.version + 1))

    async def versions(self, ids: Sequence[str]) -> dict[str, int]:
        """The versions of those of the schedules that are there."""
        found = [_load(document) for document in await self._documents.read([_key(id_) for id_ in ids])]
        return {schedule.id: schedule.version for schedule in found if schedule is not None}

    async def find(self, ids: Sequence[str] | None, by: float | None) -> list[ScheduleRecord]:
        """All, or those of `ids`, by id; with `by`, only active ones whose slot comes by then."""
        wanted = await self._ids(by) if ids is None else sorted(set(ids))
        found = [_load(document) for document in await self._documents.read([_key(id_) for id_ in wanted])]
        return [row for row in found if row is not None and (by is None or _comes_by(row, by))]

    async def delete(self, schedule_id: str) -> bool:
        """Returns whether it was there."""
        while True:
            (found,) = await self._documents.read([_key(schedule_id)])
            if found is None:
                return False
            drop = tuple(_entries(_load(found)))
            write = Write(key=_key(schedule_id), value=None, if_version=found.version, drop=drop)
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
            key=_key(schedule.id),
            value=_encode(schedule),
            if_version=None if found is None else found.version,
            put=tuple(new - old),
            drop=tuple(old - new),
        )
        return await self._documents.write([[write]]) == [True]


def _key(schedule_id: str) -> str:
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
