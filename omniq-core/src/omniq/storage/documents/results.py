"""Results as documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from omniq.storage.damage import result_of
from omniq.storage.documents.base import Document, DocumentStore, Entry, Write, in_order
from omniq.storage.documents.tasks import short
from omniq.storage.records import NewBody, ResultRecord
from omniq.storage.results import BaseResultStorage
from omniq.storage.rules import gives_way
from omniq.storage.wakeups import News

EXPIRING = "results"
"""The index of the results that end some time: by that time."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ResultRecord).decode


def result_key(task_id: str) -> str:
    return f"result/{task_id}"


def of_schedule(schedule_id: str) -> str:
    """The index of the results of a schedule's tasks: by their end."""
    return f"results/{short(schedule_id)}"


def write(old: Document | None, record: ResultRecord, now: float) -> Write:
    """The write that stores a result of now in the place of the old one."""
    expires_at = None if record.ttl is None else now + record.ttl
    stored = replace(record, finished_at=now, expires_at=expires_at)
    before, after = set(_entries(_load(old))), set(_entries(stored))
    return Write(
        key=result_key(record.task_id),
        value=_encode(stored),
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
        refused = {record.task_id: False for record, old in pairs if _stays(_load(old), record)}
        wanted = [(record, old) for record, old in pairs if record.task_id not in refused]
        written = await self.documents.write([[write(old, record, now)] for record, old in wanted]) if wanted else []
        return refused | {record.task_id: True for (record, _), ok in zip(wanted, written, strict=True) if ok}

    async def get(self, ids: Sequence[str]) -> list[ResultRecord | None]:
        now = self.documents.now()
        found = await self.documents.read([result_key(task_id) for task_id in ids]) if ids else []
        return [_current(_load(document), now) for document in found]

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
            groups = [[_deletion(entry, document)] for entry, document in pairs if document is not None]
            deleted += sum(await self.documents.write(groups)) if groups else 0
        return deleted


def _deletion(entry: Entry, document: Document) -> Write:
    record = _load(document)
    assert record is not None
    return Write(key=result_key(entry.key), value=None, if_version=document.version, drop=(entry, *_entries(record)))


def _load(document: Document | None) -> ResultRecord | None:
    """The stored result; a damaged one has its `damage`, and stand-ins for what can't be read."""
    if document is None:
        return None
    try:
        return _decode(document.value)
    except ValueError:
        return _damaged(document.value)


def _damaged(value: bytes) -> ResultRecord:
    try:
        stored: Any = msgspec.msgpack.decode(value)
        values = dict(stored)
    except (ValueError, TypeError):
        values = {"task_id": "", "epoch": None, "status": None, "body": b""}
    return result_of(values)


def _has_body(document: Document | None, body: bytes) -> bool:
    record = _load(document)
    return record is not None and record.damage is None and record.body == body


def _body_write(document: Document, body: bytes) -> Write:
    record = _decode(document.value)
    changed = _encode(replace(record, body=body))
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
