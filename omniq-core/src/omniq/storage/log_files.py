"""What a log is kept in: files, wherever they are, with rows as lines of JSON."""

from __future__ import annotations

import asyncio
import math
import os
import re
import secrets
import socket
import time
from abc import ABC, abstractmethod
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, NamedTuple, Self
from urllib.parse import quote, unquote
from zlib import crc32

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from omniq import clock
from omniq.errors import StoreError
from omniq.loops import Background, spawn
from omniq.storage import rules
from omniq.storage.base import Guarantees
from omniq.storage.records import ResultRecord, ScheduleRecord, TaskRecord, WorkerRecord
from omniq.storage.tables import QueueRecord
from omniq.sync import cancel_and_wait

# ── files ───────────────────────────────────────────────────────────────────


class Part(NamedTuple):
    """A file, or some bytes of it."""

    name: str
    start: int | None = None
    end: int | None = None


class Files(ABC):
    """Small files under one root, by their names relative to it.

    Raises `StoreFull`, `StoreUnavailable` where a repeat may succeed, and else `StoreError`.
    """

    trust: ClassVar[float]
    """Seconds for which one who has followed the log needn't ask what was deleted since; much less than the grace."""
    report_interval: ClassVar[float]
    """Seconds between two reports of a worker that has nothing to do."""
    grace: ClassVar[float]
    """Seconds for which files that aren't needed any more are kept: for who is behind, or copies them meanwhile."""
    pauses: ClassVar[Sequence[tuple[float, float]]]
    """Up to so many seconds after the last change, how many seconds pass between two looks for the next."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.ahead = 0.0
        """Seconds by which the file system's clock is ahead of this machine's, where that decides."""

    @abstractmethod
    async def open(self) -> None:
        """Open what the running loop needs, and make the root."""

    @abstractmethod
    async def close(self) -> None:
        """Give it back, after the calls under way."""

    @abstractmethod
    async def create(self, name: str, data: bytes) -> bool:
        """Make the file with this content if there is none; returns whether there was none. All or nothing."""

    @abstractmethod
    async def write(self, name: str, data: bytes, *, lasting: bool = True) -> None:
        """Make the file, or replace it as a whole. What isn't `lasting` may be lost in a loss of power."""

    @abstractmethod
    async def read(self, parts: Sequence[Part]) -> list[bytes | None]:
        """The contents; None for files that aren't there."""

    @abstractmethod
    async def delete(self, names: Iterable[str]) -> None:
        """Delete the files that are there."""

    @abstractmethod
    async def list(self, folder: str) -> dict[str, float]:
        """The names of all files in a folder and those inside it, relative to the root, and when each was written, in
        seconds since the epoch on the clock of the file system."""

    @abstractmethod
    async def written_at(self, name: str) -> float | None:
        """When the file was written; None if it isn't there."""

    @abstractmethod
    async def drop(self) -> None:
        """Delete all of them."""

    @abstractmethod
    def guarantees(self) -> Guarantees:
        """What they promise."""


# ── rows as lines of JSON ───────────────────────────────────────────────────


class Line(Struct, omit_defaults=True, kw_only=True):
    """A row as it is from now on; or the ids of rows that are gone, by the names of their tables."""

    task: TaskRecord | None = None
    queue: QueueRecord | None = None
    schedule: ScheduleRecord | None = None
    result: ResultRecord | None = None
    gone: dict[str, list[str]] | None = None


KINDS: Final[Mapping[str, tuple[str, type[Any]]]] = {
    "task": ("id", TaskRecord),
    "queue": ("name", QueueRecord),
    "schedule": ("id", ScheduleRecord),
    "result": ("task_id", ResultRecord),
}
"""By the names of the tables, where a row has its id, and what it is."""

_encode_lines = msgspec.json.Encoder().encode_lines
_decode_lines = msgspec.json.Decoder(Line).decode_lines
_decode_line = msgspec.json.Decoder(Line).decode


def encode_rows(name: str, rows: Iterable[Any]) -> bytes:
    """Rows of a table, each as a line."""
    return encode_lines([{name: row} for row in rows])


def encode_lines(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """What `Written.lines` gives, as lines that `decode_rows` reads."""
    return _encode_lines(lines)


def decode_rows(data: bytes) -> list[Line]:
    """What lines tell, read one by one where something is damaged; those of which nothing can be told are left out."""
    try:
        return _decode_lines(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return [line for raw in data.splitlines() if (line := _repaired(raw)) is not None]


def _repaired(raw: bytes) -> Line | None:
    """What can be told of a line, with the damage told in its row; None if that is nothing."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        return _decode_line(raw)
    values: Any = None
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        values = msgspec.json.decode(raw)
    (name, row), *_ = values.items() if isinstance(values, dict) and values else [("", None)]
    if name not in KINDS or not isinstance(row, dict) or not isinstance(row.get(KINDS[name][0]), str):
        return None
    with suppress(ValueError, TypeError):
        row["body"] = b64decode(row.get("body", ""))
    of = {"task": rules.task_of, "schedule": rules.schedule_of, "result": rules.result_of}.get(name)
    return None if of is None else msgspec.structs.replace(Line(), **{name: of(row)})


# ── segments and snapshots ──────────────────────────────────────────────────


LAYOUT: Final = 1
"""The version of all this."""
LOG: Final = "log"
_NAME: Final = re.compile(rf"{LOG}/(\d{{16}})(\.snapshot)?\.jsonl")
_encode_lines = msgspec.json.Encoder().encode_lines


def segment_name(number: int) -> str:
    """The file of a segment."""
    return f"{LOG}/{number:016d}.jsonl"


def snapshot_name(number: int) -> str:
    """The file of the snapshot after that segment."""
    return f"{LOG}/{number:016d}.snapshot.jsonl"


def numbers_in(names: Iterable[str]) -> tuple[list[int], list[int]]:
    """The numbers of the segments and of the snapshots among files of the log, in order."""
    found = [(int(match[1]), bool(match[2])) for name in names if (match := _NAME.fullmatch(name))]
    segments, snapshots = ([n for n, is_snapshot in found if is_snapshot is which] for which in (False, True))
    return sorted(segments), sorted(snapshots)


def encode(header: Header, lines: bytes = b"") -> bytes:
    """A segment or a snapshot."""
    return _encode_lines([replace(header, crc=header.checksum(lines))]) + lines


class Header(Struct, omit_defaults=True, kw_only=True):
    """The first line of a segment or a snapshot."""

    omniq: int
    """The layout."""
    log: str
    """Which log it is of."""
    number: int
    lines: int
    """How many follow."""
    writer: str
    """Who made it; of a segment, a text that no other has."""
    time: float
    """When, in seconds since the epoch on the writer's clock; for people."""
    compacts: bool = False
    """Whether its writer will make a snapshot, so that others needn't."""
    crc: int = 0
    """The checksum of the file."""

    def checksum(self, lines: bytes) -> int:
        """CRC-32 of what the header says and of the lines below it."""
        said = f"{self.omniq} {self.log} {self.number} {self.lines} {self.writer} {self.time!r} {self.compacts}"
        return crc32(lines, crc32(said.encode()))

    @classmethod
    def new(cls, log: str, number: int, lines: int, *, compacts: bool = False) -> Self:
        """That of a file which this process makes now."""
        writer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"
        return cls(
            omniq=LAYOUT, log=log, number=number, lines=lines, writer=writer, time=time.time(), compacts=compacts
        )

    @classmethod
    def read(cls, data: bytes) -> Header | None:
        """That of a segment or a snapshot; None if it can't be read."""
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            return msgspec.json.decode(data.partition(b"\n")[0], type=cls)
        return None


# ── who may write ───────────────────────────────────────────────────────────


class Owner(Struct):
    """What the file of an owner says."""

    owner: str
    """Host, process and a text that no other has."""
    written: int
    """How often it was written."""


class OwnerFile:
    """Lets one process at a time use a place without create-only writes: the one whose name is in a file.

    Timed mutual exclusion (Fischer; in L. Lamport, "A Fast Mutual Exclusion Algorithm", 1987): write one's name where
    none is, wait for longer than a write takes, and look whether it is still there. The owner writes on; who doesn't is
    taken for dead, on the clock of who looks.
    """

    NAME: ClassVar[str] = "owner.json"
    INTERVAL: ClassVar[float] = 2.0
    """Seconds between two writes."""
    LAPSED: ClassVar[float] = 20.0
    """Seconds without one after which another process may become the owner."""

    def __init__(self, files: Files, problem: str) -> None:
        self._files = files
        self._problem = problem
        self._own = Owner(f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}", 0)
        self._written_at = -math.inf
        self._renewing: Background[None] | None = None

    async def acquire(self) -> None:
        """Become the owner, once the last one is gone. Raises `StoreError` if one is there."""
        began, first = clock.uptime(), await self._read()
        while (found := await self._read()) is not None and clock.uptime() - began < self.LAPSED:
            if found != first:
                raise self._taken(found)
            await asyncio.sleep(self.INTERVAL / 2)
        await self._write()
        await asyncio.sleep(self.INTERVAL)
        await self.hold(0.0)
        self._renewing = spawn(self._renew(), name="omniq-owner")

    async def hold(self, trusted: float = LAPSED / 2) -> None:
        """See that this process is the owner, unless that is known for as many seconds. Raises `StoreError`."""
        if clock.uptime() - self._written_at >= trusted:
            found = await self._read()
            if found is None or found.owner != self._own.owner:
                self._written_at = -math.inf
                raise self._taken(found)
            await self._write()

    async def release(self) -> None:
        """Let another process become the owner."""
        if self._renewing is not None:
            await cancel_and_wait(self._renewing)
            await self.hold(0.0)
            await self._files.delete([self.NAME])

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.INTERVAL)
            with suppress(StoreError):  # whoever writes next gets it
                await self.hold(0.0)

    async def _read(self) -> Owner | None:
        (data,) = await self._files.read([Part(self.NAME)])
        try:
            return None if data is None else msgspec.json.decode(data, type=Owner)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Owner(f"whoever wrote {self.NAME}", crc32(data or b""))

    async def _write(self) -> None:
        self._own.written += 1
        written_at = clock.uptime()
        await self._files.write(self.NAME, msgspec.json.encode(self._own), lasting=False)
        self._written_at = written_at

    def _taken(self, found: Owner | None) -> StoreError:
        return StoreError(f"{self._problem}, and {found.owner if found else 'no longer this one'} does")


# ── workers ─────────────────────────────────────────────────────────────────


WORKERS: Final = "workers"


class Workers:
    """What workers tell of themselves: a file for each."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._reports: dict[str, WorkerRecord] = {}
        """What workers of this process have told last."""
        self._forgot_at = -math.inf

    async def beat(self, worker: WorkerRecord, now: float, *, leaving: bool) -> None:
        """As `BaseTaskQueue.beat`."""
        name, known = f"{WORKERS}/{quote(worker.name, safe='')}.json", self._reports.get(worker.name)
        if leaving:
            self._reports.pop(worker.name, None)
            await self._files.delete([name])
        elif known is None or now - known.last_seen >= self._files.report_interval or worker.running or known.running:
            self._reports[worker.name] = report = replace(worker, last_seen=now)
            await self._files.write(name, msgspec.json.encode(report), lasting=False)

    async def all(self) -> list[WorkerRecord]:
        """As `BaseTaskQueue.workers`."""
        names = list(await self._files.list(WORKERS))
        found = zip(names, await self._files.read([Part(name) for name in names]), strict=True)
        return sorted((_worker_of(name, data) for name, data in found if data is not None), key=lambda w: w.name)

    async def forget(self, now: float, older_than: float) -> None:
        """As `TableQueueStore.forget_workers`, now and then."""
        if now - self._forgot_at > 10 * self._files.report_interval:
            self._forgot_at = now
            for worker in await self.all():
                if worker.last_seen <= now - older_than:
                    await self.beat(worker, now, leaving=True)


def _worker_of(name: str, data: bytes) -> WorkerRecord:
    """What a worker has told; if that can't be read, its name."""
    try:
        return msgspec.json.decode(data, type=WorkerRecord)
    except ValueError:
        return rules.worker_of(unquote(name.removeprefix(f"{WORKERS}/").removesuffix(".json")), b"", 0.0)
