"""The bodies of tasks and results: JSON lines, one file for all that one call brings to a queue.

A row holds a reference to its body, or the body itself where it isn't worth a file. A file is immutable, and deleted
once no row refers to it.
"""

from __future__ import annotations

import re
import secrets
import time
from binascii import a2b_base64, b2a_base64
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from omniq.storage.log_files import Files, Part
from omniq.storage.records import NewTask, ResultRecord, TaskRecord
from omniq.storage.table_set import Written

RESULTS: Final = "results"
SMALL: Final = 1024
"""Bytes up to which a body may stay in its row: one paid write less."""
QUEUES: Final = "queues"
_NAME: Final = re.compile(r"\d{13}[0-9a-f]{10}")
"""When a file was made, in milliseconds since the epoch on the clock of who made it, and what nobody else has."""


class _Line(Struct):
    """What is read of a line."""

    body: bytes


_decode = msgspec.json.Decoder(_Line).decode
_decode_task = msgspec.json.Decoder(NewTask).decode
_encode = msgspec.json.Encoder().encode


def folder_of(record: NewTask | TaskRecord | ResultRecord) -> str:
    """Where the body of a task or a result is kept."""
    return RESULTS if isinstance(record, ResultRecord) else _folder_of_queue(record.queue_name)


@lru_cache
def _folder_of_queue(name: str) -> str:
    """That of a queue; names that would lead elsewhere are escaped."""
    escaped = quote(name, safe="")
    return f"{QUEUES}/%2E{escaped[1:]}" if escaped.startswith(".") else f"{QUEUES}/{escaped}"


# ── references ──────────────────────────────────────────────────────────────

FILE, START = slice(0, 18), slice(18, 27)
"""Which bytes of a reference name the file, and which the first byte of the line; its length follows."""
LENGTH: Final = 36


def reference(file: str, start: int, length: int) -> bytes:
    """A reference to a line: what reads "file/start/length" where JSON shows bytes, as base64."""
    return a2b_base64(f"{file}/{start:011d}/{length:012d}")


def is_reference(body: bytes) -> bool:
    """Whether a row refers to a body; else it has none, or was damaged."""
    return len(body) == LENGTH


def size_of(body: bytes) -> int:
    """Bytes of the body that a row holds or refers to, or a few more."""
    span = span_of(body)
    return len(body) if span is None else (span[1] - span[0]) * 3 // 4


def span_of(body: bytes) -> tuple[int, int] | None:
    """Where the line begins that a reference is to, and where it ends; None for what is no reference."""
    if not is_reference(body):
        return None
    try:
        start = int(_text(body[START])[:-1])
        return start, start + int(_text(body[START.stop :]))
    except ValueError:  # it was damaged
        return None


def name_of(record: Any) -> str:
    """The file that a row refers to."""
    return f"{folder_of(record)}/{_text(record.body[FILE])[:-1]}.jsonl"


def _text(part: bytes) -> str:
    return b2a_base64(part, newline=False).decode()


# ── files ───────────────────────────────────────────────────────────────────


class Bodies:
    """The files with bodies at one place, and how many rows refer to each."""

    def __init__(self, files: Files, small: tuple[type, ...] = (ResultRecord,)) -> None:
        """The small bodies of these stay in their rows. Tasks in files never do: so they outlive their rows."""
        self._files = files
        self._small = small
        self._uses: Counter[bytes] = Counter()

    def forget(self) -> None:
        """Count from the start: the rows are read anew."""
        self._uses.clear()

    async def store(self, records: Sequence[Any]) -> list[Any]:
        """Store the bodies; returns the records with references instead."""
        kept = list(records)
        for folder, indexes in self._grouped(records).items():
            file = f"{int(time.time() * 1000):013d}{secrets.token_hex(5)}"
            lines = [_encode(records[index]) for index in indexes]
            start = 0
            for index, line in zip(indexes, lines, strict=True):
                record = records[index]
                kept[index] = replace(record, body=reference(file, start, len(line))) if record.body else record
                start += len(line) + 1
            await self._files.write(f"{folder}/{file}.jsonl", b"\n".join([*lines, b""]))
        return kept

    async def store_again(self, records: Sequence[Any], kept: Sequence[Any]) -> None:
        """Store bodies once more, in case that their files were deleted before the rows came."""
        for indexes in self._grouped(records).values():
            if (known := next((kept[index] for index in indexes if kept[index].body), None)) is not None:
                lines = [_encode(records[index]) for index in indexes]
                await self._files.write(name_of(known), b"\n".join([*lines, b""]))

    async def discard(self, kept: Sequence[Any]) -> None:
        """Delete the files of bodies that were kept for rows which then weren't written."""
        files = {record.body[FILE]: record for record in kept if is_reference(record.body)}
        unused = {file: record for file, record in files.items() if file not in self._uses}
        if unused:
            await self._files.delete(map(name_of, unused.values()))

    def _grouped(self, records: Sequence[Any]) -> Mapping[str, list[int]]:
        """The indexes of those whose bodies go to files, by folder."""
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            is_small = len(record.body) <= SMALL and not is_reference(record.body)
            if not (is_small and isinstance(record, self._small)):
                groups[folder_of(record)].append(index)
        return groups

    async def load(self, records: Sequence[Any]) -> list[Any]:
        """The records with their bodies; what can't be read is told as `damage`, with the raw bytes as the body."""
        found = list(records)
        spans = {index: span for index, record in enumerate(records) if (span := span_of(record.body)) is not None}
        by_file: defaultdict[str, list[int]] = defaultdict(list)
        for index in spans:
            by_file[name_of(records[index])].append(index)
        parts = [
            Part(name, min(spans[index][0] for index in indexes), max(spans[index][1] for index in indexes))
            for name, indexes in by_file.items()
        ]
        for part, data in zip(parts, await self._files.read(parts) if parts else [], strict=True):
            for index in by_file[part.name]:
                start, end = (at - (part.start or 0) for at in spans[index])
                found[index] = _with_body(records[index], None if data is None else data[start:end], part.name)
        return found

    def count(self, written: Written) -> list[str]:
        """Count what rows refer to after a step; returns the files that none refers to any more."""
        gone: list[str] = []
        for name, rows in (("task", written.tables.tasks.rows), ("result", written.tables.results.rows)):
            for id_, old in written.before[name].items():
                row = rows.get(id_)
                was, is_ = old.body if old is not None else b"", row.body if row is not None else b""
                if was is is_ or was == is_:
                    continue
                if len(is_) == LENGTH:
                    self._uses[is_[FILE]] += 1
                if len(was) == LENGTH:
                    self._uses[was[FILE]] -= 1
                    if not self._uses[was[FILE]]:
                        del self._uses[was[FILE]]
                        gone.append(name_of(old))
        return gone

    async def tasks_in(self, names: Sequence[str]) -> list[NewTask]:
        """The tasks that were kept in these files, with references instead of their bodies."""
        contents = await self._files.read([Part(name) for name in names])
        return [task for name, data in zip(names, contents, strict=True) for task in _tasks_in(name, data or b"")]

    def is_used(self, name: str) -> bool:
        """Whether a row refers to the file."""
        file = name.rpartition("/")[2].removesuffix(".jsonl")
        return _NAME.fullmatch(file) is not None and a2b_base64(f"{file}/") in self._uses


def _tasks_in(name: str, data: bytes) -> Iterator[NewTask]:
    """The tasks of a file that can be read, each with a reference to its line."""
    file, start = name.rpartition("/")[2].removesuffix(".jsonl"), 0
    for line in data.splitlines(keepends=True):
        with suppress(ValueError, msgspec.MsgspecError):
            yield replace(_decode_task(line), body=reference(file, start, len(line) - 1))
        start += len(line)


def _with_body(record: Any, line: bytes | None, name: str) -> Any:
    if line is None:
        return replace(record, body=b"", damage=f"body: there is no file {name}")
    try:
        return replace(record, body=_decode(line).body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return replace(record, body=line, damage=f"body: {name}: {error}")
