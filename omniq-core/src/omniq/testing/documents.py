"""The document kit's primitives over a dict, at their plainest: to read, and to test the kit with."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import ClassVar

from omniq.ids import new_id
from omniq.storage.base import Guarantees
from omniq.storage.documents import Document, Documents, Entry, Write


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

    async def guarantees(self) -> Guarantees:
        return Guarantees(
            survives_process_kill=False,
            survives_power_loss=False,
            survives_failover=False,
            clock="host",
            push=False,
            atomic_results=True,
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
