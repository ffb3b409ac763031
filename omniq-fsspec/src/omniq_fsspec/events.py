"""The event storages in files and in memory: JSON lines, one file for all events that are appended together."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Final, NamedTuple, Self

import msgspec
from omniq.backend import Configured, configured_by
from omniq.clock import FIRST_SECOND
from omniq.events import AsyncEventStorage, EventStorage
from omniq.models.event import TaskEvent
from omniq.storage.base import BaseEventStorage
from omniq.storage.log_files import Part
from omniq.storage.records import EventFilter, EventPage
from omniq.storage.rules import Place, cursor_at, event_in, matches, places_between

from omniq_fsspec.config import FileEventStorageConfig, MemoryEventStorageConfig
from omniq_fsspec.connection import FilePlaceStore

EVENTS: Final = "events"
AT_ONCE: Final = 64
"""Files that are read together."""
_NAME: Final = re.compile(rf"{EVENTS}/(\d{{12}})-(\d{{12}})-(\w+)-(\d+)\.jsonl")

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


class FileEventStore(FilePlaceStore, BaseEventStorage, contract=BaseEventStorage):
    """Events in files whose names tell from when they are. What is asked for by anything else is looked for in all."""

    async def connect(self) -> None:
        connection = self._connection
        await connection.run(connection.place.files.open())

    async def append(self, events: Sequence[TaskEvent]) -> None:
        ordered = sorted(events, key=attrgetter("time", "id"))
        file = _File.of(ordered, f"{time.time_ns():020d}{secrets.token_hex(4)}")
        await self._place.files.write(file.name, _encode_lines(ordered))

    async def query(
        self, where: EventFilter, *, oldest_first: bool = False, limit: int = 100, cursor: str | None = None
    ) -> EventPage:
        span = _Span(where, cursor, oldest_first)
        files = span.sorted(await self._files())
        found: dict[Place, TaskEvent] = {}
        for start in range(0, len(files), AT_ONCE):
            if sum(span.comes_before(key, files[start]) for key in found) > limit:
                break
            for lines in await self._read(files[start : start + AT_ONCE]):
                found |= {key: event for key, event in lines if span.has(key) and matches(event, where)}
        keys = sorted(found, reverse=not oldest_first)
        return EventPage([found[key] for key in keys[:limit]], cursor_at(*keys[limit - 1]) if keys[limit:] else None)

    async def purge(self, *, before: float, limit: int = 1000) -> int:
        gone = 0
        for file in _Span(EventFilter(until=before), None, oldest_first=True).sorted(await self._files()):
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

    async def _files(self) -> list[_File]:
        """All files; of those of which one replaces another, the one that does."""
        names = await self._place.files.list(EVENTS)
        known = [_File(int(m[1]), int(m[2]), m[3], int(m[4])) for name in names if (m := _NAME.fullmatch(name))]
        return list({file.appended: file for file in sorted(known, key=attrgetter("first"))}.values())

    async def _read(self, files: Sequence[_File]) -> list[list[tuple[Place, TaskEvent]]]:
        """The events of the files, with their keys."""
        found = await self._place.files.read([Part(file.name) for file in files])
        return [list(_events_in(file, data or b"")) for file, data in zip(files, found, strict=True)]


def _events_in(file: _File, data: bytes) -> Iterator[tuple[Place, TaskEvent]]:
    """The events of a file; one whose id can't be read stands where its line is."""
    for number, line in enumerate(data.splitlines(), file.first):
        event = event_in(line)
        yield (event.time, event.id or f"{file.appended}-{number}"), event


class _Span:
    """Between which events those are that are asked for, and in which order."""

    def __init__(self, where: EventFilter, cursor: str | None, oldest_first: bool) -> None:
        self._low, self._high = places_between(where, cursor, oldest_first=oldest_first)
        self._oldest_first = oldest_first

    def sorted(self, files: Sequence[_File]) -> list[_File]:
        """The files that may have such events, in the order in which they are looked for."""
        since, until = _second(self._low[0]), _second(self._high[0])
        fitting = [file for file in files if file.latest >= since and file.earliest <= until]
        order = attrgetter("earliest" if self._oldest_first else "latest")
        return sorted(fitting, key=order, reverse=not self._oldest_first)

    def has(self, key: Place) -> bool:
        """Whether the event is one of those."""
        return self._low < key < self._high

    def comes_before(self, key: Place, file: _File) -> bool:
        """Whether the event comes before all that are in this file, and in those that follow it."""
        return _second(key[0]) < file.earliest if self._oldest_first else _second(key[0]) > file.latest


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
