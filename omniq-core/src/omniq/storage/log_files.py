"""What a log is kept in: files, wherever they are."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import re
import secrets
import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Self, TypeVar
from urllib.parse import quote, unquote
from zlib import crc32

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from omniq import clock
from omniq.errors import StoreError, StoreFull
from omniq.loops import Background, spawn
from omniq.storage import rules
from omniq.storage.base import Guarantees
from omniq.storage.connected import create_file, make_directory, replace_file, sync_directory
from omniq.storage.records import WorkerRecord
from omniq.sync import cancel_and_wait
from omniq.texts import get_logger

T = TypeVar("T")

_logger = get_logger("omniq.storage")

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
        self.may_change = False
        """Whether a process that was thought dead may still write the segment after the last one."""

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


# ── files of this machine ───────────────────────────────────────────────────


TEMPORARY: Final = "tmp"
"""The folder for files that are being written."""
_KINDS: Final[Mapping[int | None, type[StoreError]]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), StoreFull),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG), StoreError),
}


def kind_of_failure(error: BaseException) -> type[StoreError] | None:
    """What an operating system's error amounts to where a repeat is of no use; else None."""
    kind = _KINDS.get(error.errno) if isinstance(error, OSError) else None
    return StoreError if kind is None and isinstance(error, PermissionError) else kind


class Directory:
    """The files of `Files` in a directory of this machine, or of a file server that it has mounted. All calls block.

    Each raises `OSError`. What is created or replaced is written aside, and synced, before it gets its name.
    """

    def __init__(self, root: str, *, sync: bool, trust_owner: bool) -> None:
        self.root = root
        self.is_ready = False
        self._sync = sync
        self._trust_owner = trust_owner

    def prepare(self) -> None:
        """Make it, and see that no other user can change what is there. Raises `StoreError`, too."""
        self._make_folder(TEMPORARY)
        root = Path(self.root)
        for folder in (root.parent, root, *_folders_in(root), *_folders_in(root / "queues")):
            make_directory(str(folder), trust_owner=self._trust_owner)
        self.is_ready = True

    def create(self, name: str, data: bytes) -> bool:
        """As `Files.create`."""
        how = partial(create_file, data=data, aside=self._path(TEMPORARY), sync=self._sync)
        return self._in_its_folder(name, how)

    def replace(self, name: str, data: bytes, *, lasting: bool) -> None:
        """As `Files.write`."""
        how = partial(replace_file, data=data, aside=self._path(TEMPORARY), sync=lasting and self._sync)
        self._in_its_folder(name, how)

    def read(self, part: Part) -> bytes | None:
        """The bytes; None if the file isn't there."""
        start = part.start or 0
        try:
            with open(self._path(part.name), "rb") as file:
                file.seek(start)
                return file.read(-1 if part.end is None else part.end - start)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def list(self, folder: str) -> dict[str, float]:
        """As `Files.list`."""
        found: dict[str, float] = {}
        for path, _, names in os.walk(self._path(folder), onerror=_unless_missing):
            for name in names:
                with suppress(FileNotFoundError):
                    file = os.path.join(path, name)
                    found[os.path.relpath(file, self.root)] = os.lstat(file).st_mtime
        return found

    def written_at(self, name: str) -> float | None:
        """As `Files.written_at`."""
        try:
            return os.lstat(self._path(name)).st_mtime
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        """Delete the file if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def drop(self) -> None:
        """Delete all that is in it, and the directory."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.root)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _in_its_folder(self, name: str, make: Callable[[str], T]) -> T:
        """What `make` returns of the file's path; its folder is made where it is missing."""
        try:
            return make(self._path(name))
        except FileNotFoundError:
            self._make_folder(TEMPORARY)
            self._make_folder(os.path.dirname(name))
            return make(self._path(name))

    def _make_folder(self, name: str) -> None:
        make_directory(self._path(name), trust_owner=self._trust_owner)
        if self._sync:
            sync_directory(self.root)


def _folders_in(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


# ── segments and snapshots ──────────────────────────────────────────────────


LAYOUT: Final = 2
"""The version of all this."""
LOG: Final = "log"
_NAME: Final = re.compile(rf"{LOG}/(\d{{16}})(\.snapshot)?\.jsonl")


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
    return msgspec.json.encode(replace(header, crc=header.checksum(lines))) + b"\n" + lines


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
        with suppress(*rules.DAMAGE):
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

    async def acquire(self) -> Self:
        """Become the owner, once the last one is gone, and warn of it. Raises `StoreError` if one is there."""
        began, first = clock.uptime(), await self._read()
        while (found := await self._read()) is not None and clock.uptime() - began < self.LAPSED:
            if found != first:
                raise self._taken(found)
            await asyncio.sleep(self.INTERVAL / 2)
        try:
            await self._write()
            await asyncio.sleep(self.INTERVAL)
            await self.hold(0.0)
        except asyncio.CancelledError:
            await self._files.delete([self.NAME])
            raise
        self._files.may_change = found is not None
        self._renewing = spawn(self._renew(), name="omniq-owner")
        _logger.warning("%s", self._problem)
        return self

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
        except rules.DAMAGE:
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
        is_idle = not any(each.running or each.stacks for each in (worker, known) if each is not None)
        if leaving:
            self._reports.pop(worker.name, None)
            await self._files.delete([name])
        elif known is None or not is_idle or now - known.last_seen >= self._files.report_interval:
            seen_every = 0.0 if worker.running else self._files.report_interval
            self._reports[worker.name] = report = replace(worker, last_seen=now, seen_every=seen_every)
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
