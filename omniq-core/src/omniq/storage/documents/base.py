"""What a key-value store gives to the document kit: versioned documents, and ordered index entries that lead to them.

Everything that the contract asks of a store comes down to two steps: *read the last version* and *write the next
one if nobody else did*. A store that can do both, and keep keys in order, implements `Documents` and gets tasks,
results and events from `DocumentTaskQueue`, `DocumentResultStorage` and `DocumentEventStorage`.
"""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ClassVar, TypeAlias, TypeVar

from msgspec import Struct

from omniq import clock
from omniq.errors import StoreUnavailable
from omniq.storage.base import Guarantees, Store
from omniq.storage.embedded import let_threads_run
from omniq.threads import new_future, new_lock, new_queue, start_thread

Version: TypeAlias = int | str
"""Whatever the store tells versions of one document apart by; never used twice for one key."""


class Document(Struct, frozen=True, gc=False):
    """A stored document."""

    value: bytes
    version: Version


class Entry(Struct, frozen=True, order=True, gc=False):
    """A line of an index. Lines of one index are in the order of `order`, then of `key`, byte by byte in UTF-8."""

    index: str
    """At most 120 bytes of printable text."""
    order: bytes
    """At most 40 bytes."""
    key: str
    """At most 1,020 bytes in UTF-8."""


class Write(Struct, frozen=True, kw_only=True, gc=False):
    """One conditional write of a document, with the index entries that come and go with it."""

    key: str
    """At most 1,060 bytes in UTF-8."""
    value: bytes | None
    """None deletes the document."""
    if_version: Version | None = None
    """The version that must be stored; None: there must be no such document."""
    always: bool = False
    """Write whatever is stored; `if_version` isn't looked at."""
    put: tuple[Entry, ...] = ()
    drop: tuple[Entry, ...] = ()


class Documents(ABC):
    """Versioned documents by key and ordered index entries at one place. Every method takes a batch.

    A place belongs to one project: two projects never share documents. Any event loop and thread may call.
    Errors of the driver are raised as `StoreUnavailable` (the same call may succeed later) or `StoreError`.
    """

    atomic: ClassVar[bool] = False
    """Whether all writes of a group, with their entries, are one step that happens as a whole or not at all."""
    networked: ClassVar[bool] = True
    """As `Store.networked`."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the documents are, without secrets; equal for two objects exactly when they share one place."""

    @abstractmethod
    async def connect(self) -> None:
        """Open what the running loop needs; safe to repeat."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what `connect` opened; safe to repeat."""

    @abstractmethod
    async def drop(self) -> None:
        """Remove the place, with all its documents and entries; safe to repeat. A later `connect` starts afresh."""

    @abstractmethod
    async def guarantees(self) -> Guarantees:
        """What the store promises."""

    @abstractmethod
    async def read(self, keys: Sequence[str]) -> list[Document | None]:
        """The documents, or None for those that aren't there, in the order of the keys."""

    @abstractmethod
    async def write(self, groups: Sequence[Sequence[Write]]) -> list[bool]:
        """Apply each group of writes in order; returns for each whether all of it was written.

        A group ends at the first write whose condition doesn't hold. If `atomic`, then nothing of that group is
        written. If not, what came before it stays; entries to `put` are there before their document can be read,
        and entries to `drop` go after it was written, so that a reader may find an entry that is out of date, and
        never misses one.
        """

    @abstractmethod
    async def scan(
        self, index: str, *, after: Entry | None = None, until: bytes | None = None, limit: int, reverse: bool = False
    ) -> list[Entry]:
        """Up to `limit` entries of an index in order: those after `after`, with an `order` of at most `until`.

        With `reverse`, from the last entry backwards: those before `after`; `until` isn't given then.
        """

    async def count(self, indexes: Sequence[str]) -> list[int]:
        """How many entries each index has. This default scans; override it where the store can count."""
        return [await self._count(index) for index in indexes]

    async def _count(self, index: str) -> int:
        total, last = 0, None
        while page := await self.scan(index, after=last, limit=COUNT_PAGE):
            total, last = total + len(page), page[-1]
        return total

    def now(self) -> float:
        """The store's clock plus `omniq.clock.offset()`, in seconds since the epoch; by default the host's."""
        return clock.now()


COUNT_PAGE = 1000


class DocumentStore(Store):
    """What queue, results and events on documents have in common."""

    def __init__(self, documents: Documents) -> None:
        self.documents = documents
        self.networked = documents.networked

    @property
    def location(self) -> str:
        return self.documents.location

    async def connect(self) -> None:
        await self.documents.connect()

    async def close(self) -> None:
        await self.documents.close()

    async def drop(self) -> None:
        await self.documents.drop()

    async def guarantees(self) -> Guarantees:
        return await self.documents.guarantees()


def in_order(*numbers: float) -> bytes:
    """The numbers as bytes that sort as they do: the order of an index entry."""
    return b"".join(_sortable(number) for number in numbers)


def _sortable(number: float) -> bytes:
    # IEEE 754 doubles sort as integers once the sign bit is flipped, and all bits of a negative one.
    (bits,) = struct.unpack(">Q", struct.pack(">d", number))
    return int(bits ^ (_ALL if bits & _SIGN else _SIGN)).to_bytes(8, "big")


def out_of_order(order: bytes) -> list[float]:
    """The numbers that `in_order` was given."""
    return [_number(int.from_bytes(order[start : start + 8], "big")) for start in range(0, len(order), 8)]


def _number(bits: int) -> float:
    (number,) = struct.unpack(">d", (bits ^ (_SIGN if bits & _SIGN else _ALL)).to_bytes(8, "big"))
    return float(number)


_SIGN = 1 << 63
_ALL = (1 << 64) - 1


# ── threads for drivers that block ──────────────────────────────────────────


T = TypeVar("T")

_Call: TypeAlias = tuple[Callable[[], Any], "Future[Any]"]


def _nothing() -> None:
    """What there is to do at the end if nothing else is said."""


class JobThreads:
    """Threads that do blocking jobs for any event loop, each job on one of them.

    They work to the interpreter's very end, when OmniQ closes what a program has left open, and workers hand back what
    they hold. (The threads of an executor have ended by then.) They are started by the first job. A forked child has
    none of them: it makes its own `JobThreads`.
    """

    def __init__(self, name: str, number: int = 1) -> None:
        self._name = name
        self._number = number
        self._jobs: SimpleQueue[_Call | None] = new_queue()
        self._lock = new_lock()
        self._started = self._working = 0
        self._ending = False
        self._last: Callable[[], None] = _nothing
        self._ended: Future[None] = new_future()

    async def do(self, job: Callable[[], T]) -> T:
        """What the job returns. Cancelling the caller doesn't undo it.

        Raises what the job raises, and `StoreUnavailable` if no thread can be started, or after `end`.
        """
        answer: Future[T] = new_future()
        with self._lock:
            self._start()
            self._jobs.put((job, answer))
        with let_threads_run():
            return await asyncio.wrap_future(answer)

    def end(self, last: Callable[[], None] = _nothing) -> Future[None]:
        """Do the jobs that were begun, then `last`, and no more; returns what tells of the end. Called once."""
        with self._lock:
            self._ending, self._last = True, last
            for _ in range(self._started):
                self._jobs.put(None)
            if not self._started:
                self._finish()
        return self._ended

    def _start(self) -> None:
        if self._ending:
            raise StoreUnavailable(f"{self._name}: it was closed meanwhile")
        while self._started < self._number:
            try:
                start_thread(self._work, f"{self._name}-{self._started + 1}")
            except RuntimeError as error:
                if not self._started:
                    raise StoreUnavailable(f"{self._name}: {error}") from error
                return  # those that there are will do
            self._started += 1
            self._working += 1

    def _work(self) -> None:
        while (call := self._jobs.get()) is not None:
            self._answer(*call)
            del call  # keep nothing of it until the next one
        with self._lock:
            self._working -= 1
            if not self._working:
                self._finish()

    def _answer(self, job: Callable[[], Any], answer: Future[Any]) -> None:
        if answer.set_running_or_notify_cancel():
            try:
                answer.set_result(job())
            except BaseException as error:
                answer.set_exception(error)

    def _finish(self) -> None:
        try:
            self._last()
        except BaseException as error:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)
