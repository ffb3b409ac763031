"""The queues of a store, and which of them are paused, as documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from omniq.storage.documents.base import Document, Documents, Entry, Write

NAMES = "queues"
OPEN, PAUSED = b"open", b"paused"


class QueueNames:
    """One document per queue that ever held a task or was paused."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._known: set[str] = set()
        """Those that are known to be stored: they are never deleted."""

    async def remember(self, names: Iterable[str]) -> None:
        """Store the queues that aren't there yet."""
        new = [name for name in names if name not in self._known]
        if new:
            await self._documents.write([[_write(name, OPEN)] for name in new])
            self._known.update(new)

    async def open(self, names: Sequence[str]) -> list[str]:
        """Those of the names that may hold tasks and aren't paused, in the order given."""
        found = await self._read(names)
        return [name for name, queue in zip(names, found, strict=True) if queue is not None and queue.value == OPEN]

    async def paused(self, names: Sequence[str]) -> set[str]:
        """Those of the names that are paused."""
        found = await self._read(names)
        return {name for name, queue in zip(names, found, strict=True) if queue is not None and queue.value == PAUSED}

    async def all(self) -> list[str]:
        """All names, in order."""
        names: list[str] = []
        last: Entry | None = None
        while page := await self._documents.scan(NAMES, after=last, limit=1000):
            names += [entry.key for entry in page]
            last = page[-1]
        return names

    async def pause(self, name: str, *, paused: bool) -> None:
        """Pause the queue, or let it go on."""
        await self.remember([name])
        await self._documents.write([[Write(key=_key(name), value=PAUSED if paused else OPEN, always=True)]])

    async def _read(self, names: Sequence[str]) -> list[Document | None]:
        return await self._documents.read([_key(name) for name in names]) if names else []


def _key(name: str) -> str:
    return f"queue/{name}"


def _write(name: str, state: bytes) -> Write:
    return Write(key=_key(name), value=state, put=(Entry(NAMES, b"", name),))
