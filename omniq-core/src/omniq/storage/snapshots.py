"""Snapshots of a stream's log: all rows as they were after one segment, in as many messages as that takes.

What came before the newest one is deleted, and so are bodies that no row refers to.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final
from zlib import crc32

import msgspec
from msgspec import Struct

from omniq import clock
from omniq.errors import StoreError, StoreUnavailable
from omniq.loops import Background, spawn
from omniq.storage import rules
from omniq.storage.connected import check_layout
from omniq.storage.lines import decode_rows, encode_rows
from omniq.storage.stream import LOG, Stream, is_reference, name_of
from omniq.storage.table_set import Tables
from omniq.texts import get_logger

LAYOUT: Final = 1
"""The version of the subjects and of what their messages hold."""
NEWEST: Final = "snapshot"
"""The subject that tells of the newest snapshot. Its messages are at `part.<snapshot>.<number>`."""
PIECE: Final = 500
"""Rows that are encoded at a time."""
PART_BYTES: Final = 512 * 1024
"""Bytes after which the next message of a snapshot begins."""
GRACE: Final = 2.0
"""Seconds for which what isn't needed any more is kept: whoever is about to read it needn't begin anew."""
LEFT: Final = 3600.0
"""Seconds after which a body that no row refers to is left over: its call has failed, or its process has died."""

_log = get_logger("omniq.storage")


class Head(Struct, omit_defaults=True, kw_only=True):
    """What is told of a snapshot."""

    omniq: int
    """The layout."""
    log: str
    """Which log it is of: another one may be begun, once the stream was deleted."""
    after: int = 0
    """The segment after which it was made, by its sequence; 0 for the empty one, with which a log begins."""
    name: str = ""
    parts: int = 0
    rows: int = 0
    crc: int = 0
    """CRC-32 of its parts."""


class Snapshots:
    """Those of a stream. Each call raises `StoreError`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._swept_at = -LEFT

    async def newest(self) -> tuple[Head, int]:
        """What is told of the newest one, and the sequence of that message. A log is begun where there is none."""
        location = self._stream.location
        found = await self._stream.last(NEWEST)
        if found is None:
            begun = Head(omniq=LAYOUT, log=secrets.token_hex(8))
            await self._stream.put(NEWEST, msgspec.json.encode(begun), after=0)
            found = await self._stream.last(NEWEST)
        if found is None:
            raise StoreUnavailable(f"{location}: the stream was deleted meanwhile: try again")
        try:
            head = msgspec.json.decode(found.data, type=Head)
        except rules.DAMAGE as error:
            raise StoreError(f"{location}: what is kept there isn't OmniQ's: {error}") from error
        check_layout(location, head.omniq, LAYOUT, "omniq-core")
        return head, found.sequence

    async def read(self, head: Head) -> Tables | None:
        """The tables as a snapshot has them; None if it was replaced meanwhile."""
        tables = Tables()
        rows = crc = 0
        for number in range(head.parts):
            data = await self._stream.read(_part(head, number))
            if data is None:
                if (await self.newest())[0] != head:
                    return None
                raise StoreError(f"{self._stream.location}: {_part(head, number)} of its snapshot is missing")
            lines = decode_rows(data)
            tables.apply(lines)
            rows, crc = rows + len(lines), crc32(data, crc)
        if (rows, crc) != (head.rows, head.crc):
            _log.error(
                "%s: the snapshot %s is damaged: %d of %d rows can be read",
                *(self._stream.location, head.name, rows, head.rows),
            )
        tables.settle()
        return tables

    async def write(self, log: str, after: int, tables: Sequence[tuple[str, list[Any]]]) -> int | None:
        """Write one of these rows; returns the sequence of its first message, None if others have made a later one."""
        newest, at = await self.newest()
        if newest.log != log or newest.after >= after:
            return None  # what came between the two is deleted already
        head = Head(omniq=LAYOUT, log=log, after=after, name=secrets.token_hex(4))
        first = None
        async for rows, data in snapshot_parts(tables):
            written = await self._stream.put(_part(head, head.parts), data)
            first = first or written
            head.rows, head.crc, head.parts = head.rows + rows, crc32(data, head.crc), head.parts + 1
        told = await self._stream.put(NEWEST, msgspec.json.encode(head), at)
        if told is None:
            await self._stream.delete(f"part.{head.name}.>")
        return None if told is None else first or told

    async def trim(self, after: int, first: int) -> None:
        """Delete what one has made needless that was made after that segment, and has that first message."""
        await self._stream.delete(LOG, before=after)
        await self._stream.delete("part.>", before=first)

    async def sweep(self, now: float, tables: Callable[[], Tables]) -> None:
        """Delete the bodies that are left over, at most once in that time; `now` is on the stream's clock."""
        if clock.uptime() - self._swept_at < LEFT:
            return
        self._swept_at = clock.uptime()
        names = await self._stream.names("body.*")
        for name in set(names) - _used_in(tables()):
            found = await self._stream.last(name)
            if found is not None and found.time < now - LEFT:
                await self._stream.delete(name)


class BackgroundWork:
    """What goes on behind the calls: nobody waits for it, and what fails there is left for the next time."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._closing = asyncio.Event()
        self._going_on: set[Background[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Let it go on by itself."""
        task = spawn(self._quietly(work), name="omniq-stream")
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)

    def delete_later(self, names: Sequence[str]) -> None:
        """Delete bodies to which rows led a moment ago: somebody may be about to read them."""
        if names:
            self.start(self._delete(names))

    async def rest(self) -> None:
        """Wait before something is deleted, unless this ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await self._closing.wait()

    async def end(self) -> None:
        """Wait for all that goes on, which needn't rest any more."""
        self._closing.set()
        while self._going_on:
            await asyncio.wait(set(self._going_on))
        self._closing.clear()

    async def _delete(self, names: Sequence[str]) -> None:
        await self.rest()
        for name in names:
            await self._stream.delete(name)

    async def _quietly(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except StoreError as error:
            _log.debug("%s: left for the next time: %s", self._stream.location, error)


def _part(head: Head, number: int) -> str:
    return f"part.{head.name}.{number}"


def _used_in(tables: Tables) -> set[str]:
    """The messages of all bodies that rows refer to."""
    tasks, results = tables.tasks.rows.values(), tables.results.rows.values()
    bodies = [*(row.body for row in tasks), *(row.body for row in results)]
    return {name_of(body) for body in bodies if is_reference(body)}


async def snapshot_parts(tables: Sequence[tuple[str, list[Any]]]) -> AsyncIterator[tuple[int, bytes]]:
    """The rows, in messages of a snapshot: of how many rows each is, and what it holds."""
    part, size = list[bytes](), 0
    for name, rows in tables:
        for start in range(0, len(rows), PIECE):
            for line in encode_rows(name, rows[start : start + PIECE]).splitlines(keepends=True):
                if part and size + len(line) > PART_BYTES:
                    yield len(part), b"".join(part)
                    part, size = [], 0
                part.append(line)
                size += len(line)
            await asyncio.sleep(0)  # others have their turn
    if part:
        yield len(part), b"".join(part)
