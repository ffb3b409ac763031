"""What a log that many may add to at once is kept in: a stream of messages with subjects, wherever it is.

`omniq.storage.stream_replica` makes tables of its log, and `omniq.storage.snapshots` keeps what it was made of small.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from msgspec.structs import replace

from omniq import clock
from omniq.errors import StoreFull
from omniq.storage.table_set import Written
from omniq.texts import get_logger

LOG: Final = "log"
"""The subject of the log."""

_log = get_logger("omniq.storage")


class Message(NamedTuple):
    """A message of a stream."""

    sequence: int
    """Later messages of a stream have larger ones, whatever their subjects. They count from 1."""
    data: bytes
    time: float = 0.0
    """When it was stored, in seconds since the epoch on the clock of the stream; 0 where that wasn't told."""
    after: int | None = None
    """The sequence of the message before it with the same subject, 0 if there is none; None where that wasn't told."""


Listener: TypeAlias = Callable[[Message], Awaitable[None]]


class Stream(ABC):
    """Messages of one project, each with a subject, as one event loop uses them: one connection, until it is lost.

    Each call raises `StoreUnavailable` if the same call may succeed later, and else `StoreError`.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        """As `Store.location`."""
        self.lost = asyncio.Event()
        """Set while there is no connection; whoever finds that there is none any more sets it, too."""
        self.lost.set()

    @property
    @abstractmethod
    def max_message(self) -> int:
        """Bytes of the largest message, at least 512 KiB; once it is open, as it is told."""

    @abstractmethod
    async def open(self, listener: Listener) -> None:
        """Connect anew, make the stream if there is none, and let `listener` hear what is added to the log from now on.

        A message may not be heard; then the next one tells that one is missing.
        """

    def look(self) -> None:  # noqa: B027 (nothing, where the driver tells)
        """Set `lost` if there is no connection any more: called every second, for drivers that don't always tell."""

    @abstractmethod
    async def close(self) -> None:
        """Give the connection back; safe to repeat."""

    @abstractmethod
    async def append(self, data: bytes, after: int | None, id_: str | None) -> int | None:
        """Add to the log, if `after` is None or the sequence of its last message; returns the sequence that it got, and
        None if it wasn't added.

        With an `id_`, which nothing else has, it is sent again where no answer comes, is added once at most, and may
        then be added after any message. Raises `PayloadTooLarge`.
        """

    @abstractmethod
    async def put(self, name: str, data: bytes, after: int | None = None) -> int | None:
        """Let that be the only message of a subject, and return its sequence.

        With `after`, only if the last message there has that sequence, 0 if there is none; else None is returned.
        Raises `PayloadTooLarge`.
        """

    @abstractmethod
    async def last(self, name: str) -> Message | None:
        """The last message of a subject, whoever has stored it and wherever."""

    @abstractmethod
    async def next(self, name: str, after: int) -> Message | None:
        """The first message of a subject after that sequence, whoever has stored it and wherever."""

    @abstractmethod
    async def read(self, name: str) -> bytes | None:
        """The content of a message that is never replaced."""

    @abstractmethod
    async def names(self, pattern: str) -> list[str]:
        """The subjects that have messages and that a pattern fits: `*` stands for one part between dots, `>` for the
        rest."""

    @abstractmethod
    async def delete(self, pattern: str, before: int | None = None) -> None:
        """Delete the messages of subjects that a pattern fits, or those before that sequence."""

    @abstractmethod
    async def drop(self) -> None:
        """Delete the stream, if it is there."""


# ── the clock ───────────────────────────────────────────────────────────────


CLOCK: Final = "clock"
"""The subject of what is only stored to learn the time."""


class StreamClock:
    """The clock of a stream, as it was measured last. When this machine's is set, it goes on."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.ahead = time.time() - clock.uptime()
        """Seconds by which it is ahead of `clock.uptime`."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return clock.offset() + clock.uptime() + self.ahead

    async def measure(self) -> None:
        """Learn by how much it is ahead: it was read between sending and hearing. Raises `StoreError`."""
        sent = clock.uptime()
        try:
            await self._stream.put(CLOCK, b"")
        except StoreFull as error:  # what is there can be read all the same
            _log.debug("%s: its clock can't be read: %s", self._stream.location, error)
            return
        heard = clock.uptime()
        message = await self._stream.last(CLOCK)
        if message is not None:
            self.ahead = min(max(self.ahead, message.time - heard), message.time - sent)


# ── bodies ──────────────────────────────────────────────────────────────────


SMALL: Final = 1024
"""Bytes up to which a body stays in its row; others aren't worth a place in the tables of every process."""
MARK: Final = b"\0body."
"""What references begin with."""
LENGTH: Final = len(MARK) + 26 + 10
"""Bytes of a reference: the mark, the name of a message, and the size of the body."""


def is_reference(body: bytes) -> bool:
    """Whether a row refers to a body; else it holds it."""
    return len(body) == LENGTH and body.startswith(MARK)


def size_of(body: bytes) -> int:
    """Bytes of the body that a row holds or refers to."""
    return int(body[-10:]) if is_reference(body) else len(body)


def name_of(reference: bytes) -> str:
    """The subject of the message that has the body."""
    return f"body.{reference[len(MARK) : -10].decode()}"


def unused_bodies(written: Written) -> list[str]:
    """The messages whose bodies no row refers to any more, since no two rows ever refer to one."""
    rows = [pair for name in ("task", "result") for pair in written.rows(name)]
    old = (before.body for before, now in rows if before is not None and (now is None or now.body != before.body))
    return [name_of(body) for body in old if is_reference(body)]


async def store_bodies(stream: Stream, records: Sequence[Any]) -> list[Any]:
    """Store the bodies that are large; returns the records with references instead."""
    return list(await asyncio.gather(*(_stored(stream, record) for record in records)))


async def _stored(stream: Stream, record: Any) -> Any:
    if len(record.body) <= SMALL and not is_reference(record.body):
        return record
    reference = MARK + secrets.token_hex(13).encode() + b"%010d" % len(record.body)
    await stream.put(name_of(reference), record.body)
    return replace(record, body=reference)


async def load_bodies(stream: Stream, records: Sequence[Any]) -> list[Any]:
    """The records with their bodies."""
    return list(await asyncio.gather(*(_loaded(stream, record) for record in records)))


async def _loaded(stream: Stream, record: Any) -> Any:
    if not is_reference(record.body):
        return record
    body = await stream.read(name_of(record.body))
    if body is None:
        return replace(record, body=b"", damage=f"body: there is no message {name_of(record.body)}")
    return replace(record, body=body)
