"""The bodies of tasks and results: JSON lines, one file for all that one call brings to a queue.

A row doesn't hold its body but a reference to it. A file is immutable, and deleted once no row refers to it.
"""

from __future__ import annotations

import secrets
import time
from base64 import b64decode, b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from omniq.storage.records import NewTask, ResultRecord, TaskRecord
from omniq.storage.table_store import Written

from omniq_fsspec.filesystems import Files, Part

RESULTS: Final = "results"
QUEUES: Final = "queues"


class _Line(Struct):
    """What is read of a line."""

    body: bytes


_decode = msgspec.json.Decoder(_Line).decode
_decode_task = msgspec.json.Decoder(NewTask).decode
_encode = msgspec.json.Encoder().encode


def folder_of(record: NewTask | TaskRecord | ResultRecord) -> str:
    """Where the body of a task or a result is kept."""
    return RESULTS if isinstance(record, ResultRecord) else f"{QUEUES}/{record.queue_name}"


# ── references ──────────────────────────────────────────────────────────────


def reference(file: str, start: int, length: int) -> bytes:
    """A reference to a line: what reads "file/start/length" where JSON shows bytes, as base64."""
    text = f"{file}/{start}/{length}"
    return b64decode(f"{file}/{start}/{'0' * (-len(text) % 4)}{length}")


def size_of(body: bytes) -> int:
    """Bytes of the body that a reference is to, or a few more."""
    return int(b64encode(body).rpartition(b"/")[2]) * 3 // 4 if body else 0


class Spot(NamedTuple):
    """Where a body is."""

    name: str
    start: int
    end: int

    @classmethod
    def of(cls, record: Any) -> Spot:
        """Where the body is that the row refers to. Raises `ValueError` if it is no reference."""
        file, start, length = b64encode(record.body).decode().split("/")
        return cls(f"{folder_of(record)}/{file}.jsonl", int(start), int(start) + int(length))


# ── files ───────────────────────────────────────────────────────────────────


class Bodies:
    """The files with bodies at one place, and how many rows refer to each."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._uses: Counter[str] = Counter()

    async def keep(self, records: Sequence[Any]) -> list[Any]:
        """Store the bodies; returns the records with references instead."""
        kept: dict[int, Any] = {}
        for folder, indexes in _grouped(map(folder_of, records)).items():
            file = f"{int(time.time() * 1000):013d}{secrets.token_hex(5)}"
            data = bytearray()
            for index in indexes:
                record = records[index]
                start = len(data)
                data += _encode(record)
                kept[index] = replace(record, body=reference(file, start, len(data) - start)) if record.body else record
                data += b"\n"
            await self._files.write(f"{folder}/{file}.jsonl", bytes(data))
        return [kept[index] for index in range(len(records))]

    async def discard(self, kept: Sequence[Any]) -> None:
        """Delete the files of bodies that were kept for rows which then weren't written."""
        names = {place.name for record in kept if (place := _place_of(record)) is not None}
        if unused := [name for name in names if not self.is_used(name)]:
            await self._files.delete(unused)

    async def fetch(self, records: Sequence[Any]) -> list[Any]:
        """The records with their bodies; what can't be read is told as `damage`, with the raw bytes as the body."""
        places = [_place_of(record) for record in records]
        spans: dict[str, Part] = {}
        for place in filter(None, places):
            known = spans.get(place.name, place)
            spans[place.name] = Part(place.name, min(known.start or 0, place.start), max(known.end or 0, place.end))
        contents = dict(zip(spans, await self._files.read(list(spans.values())), strict=True)) if spans else {}
        return [
            _with_body(record, place, contents.get(place.name), spans[place.name].start or 0) if place else record
            for record, place in zip(records, places, strict=True)
        ]

    def count(self, written: Written) -> list[str]:
        """Count what rows refer to after a step; returns the files that none refers to any more."""
        gone: list[str] = []
        for old, row in (*written.rows("task"), *written.rows("result")):
            if old is not None and row is not None and old.body == row.body:
                continue
            if row is not None and (place := _place_of(row)) is not None:
                self._uses[place.name] += 1
            if old is not None and (place := _place_of(old)) is not None:
                self._uses[place.name] -= 1
                if self._uses[place.name] <= 0:
                    del self._uses[place.name]
                    gone.append(place.name)
        return gone

    async def tasks_in(self, names: Sequence[str]) -> list[NewTask]:
        """The tasks that were kept in these files, with references instead of their bodies."""
        contents = await self._files.read([Part(name) for name in names])
        return [task for name, data in zip(names, contents, strict=True) for task in _tasks_in(name, data or b"")]

    def is_used(self, name: str) -> bool:
        """Whether a row refers to the file."""
        return name in self._uses


def _tasks_in(name: str, data: bytes) -> Iterator[NewTask]:
    """The tasks of a file that can be read, each with a reference to its line."""
    file, start = name.rpartition("/")[2].removesuffix(".jsonl"), 0
    for line in data.splitlines(keepends=True):
        with suppress(ValueError, msgspec.MsgspecError):
            yield replace(_decode_task(line), body=reference(file, start, len(line) - 1))
        start += len(line)


def _grouped(keys: Iterable[str]) -> Mapping[str, list[int]]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        groups[key].append(index)
    return groups


def _place_of(record: Any) -> Spot | None:
    try:
        return Spot.of(record) if record.body else None
    except ValueError:  # a damaged row, whose body is what is left of it
        return None


def _with_body(record: Any, place: Spot, content: bytes | None, offset: int) -> Any:
    if content is None:
        return replace(record, body=b"", damage=f"body: there is no file {place.name}")
    line = content[place.start - offset : place.end - offset]
    try:
        return replace(record, body=_decode(line).body)
    except msgspec.MsgspecError as error:
        return replace(record, body=line, damage=f"body: {place.name} at byte {place.start}: {error}")
