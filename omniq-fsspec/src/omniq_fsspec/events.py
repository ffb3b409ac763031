"""The event storages in files and in memory: JSON lines, one file for all events that are appended together."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Self, TypeAlias

import msgspec
from omniq.backend import Configured, configured_by
from omniq.clock import FIRST_SECOND
from omniq.events import AsyncEventStorage, EventStorage
from omniq.models.task import TaskEvent
from omniq.storage.base import BaseEventStorage
from omniq.storage.log_files import Part
from omniq.storage.records import EventFilter, EventPage
from omniq.storage.rules import event_in, matches

from omniq_fsspec.config import FileEventStorageConfig, MemoryEventStorageConfig
from omniq_fsspec.connection import PlaceStore

EVENTS: Final = "events"
AT_ONCE: Final = 64
"""Files that are read together."""
_NAME: Final = re.compile(rf"{EVENTS}/(\d{{12}})-(\d{{12}})-(\w+)-(\d+)\.jsonl")

Key: TypeAlias = tuple[float, str, int]
"""By what events are ordered: the time, when they were appended, and the line."""

_encode_lines = msgspec.json.Encoder().encode_lines


class _File(NamedTuple):
    """A file of events in the order of their times, by what its name tells."""

    earliest: int
    latest: int
    """Whole seconds between which its events are, counted from the year 1."""
    appended: str
    """When, and a text that nobody else has."""
    first: int
    """The number of its first line: those before it were purged."""

    @classmethod
    def of(cls, events: Sequence[TaskEvent], appended: str, first: int = 0) -> Self:
        """The file for these events."""
        return cls(_second(events[0].time), _second(events[-1].time), appended, first)

    @property
    def name(self) -> str:
        return f"{EVENTS}/{self.earliest:012d}-{self.latest:012d}-{self.appended}-{self.first}.jsonl"


def _second(at: float) -> int:
    return int(at // 1) - int(FIRST_SECOND)


class FileEventStore(PlaceStore, BaseEventStorage, contract=BaseEventStorage):
    """Events in files whose names tell from when they are. What is asked for by anything else is looked for in all."""

    async def connect(self) -> None:
        connection = self._connection
        await connection.run(connection.place.files.open())

    async def append(self, events: Sequence[TaskEvent]) -> None:
        ordered = sorted(events, key=lambda event: event.time)
        file = _File.of(ordered, f"{time.time_ns():020d}{secrets.token_hex(4)}")
        await self._place.files.write(file.name, _encode_lines(ordered))

    async def query(self, where: EventFilter, *, limit: int = 100, cursor: str | None = None) -> EventPage:
        before = None if cursor is None else _key_of(cursor)
        found: list[tuple[Key, TaskEvent]] = []
        files = await self._files(where, before)
        for start in range(0, len(files), AT_ONCE):
            if sum(_second(key[0]) > files[start].latest for key, _ in found) > limit:
                break  # what comes is older
            for lines in await self._read(files[start : start + AT_ONCE]):
                found += [(key, e) for key, e in lines if matches(e, where) and (before is None or key < before)]
        found.sort(key=lambda pair: pair[0], reverse=True)
        page = found[:limit]
        return EventPage([event for _, event in page], " ".join(map(str, page[-1][0])) if len(found) > limit else None)

    async def purge(self, *, before: float, limit: int = 1000) -> int:
        gone = 0
        for file in reversed(await self._files(EventFilter(until=before), None)):
            if gone == limit:
                break
            (lines,) = await self._read([file])
            old = min(limit - gone, sum(event.time < before for _, event in lines))
            if old and (rest := [event for _, event in lines[old:]]):
                left = _File.of(rest, file.appended, file.first + old)
                await self._place.files.write(left.name, _encode_lines(rest))
            if old or not lines:
                await self._place.files.delete([file.name])
            gone += old
        return gone

    async def _files(self, where: EventFilter, before: Key | None) -> list[_File]:
        """The files that may have such events, those with the latest ones first."""
        names = await self._place.files.list(EVENTS)
        known = [_File(int(m[1]), int(m[2]), m[3], int(m[4])) for name in names if (m := _NAME.fullmatch(name))]
        newest = {file.appended: file for file in sorted(known, key=lambda file: file.first)}
        until = min([_second(at) for at in (where.until, before and before[0]) if at is not None], default=None)
        since = None if where.since is None else _second(where.since)
        fitting = [
            file
            for file in newest.values()
            if (since is None or file.latest >= since) and (until is None or file.earliest <= until)
        ]
        return sorted(fitting, key=lambda file: file.latest, reverse=True)

    async def _read(self, files: Sequence[_File]) -> list[list[tuple[Key, TaskEvent]]]:
        """The events of the files, with their keys."""
        found = await self._place.files.read([Part(file.name) for file in files])
        return [list(_events_in(file, data or b"")) for file, data in zip(files, found, strict=True)]


def _events_in(file: _File, data: bytes) -> Iterator[tuple[Key, TaskEvent]]:
    for number, line in enumerate(data.splitlines(), file.first):
        event = event_in(line)
        yield (event.time, file.appended, number), event


def _key_of(cursor: str) -> Key:
    at, appended, number = cursor.split()
    return float(at), appended, int(number)


class MemoryEventStore(FileEventStore):
    """Events in this process."""


class AsyncFileEventStorage(Configured, AsyncEventStorage[FileEventStorageConfig]):
    """Events in files. Takes the fields of `FileEventStorageConfig`."""

    @configured_by(FileEventStorageConfig)
    def __init__(self, config: FileEventStorageConfig) -> None:
        super().__init__(FileEventStore, config)


class FileEventStorage(Configured, EventStorage):
    """`AsyncFileEventStorage` with methods that block; `aio` is its async core."""

    @configured_by(FileEventStorageConfig)
    def __init__(self, config: FileEventStorageConfig) -> None:
        super().__init__(AsyncFileEventStorage.from_config(config))


class AsyncMemoryEventStorage(Configured, AsyncEventStorage[MemoryEventStorageConfig]):
    """Events in this process's memory. Takes the fields of `MemoryEventStorageConfig`."""

    @configured_by(MemoryEventStorageConfig)
    def __init__(self, config: MemoryEventStorageConfig) -> None:
        super().__init__(MemoryEventStore, config)


class MemoryEventStorage(Configured, EventStorage):
    """`AsyncMemoryEventStorage` with methods that block; `aio` is its async core."""

    @configured_by(MemoryEventStorageConfig)
    def __init__(self, config: MemoryEventStorageConfig) -> None:
        super().__init__(AsyncMemoryEventStorage.from_config(config))
