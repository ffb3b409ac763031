"""Small files wherever fsspec reaches.

Of all writes, `create` alone decides: on local disks it makes a hard link to a file that was written and synced aside,
on object stores it is a conditional write.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

from omniq.errors import StoreError, StoreUnavailable
from omniq.storage.base import Guarantees
from omniq.storage.connected import (
    is_transport_error,
    raised_as,
)
from omniq.storage.documents import JobThreads
from omniq.storage.embedded import MemoryTables
from omniq.storage.log_files import Directory, Files, OwnerFile, Part, kind_of_failure
from omniq.texts import install_command
from omniq.threads import new_lock

from omniq_fsspec.config import Address

T = TypeVar("T")

THREADS: Final = 4
PROBES: Final = "probe"


_CLIENTS: Final = ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs")
"""The libraries whose errors are no OSErrors."""
_REFUSALS: Final = ("AuthenticationFailed", "AuthorizationFailure", "Forbidden", "InvalidAccessKeyId", "NoSuchBucket")
"""What object stores say where a repeat is of no use."""


def kind_of(error: BaseException) -> type[StoreError] | None:
    """What an error of a file system amounts to; None where it is none."""
    if (kind := kind_of_failure(error)) is not None:
        return kind
    is_clients = type(error).__module__.partition(".")[0] in _CLIENTS
    is_refusal = is_clients and any(word in str(error) for word in _REFUSALS)
    if is_refusal or isinstance(error, TypeError | ValueError):  # of wrong options
        return StoreError
    return StoreUnavailable if is_clients or is_transport_error(error) else None


PATIENCE: Final = 30.0
"""Seconds that a request may take, besides one for each `SLOWEST` bytes."""
SLOWEST: Final = 1 << 20
AT_ONCE: Final = 16
"""Requests that are under way at the same time, at most."""
RACERS: Final = 3
"""Who try at once to create one file, to see whether one alone succeeds."""
CLOCKS_AGREE: Final = 2.0
"""Seconds by which clocks may differ that show seconds only."""
_EXTRAS: Final = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
"""Of omniq-core, for which filesystem."""
_CLOSED_AT_EXIT: Final = ("abfs", "abfss", "az")
"""Filesystems that close themselves once more when the process ends, for which they need the event loop of fsspec."""
_FILESYSTEMS: Final = dict.fromkeys(("gs", "gcs"), ("gcsfs.core", "GCSFileSystem"))
"""Which class to take instead of that which fsspec knows: gcsfs's newer one first asks for the kind of the bucket."""


class PlaceFiles(Files):
    """The files of a place, on any filesystem of fsspec's: asynchronous ones are called as such, others in threads."""

    trust: ClassVar[float] = 30.0
    grace: ClassVar[float] = 120.0
    report_interval: ClassVar[float] = 55.0
    pauses: ClassVar[Sequence[tuple[float, float]]] = ((1.0, 0.05), (60.0, 1.25), (math.inf, 13.0))

    def __init__(self, address: Address) -> None:
        super().__init__(address.location)
        self.address = address
        self._threads = JobThreads("omniq-files", THREADS)
        self._fs: Any = None
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._owner: OwnerFile | None = None
        """Where only one process at a time can use the place."""

    async def open(self) -> None:
        if self._fs is None:
            self._fs = _open(self.address)
            try:
                await self._probe()
            except BaseException:
                await self.close()
                raise

    async def _probe(self) -> None:
        """See that of many who create a file one succeeds, and what time it is there."""
        name = f"{PROBES}/{secrets.token_hex(8)}"
        began = time.time()
        made = await asyncio.gather(*(self.create(name, str(racer).encode()) for racer in range(RACERS)))
        written_at, ended = await self.written_at(name), time.time()
        await self.delete([name])
        if written_at is None or not any(made):  # an answer was lost on the way
            raise StoreUnavailable(f"{self.location}: of {RACERS} writers of one file, none has made it")
        ahead = written_at + 0.5 - (began + ended) / 2
        self.ahead = ahead if abs(ahead) > CLOCKS_AGREE else 0.0
        if sum(made) > 1:
            told = f"{self.location}: of {RACERS} writers of one file, {sum(made)} were told that they made it"
            self._owner = await OwnerFile(self, f"{told}: one process at a time can use this store").acquire()

    async def close(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            with suppress(StoreError):  # then others wait until it is taken for dead
                await owner.release()
        await asyncio.wrap_future(self._threads.end())
        fs, self._fs, self._threads = self._fs, None, JobThreads("omniq-files", THREADS)
        if fs is not None:
            await _close(fs.fs)

    async def create(self, name: str, data: bytes) -> bool:
        if self._owner is not None:
            return await self._create_alone(self._owner, name, data)
        try:
            await self._call("pipe_file", name, data, mode="create", size=len(data))
        except FileExistsError:
            return False
        return True

    async def _create_alone(self, owner: OwnerFile, name: str, data: bytes) -> bool:
        await owner.hold()
        is_new = await self._read(Part(name)) is None
        if is_new:
            await self.write(name, data)
            await owner.hold(0.0)  # else nobody may hear that it was made
        return is_new

    async def write(self, name: str, data: bytes, *, lasting: bool = True) -> None:
        await self._call("pipe_file", name, data, size=len(data))

    async def read(self, parts: Sequence[Part]) -> list[bytes | None]:
        return await asyncio.gather(*map(self._read, parts))

    async def _read(self, part: Part) -> bytes | None:
        how = {"max_concurrency": 1} if "s3" in self._fs.fs.protocol else {}  # else it asks for the size first
        try:
            data: bytes = await self._call("cat_file", part.name, start=part.start, end=part.end, **how)
        except FileNotFoundError:
            return None
        return data

    async def delete(self, names: Iterable[str]) -> None:
        await asyncio.gather(*map(self._delete, names))

    async def _delete(self, name: str) -> None:
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
        """Remove the root, with all that is in it."""
        await self.delete(await self.list(""))

    def guarantees(self) -> Guarantees:
        """As `Store.guarantees`."""
        return Guarantees(
            survives_process_kill=True,
            survives_power_loss=True,
            survives_failover=True,
            clock="server",
            push=False,
            atomic_results=True,
            evidence=("create-only=conditional writes",),
        )

    async def _call(self, verb: str, name: str, *args: Any, size: int = 0, **how: Any) -> Any:
        """What a verb of the filesystem returns. Raises `FileNotFoundError`, `FileExistsError` and `StoreError`."""
        if self._fs is None:
            await self.open()
        try:
            async with self._turns, asyncio.timeout(PATIENCE + size / SLOWEST):
                if self._fs.fs.async_impl:
                    return await getattr(self._fs, f"_{verb}")(name, *args, **how)
                return await self._threads.do(partial(getattr(self._fs, verb), name, *args, **how))
        except (FileExistsError, FileNotFoundError) as error:
            if verb == "pipe_file" and isinstance(error, FileNotFoundError):
                raise StoreError(f"{self.location}: there is no such bucket or container") from error
            raise
        except Exception as error:
            if _is_refusal(error):
                raise FileExistsError(name) from error
            with raised_as(kind_of, self._words):
                raise

    def _words(self, error: BaseException) -> str:
        said = getattr(error, "strerror", None) or str(error) or "no answer in time"
        words = said.strip().splitlines()[0]
        file = getattr(error, "filename", None)
        return f"{self.location}: {words}: {file}" if isinstance(file, str) else f"{self.location}: {words}"


class LocalFiles(PlaceFiles):
    """Files of this machine, or of a file server that it has mounted, past fsspec."""

    trust: ClassVar[float] = 0.0
    grace: ClassVar[float] = 10.0
    report_interval: ClassVar[float] = 0.0
    pauses: ClassVar[Sequence[tuple[float, float]]] = ((1.0, 0.005), (10.0, 0.02), (math.inf, 0.05))

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._directory = Directory(address.root, sync=address.fsync, trust_owner=address.trust_owner)

    async def open(self) -> None:
        with raised_as(kind_of, self._words):
            self._directory.prepare()

    async def create(self, name: str, data: bytes) -> bool:
        return await self._do(lambda: self._directory.create(name, data))

    async def write(self, name: str, data: bytes, *, lasting: bool = True) -> None:
        await self._do(lambda: self._directory.replace(name, data, lasting=lasting))

    async def read(self, parts: Sequence[Part]) -> list[bytes | None]:
        return await self._do(lambda: list(map(self._directory.read, parts)))

    async def list(self, folder: str) -> dict[str, float]:
        return await self._do(lambda: self._directory.list(folder))

    async def written_at(self, name: str) -> float | None:
        return await self._do(lambda: self._directory.written_at(name))

    async def delete(self, names: Iterable[str]) -> None:
        await self._do(lambda: list(map(self._directory.delete, names)))

    async def drop(self) -> None:
        await self._do(self._directory.drop)

    def guarantees(self) -> Guarantees:
        return Guarantees(
            survives_process_kill=True,
            survives_power_loss=self.address.fsync,
            survives_failover=False,
            clock="host",
            push=False,
            atomic_results=True,
            evidence=(f"fsync={'on' if self.address.fsync else 'off'}", "create-only=hard links"),
        )

    async def _do(self, job: Callable[[], T]) -> T:
        if not self._directory.is_ready:
            await self.open()
        with raised_as(kind_of, self._words):
            return await self._threads.do(job)


class MemoryFiles(PlaceFiles):
    """Files in fsspec's MemoryFileSystem, which all of a process shares; no call waits for anything."""

    report_interval: ClassVar[float] = 0.0
    _creating: ClassVar[threading.Lock] = new_lock()

    async def open(self) -> None:
        self._fs = self._fs or _open(self.address)

    async def create(self, name: str, data: bytes) -> bool:
        with self._creating:
            return await super().create(name, data)

    async def _read(self, part: Part) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(part.name, part.start, part.end)
        except FileNotFoundError:
            return None
        return data

    async def _call(self, verb: str, name: str, *args: Any, size: int = 0, **how: Any) -> Any:
        if self._fs is None:
            await self.open()
        return getattr(self._fs, verb)(name, *args, **how)

    async def close(self) -> None:
        """There is nothing to close."""

    def guarantees(self) -> Guarantees:
        return MemoryTables.guarantees


def _open(address: Address) -> Any:
    """A filesystem that sees the place's root as its own. Raises `StoreError` where what it needs isn't installed."""
    from fsspec import get_filesystem_class
    from fsspec.implementations.dirfs import DirFileSystem

    protocol = address.protocol
    try:
        module, name = _FILESYSTEMS.get(protocol, ("", ""))
        known = getattr(importlib.import_module(module), name) if module else get_filesystem_class(protocol)
        is_async = known.async_impl and protocol not in _CLOSED_AT_EXIT
        given = {**known._get_kwargs_from_urls(address.root), **_defaults(protocol), **address.storage_options}
        fs = known(**given, asynchronous=is_async, skip_instance_cache=True, use_listings_cache=False)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        raise StoreError(f"{address.location}: {install_command(extra) if extra else error}") from error
    except (TypeError, ValueError) as error:
        raise StoreError(f"{address.location}: storage_options: {error}") from error
    return DirFileSystem(known._strip_protocol(address.root), fs, asynchronous=is_async, skip_instance_cache=True)


def _defaults(protocol: str) -> dict[str, Any]:
    """Options of a filesystem, unless others are given: whoever calls repeats, and knows for how long."""
    if protocol != "s3":
        return {}
    once = {"retries": {"total_max_attempts": 1, "mode": "standard"}, "connect_timeout": 5, "read_timeout": PATIENCE}
    return {"config_kwargs": once}


async def _close(fs: Any) -> None:
    """Close the sessions of an asynchronous filesystem; each names them differently."""
    for name in ("_s3", "service_client", "_session"):
        if (session := getattr(fs, name, None)) is not None:
            await session.close()


def _is_refusal(error: Exception) -> bool:
    """Whether an S3 server says that the object is there without naming the condition."""
    response = getattr(error.__cause__, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") == "PreconditionFailed"


def _time_of(info: Mapping[str, Any]) -> float:
    """When a file was written, by what its filesystem calls that."""
    names = ("LastModified", "last_modified", "mtime", "created")
    at = next((info[name] for name in names if name in info), 0.0)
    return at.timestamp() if isinstance(at, dt.datetime) else float(at)


def files_of(address: Address) -> PlaceFiles:
    """The files of a place that isn't in memory."""
    return PlaceFiles(address) if address.is_networked else LocalFiles(address)
