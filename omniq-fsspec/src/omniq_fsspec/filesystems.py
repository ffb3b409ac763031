"""Small files under one root, wherever fsspec reaches: what the log, the bodies and the events are written with.

Of all writes, `create` alone decides: it makes a file that isn't there, for one of many who try. On local disks it is
a hard link to a file that was written and synced aside; on object stores a conditional PUT.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import math
import os
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from omniq.errors import StoreError, StoreFull, StoreUnavailable
from omniq.storage.base import Guarantees
from omniq.storage.connected import FILE_MODE, is_transport_error, make_directory, raised_as
from omniq.storage.documents import JobThreads

from omniq_fsspec.config import Place

T = TypeVar("T")

THREADS: Final = 4
TEMPORARY: Final = "tmp"
"""The folder for files that are being written."""


class Part(NamedTuple):
    """A file, or some bytes of it."""

    name: str
    start: int | None = None
    end: int | None = None


class Files(ABC):
    """The files under the root of a place, by their names relative to it.

    Raises `StoreFull`, `StoreUnavailable` where a repeat may succeed, and else `StoreError`.
    """

    trust: ClassVar[float]
    """Seconds for which one who has seen that nothing was deleted needn't look again; much less than the grace."""
    grace: ClassVar[float]
    """Seconds for which files that aren't needed any more are kept: for who is behind, or copies them meanwhile."""
    pauses: ClassVar[Sequence[tuple[float, float]]]
    """Up to so many seconds after the last change, how many seconds pass between two looks for the next."""

    def __init__(self, place: Place) -> None:
        self.place = place
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
        """Remove the root, with all that is in it."""

    @abstractmethod
    def guarantees(self) -> Guarantees:
        """As `Store.guarantees`."""

    @abstractmethod
    def abandon(self) -> None:
        """As `close`, once the loop has ended."""

    def errors(self) -> AbstractContextManager[None]:
        """Turn what the file system raises into the `StoreError` that it amounts to."""
        return raised_as(_kind_of, lambda error: f"{self.place.location}: {_words_of(error)}")


_KINDS: Final[Mapping[int, type[StoreError]]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), StoreFull),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG), StoreError),
}


def _kind_of(error: BaseException) -> type[StoreError] | None:
    if isinstance(error, OSError) and error.errno is not None and error.errno in _KINDS:
        return _KINDS[error.errno]
    return StoreUnavailable if is_transport_error(error) else None


def _words_of(error: BaseException) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    file = getattr(error, "filename", None)
    return f"{words}: {file}" if isinstance(file, str) else words


# ── local disks ─────────────────────────────────────────────────────────────


class LocalFiles(Files):
    """Files of this machine, or of a file server that it has mounted; every call is a job for a thread."""

    trust: ClassVar[float] = 0.0
    grace: ClassVar[float] = 10.0
    pauses: ClassVar[Sequence[tuple[float, float]]] = ((1.0, 0.005), (10.0, 0.02), (math.inf, 0.05))

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._threads = JobThreads("omniq-files", THREADS)

    async def open(self) -> None:
        make = partial(make_directory, trust_owner=self.place.trust_owner)
        await self._do(lambda: make(f"{self.place.root}/{TEMPORARY}"))

    async def close(self) -> None:
        await asyncio.wrap_future(self._threads.end())
        self._threads = JobThreads("omniq-files", THREADS)

    def abandon(self) -> None:
        self._threads.end()

    def guarantees(self) -> Guarantees:
        return Guarantees(
            survives_process_kill=True,
            survives_power_loss=self.place.fsync,
            survives_failover=False,
            clock="host",
            push=False,
            atomic_results=True,
            evidence=(f"fsync={str(self.place.fsync).lower()}", "create-only=hard links"),
        )

    async def create(self, name: str, data: bytes) -> bool:
        return await self._do(lambda: self._create(name, data))

    async def write(self, name: str, data: bytes, *, lasting: bool = True) -> None:
        await self._do(lambda: self._write(name, data, sync=lasting and self.place.fsync))

    async def read(self, parts: Sequence[Part]) -> list[bytes | None]:
        return await self._do(lambda: [self._read(part) for part in parts])

    async def delete(self, names: Iterable[str]) -> None:
        await self._do(lambda: self._delete(list(names)))

    async def list(self, folder: str) -> dict[str, float]:
        return await self._do(lambda: self._list(folder))

    async def written_at(self, name: str) -> float | None:
        return await self._do(lambda: self._written_at(name))

    async def drop(self) -> None:
        await self._do(self._drop)

    async def _do(self, job: Callable[[], T]) -> T:
        with self.errors():
            return await self._threads.do(job)

    def _path(self, name: str) -> str:
        return f"{self.place.root}/{name}"

    def _create(self, name: str, data: bytes) -> bool:
        aside, path = self._aside(data, sync=self.place.fsync), self._path(name)
        try:
            _in_folder_of(path, lambda: os.link(aside, path))
        except FileExistsError:
            return False
        finally:
            os.unlink(aside)
        self._sync_folder(path)
        return True

    def _write(self, name: str, data: bytes, *, sync: bool) -> None:
        aside, path = self._aside(data, sync=sync), self._path(name)
        _in_folder_of(path, lambda: os.replace(aside, path))
        if sync:
            self._sync_folder(path)

    def _aside(self, data: bytes, *, sync: bool) -> str:
        """The path of a file with this content, to be linked or moved."""
        path = self._path(f"{TEMPORARY}/{secrets.token_hex(8)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        file: int = _in_folder_of(path, lambda: os.open(path, flags, FILE_MODE))
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            if sync:
                os.fsync(file)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(file)
        return path

    def _sync_folder(self, path: str) -> None:
        """Let the name of a new file last, too."""
        if self.place.fsync:
            folder = os.open(os.path.dirname(path), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _read(self, part: Part) -> bytes | None:
        try:
            with open(self._path(part.name), "rb") as file:
                if part.start:
                    file.seek(part.start)
                return file.read(-1 if part.end is None else part.end - (part.start or 0))
        except (FileNotFoundError, IsADirectoryError):
            return None

    def _delete(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(self._path(name))

    def _list(self, folder: str) -> dict[str, float]:
        found: dict[str, float] = {}
        with suppress(FileNotFoundError), os.scandir(self._path(folder)) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    found |= self._list(name)
                elif (written_at := self._written_at(name)) is not None:
                    found[name] = written_at
        return found

    def _written_at(self, name: str) -> float | None:
        try:
            return os.stat(self._path(name), follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return None

    def _drop(self) -> None:
        self._delete(list(self._list("")))
        for folder, _, _ in os.walk(self.place.root, topdown=False):
            os.rmdir(folder)


def _in_folder_of(path: str, make: Callable[[], T]) -> T:
    """What `make` returns; the folder of the path is made where it is missing."""
    try:
        return make()
    except FileNotFoundError:
        make_directory(os.path.dirname(path), trust_owner=True)  # inside one whose owner is known
        return make()


# ── fsspec's filesystems ────────────────────────────────────────────────────


class FsspecFiles(Files):
    """Files of any filesystem of fsspec's: asynchronous ones are called as such, others in threads."""

    trust: ClassVar[float] = 30.0
    grace: ClassVar[float] = 120.0
    pauses: ClassVar[Sequence[tuple[float, float]]] = ((1.0, 0.05), (60.0, 1.0), (math.inf, 12.0))

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._threads = JobThreads("omniq-files", THREADS)
        self._fs: Any = None

    async def open(self) -> None:
        if self._fs is None:
            with self.errors():
                self._fs = _open(self.place)

    async def close(self) -> None:
        await asyncio.wrap_future(self._threads.end())
        self._threads, self._fs = JobThreads("omniq-files", THREADS), None

    def abandon(self) -> None:
        self._threads.end()

    def guarantees(self) -> Guarantees:
        return Guarantees(
            survives_process_kill=True,
            survives_power_loss=True,
            survives_failover=True,
            clock="server",
            push=False,
            atomic_results=True,
            evidence=("create-only=conditional writes",),
        )

    async def create(self, name: str, data: bytes) -> bool:
        try:
            await self._call("pipe_file", name, data, mode="create")
        except FileExistsError:
            return False
        return True

    async def write(self, name: str, data: bytes, *, lasting: bool = True) -> None:
        await self._call("pipe_file", name, data)

    async def read(self, parts: Sequence[Part]) -> list[bytes | None]:
        return await asyncio.gather(*map(self._read, parts))

    async def _read(self, part: Part) -> bytes | None:
        try:
            data: bytes = await self._call("cat_file", part.name, start=part.start, end=part.end)
        except FileNotFoundError:
            return None
        return data

    async def delete(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                await self._call("rm_file", name)

    async def list(self, folder: str) -> dict[str, float]:
        with suppress(FileNotFoundError):
            found: dict[str, dict[str, Any]] = await self._call("find", folder, detail=True)
            return {name: _time_of(info) for name, info in found.items() if info["type"] == "file"}
        return {}

    async def written_at(self, name: str) -> float | None:
        try:
            return _time_of(await self._call("info", name))
        except FileNotFoundError:
            return None

    async def drop(self) -> None:
        with suppress(FileNotFoundError):
            await self._call("rm", "", recursive=True)

    async def _call(self, verb: str, *args: Any, **how: Any) -> Any:
        """What a verb of the filesystem returns. Raises `FileNotFoundError`, `FileExistsError` and `StoreError`."""
        if self._fs is None:
            await self.open()
        try:
            with self.errors():
                if self._fs.fs.async_impl:
                    return await getattr(self._fs, f"_{verb}")(*args, **how)
                return await self._threads.do(partial(getattr(self._fs, verb), *args, **how))
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError | FileExistsError):
                raise error.__cause__ from None
            raise


class MemoryFiles(FsspecFiles):
    """Files in fsspec's MemoryFileSystem, which all of a process shares; no call waits for anything."""

    _creating: ClassVar[threading.Lock] = threading.Lock()

    async def create(self, name: str, data: bytes) -> bool:
        with self._creating:
            return await super().create(name, data)

    async def _call(self, verb: str, *args: Any, **how: Any) -> Any:
        if self._fs is None:
            await self.open()
        return getattr(self._fs, verb)(*args, **how)

    async def close(self) -> None:
        """There is nothing to close."""


def _open(place: Place) -> Any:
    """A filesystem that sees the place's root as its own."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.dirfs import DirFileSystem

    fs, path = url_to_fs(place.root, skip_instance_cache=True, **place.storage_options)
    return DirFileSystem(path, fs)


def _time_of(info: Mapping[str, Any]) -> float:
    """When a file was written, by what its filesystem calls that."""
    at = next(
        (info[name] for name in ("LastModified", "last_modified", "mtime", "updated", "created") if name in info), 0
    )
    return at.timestamp() if isinstance(at, dt.datetime) else float(at)


def files_of(place: Place) -> Files:
    """The files of a place that isn't in memory."""
    return FsspecFiles(place) if "://" in place.root else LocalFiles(place)
